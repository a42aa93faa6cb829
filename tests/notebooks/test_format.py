"""The format of a lesson: folded cells, tables of equations, limits, the page of claims."""

import nbformat
import pytest

import build
from builder import equations, measure, pages, tables
from builder.lesson import LessonError, read
from minipeft.course import claims

HEADER = """\
# ---
# jupyter:
#   minipeft:
#     title: Toy
#     question: Is it two?
#     minutes: 0.5
{header}# ---

"""
EXERCISE = """
# %% exercise="minipeft.methods.lora:LoRAPatch" blank="forward,delta" difficulty=2 minutes=10

# %%
from minipeft import checks
checks.lora(LoRAPatch)
"""


@pytest.fixture
def lesson(tmp_path):
    """Write a source and read it."""

    def write(body, header="", name="05_toy"):
        folder = tmp_path / "notebooks" / "src"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.py").write_text(HEADER.format(header=header) + body)
        return read(folder / f"{name}.py")

    return write


def texts(notebook, kind="markdown"):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == kind)


def test_a_folded_cell_is_folded_in_notebooks_and_pages(lesson, tmp_path):
    one = lesson('# %% tags=["hide-input"]\nplot = "drawn"\n\n# %%\nplot\n')
    for notebook in (one.solution(), one.student()):
        hidden, open_cell = [cell for cell in notebook.cells if cell.cell_type == "code"][-2:]
        assert hidden.metadata["jupyter"] == {"source_hidden": True}
        assert hidden.metadata["tags"] == ["hide-input"] and "jupyter" not in open_cell.metadata
    page = pages._lesson_page(one, one.solution(), None, None)
    with_fold = page[page.index("<details>") : page.index("</details>")]
    assert "drawn" in with_fold and page.count("<details>") == 1
    assert measure.measure(one)["lines"] == 1  # what is folded does not count


def test_the_mark_of_a_slide_is_in_the_solution_only(lesson):
    body = '# %% [markdown] tags=["slide"]\n# Look.\n\n# %% tags=["slide", "hide-input"]\nx = 1\n'
    marked = [cell.metadata.get("tags") for cell in lesson(body).solution().cells]
    assert marked == [None, ["slide"], ["hide-input", "slide"]]
    assert "slide" not in str([cell.metadata for cell in lesson(body).student().cells])


def test_equations_come_from_the_method_file_and_students_see_no_lines(lesson):
    one = lesson("# %% [markdown]\n# Look:\n#\n# {equations lora 3}\n" + EXERCISE)
    marked = [line for line in equations.lines(equations.METHODS / "lora.py") if line.number == "3"]
    solution, student = texts(one.solution()), texts(one.student())
    assert marked
    for line in marked:
        assert f"`{equations.cell(line.code)}`" in solution and line.code not in student
        assert equations.cell(line.note) in solution and equations.cell(line.note) in student
    equation = equations.equations(equations.METHODS / "lora.py")["3"]
    assert equation in solution and equation in student and "{equations" not in solution


def test_all_equations_of_a_method_are_shown_where_none_is_named():
    text = tables.fill("{equations prefix}", student=True)
    for number in equations.equations(equations.METHODS / "prefix.py"):
        assert f"({number})" in text
    assert "line of code" not in text
    assert "line of code" in tables.fill("{lines prefix}", student=True)


@pytest.mark.parametrize(
    "line, words",
    [
        ("{equations lora 99}", "no equation 99"),
        ("{equations nothing 1}", "no method file"),
        ("{equations finetuning}", "no method file"),
        ("{equations lora, 3}", "no table of equations"),
        ("{lines lora 3}", "an exercise of this lesson asks for"),
    ],
)
def test_a_table_that_cannot_be_made_fails_the_build_in_a_sentence(lesson, line, words):
    with pytest.raises(LessonError, match=words) as error:
        lesson(f"# %% [markdown]\n# {line}\n" + EXERCISE)
    assert str(error.value).startswith("05_toy.py: ") and "\n" not in str(error.value)


