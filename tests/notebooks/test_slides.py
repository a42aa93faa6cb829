"""Slides: what of a lesson is shown, in which order, and that a page needs nothing but itself."""

import re

import nbformat
import pytest

import build
from builder import pages, slides
from builder.lesson import SLIDE, LessonError, read
from minipeft.course import claims

LESSON = """\
# ---
# jupyter:
#   minipeft:
#     title: Toy <or not>
#     question: Is $1 + 1$ two?
#     minutes: 0.5
# ---

# %% [markdown] tags=["slide"]
# Left over from before. A second one. A third one.
#
# ## 1. Is it so?
#
# **Claim: it is, e.g. here.** Much is said of it.
# **Predict:** it has $\\alpha = 3.5$ sides. How many? And why? Run it.
#
# $$ x^2 = y $$
#
# <details><summary>Hint</summary>Folded.
#
# **Bold** too.</details>
#
# ### Exercise: write it
#
# **Write** it.

# %% tags=["slide", "hide-input"]
secret = "the code"

# %%
not_shown = 1
"""


@pytest.fixture
def lesson(tmp_path):
    folder = tmp_path / "notebooks" / "src"
    folder.mkdir(parents=True)
    (folder / "05_toy.py").write_text(LESSON, encoding="utf-8")
    return read(folder / "05_toy.py")


def executed(lesson):
    notebook = lesson.solution()
    plot, other = (cell for cell in notebook.cells if cell.cell_type == "code")
    said = claims.make_record(9, "it is", "equal bits", "true")
    plot.outputs = [
        nbformat.v4.new_output("display_data", said._repr_mimebundle_()),
        nbformat.v4.new_output("display_data", {"image/png": "aGk=", "text/plain": "figure"}),
        nbformat.v4.new_output("stream", name="stdout", text="printed\n"),
        nbformat.v4.new_output(
            "execute_result", {"text/plain": "<Axes: title>"}, execution_count=1
        ),
    ]
    other.outputs = [nbformat.v4.new_output("stream", name="stdout", text="of no slide\n")]
    return notebook


def test_a_presentation_asks_shows_and_answers_in_this_order(lesson):
    page = slides.presentation(lesson, executed(lesson))
    every = re.findall(r"<section.*?</section>", page, re.DOTALL)
    kinds = [re.search(r'class="([\w ]+)"', slide)[1] for slide in every]
    assert kinds == ["title", "text", "picture", "printed", "answer"]
    title, question, picture, printed, answer = every
    assert "05 · Toy &lt;or not&gt;" in title and "<math" in title
    assert "Is it so?" in question and question.count("<math") == 2
    assert "<strong>Predict:</strong>" in question and "And why?" in question
    assert "printed" in printed and "data:image/png;base64,aGk=" in picture
    assert "Verdict: <b>true</b>" in answer
    for absent in (
        "Left over",
        "Much is said",
        "Run it",
        "Folded",
        "Write",
        "the code",
        "of no slide",
    ):
        assert absent not in page


def test_a_page_needs_nothing_from_the_network_or_another_file(lesson, tmp_path):
    (lesson.path.parents[1] / "05_toy.ipynb").write_text(nbformat.writes(executed(lesson)))
    builder = build.Builder(lesson.path.parents[1], tmp_path / "out")
    assert builder.slides(builder.lessons(), tmp_path / "slides") == 0
    page = (tmp_path / "slides" / "05_toy.html").read_text(encoding="utf-8")
    assert [path.name for path in (tmp_path / "slides").iterdir()] == ["05_toy.html"]
    assert set(re.findall(r'src="(?!data:)', page)) == set()
    assert not re.search(r"<link|@import|url\(|<script[^>]+src|fetch\(|EQUATION\d", page)
    for key in ("ArrowRight", "ArrowLeft", "Home", "End"):
        assert key in page


def test_a_notebook_of_another_source_is_refused_and_left_out_of_the_course(lesson, tmp_path):
    notebook = executed(lesson)
    notebook.cells.pop()
    with pytest.raises(LessonError, match="05_toy.ipynb has other cells than its source"):
        slides.presentation(lesson, notebook)
    (tmp_path / "05_toy.ipynb").write_text(nbformat.writes(notebook), encoding="utf-8")
    index = pages.write_pages([lesson], tmp_path, tmp_path / "exercises").read_text("utf-8")
    assert '<a href="05_toy.html">' in index and "slides/" not in index
    (tmp_path / "05_toy.ipynb").write_text(nbformat.writes(executed(lesson)), encoding="utf-8")
    index = pages.write_pages([lesson], tmp_path, tmp_path / "exercises").read_text("utf-8")
    assert '<a href="slides/05_toy.html">' in index
    assert (tmp_path / "slides" / "05_toy.html").is_file()


@pytest.mark.parametrize(
    "text, parts",
    [
        ("One. Two.", ["One.", "Two."]),
        ("As in Li et al. 2021. Two.", ["As in Li et al. 2021.", "Two."]),
        ("`a. B` is 1.5 of $x. Y$ (so.) Next?", ["`a. B` is 1.5 of $x. Y$ (so.)", "Next?"]),
        ("**Predict.** Which one?", ["**Predict.** Which one?"]),
        ("**This is so. That is not.** Three", ["**This is so. That is not.**", "Three"]),
        ("It was so: `x` stays.", ["It was so: `x` stays."]),
    ],
)  # fmt: skip
def test_sentences_end_where_they_end(text, parts):
    assert [one.strip() for one in slides.sentences(text)] == parts


def test_of_a_list_the_first_sentence_of_each_item():
    text = "## All\n\n* One is so. More of it\n  on this line.\n* Two is: not. Never.\n"
    assert slides.texts(text) == ["## All\n\n* One is so.\n* Two is: not."]
    assert slides.texts("## Nothing below") == []


def test_what_stands_before_a_heading_belongs_to_the_cell_above():
    plain = "Said of the table above. A second one. A third one."
    assert slides.texts(plain) == ["Said of the table above. A second one."]
    assert slides.texts(f"{plain}\n\n## Next\n\nText.") == ["## Next\n\nText."]
    assert slides.texts("See **04**.\n\n## Next\n\nText.") == ["## Next\n\nText."]
    assert slides.texts("It is **so**.\n\n## Next\n\nText.")[0] == "It is **so**."


@pytest.mark.parametrize(
    "source", sorted((build.HERE / "src").glob("*.py")), ids=lambda path: path.stem
)
def test_every_lesson_has_a_presentation(source):
    lesson = read(source)
    marked = [c for c in lesson.solution().cells if SLIDE in c.metadata.get("tags", [])]
    assert len(marked) >= slides.FEWEST, f"mark {slides.FEWEST} to 12 of its cells as slides"
    assert {cell.cell_type for cell in marked} == {"markdown", "code"}
