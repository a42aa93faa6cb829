"""Data, files and surroundings as they are met in the world, and what went wrong with them."""

import bz2
import csv
import decimal
import gzip
import json
import lzma
import os
import subprocess
import sys

import numpy
import pyarrow
import pyarrow.ipc
import pytest
import torch
from pyarrow import parquet

import minipeft as mp
import tiny_transformer as tt
from minipeft.tasks import chat, labels, tables

hf = pytest.importorskip("transformers")


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def behind(gpt2, tmp_path):
    """A prefix of 🤗 PEFT's, behind which every token has a higher position."""
    peft = pytest.importorskip("peft")
    base = hf.AutoModelForCausalLM.from_pretrained(gpt2, dtype=torch.float64)
    settings = peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    peft.get_peft_model(base, settings).save_pretrained(tmp_path / "behind")
    return tmp_path / "behind"


def test_answers_behind_a_prefix_of_pefts_end_where_the_positions_do(cli, gpt2, behind, tmp_path):
    """The last three positions were asked for and not there: a long answer was lost at its end."""
    model = hf.AutoModelForCausalLM.from_pretrained(gpt2, dtype=torch.float64).eval()
    table = model.config.n_positions
    mp.load(model, behind)
    ids = torch.tensor([[5, 6]])
    assert mp.generate(model, ids, max_new_tokens=500, eos_token_id=10**6).shape[1] == table - 3
    with pytest.raises(ValueError, match="fills all"):
        mp.generate(model, torch.full((1, table - 3), 5), max_new_tokens=1)
    done = cli("generate", behind, "a b", "--base", gpt2, "--tokens", 500)
    assert done.code == 0, done.err
    rows = [{"input": "a " * (table - 4), "target": "b"}] * 2
    what = ("--base", gpt2, "--data", lines(tmp_path / "long.jsonl", rows), "--kind")
    done = cli("evaluate", behind, *what, "text-to-text")
    assert done.code == 2 and f"Example 1 has {table + 2} tokens, but the model knows" in done.err


WORDS = "the cat sat on a red mat and blue kite box bell".split()
FEW = ("--steps", 2, "--batch-size", 4)


