"""Data files: what is read from each form, and one sentence for each way to be wrong."""

import gzip
import json
import sys

import pyarrow
import pyarrow.ipc
import pytest
from pyarrow import parquet

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
        ("A.CSV", 'input,target\n"a, b",x\nc,y\n'),
        ("a.csv.gz", gzip.compress(b'input,target\n"a, b",x\nc,y\n', mtime=0)),
        (
            "a.JSONL.GZ",
            gzip.compress(b'{"input":"a, b","target":"x"}\n{"input":"c","target":"y"}', mtime=0),
        ),
        ("a.json", '[{"input": "a, b", "target": "x"}, {"input": "c", "target": "y"}]'),
        (
            "a.json",
            '{"version": "1", "data": [{"input": "a, b", "target": "x"}, '
            '{"input": "c", "target": "y"}]}',
        ),
        ("a.json", '{"input": "a, b", "target": "x"}\n{"input": "c", "target": "y"}\n'),
        ("a.tsv", 'input\ttarget\n"a, b"\tx\n"c"\ty\n'),
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
        ("b.parquet", "a", "not a table that pyarrow can read"),
        ("a.csv", "input,input,target\na,b,c\n", "the column 'input' twice"),
        ("a.json", "[1, 2]", "not a list of rows"),
        ("a.json", "3", "not a list of rows"),
        ("a.jsonl.gz", "plain", "not a whole gzip file"),
        ("A.TXT", "a", "convert it"),
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


@pytest.mark.parametrize(
    ("content", "first"),
    [
        ('"a" b\tx\nc\ty\n', '"a" b'),  # a word in quotes is not a field in quotes
        ('"a\tx\nb"\ty\n', '"a'),  # a quote alone is a sign, here and two lines on
        ('"a\nb"\tx\nc\ty\n', "a\nb"),  # only a field in quotes goes over two lines
        ('"say ""a"""\tx\n"b"\ty\n', 'say "a"'),
    ],
)
def test_quotes_of_a_tsv_file_are_signs_unless_they_wrap_its_fields(tmp_path, content, first):
    rows = tables.read(write(tmp_path / "a.tsv", "input\ttarget\n" + content), ("input", "target"))
    assert len(rows) == 2 and rows[0]["input"] == first


def test_a_table_without_a_header_has_its_columns_named(tmp_path):
    path = write(tmp_path / "a.tsv", "fine\t1\ndull\t0\n")
    assert tables.read(path, ("text",), ("text", "label"))[0] == {"text": "fine", "label": "1"}
    with pytest.raises(ValueError, match="a file without a header needs --columns"):
        tables.read(path, ("text",))
    with pytest.raises(ValueError, match="line 1, has 2 fields, but --columns names 3"):
        tables.read(path, ("text",), ("text", "label", "note"))
    with pytest.raises(ValueError, match="leave --columns away"):
        tables.read(write(tmp_path / "a.jsonl", "{}"), (), ("text",))


def test_parquet_and_a_folder_of_datasets_with_the_names_of_its_classes(tmp_path):
    """Written by pyarrow as 🤗 datasets writes: a stream of Arrow, the classes in its schema."""
    features = {"label": {"_type": "ClassLabel", "names": ["neg", "pos"]}, "text": {}}
    notes = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pyarrow.table({"text": ["fine", "dull"], "label": [1, 0]}).replace_schema_metadata(
        notes
    )
    parquet.write_table(table, tmp_path / "a.parquet")
    folder = tmp_path / "saved" / "train"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")
    with pyarrow.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file:
        with pyarrow.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
    rows = [{"text": "fine", "label": "pos"}, {"text": "dull", "label": "neg"}]
    for path in (tmp_path / "a.parquet", folder):
        assert tables.is_table(path) and tables.read(path, ("text", "label")) == rows
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(ValueError, match="several splits: name one of them, such as .*train"):
        tables.read(tmp_path / "saved")


def test_without_pyarrow_a_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match="minipeft.data"):
        tables.read(write(tmp_path / "a.parquet", "a"))
