"""Data files: what is read from each form, and one sentence for each way to be wrong."""

import bz2
import gzip
import json
import lzma
import os
import sys

import pyarrow
import pyarrow.ipc
import pytest
from pyarrow import parquet

import minipeft as mp
from minipeft.tasks import arrow, tables


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
        ("a.csv", 'input,target,,,\n"a, b",x,,,\nc,y,,,\n'),  # of a spreadsheet
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


def test_a_json_file_of_one_row_with_a_list_of_words(tmp_path):
    row = '{"input": ["the", "cat"], "target": "animal"}'
    rows = [{"input": "the cat", "target": "animal"}]
    for content in (row, f"[{row}]", f'{{"data": [{row}], "version": "1"}}'):
        path = write(tmp_path / "a.json", content)
        assert tables.read(path, ("input", "target")) == rows


def test_numbers_and_lists_become_text(tmp_path):
    line = json.dumps({"input": ["a b", "c"], "target": 3})
    (row,) = tables.read(write(tmp_path / "a.jsonl", line))
    assert row == {"input": "a b c", "target": "3"}
    (row,) = tables.read(tmp_path / "a.jsonl", words=True)
    assert row["input"].split() == ["a␣b", "c"]  # a word holds no space


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
        ("a.jsonl", '{"input": null, "target": "x"}', "line 1, has nothing in 'input'"),
        ("a.conll", "word\n", "must be a word and its tag"),
        ("a.csv", "input,target\n" + "a" * 1_000_001, "longer than 1,000,000 characters"),
        ("a.csv", "input,target\n" + '"a\n' * 600_000, "read"),
        ("a.txt", "a", "convert it"),
        ("b.parquet", "a", "not a table that pyarrow can read"),
        ("a.csv", "input,input,target\na,b,c\n", "the column 'input' twice"),
        ("a.csv", "input,target\na,b\ninput,target\nc,d\n", "line 3, names the columns itself"),
        ("a.json", "[1, 2]", "not a list of rows"),
        ("a.json", '[{"input": "a",\n"input": "b"}]', "an object has 'input' twice"),
        ("a.json", "3", "not a list of rows"),
        ("a.json", '[\n{"input": "a"},\n{"input" "b"}\n]', "not JSON: .* line 3 column 10"),
        ("a.csv", "a,b,c,d\nx,,y\n", "line 2, has 3 fields, but its header has 4"),
        ("a.jsonl.gz", "plain", "not a whole gzip file"),
        ("A.TXT", "a", "convert it"),
        ("a.csv", 'input,target\na,b\n"a \\"b\\", c",d\n', "line 3, is not a table that"),
        ("a.csv", 'input,target\na,b\n"c,d\ne,f\n', "line 3, .*: a field in quotes does not end"),
        ("a.XLSX", "a", "save it as .csv"),
        ("a.jsonl", '[{"input": "a", "target": "x"}]', "name the file .json"),
        ("a.json", '{"input": ["a", "b"], "target": ["x", "y"]}', 'orient="records"'),
        ("a.json", '{"input": {"0": "a"}, "target": {"0": "x"}}', 'orient="records"'),
        ("a.json", '{"columns": ["input"], "index": [0], "data": [["a"]]}', 'orient="records"'),
        ("a.json", '{"train": [{"input": "a"}], "dev": [{"input": "b"}]}', "several .train, dev;"),
        (
            "a.json",
            json.dumps(dict.fromkeys(map(str, range(2000)), "x")),
            "object with 2,000 names",
        ),
        ("a.jsonl", '{"input": "a \\ud83d", "target": "x"}', "line 1, has half a character"),
        ("a.json", '[{"input": "a", "target": "\\udc00"}]', "half a character .* in 'target'"),
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
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(FileNotFoundError, match="pipe.csv is a pipe or a device"):
        tables.read(tmp_path / "pipe.csv")
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
    with pytest.raises(ValueError, match="line 1, names the columns itself: leave --columns away"):
        tables.read(path, ("fine",), ("fine", "1"))
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
    with pyarrow.OSFile(str(folder / "cache-0123.arrow"), "wb") as file:  # left by Dataset.map
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


TREE = (
    "# newdoc\n# newpar\n# text = a b\n1\ta\ta\tDET\t_\t_\t0\t_\t_\t_\n"
    "1.1\tc\tc\tX\t_\t_\t_\t_\t_\t_\n2\tb\tb\tNOUN\t_\t_\t0\t_\t_\t_\n"
)


