"""The pages made from the method files: current, complete, and strict about what is missing."""

import pytest

from builder import equations
from builder.equations import EquationError

FILE = '''"""A method (Somebody 2020).

Section 1.

    h = W0 x + d                                          (eq. 1)

Departures.
(1) Start. Paper: zero. PEFT: one. Here: zero. Shown by test_equations.py::test_a_complete_file
"""


def forward(x, y, d):
    return y + d  # eq. 1: h, (N, T, out)
'''


@pytest.fixture
def method(tmp_path):
    def write(old="", new=""):
        assert old in FILE
        path = tmp_path / "method_file.py"
        path.write_text(FILE.replace(old, new))
        return path

    return write


@pytest.mark.parametrize("page", equations.PAGES)
def test_the_committed_pages_are_what_the_markers_give(page):
    committed = (equations.ROOT / "docs" / page).read_text(encoding="utf-8")
    message = f"docs/{page} is out of date: python notebooks/builder/equations.py"
    assert committed == equations.PAGES[page](), message


@pytest.mark.parametrize("path", equations.method_files(), ids=lambda path: path.stem)
def test_every_method_says_what_a_reader_asks(path):
    equations.check(path)
    text = equations.docstring(path)
    for word in ("Path: ", "Start", "erge", "Parameters", "Departures."):
        assert word in text, f"{path.name} does not say: {word}"


def test_a_complete_file(method):
    path = method()
    equations.check(path)
    assert equations.equations(path) == {"1": "h = W0 x + d"}
    (line,) = equations.lines(path)
    assert (line.code, line.note, line.row) == ("return y + d", "h, (N, T, out)", 13)
    (departure,) = equations.departures(path)
    assert (departure.topic, departure.paper, departure.ours) == ("Start", "zero", "zero")


@pytest.mark.parametrize("gap", ["    ", ",   "])
def test_what_stands_apart_in_a_file_is_a_part_of_its_own_on_a_page(method, gap):
    path = method("h = W0 x + d   ", f"h = W0 x + d{gap}d (out,) trained   ")
    assert equations.equations(path) == {"1": "h = W0 x + d, d (out,) trained"}


@pytest.mark.parametrize(
    "old, new, sentence",
    [
        ("  # eq. 1: h, (N, T, out)", "", "no line of code is marked `# eq. 1`"),
        ("(eq. 1)", "(eq. 2)", "no line of code is marked `# eq. 2`"),
        ("    h = W0 x + d ", "h = W0 x + d ", "labels no equation"),
        ("# eq. 1", "# eq. 7", "no line of code is marked"),
    ],
)
def test_a_missing_marker_is_named(method, old, new, sentence):
    with pytest.raises(EquationError, match=sentence):
        equations.check(method(old, new))


@pytest.mark.parametrize(
    "old, new, sentence",
    [
        (" PEFT: one.", "", 'no "PEFT:"'),
        (" Shown by test_equations.py::test_a_complete_file", "", 'no "Shown by"'),
        ("test_a_complete_file", "test_that_is_not_there", "there is no such test"),
        ("Departures.", "Differences.", "does not say how it departs"),
    ],
)
def test_an_incomplete_departure_is_named(method, old, new, sentence):
    with pytest.raises(EquationError, match=sentence):
        equations.departures(method(old, new))
