"""A command line that runs in this process, small data, and a small transformers base."""

import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
import zoo

from minipeft.__main__ import main
from minipeft.commands import runs
from tiny_transformer import WordTokenizer

WORDS = (
    "a b c d e f g h good bad red blue is the of to in it on at by up we he she they you".split()
)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def cli(capsys, tmp_path, monkeypatch):
    """`cli("train", ...)` -> exit code, what was printed, what was complained about."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MINIPEFT_TRACEBACK", raising=False)

    def run(*words):
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as stopped:  # argparse
            code = stopped.code
        printed = capsys.readouterr()
        if code == 2:
            one_line = printed.err.count("\n") == 1 and printed.err.startswith("minipeft: ")
            assert one_line, printed.err
        return SimpleNamespace(code=code, out=printed.out, err=printed.err)

    return run


@pytest.fixture
def stopping_after(monkeypatch):
    """Inside `with stopping_after(3):`, Ctrl-C comes when a run has taken its third step."""

    @contextmanager
    def until(steps):
        watch = runs.Log.watch

        def stop(log, history):
            watch(log, history)
            if len(history.losses) == steps:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(runs.Log, "watch", stop)
            yield

    return until


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory):
    """A random GPT-2 of transformers, with a tokenizer."""
    return saved(zoo.build("gpt2"), tmp_path_factory.mktemp("bases") / "gpt2")


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    """A random BERT of transformers, with a tokenizer."""
    return saved(zoo.build("bert"), tmp_path_factory.mktemp("bases") / "bert")


@pytest.fixture(scope="session")
def unlisted(tmp_path_factory):
    """Folders of a decoder, "olmo", and of an encoder, "ernie", that are on no list."""
    hf, folder = pytest.importorskip("transformers"), tmp_path_factory.mktemp("bases")
    torch.manual_seed(0)
    sizes = dict(vocab_size=zoo.WORDS, hidden_size=16, num_hidden_layers=2, num_attention_heads=4)
    sizes |= dict(intermediate_size=32, max_position_embeddings=40)
    sizes |= dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)
    saved(hf.OlmoForCausalLM(hf.OlmoConfig(**sizes)), folder / "olmo")
    saved(hf.ErnieForMaskedLM(hf.ErnieConfig(**sizes)), folder / "ernie")
    return folder


def saved(model, folder):
    model.save_pretrained(folder)
    words = [*WORDS, *(f"w{i}" for i in range(zoo.WORDS - 14 - len(WORDS)))]
    WordTokenizer(words).save(folder, 32)
    return folder


@pytest.fixture
def pairs(tmp_path):
    """Text-to-text examples of one-letter words."""
    letters = "a b c d e f g h".split()
    rows = [{"input": f"{x} {y}", "target": f"{y} {x}"} for x in letters for y in letters]
    return write(tmp_path / "pairs.jsonl", rows)


@pytest.fixture
def texts(tmp_path):
    """Texts of two classes."""
    rows = [{"input": f"{a} {b}", "target": a} for a in ("good", "bad") for b in "abcdefgh"]
    return write(tmp_path / "texts.jsonl", rows)


@pytest.fixture
def run(cli, gpt2, pairs):
    """A finished run: its folder."""
    done = cli("train", "--base", gpt2, "--data", pairs, "--kind", "text-to-text", "--out", "run",
               "--steps", 2, "--batch-size", 4, "--dev-limit", 3, "--rank", 2,
               "--targets", "qkv,output", "--learning-rate", "0.1")  # fmt: skip
    assert done.code == 0, done.err
    return "run"