def sentiment(path, labels=("good", "bad"), count=20):
    """A .csv file of texts and labels, which the tiny encoder can read."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = [(f"{WORDS[i % 11]} {WORDS[i * 7 % 11]} {i}", labels[i % 2]) for i in range(count)]
        csv.writer(file).writerows([("input", "target"), *rows])
    return path


def classifier(cli, path, *flags, out="run"):
    return cli("train", "--base", "tiny-encoder", "--data", path, "--kind", "classification",
               "--out", out, *FEW, *flags)  # fmt: skip


def test_a_file_whose_name_is_no_utf8(cli, tmp_path):
    """The run was trained, and then its card could not be written."""
    path = sentiment(os.fsdecode(os.fsencode(tmp_path) + b"/n\xe4h.csv"))
    done = classifier(cli, path)
    assert done.code == 0, done.err
    assert "n\\udce4h.csv" in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    done = cli("evaluate", "run", "--data", path, "--predictions", "p.csv")
    assert done.code == 0, done.err
    odd = os.fsdecode(b"l\xe4uft")
    for done in (classifier(cli, path, out=odd), cli("merge", "run", odd)):
        assert done.code == 2 and "l\\udce4uft is no UTF-8 text: choose another" in done.err


PROGRAM = """
import os, sys
sys.stdout = sys.stderr = None  # as Python has it where they are closed
from minipeft.__main__ import main
code = main(sys.argv[1:])
os._exit(code)
"""


def test_closed_streams_and_a_window_that_nobody_knows(cli, tmp_path):
    """A run ended with a mistake of ours, one with its picture; neither got a card."""
    path = sentiment(tmp_path / "a.csv")
    words = ["train", "--base", "tiny-encoder", "--data", path, "--kind", "classification"]
    words = [*words, "--out", "run", *FEW]
    call = [sys.executable, "-c", PROGRAM, *map(str, words)]
    environment = {**os.environ, "MPLBACKEND": "nonsense"}
    done = subprocess.run(call, env=environment, cwd=tmp_path, timeout=600)
    assert done.returncode == 0
    for name in ("README.md", "result.json", "curves.png"):
        assert (tmp_path / "run" / name).is_file(), name


TABLE = b"input,target\na,x\nb,y\n"
PACKED_TWICE = gzip.compress(gzip.compress(TABLE, mtime=0), mtime=0)  # the time is written into it


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", TABLE.decode().encode("utf-16-le"), "a.csv is not UTF-8 text but UTF-16"),
        ("a.csv", TABLE.decode().encode("utf-16-be"), "a.csv is not UTF-8 text but UTF-16"),
        ("a.jsonl", '{"input": "a"}\n'.encode("utf-16-le"), "is not UTF-8 text but UTF-16"),
        ("a.json", '[{"input": "a"}]'.encode("utf-16-be"), "is not UTF-8 text but UTF-16"),
        ("a.csv", TABLE.decode().encode("utf-32"), "a.csv is not UTF-8 text but UTF-32"),
        ("a.csv", TABLE + b"\0" * 512, "line 4, is nothing but zero bytes, as where writing"),
        ("a.jsonl", b'{"input": "a"}\n' + b"\0" * 9, "line 2, is nothing but zero bytes"),
        ("a.json", b'[{"input": "a"},\n' + b"\0" * 9, "line 2, is nothing but zero bytes"),
        ("a.csv.gz", PACKED_TWICE, "is packed twice: .* unpack it once"),
        ("a.csv", b"\x28\xb5\x2f\xfd\x04\x00\xff", "is packed by zstd: unpack it"),
        ("a.csv", bz2.compress(TABLE), "is packed by bzip2: add .bz2 to its name"),
        ("a.csv", lzma.compress(TABLE), "is packed by xz: add .xz to its name"),
        ("a.jsonl", b"PAR1\x15\x04\xff\xff", "is a table of parquet: add .parquet to its name"),
        ("a.csv", b"\xd0\xcf\x11\xe0\xa1\xb1", "is an Excel workbook: save it as .csv"),
        *(
            (f"a.{kind}", b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS")
            for kind in ("csv", "jsonl", "json", "parquet", "conll")
        ),
        ("a.conll", b"token\ttag\nOslo\tB-X\n", "line 1, names the columns itself: leave it out"),
        ("a.conll", b"id form upos\n1 Oslo B-X\n", "line 1, names the columns itself"),
    ],
)
def test_files_that_are_something_else_say_what(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    at_once = () if "zero bytes" in sentence else (tables.first,)
    for look in (tables.read, *at_once):
        with pytest.raises(ValueError, match=sentence):
            look(tmp_path / name)


def test_a_zero_byte_between_other_signs_is_a_sign(tmp_path):
    (tmp_path / "a.csv").write_bytes(TABLE.replace(b"a,", b"a\0a,"))
    assert tables.read(tmp_path / "a.csv")[0]["input"] == "a\0a"


def test_a_data_set_that_lacks_a_file_is_no_whole_one(tmp_path):
    """Half of the rows were fetched, and nothing said so."""
    (tmp_path / "dataset_info.json").write_text("{}")
    table = pyarrow.table({"input": ["a"], "target": ["b"]})
    for number in range(3):
        with pytest.raises(ValueError, match="no rows" if number == 0 else f"has {number} of 3"):
            tables.read(tmp_path)
        path = tmp_path / f"data-0000{number}-of-00003.arrow"
        with pyarrow.ipc.new_stream(path, table.schema) as file:
            file.write_table(table)
    assert len(tables.read(tmp_path)) == 3


@pytest.mark.parametrize("notes", ["not json", "[]", '{"info": 3}', '{"info": {"features": []}}'])
def test_notes_of_another_program_in_a_table(tmp_path, notes):
    table = pyarrow.table({"input": ["a"]}).replace_schema_metadata({"huggingface": notes})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert tables.read(tmp_path / "a.parquet") == [{"input": "a"}]


SPELLINGS = ["0", "1", "10", "100", "0.1", "0.01", "1.5", "15", "-1", "1e5", "1e-5", "12e3"]


def test_long_numbers_are_different_labels_and_spellings_of_one_are_not():
    """Two numbers of 17 digits were one label, since floats hold fewer."""
    labels.check(["12345678901234567", "12345678901234568", "1e400", "2e400", *SPELLINGS])
    for text in SPELLINGS:
        exact = decimal.Decimal(text)
        others = [f"{text:>9}", f"{exact:f}", f"{exact:E}", f"{exact:.9f}", text.upper()]
        others += [] if text.startswith("-") else [f"0{text}", f"+{text}"]
        assert {labels.meaning(other) for other in others} == {labels.meaning(text)}
    assert len({labels.meaning(text) for text in SPELLINGS}) == len(SPELLINGS)
    assert labels.meaning("-0.0") == labels.meaning("0") and labels.meaning("١") == "1e0"


@pytest.mark.parametrize("weight", [0.5, "no", 2, -1, float("nan"), []])
def test_a_weight_that_is_neither_0_nor_1_is_refused(weight):
    """An answer of weight 0.5 was learnt like any other."""
    asked = {"role": "user", "content": "a"}
    for fine in (0, 1, None, True, False, 1.0):
        chat.read([asked, {"role": "assistant", "content": "b", "weight": fine}], "Row 1")
    with pytest.raises(ValueError, match="^Row 1, message 2, has the weight .* give 1 to learn it"):
        chat.read([asked, {"role": "assistant", "content": "b", "weight": weight}], "Row 1")


def test_answers_that_the_base_has_no_words_for_are_told(cli, tmp_path):
    """Only the words of the inputs were counted: all answers were the unknown token."""
    for kind, base in (("text-to-text", "tiny-decoder"), ("cloze", "tiny-encoder")):
        for target, note in (("zork", "note: 18 of 18 answers have words that the"), ("cat", "")):
            rows = [{"input": f"the {a} {b}", "target": target} for a in WORDS[:4] for b in "vwxyz"]
            path = lines(tmp_path / "a.jsonl", rows)
            done = cli("train", "--base", base, "--data", path, "--kind", kind, "--out",
                       f"{kind}{target}", *FEW)  # fmt: skip
            assert done.code == 0 and note in done.out, done.out
            assert ("answers have words" in done.out) == bool(note)


def test_a_table_with_a_word_a_row_is_no_table_of_sentences(cli, tmp_path):
    """Each word was a sentence of its own, and the tagger saw no other."""
    for words in (1, 2):
        rows = [
            {"input": " ".join([f"{word}{n}"] * words), "target": " ".join(["OB"[n % 2]] * words)}
            for n, word in enumerate(WORDS)
        ]
        path = lines(tmp_path / "a.jsonl", rows)
        done = cli("train", "--base", "tiny-encoder", "--data", path, "--kind", "tagging", "--out",
                   f"run{words}", *FEW)  # fmt: skip
        assert done.code == 0, done.err
        assert ("note: every text is one word" in done.out) == (words == 1)


def one(value, kind="classify", **labels):
    """The target of a task that is made of one row."""
    return mp.tasks.make("t", kind, train=[{"input": "a b", "target": value}], **labels).train[0][1]


def test_rows_of_tensors_and_arrays_are_read_as_what_they_hold():
    """Classes were called tensor(0), and two words were the text "['a' 'b']"."""
    assert [one(torch.tensor(0)), one(numpy.int64(1)), one(numpy.array(2)), one(["x"])] == [
        "0", "1", "2", "x"]  # fmt: skip
    assert one(torch.tensor([1, 0]), "tag") == one(numpy.array([1, 0]), "tag") == "1 0"
    row = {"input": numpy.array(["New York", "b"]), "target": numpy.array(["B-x", "O"])}
    assert mp.tasks.make("t", "tag", train=[row]).train[0] == ("New␣York b", "B-x O")
    assert one(10**400) == str(10**400)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: one(["x", "y"]), r"has the list \['x', 'y'\] for its target, where one answer"),
        (lambda: one(torch.tensor([0, 1])), "where one answer belongs"),
        (lambda: one(b"x"), "A row has b'x' for its target: give text"),
        (lambda: one({"en": "x"}), "for its target: give text, a number or a list of words"),
        (lambda: one(numpy.float32("nan")), "A row has nan for its target"),
        (lambda: one(torch.tensor(float("nan")), "regress"), "A row has nan for its target"),
        (lambda: one("x", labels=("x", "y", "x")), "The label 'x' is twice in labels="),
        (lambda: mp.tasks.make("t", "generate", train=None), "must be rows, .* not NoneType"),
        (lambda: mp.tasks.make("t", "generate", train={"input": ["a"]}), "not dict"),
    ],
)
def test_rows_that_would_be_read_wrongly_are_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_what_is_no_prompt_and_no_label_of_a_word(tmp_path):
    """These ended in an AttributeError and in IndexErrors of torch."""
    model, _ = tt.load("tiny-decoder")
    tuner = mp.attach(model, mp.LoRA(rank=2), "t")
    for prompt in ("a b", [[5, 6]], None):
        with pytest.raises(TypeError, match="^A prompt is a tensor .B, T. of ids, not"):
            mp.generate(model, prompt)
    for ids in ([5, 6], [[]], [[5.0]], [[[5]]]):
        with pytest.raises(ValueError, match="at least one in each row, not"):
            mp.generate(model, torch.tensor(ids))
    with pytest.raises(ValueError, match="has the id 9999 in input_ids, but the model knows"):
        mp.generate(model, torch.tensor([[5, 9999]]))
    batch = {"input_ids": torch.tensor([[5, 6], [7, 8]]), "labels": torch.tensor([0, 1])}
    with pytest.raises(ValueError, match="a language head needs one for each token"):
        mp.train(model, [batch], steps=1, progress=False)
    tuner.save(tmp_path / "run" / "adapter")
    with pytest.raises(FileNotFoundError, match="no saved tuner|a folder in it is: .*run.adapter"):
        mp.load(model, tmp_path / "run")