@pytest.mark.parametrize(
    ("content", "pairs"),
    [
        (TREE, [("a b", "DET NOUN")]),  # a comment of CoNLL-U need not say "="
        ("# id 12\tdomain=train\na _ _ O\n# _ _ B-X\n\n", [("a #", "O B-X")]),  # MultiCoNER
        ("#\thttp://x\n1\ta\tB-L\tO\n2\tb\tI-L\tO\n", [("a b", "O O")]),  # GermEval counts words
        ("1 CD O\n\nOslo NNP B-LOC\n", [("1", "O"), ("Oslo", "B-LOC")]),  # a number is a word
        ("a\tb\tc\td\te\tf\tg\th\ti\tO\n", [("a", "O")]),  # ten columns that are not CoNLL-U
        ("\ufeff-DOCSTART- O\r\n\r\na O\r\nb\u00a0c B-X", [("a b␣c", "O B-X")]),
        ("a O \n \t\nb  O\n", [("a", "O"), ("b", "O")]),
    ],
)
def test_comments_and_columns_of_conll_are_told_apart_by_their_sentence(tmp_path, content, pairs):
    rows = tables.read(write(tmp_path / "a.conll", content))
    assert [(row["input"], row["target"]) for row in rows] == pairs


def test_a_line_of_conll_with_other_columns_is_refused_and_columns_can_be_named(tmp_path):
    path = write(tmp_path / "a.conll", "a O\n\nNew York B-LOC\nis O\n")
    with pytest.raises(ValueError, match="line 4, has 2 columns, but line 3 .* has 3"):
        tables.read(path)
    path = write(tmp_path / "b.conll", "Oslo NNP B-LOC\nlies VBZ O\n")
    (row,) = tables.read(path, ("word", "pos"), ("word", "pos", "entity"))
    assert row == {"word": "Oslo lies", "pos": "NNP VBZ", "entity": "B-LOC O"}
    with pytest.raises(ValueError, match="line 1, has 3 columns, but --columns names 2"):
        tables.read(path, (), ("word", "pos"))


def test_words_without_tags_are_texts_without_answers(tmp_path):
    path = write(tmp_path / "a.conll", "Oslo\nlies\n\nthere\n")
    assert [row["input"] for row in tables.read(path, ("input",))] == ["Oslo lies", "there"]
    assert "target" not in tables.first(path)


def test_only_the_columns_that_are_asked_for_must_be_text(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"input": "a", "target": "x", "meta": {"a": [0.5]}}')
    assert tables.read(path, ("input", "target"))[0]["input"] == "a"
    with pytest.raises(ValueError, match="'meta' must be text, a number or a list of words"):
        tables.read(path, ("meta",))
    for content in ('{"input": "a", "target": NaN}', '{"input": "a", "target": ""}'):
        with pytest.raises(ValueError, match="line 1, has nothing in 'target'"):
            tables.read(write(tmp_path / "b.jsonl", content), ("target",))
    path = write(tmp_path / "c.jsonl", '{"input": "a", "input": "b", "target": "x"}')
    with pytest.raises(ValueError, match="line 1, is not JSON: an object has 'input' twice"):
        tables.read(path, ("input",))
    parquet.write_table(
        pyarrow.table({"text": ["a", "b"], "score": [1.5, float("nan")], "box": [{"x": 1}] * 2}),
        tmp_path / "a.parquet",
    )
    assert len(tables.read(tmp_path / "a.parquet", ("text",))) == 2
    with pytest.raises(ValueError, match="line 2, has nothing in 'score'"):
        tables.read(tmp_path / "a.parquet", ("score",))


@pytest.mark.parametrize(("ending", "pack"), [(".bz2", bz2.compress), (".XZ", lzma.compress)])
def test_packed_files_are_read_and_damaged_ones_refused(tmp_path, ending, pack):
    whole = pack(b"input\ttarget\na\tx\n" * 1)
    path = write(tmp_path / f"a.tsv{ending}", whole)
    assert tables.is_table(path) and tables.read(path) == [{"input": "a", "target": "x"}]
    for damaged in (whole[:-9], b"plain"):
        with pytest.raises(ValueError, match=f"not a whole {ending.lower()} file"):
            tables.read(write(path, damaged))


