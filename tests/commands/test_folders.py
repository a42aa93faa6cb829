"""Runs and adapters that others made: moved, half copied, several in one folder, without a base."""

import argparse
import json
import shutil
from pathlib import Path

import pytest
import torch
import zoo
from safetensors.torch import load_file, save_file

import tiny_transformer as tt
from minipeft.commands import bases
from tiny_transformer import WordTokenizer

FEW = ("--steps", 2, "--batch-size", 4, "--dev-limit", 6)


def rows(count=20):
    return [(f"{'good' if n % 2 else 'bad'} w{n}", "pos" if n % 2 else "neg") for n in range(count)]


@pytest.fixture
def run(cli):
    """A classifier of tiny-encoder in the folder r, trained on d.csv."""
    Path("d.csv").write_text("text,label\n" + "".join(f"{x},{y}\n" for x, y in rows()))
    columns = ("--kind", "classification", "--input", "text", "--target", "label")
    done = cli("train", "--base", "tiny-encoder", "--data", "d.csv", *columns, *FEW, "--out", "r")
    assert done.code == 0, done.err
    return "r"


def test_a_base_beside_what_is_no_adapter_is_refused(cli, run):
    """It was opened in its place: a mistyped adapter's answers were those of the plain base."""
    assert cli("merge", run, "merged").code == 0
    for what in ("mistyped", "merged"):
        done = cli("predict", what, "a", "--base", "tiny-encoder", "--kind", "classification")
        assert done.code == 2 and f"--base is for an adapter, but {what} is none" in done.err


def test_folders_that_hold_an_adapter_deeper_are_named(cli, run):
    for name in ("one", "two"):
        shutil.copytree("r/adapter", f"several/{name}")
    for words in (("predict", "several", "a"), ("merge", "several", "m"), ("inspect", "several"),
                  ("convert", "several", "c"), ("doctor", "several"),
                  ("evaluate", "several", "--data", "d.csv")):  # fmt: skip
        done = cli(*words)
        assert done.code == 2 and "name a folder in it: several/one, several/two." in done.err
    done = cli("predict", "r/config.json", "a")
    assert done.code == 2 and "r/config.json is a file: name the folder" in done.err


def test_the_kind_that_is_said_counts_for_an_adapter_alone(cli):
    """A head of words may choose among labels, or write: only what it chooses are labels."""
    words = [("the cat", "box"), ("the dog", "bell")] * 8
    Path("d.csv").write_text("input,target\n" + "".join(f"{x},{y}\n" for x, y in words))
    base = ("--base", "tiny-decoder-0.1m", "--data", "d.csv", "--kind", "classification")
    assert cli("train", *base, *FEW, "--out", "r").code == 0
    Path("r/adapter").rename("alone")
    done = cli("evaluate", "alone", *base, "--predictions", "out.jsonl")
    assert done.code == 0 and "accuracy" in done.out, done.err
    said = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert {row["prediction"] for row in said} <= {"box", "bell"} and len(said) == 16


def test_an_adapter_alone_tells_its_head(cli, run):
    whole = cli("evaluate", run, "--data", "d.csv").out.splitlines()[1:]
    Path("r/adapter").rename("alone")
    done = cli("evaluate", "alone", "--base", "tiny-encoder", "--data", "d.csv", "--input", "text",
               "--target", "label")  # fmt: skip
    assert done.code == 0 and done.out.splitlines()[1:] == whole, done.err
    done = cli("predict", "r", "good")
    assert done.code == 2 and "a finished run without its adapter: copy the whole" in done.err


