"""Claims: all of them are there, and what a notebook records is what the commands read."""

import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from minipeft.__main__ import main
from minipeft.course import claims
from minipeft.course.experiments import difference

ROOT = Path(__file__).resolve().parents[2]


def test_there_are_63_claims_each_a_sentence_with_its_source():
    assert list(claims.CLAIMS) == list(range(1, 64))
    for claim in claims.CLAIMS.values():
        assert claim.text[0].isupper() or claim.text[0].isdigit() or claim.text[0] in "i"
        assert claim.text.endswith(".") and len(claim.text) < 200
        assert claim.source and claim.lessons
        assert all(re.fullmatch(r"\d\d[a-z]?", lesson) for lesson in claim.lessons)


def notebook(folder: Path, name: str, *records) -> Path:
    """An executed notebook with one cell per record."""
    cells = []
    for number, one in enumerate(records):
        cell = nbformat.v4.new_code_cell("claims.record(..)", id=f"05-{number:03d}")
        cell.outputs = [nbformat.v4.new_output("display_data", one._repr_mimebundle_())]
        cells.append(cell)
    path = folder / f"{name}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_a_record_is_a_line_to_read_and_json_to_find_again(tmp_path, capsys):
    one = claims.make_record(9, "the hash is equal.", "equal bits", "true", hashes=["a", "a"])
    assert claims.record(9, "the hash is equal", "equal bits", "true") is None
    said = capsys.readouterr().out
    assert "the original is untouched" in said and "verdict: true" in said
    gap = difference([0.5, 0.6, 0.55], [0.5, 0.5, 0.5], 0.03)
    two = claims.make_record(1, gap, verdict="undecided", broken=float("nan"))
    nbformat.validate(nbformat.read(notebook(tmp_path, "05_adapters", one, two), as_version=4))
    first, second = claims.records(tmp_path)
    assert (first.claim, second.claim) == (1, 9)  # in the order of claims
    assert first.numbers["mean"] == pytest.approx(5) and first.numbers["verdict"] == "undecided"
    assert first.numbers["broken"] is None and "±3 points" in first.rule
    assert second.numbers == {"hashes": ["a", "a"]} and second.measured == "the hash is equal"
    assert second.address == "05_adapters.ipynb#cell-id=05-000"
    text = claims.listing([first, second])
    assert "2 of 63 claims have a record" in text and second.address in text


def test_html_shows_text_and_not_tags():
    bundle = claims.make_record(1, "a < b & c", "a rule", "false")._repr_mimebundle_()
    assert "a &lt; b &amp; c" in bundle["text/html"]
    json.dumps(bundle[claims.MIME], allow_nan=False)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((64, "x", "r", "true"), "1 to 63"),
        ((1, "x", "r", "T"), "A verdict is one of true, false"),
        ((1, "x", "", "true"), "by which rule"),
        ((1, " ", "r", "true"), "what was measured"),
    ],
)
def test_a_record_must_say_everything(arguments, words):
    with pytest.raises(ValueError, match=words):
        claims.make_record(*arguments)
    with pytest.raises(ValueError, match="numbers, texts or lists"):
        claims.make_record(1, "x", "r", "true", thing=object())


def test_the_command_prints_the_table_of_a_folder(tmp_path, capsys):
    one = claims.make_record(13, "it raises", "an error", "false")
    notebook(tmp_path, "06_prefix", one)
    capsys.readouterr()
    assert main(["claims", "--notebooks", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "1 of 63" in said and "06_prefix.ipynb#cell-id=05-000" in said
    assert main(["claims", "13", "--notebooks", str(tmp_path)]) == 0
    assert "rule: an error" in capsys.readouterr().out
    assert main(["claims", "64"]) == 2 and "1 to 63" in capsys.readouterr().err
    assert main(["claims", "--notebooks", str(tmp_path / "no")]) == 2


def test_the_repository_is_found_and_a_wheel_says_so_in_one_sentence(monkeypatch, tmp_path, capsys):
    done = subprocess.run(
        [sys.executable, "-m", "minipeft", "claims"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and "of 63 claims" in done.stdout
    monkeypatch.setattr(claims.minipeft, "__file__", str(tmp_path / "minipeft/__init__.py"))
    assert main(["claims"]) == 2
    said = capsys.readouterr().err.strip()
    assert "in the repository" in said and "\n" not in said