def test_a_python_that_cannot_unpack_says_so(tmp_path, monkeypatch):
    path = write(tmp_path / "a.csv.xz", lzma.compress(b"input,target\na,b\n"))
    monkeypatch.setitem(sys.modules, "lzma", None)
    with pytest.raises(ValueError, match="built without lzma"):
        tables.read(path)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.tsv", "input;target\na;b\n", "tabs between its columns, not ';', so name it .csv"),
        ("a.tsv", "input,target\na,b\n", "has tabs between its columns, not ','"),
        ("a.csv", "input,target\na, b,c\n", "2 .input, target.: put quotes around .* ',' in it"),
        ("a.csv", "sep=;\n\ninput;target\na;b;c\n", "line 4, has 3 fields, .* ';' in it"),
        ("a.csv", "input,target\na\n", "line 2, has 1 fields, .*: give every row as many"),
        ("a.csv", "input,target\na,b\nn\xe4h,b\n".encode("latin-1"), "line 3, is not UTF-8"),
        ("a.csv", b"PK\x03\x04abc\xff", "as an Excel workbook is: save it as .csv"),
        ("a.csv", gzip.compress(b"input,target\na,b\n", mtime=0), "add .gz to its name"),
        (
            "a.csv.gz",
            gzip.compress("input\nn\xe4h\n".encode("latin-1"), mtime=0),
            "line 2, is not UTF-8",
        ),
        ("a.feather", b"x", "save it as .parquet"),
        ("a.jsonl", '{"input": \n', "line 1, .* Expecting value, at sign 10; mend"),
        ("a.csv", "input, target\na,b\n", "only input, ' target':"),
        ("a.csv.zst", b"x", "unpack it"),
    ],
)
def test_what_was_probably_meant_is_said(tmp_path, name, content, sentence):
    with pytest.raises(ValueError, match=sentence):
        tables.read(write(tmp_path / name, content), ("input", "target"))


@pytest.mark.parametrize(
    "content",
    [
        "input;target\n3,5 stars;x\nc;y\n",  # Excel where numbers have a decimal comma
        '\ufeff"input";"target"\r\n"3,5 stars";"x"\r\nc;y\r\n',
        "sep=;\r\ninput;target\r\n3,5 stars;x\r\nc;y\r\n",
        "\ninput\ttarget\n3,5 stars\tx\nc\ty\n",
        "input|target\n3,5 stars|x\nc|y\n",
        'input,target\n"3,5 stars",x\nc,y\n',
    ],
)
def test_a_csv_file_may_have_other_signs_between_its_columns(tmp_path, content):
    rows = [{"input": "3,5 stars", "target": "x"}, {"input": "c", "target": "y"}]
    assert tables.read(write(tmp_path / "a.csv", content)) == rows


def test_signs_of_a_csv_file_whose_columns_are_named(tmp_path):
    path = write(tmp_path / "a.csv", "well, so, fine;x\nno;y\n")
    assert tables.read(path, (), ("text", "score"))[0] == {"text": "well, so, fine", "score": "x"}
    path = write(tmp_path / "b.csv", "id,text;label\n1,a;b\n")  # a comma comes first
    assert tables.read(path) == [{"id": "1", "text;label": "a;b"}]


def test_columns_that_python_has_no_values_for(tmp_path):
    """Nanoseconds, durations and far dates were a reason to refuse a table that needs no such."""
    times = pyarrow.array([1234567890123456789, 5], pyarrow.timestamp("ns"))
    columns = {"input": ["a", "b"], "when": times, "nested": [{"at": times[0]}, {"at": times[1]}]}
    columns["far"] = pyarrow.array([10**9, 1], pyarrow.date32())
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    assert [row["input"] for row in tables.read(tmp_path / "a.parquet", ("input",))] == ["a", "b"]
    for name in ("when", "nested", "far"):
        with pytest.raises(ValueError, match=f"line 1: '{name}' must be text, a number"):
            tables.read(tmp_path / "a.parquet", (name,))
    same_name = pyarrow.table([["a"], ["b"]], names=["input", "input"])
    parquet.write_table(same_name, tmp_path / "b.parquet")
    (tmp_path / "d").mkdir()
    write(tmp_path / "d" / "dataset_info.json", "{}")
    with pyarrow.ipc.new_stream(tmp_path / "d" / "data.arrow", same_name.schema) as file:
        file.write_table(same_name)
    for name in ("b.parquet", "d"):
        with pytest.raises(ValueError, match=f"{name} has the column 'input' twice"):
            tables.read(tmp_path / name)


def test_lines_between_documents_are_no_sentences(tmp_path):
    onto = "#begin document (nw/a); part 000\nOslo B-X\n\nis O\n\n#end document\n"
    conll = "Oslo B-X\n-DOCSTART- O\nis O\n"
    for content in (onto, conll):
        rows = tables.read(write(tmp_path / "a.conll", content))
        assert [row["input"] for row in rows] == ["Oslo", "is"]


