"""The passport: the same questions for every method, and answers that can be known otherwise."""

import json
import math

import nbformat
import pytest

import minipeft as mp
import tiny_transformer as tt
from minipeft.course import passport as p
from minipeft.course import passport_facts
from minipeft.course.experiments import Outcome

pyplot = pytest.importorskip("matplotlib.pyplot")
NAME = "tiny-decoder-0.1m"
QUICK = dict(model=NAME, steps=2, seeds=[0, 1], rows=4, repeats=2)

#           method, door, identity, mergeable, mixed
METHODS = {
    "LoRA": (mp.LoRA(rank=2), "weights", True, True, True),
    "Adapter": (mp.Adapter(bottleneck=4), "weights", False, False, True),
    "IA3": (mp.IA3(), "weights", True, True, True),
    "BitFit": (mp.BitFit(), "weights", True, True, True),
    "Prefix": (mp.Prefix(length=3, hidden=8), "memory", False, False, True),
    "PTuningV2": (mp.PTuningV2(length=3), "memory", False, False, True),
    "PromptTuning": (mp.PromptTuning(length=3), "words", False, False, True),
    "PTuning": (mp.PTuning(length=3), "words", False, False, True),
    "UniPELT": (mp.UniPELT(bottleneck=4, length=2), "memory, weights", False, False, True),
    "TopLayers": (mp.TopLayers(1), "the base itself", True, True, False),
    "FullFineTuning": (mp.FullFineTuning(), "the base itself", True, True, False),
}


@pytest.fixture(scope="module")
def base():
    return tt.load(NAME)


@pytest.mark.parametrize("name", METHODS)
def test_facts_of_every_method(base, name):
    model, tokenizer = base
    method, door, identity, mergeable, mixed = METHODS[name]
    before = mp.fingerprint(model)
    facts = passport_facts.facts(model, tokenizer, method)
    assert (facts["door"], facts["identity"] == 0) == (door, identity)
    assert (facts["mergeable"], facts["mixed"]) == (mergeable, mixed)
    assert mp.fingerprint(model) == before and not hasattr(model, "minipeft")
    n, N = facts["trained"], facts["base"]
    added = 0 if door == "the base itself" else n
    assert sum(facts["memory"].values()) == 4 * (N + added) + 3 * 4 * n  # gradient, Adam's two
    assert facts["disk"] >= 4 * facts["stored"]


def test_known_counts(base):
    facts = passport_facts.facts(*base, mp.LoRA(rank=2))
    config = base[0].config
    assert facts["trained"] == facts["stored"] == 2 * config.layers * 2 * (2 * config.width)
    prefix = passport_facts.facts(*base, mp.Prefix(length=3, hidden=8))
    assert prefix["stored"] == 2 * config.layers * 3 * config.width < prefix["trained"]


def test_a_passport_is_shown_and_read_again(tmp_path, capsys):
    made = p.measure(mp.LoRA(rank=2), [1e-3, 1e-2], name="LoRA", **QUICK)
    text = str(made)
    for question in ("door", "bytes on disk", "mixed batches", "batch 32", "out of domain"):
        assert question in text
    assert "forgotten" in text and "best learning rate" in text
    bundle = made._repr_mimebundle_()
    json.dumps(bundle[p.MIME], allow_nan=False)
    cell = nbformat.v4.new_code_cell("passport(..)", id="10-001")
    cell.outputs = [nbformat.v4.new_output("display_data", bundle)]
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "10_toy.ipynb")
    assert p.passports(tmp_path) == {"LoRA": made}
    assert "door" in str(p.side_by_side({"LoRA": made, "again": made}))
    figure = made.plot()
    assert len(figure.axes) == 2
    pyplot.close("all")


def test_a_failed_run_is_kept_through_json(tmp_path):
    made = p.measure(mp.LoRA(rank=2), [1e-3], name="LoRA", **QUICK)
    made.results["novel"]["test"][0] = math.nan
    made.rates["novel"]["tried"].append([1.0, math.inf])
    cell = nbformat.v4.new_code_cell("passport(..)", id="10-001")
    cell.outputs = [nbformat.v4.new_output("display_data", made._repr_mimebundle_())]
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "10_toy.ipynb")
    (read,) = p.passports(tmp_path).values()
    assert math.isnan(read.results["novel"]["test"][0])
    assert read.rates["novel"]["tried"][-1] == [1.0, math.inf]
    assert ("novel task: exact match", "failed") in read.table().rows
    caption = read.plot().texts[-1].get_text()
    assert "novel task failed;" in " ".join(caption.split())
    pyplot.close("all")


def test_passport_in_a_quick_run_prints_and_draws(capsys):
    p.passport(mp.IA3(), [1e-2, 1e-1], model=NAME, quick=True)
    assert "Passport of IA3" in capsys.readouterr().out and pyplot.get_fignums()
    pyplot.close("all")


def test_good_rates_gain_nearly_all_and_the_grid_goes_on_to_see_how_far_they_reach():
    dev = {1e-4: 4.0, 1e-3: 1.2, 1e-2: 1.0, 1e-1: 1.3, 1.0: math.inf}
    asked = []

    def dev_at(rate):
        asked.append(rate)
        return dev[rate]

    outcome = Outcome("a", 1e-2, {1e-3: 1.2, 1e-2: 1.0, 1e-1: 1.3}, ({"dev": 1.0},), False)
    result = p.good_rates(outcome, untrained=5.0, dev_at=dev_at)  # good: up to 1.0 + 0.4
    assert result["good"] == [1e-3, 1e-1] and not result["wider"]
    assert asked == [1e-4, 1.0]
    assert [rate for rate, _ in result["tried"]] == sorted(dev)
    flat = p.good_rates(outcome, untrained=5.0, dev_at=lambda rate: 1.0)
    assert flat["wider"] and flat["good"] == [1e-5, 10.0]  # twice beyond each end
    alone = Outcome("a", 1e-2, {1e-2: 1.0}, ({"dev": 1.0},), False)
    assert p.good_rates(alone, 5.0, dev_at=None)["good"] == [1e-2, 1e-2]