def test_a_missing_marker_fails_the_build(tmp_path, monkeypatch):
    source = (equations.METHODS / "lora.py").read_text()
    (tmp_path / "lora.py").write_text(source.replace("# eq. 3", "# see eq. 3"))
    monkeypatch.setattr(tables, "METHODS", tmp_path)
    monkeypatch.setattr(tables, "method_files", lambda: [tmp_path / "lora.py"])
    with pytest.raises(equations.EquationError, match="no line of code is marked `# eq. 3`"):
        tables.fill("{equations lora 3}", student=False)


def test_all_words_count_those_of_equations_and_hints_too(lesson):
    header = measure.measure(lesson("# %%\nx = 1\n"))
    body = (
        "# %% [markdown]\n# One two `code words` three $x + y$.\n#\n# $$ a + b $$\n#\n"
        "# <details><summary>Hint</summary>these too</details>\n"
    )
    counts = measure.measure(lesson(body))
    assert counts["words"] - header["words"] == 8 + 5 + 2
    assert counts["cells"] == header["cells"] == 2


def test_bodies_of_exercises_are_no_lines_to_read(lesson):
    one = lesson(EXERCISE)
    lines = measure.measure(one)["lines"]
    student = [c for c in one.student().cells if c.cell_type == "code"][1:]
    assert lines == sum(bool(x.strip()) for c in student for x in c.source.splitlines())
    solution = texts(one.solution(), "code")
    assert lines < sum(bool(x.strip()) for x in solution.splitlines())


@pytest.mark.parametrize(
    "body, words",
    [
        (
            "# %% [markdown]\n# " + "word " * 1801,
            " words, and the format allows 1,800",
        ),
        ("# %% [markdown]\n# word\n\n" * 45, "46 cells"),
        ("# %%\n" + "x = 1\n" * 351, "351 visible lines"),
    ],
)
def test_a_lesson_past_a_limit_is_told_so(lesson, body, words, monkeypatch):
    one = lesson(body)
    (said,) = measure.too_long(one, measure.measure(one))
    assert words in said
    monkeypatch.setattr(measure, "STILL_TOO_LONG", {"06"})
    known = lesson(body, name="06_toy")
    assert measure.too_long(known, measure.measure(known)) == []


def executed(lesson, figures=0, outputs=()):
    notebook = lesson.solution()
    cell = next(cell for cell in notebook.cells if cell.cell_type == "code")
    picture = nbformat.v4.new_output("display_data", {"image/png": "aGk=", "text/plain": "f"})
    cell.outputs = [picture] * figures + list(outputs)
    return notebook


def test_figures_are_counted_where_the_lesson_was_run(lesson):
    one = lesson("# %%\nx = 1\n")
    assert measure.measure(one, executed(one, 8))["figures"] == 8
    assert measure.too_long(one, measure.measure(one, executed(one, 7))) == []
    assert "8 figures" in measure.too_long(one, measure.measure(one, executed(one, 8)))[0]


def test_the_builder_writes_what_it_measured_and_fails_past_a_limit(
    lesson, tmp_path, monkeypatch, capsys
):
    one = lesson("# %%\n" + "x = 1\n" * 351, header="#     sitting: 75\n#     attempts: 4\n")
    builder = build.Builder(tmp_path / "notebooks", tmp_path / "out")
    monkeypatch.setattr(build, "execute", lambda notebook, progress, threads, stop: 61.0)
    assert builder.course(builder.lessons(), force=False, fast=False, threads=1) == 1
    assert "too long: 351 visible lines" in capsys.readouterr().err
    facts = nbformat.read(tmp_path / "out" / "05_toy.ipynb", as_version=4).metadata["minipeft"]
    words = len(one.solution().cells[0].source.split())  # of the header
    assert facts["measured"] == {"words": words, "cells": 2, "lines": 351, "figures": 0}
    index = (tmp_path / "out" / "index.html").read_text()
    assert "75 min" in index and "Is it two?" in index and "(here 61 s)" in index
    assert 'href="claims.html"' in index and f"{words} words, 2 cells, 0 figures" in index
    assert builder.course(builder.lessons(), force=True, fast=True, threads=1) == 0  # no numbers