def test_a_folder_of_several_files_is_no_file(tmp_path):
    write(tmp_path / "train.csv", "input,target\na,b\n"), write(tmp_path / "notes.txt", "x")
    with pytest.raises(FileNotFoundError, match=r"is a folder: .*such as .*train.csv \(it has tr"):
        tables.read(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match="is a folder without data"):
        tables.read(tmp_path / "none")


@pytest.mark.parametrize("older", [False, True])
def test_tags_of_datasets_have_the_names_of_their_classes(tmp_path, older):
    kind = {"_type": "ClassLabel", "names": ["O", "B-X"]}
    tags = [kind] if older else {"feature": kind, "_type": "Sequence"}
    label = {"_type": "ClassLabel", "names": ["neg", "pos"]}
    notes = {"huggingface": json.dumps({"info": {"features": {"tags": tags, "label": label}}})}
    table = pyarrow.table({"tokens": [["a", "b"]], "tags": [[0, 1]], "label": [-1]})
    parquet.write_table(table.replace_schema_metadata(notes), tmp_path / "a.parquet")
    (row,) = tables.read(tmp_path / "a.parquet", ("tokens", "tags"))
    assert row["tokens"] == "a b" and row["tags"] == "O B-X"
    with pytest.raises(ValueError, match="has nothing in 'label'"):  # -1: nobody knows
        tables.read(tmp_path / "a.parquet", ("label",))


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "a.csv", "input,target\na,b\n")
    assert tables.read("~/a.csv") == mp.tasks.tables.read(tmp_path / "a.csv")


def test_a_link_is_the_file_that_it_leads_to(tmp_path):
    """Either name may tell the kind: caches of files keep them without an ending."""
    write(tmp_path / "3f2a", "input,target\na,b\n")
    (tmp_path / "train.csv").symlink_to(tmp_path / "3f2a")
    (tmp_path / "latest").symlink_to(tmp_path / "new.csv")
    write(tmp_path / "new.csv", "input,target\na,b\n")
    for name in ("train.csv", "latest"):
        assert tables.read(tmp_path / name) == [{"input": "a", "target": "b"}]


def test_an_address_is_no_file():
    with pytest.raises(ValueError, match="https://example.org/a.csv is an address, not a file"):
        tables.read("https://example.org/a.csv")
    for name, sentence in (("-", "write what a program prints into one"), ("*.csv", "one file")):
        with pytest.raises(FileNotFoundError, match=sentence):
            tables.read(name)


@pytest.mark.parametrize("start", ["", "\ufeff", " \n\t"])
def test_the_first_row_of_a_json_file_is_read_without_the_others(tmp_path, start):
    """A file of 200 MB was read twice more, to look at its columns."""
    path, rows = tmp_path / "f.json", [{"input": "ä ] }", "n": [1, {"a": 2}]}, {"input": "b"}]
    text = start + json.dumps(rows, indent=1)
    path.write_text(text, encoding="utf-8")
    assert tables.first(path) == tables.read(path)[0]
    path.write_text(text[:-3], encoding="utf-8")
    assert tables.first(path)["input"] == "ä ] }"
    with pytest.raises(ValueError, match="is not JSON"):
        tables.read(path)
    for other in ([], {"data": rows}, rows[0], [{}, *rows], [{"input": "a " * 600_000}]):
        path.write_text(start + json.dumps(other), encoding="utf-8")
        said = []
        for look in (tables.first, lambda p: tables.read(p)[0]):
            try:
                said.append(look(path))
            except ValueError as error:
                said.append(str(error))
        assert said[0] == said[1]


def test_the_first_row_of_a_parquet_file_is_read_without_most_others(tmp_path, monkeypatch):
    path = tmp_path / "f.parquet"
    rows = [{"input": f"w{n}", "tags": [str(n)], "n": n} for n in range(2500)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=1700)
    sizes, values = [], arrow.values
    monkeypatch.setattr(arrow, "values", lambda column: sizes.append(len(column)) or values(column))
    assert tables.first(path) == {"input": "w0", "tags": "0", "n": "0"}
    assert 0 < sum(sizes) <= 3 * arrow.AT_ONCE
    read = tables.read(path)
    assert [(row["input"], row["tags"], row["n"]) for row in read] == [
        (f"w{n}", str(n), str(n)) for n in range(2500)
    ]
    rows[-1]["input"] = None
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=1700)
    with pytest.raises(ValueError, match="line 2500, has nothing in 'input'"):
        tables.read(path, ("input",))
