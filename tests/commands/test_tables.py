"""Data files: what is read from each form, and one sentence for each way to be wrong."""

import json

import pytest

from minipeft.tasks import tables


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'input,target\n"a, b",x\nc,y\n'),
        ("a.csv", '\ufeffinput,target\r\n"a, b",x\r\nc,y\r\n'),
        ("a.tsv", "target\tinput\nx\ta, b\ny\tc\n"),
        ("a.jsonl", '{"input": "a, b", "target": "x"}\n\n{"input": ["c"], "target": "y"}'),
        ("a.conll", "a,\tx\nb\tx\n\n\nc\ty"),
    ],
)
def test_the_same_rows_from_every_form(tmp_path, name, content):
    rows = tables.read(write(tmp_path / name, content), ("input", "target"))
    first = "x x" if name.endswith("conll") else "x"
    assert [(row["input"], row["target"]) for row in rows] == [("a, b", first), ("c", "y")]


CONLL_2003 = "-DOCSTART- -X- -X- O\n\nOslo NNP B-NP B-LOC\nlies VBZ B-VP O\n\n# NN I-NP O\n"
CONLL_U = (
    "# sent_id = 1\n1-2\tdu\t_\t_\t_\t_\t_\t_\t_\t_\n1\tde\tde\tADP\t_\t_\t2\tcase\t_\t_\n"
    "2\tle\tle\tDET\t_\t_\t0\troot\t_\t_\n"
)


@pytest.mark.parametrize(
    ("content", "pairs"),
    [(CONLL_2003, [("Oslo lies", "B-LOC O"), ("#", "O")]), (CONLL_U, [("de le", "ADP DET")])],
)
def test_other_columns_of_conll_are_left_out(tmp_path, content, pairs):
    rows = tables.read(write(tmp_path / "a.conll", content))
    assert [(row["input"], row["target"]) for row in rows] == pairs


@pytest.mark.parametrize("content", ["input,target\na,b\nc,\n", "input,target\na,b\n  ,d\n"])
def test_a_row_with_an_empty_column_is_refused(tmp_path, content):
    file = write(tmp_path / "a.csv", content)
    with pytest.raises(ValueError, match="line 3, has nothing in '(in|tar)"):
        tables.read(file, ("input", "target"))


def test_numbers_and_lists_become_text(tmp_path):
    line = json.dumps({"input": ["a b", "c"], "target": 3})
    (row,) = tables.read(write(tmp_path / "a.jsonl", line))
    assert row == {"input": "ab c", "target": "3"}  # a word holds no space


def test_a_word_of_a_conll_file_holds_no_space(tmp_path):
    (row,) = tables.read(write(tmp_path / "a.conll", "a\u00a0b\tO\n\u200b\u2003\tO\nc\tB-x\n"))
    assert len(row["input"].split()) == len(row["target"].split()) == 3


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", "", "has no rows"),
        ("a.csv", "input,target\n", "has no rows"),
        ("a.jsonl", "\n\n", "has no rows"),
        ("a.conll", "\n\n", "has no rows"),
        ("a.csv", "input,target\na,b\nc\n", "line 3, has 1 fields, but its header has 2"),
        ("a.tsv", "input\ttarget\na\tb\tc\n", "line 2, has 3 fields, but its header has 2"),
        ("a.csv", "text,label\na,b\n", "line 2, has no 'input', only text, label"),
        ("a.csv", 'input,target\n"a,b\n', "can be read"),
        ("a.csv", "input,target\na\0,b\n", "x"),
        ("a.csv", "input,target\nn\xe4h,b\n".encode("latin-1"), "is not UTF-8"),
        ("a.tsv", "input\ttarget\na\tb\n".encode("utf-16"), "is not UTF-8"),
        ("a.jsonl", '{"input": "a"', "line 1, is not JSON"),
        ("a.jsonl", "[" * 100_000, "line 1, is not JSON"),
        ("a.jsonl", "[1]", "line 1, has no columns"),
        ("a.jsonl", '{"input": {"a": 1}, "target": "x"}', "must be text, a number or a list"),
        ("a.jsonl", '{"input": null, "target": "x"}', "has no 'input', only target"),
        ("a.conll", "word\n", "must be a word and its tag"),
        ("a.csv", "input,target\n" + "a" * 1_000_001, "longer than 1,000,000 characters"),
        ("a.csv", "input,target\n" + '"a\n' * 600_000, "read"),
        ("a.txt", "a", "convert it"),
        ("b.parquet", "a", "convert it"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path, name, content, sentence):
    path = write(tmp_path / name, content)
    if sentence == "x":  # a zero byte is a character like others to csv; nothing breaks
        assert tables.read(path, ("input",))
        return
    with pytest.raises(ValueError, match=sentence) as caught:
        tables.read(path, ("input", "target"))
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        tables.read(tmp_path / "a.csv")
    (tmp_path / "b.csv").mkdir()
    with pytest.raises(FileNotFoundError):
        tables.read(tmp_path / "b.csv")