def test_the_page_of_claims_has_all_of_them_and_links_to_cells(lesson, tmp_path):
    one = lesson("# %%\nx = 1\n")
    record = claims.make_record(9, "the hash is <equal>", "equal bits", "true")
    output = nbformat.v4.new_output("display_data", record._repr_mimebundle_())
    folder = tmp_path / "out"
    folder.mkdir()
    nbformat.write(executed(one, outputs=[output]), folder / "05_toy.ipynb")
    pages.write_pages([one], folder, tmp_path / "exercises")
    page = (folder / "claims.html").read_text()
    assert page.count('<tr id="claim-') == 63
    assert "the hash is &lt;equal&gt;" in page and "1 of\n63 claims" in page
    target = page[page.index('href="05_toy.html#') + 6 :].split('"')[0]
    assert f'id="{target.partition("#")[2]}"' in (folder / "05_toy.html").read_text()
    assert "Houlsby et al. 2019" in page


def test_what_a_lesson_records_while_it_runs_is_found_again(lesson, tmp_path):
    lesson(
        "# %%\nfrom minipeft.course import claims\n"
        'claims.record(9, "the hash is equal", "equal bits", "true", share=float("nan"))\n'
    )
    builder = build.Builder(tmp_path / "notebooks", tmp_path / "out")
    assert builder.course(builder.lessons(), force=False, fast=False, threads=1) == 0
    (one,) = claims.records(tmp_path / "out")
    assert (one.claim, one.verdict, one.numbers) == (9, "true", {"share": None})
    page = (tmp_path / "out" / "05_toy.html").read_text()
    assert page.count("the hash is equal") == 2  # in the code, and in the line to read
    assert one.address == "05_toy.ipynb#cell-id=05-001" and 'id="cell-id=05-001"' in page


def test_a_second_notebook_to_a_lesson_has_a_letter(lesson, tmp_path):
    lesson("# %%\nx = 1\n" + EXERCISE, name="10_toy")
    second = lesson("# %%\nx = 1\n" + EXERCISE, name="10b_more")
    lesson("# %%\nx = 1\n", name="11_next")
    assert (second.number, [e.number for e in second.exercises.values()]) == ("10b", ["10b.1"])
    builder = build.Builder(tmp_path / "notebooks", tmp_path / "out")
    chosen = {
        only: [one.slug for one in builder.lessons(only)]
        for only in (None, "10", "10b", "1", "10b_m")
    }
    assert chosen == {
        **dict.fromkeys((None, "1"), ["10_toy", "10b_more", "11_next"]),
        **{"10": ["10_toy"], "10b": ["10b_more"], "10b_m": ["10b_more"]},
    }
    folder = tmp_path / "out"
    folder.mkdir()
    record = claims.make_record(41, "it is none", "by its rest", "false")
    output = nbformat.v4.new_output("display_data", record._repr_mimebundle_())
    nbformat.write(executed(second, outputs=[output]), folder / "10b_more.ipynb")
    index = pages.write_pages(builder.lessons(), folder, tmp_path / "exercises").read_text()
    assert index.index("10 · Toy") < index.index("10b · Toy") < index.index("11 · Toy")
    assert ">lesson 10b</a>" in (folder / "claims.html").read_text()


def test_a_claim_without_a_record_links_the_notebook_that_answers_it(lesson, tmp_path):
    second = lesson("# %%\nx = 1\n", name="10b_more")
    (tmp_path / "out").mkdir()
    nbformat.write(executed(second), tmp_path / "out" / "10b_more.ipynb")
    pages.write_pages([second], tmp_path / "out", tmp_path / "exercises")
    page = (tmp_path / "out" / "claims.html").read_text()
    assert claims.CLAIMS[41].lessons == ("10b",)
    assert 'not recorded yet (lesson <a href="10b_more.html">10b</a>)' in page


def test_a_letter_after_two_digits_and_nothing_else(lesson):
    for name in ("10bb_toy", "1b_toy", "10B_toy", "b10_toy"):
        with pytest.raises(LessonError, match="NN_name.py"):
            lesson("# %%\nx = 1\n", name=name)


def test_a_heading_may_hold_an_equation(lesson, tmp_path):
    one = lesson("# %% [markdown]\n# ## What can rank $r$ do?\n")
    page = pages._lesson_page(one, one.solution(), None, None)
    assert '<h2 id="What-can-rank--do?">What can rank <math ' in page
    assert 'href="#What-can-rank--do?"' in page and "EQUATION" not in page