def test_the_base_of_a_strangers_adapter_is_told_from_its_file(cli, run):
    Path("r/adapter").rename("alone")
    path = Path("alone/adapter_config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "o/b"}))
    done = cli("predict", "alone", "good")
    assert done.code == 2 and "--base o/b, as its file says" in done.err


def test_a_base_that_has_moved(cli, tmp_path):
    tt.save(*tt.load("tiny-decoder-0.1m"), tmp_path / "base")
    assert cli("train", "--base", "base", "--data", "reverse", *FEW, "--out", "r").code == 0
    before = cli("predict", "r", "cat sun =>").out
    Path("base").rename("other")
    done = cli("predict", "r", "cat sun =>")
    assert done.code == 2 and "trained on the base in" in done.err and "--base FOLDER" in done.err
    assert cli("predict", "r", "cat sun =>", "--base", "other").out == before
    done = cli("predict", "r", "cat sun =>", "--base", "./nowhere")
    assert done.code == 2 and "There is no folder ./nowhere" in done.err


def test_answers_are_written_over_and_other_files_are_not(cli, run):
    for out in ("a.csv", "a.jsonl", "a.tsv"):
        assert cli("predict", run, "good", "--out", out).code == 0
        assert cli("predict", run, "bad", "--out", out).code == 0
        assert "bad" in Path(out).read_text()
    Path("empty.csv").touch()  # nothing is lost
    assert cli("predict", run, "good", "--out", "empty.csv").code == 0
    assert "good" in Path("empty.csv").read_text()
    Path("mine.csv").write_text("text,label\ngood,pos\n")
    for words in (("predict", run, "good", "--out", "mine.csv"),
                  ("evaluate", run, "--data", "d.csv", "--predictions", "mine.csv")):  # fmt: skip
        done = cli(*words)
        assert done.code == 2 and "mine.csv is there already and holds no answers" in done.err
    assert Path("mine.csv").read_text() == "text,label\ngood,pos\n"
    row = {"instruction": "What is the output, or prediction?", "input": "", "output": "x"}
    for name, text in (("mine.jsonl", json.dumps(row)), ("mine.tsv", "output\tinput\nx\ty\n")):
        Path(name).write_text(text)  # columns of the same names, and no answers of ours
        done = cli("predict", run, "good", "--out", name)
        assert done.code == 2 and f"{name} is there already and holds no answers" in done.err
        assert Path(name).read_text() == text


def test_a_score_that_is_not_counted_is_refused_before_anything_is_answered(cli, run):
    words = ("evaluate", run, "--data", "d.csv", "--predictions", "p.csv")
    done = cli(*words, "--require", "f1=0.5")
    assert done.code == 2 and "There is no score 'f1' here, only accuracy, macro_f1" in done.err
    assert not done.out and not Path("p.csv").exists()
    assert cli(*words, "--metric", "matthews", "--require", "matthews=-1").code == 0
    assert cli(*words, "--require", "accuracy=1.1").code == 1


def test_texts_can_be_shortened_for_a_prediction(cli, run):
    long = "good " * 300
    assert "give --cut WORDS" in cli("predict", run, long).err
    for how in (("--cut", 20), ("--max-length", 20)):
        done = cli("predict", run, long, *how)
        assert done.code == 0 and "note: 1 " in done.out


def test_what_is_no_base_is_told_with_what_was_meant(cli, run):
    assert cli("merge", run, "bases/merged").code == 0
    how = ("--data", "d.csv", "--kind", "classification", "--input", "text", "--target", "label")
    for base, sentence in (
        ("bases", "bases holds no base, which has a config.json; name a folder in it: "),
        ("./bases/merged/config.json", "is a file: name the folder that it is in"),
        ("r", "is a run and no base: --start "),
    ):
        done = cli("train", "--base", base, *how)
        assert done.code == 2 and sentence in done.err
    assert not Path("runs").exists()


def test_words_that_a_file_holds_as_the_language_head_only(cli, tmp_path):
    """Tied, they are one table: with another head it was missing, and the base was refused."""
    hf = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = dict(vocab_size=zoo.WORDS, hidden_size=16, num_hidden_layers=2, num_attention_heads=4)
    sizes |= dict(intermediate_size=32, max_position_embeddings=40, tie_word_embeddings=True)
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**sizes, pad_token_id=0)).eval()
    model.save_pretrained(tmp_path / "llama")
    WordTokenizer(["a"]).save(tmp_path / "llama", 32)
    path = tmp_path / "llama" / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, path, metadata={"format": "pt"})
    given = argparse.Namespace(trust_remote_code=False, device="cpu", dtype="auto", family=None)
    for labels in (("a", "b"), ("number",)):
        base = bases.open_base(str(tmp_path / "llama"), given, "classification", labels)
        ids = torch.arange(8)[None]
        with torch.no_grad():
            states = (m.model(ids).last_hidden_state for m in (model, base.model))
            assert torch.equal(*states)
