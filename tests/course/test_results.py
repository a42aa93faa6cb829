"""Results: the papers' figures are answered by the records of notebooks, and by nothing else."""

import json
import re

import nbformat
import pytest

from minipeft.course import claims, results


def executed(folder, name, *cells):
    """An executed notebook of (heading or None, outputs) pairs."""
    written = []
    for number, (heading, outputs) in enumerate(cells):
        if heading:
            text = nbformat.v4.new_markdown_cell(heading)
            text["id"] = f"t-{number}"
            written.append(text)
        code = nbformat.v4.new_code_cell("x")
        code["id"], code.outputs = f"c-{number}", list(outputs)
        written.append(code)
    nbformat.write(nbformat.v4.new_notebook(cells=written), folder / f"{name}.ipynb")


def said(text):
    return nbformat.v4.new_output("stream", name="stdout", text=text)


def recorded(*arguments):
    bundle = claims.make_record(*arguments)._repr_mimebundle_()
    return nbformat.v4.new_output("display_data", bundle)


def picture(data="aGk="):
    return nbformat.v4.new_output("display_data", {"image/png": data, "text/plain": "figure"})


def figure(**evidence):
    given = results.Evidence(**evidence)
    return results.Figure("one", "One", "A paper", "table 1", "a model", "It is so.", (given,))


def test_every_figure_says_what_it_needs_to_and_has_one_name():
    every = results.figures()
    assert len({one.name for one in every}) == len(every) >= 30
    for one in every:
        assert one.shape.endswith(".") and one.evidence and one.paper and one.source
        for evidence in one.evidence:
            ways = (evidence.claim is not None, bool(evidence.section), bool(evidence.passport))
            assert sum(ways) == 1, one.name
            assert evidence.claim is None or evidence.claim in claims.CLAIMS
            assert not (evidence.section and not evidence.find), one.name
            assert evidence.lesson or not evidence.find, f"{one.name}: whose words are they?"
            verdicts = evidence.same if isinstance(evidence.same, tuple) else ()
            assert set(verdicts) <= set(claims.VERDICTS), one.name
            for pattern in (evidence.find, evidence.different):
                re.compile(pattern)
        for panel in one.panels:
            assert panel.measure and len(panel.rows) >= 1
            assert bool(panel.second) == any(second is not None for *_, second in panel.rows)


def test_the_papers_numbers_are_those_that_were_published():
    rows = {
        (one.name, name): (first, second)
        for one in results.figures()
        for panel in one.panels[:1]
        for name, first, second in panel.rows
    }
    assert rows["adapters", "full fine-tuning"] == (80.4, None)
    assert rows["adapters", "adapters, 3.6 % per task"] == (80.0, None)
    assert rows["p-tuning-v2", "P-Tuning v2"] == (89.5, 86.6)  # the paper, its authors' re-run
    assert rows["qlora-levels", "NF4, double quantization"] == (27.41, None)
    assert rows["lora-amplification", "r = 4"] == (21.5, None)
    assert rows["parallel", "beside feed-forward"] == (20.66, None)


@pytest.mark.parametrize(
    "verdict, shape",
    [
        ("true", "same"),
        ("false", "different"),
        ("misleading", "different"),
        ("undecided", "undecided"),
        ("not reproduced at this size", "different"),
    ],
)
def test_a_verdict_becomes_a_shape(tmp_path, verdict, shape):
    executed(tmp_path, "05_toy", ("## Here", [picture(), recorded(9, "it is so", "rule", verdict)]))
    asked = figure(claim=9, same=("true",))
    (one,) = results.findings(asked, tmp_path)
    assert (one.shape, one.measured, one.number, one.cell) == (shape, "it is so", "05", "c-0")
    assert one.picture == "aGk=" and "The rule: rule" in one.why and verdict in one.why
    assert results.shape_of([one]) == shape


def test_a_claim_of_one_lesson_only_and_without_a_record_it_is_open(tmp_path):
    executed(tmp_path, "03_toy", (None, [recorded(9, "three", "rule", "true")]))
    assert results.findings(figure(claim=9, lesson="05", same=("true",)), tmp_path) == []
    assert results.shape_of([]) == "open"
    executed(tmp_path, "05_toy", (None, [recorded(9, "five", "rule", "false")]))
    every = results.findings(figure(claim=9, same=("true",)), tmp_path)
    assert [one.measured for one in every] == ["three", "five"]
    assert results.shape_of(every) == "1 same, 1 different"


def test_a_part_of_a_record_is_judged_by_its_words(tmp_path):
    executed(tmp_path, "05_toy", (None, [recorded(9, "a +1: better; b -1: worse", "rule", "true")]))
    asked = dict(claim=9, same=": better", different=": (worse|equal)")
    shapes = {}
    for find in ("a [^;]*", "b [^;]*", "a [^;]*; (?P<said>b [^;]*)", "c [^;]*"):
        (one,) = results.findings(figure(find=find, **asked), tmp_path)
        shapes[find] = (one.shape, one.measured)
    assert shapes["a [^;]*"] == ("same", "a +1: better")
    assert shapes["b [^;]*"] == shapes["a [^;]*; (?P<said>b [^;]*)"] == ("different", "b -1: worse")
    assert shapes["c [^;]*"][0] == "open"


def test_a_section_ends_at_the_next_heading_of_its_level(tmp_path):
    executed(
        tmp_path,
        "05_toy",
        ("## 1. Before", [said("gap: +1")]),
        ("## 2. The gap", [picture("Zmlyc3Q=")]),
        ("### Exercise", []),
        (None, [said("gap:\n -2 points")]),
        ("## 3. Behind", [said("gap: +3")]),
    )
    asked = dict(lesson="05", find=r"gap:\s+\S+ ?\w*", same="-", different=r"\+")
    (one,) = results.findings(figure(section="The gap", **asked), tmp_path)
    assert (one.shape, one.measured, one.picture) == ("same", "gap: -2 points", "")
    assert results.findings(figure(section="No such", **asked), tmp_path) == []


def test_the_time_of_a_pass_comes_from_the_passport(tmp_path):
    from minipeft.course import passport

    for middle, low, high, shape in (
        (1.3, 1.1, 1.5, "same"), (0.8, 0.7, 0.9, "different"), (1.0, 0.9, 1.2, "undecided"),
    ):  # fmt: skip
        data = {"method": "adapter", "latency": {"1": [middle, low, high]}}
        output = nbformat.v4.new_output("display_data", {passport.MIME: data})
        executed(tmp_path, "05_toy", (None, [output]))
        (one,) = results.findings(figure(passport="adapter"), tmp_path)
        assert one.shape == shape and f"{middle:.2f}" in one.measured


def test_the_committed_lessons_speak_of_every_figure_that_they_answer():
    """A record that was worded anew must not turn a figure into an open one unnoticed."""
    folder = claims.folder()
    lessons = {path.stem.partition("_")[0] for path in folder.glob("*.ipynb")}
    passports = {data["method"] for _, _, data in claims.stored(folder, results.passport.MIME)}
    for one in results.figures():
        every = results.findings(one, folder)
        assert not [finding for finding in every if finding.shape == "open"], one.name
        for evidence in one.evidence:
            if evidence.section and evidence.lesson in lessons:
                assert every, (
                    f"{one.name}: nothing in {evidence.section!r} matches {evidence.find!r}"
                )
            if evidence.passport in passports:
                assert every, one.name
        assert json.dumps([finding.measured for finding in every])
