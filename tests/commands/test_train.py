"""`python -m minipeft train`: the run's folder, resuming, and what is refused."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from patience import patience

import minipeft as mp
from minipeft.commands import options
from minipeft.files import saving as files

FEW = ("--steps", 4, "--batch-size", 4, "--dev-limit", 3, "--checkpoint-every", 1)
TEXT = ("--kind", "text-to-text")


def test_the_folder_of_a_run_tells_all(run, gpt2):
    names = {path.name for path in Path(run).iterdir()}
    assert names == {
        "config.json",
        "result.json",
        "log.jsonl",
        "README.md",
        "curves.png",
        "adapter",
    }
    config = json.loads(Path(run, "config.json").read_text())
    assert config["method"]["settings"]["rank"] == 2
    assert config["base"]["name"] == str(gpt2)
    assert [file["examples"] for file in config["data"]["files"]] == [58, 3]
    log = [json.loads(line) for line in Path(run, "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if "loss" in line] == [1, 2]
    assert [line["validation"]["step"] for line in log if "validation" in line] == [1, 2]
    assert Path(run, "curves.png").read_bytes().startswith(b"\x89PNG")
    card = Path(run, "README.md").read_text()
    result = json.loads(Path(run, "result.json").read_text())
    assert f"{result['dev']['overlap']:.4f}" in card and "rank 2" in card and "gpt2" in card
    assert str(gpt2.parent) not in card.partition("## Again")[0]  # no path of this machine


def test_a_killed_run_goes_on_to_the_same_bits(cli, gpt2, pairs, stopping_after):
    base = ("train", "--base", gpt2, "--data", pairs, *TEXT, *FEW, "--dropout", "0.1")
    assert cli(*base, "--out", "whole").code == 0
    with stopping_after(3):
        assert cli(*base, "--out", "stopped").code == 130
    assert not Path("stopped/adapter").exists()
    assert cli("evaluate", "stopped", "--data", pairs).code == 2
    again = cli(*base, "--out", "stopped")
    assert again.code == 2 and "holds another run" in again.err
    again = cli("train", "--resume", "stopped", "--seed", 5)
    assert again.code == 2 and "leave --seed away" in again.err
    assert cli("train", "--resume", "stopped").code == 0
    one, other = (files.read(Path(name, "adapter")) for name in ("stopped", "whole"))
    assert one[0] == other[0] and one[2] == other[2]  # settings, and the hash of everything
    assert one[1].keys() == other[1].keys()
    assert all(torch.equal(one[1][key], other[1][key]) for key in one[1])
    assert Path("stopped/log.jsonl").read_text() == Path("whole/log.jsonl").read_text()
    finished = cli("train", "--resume", "stopped")
    assert finished.code == 0 and "is finished" in finished.out


def test_a_run_whose_data_have_changed_does_not_go_on(cli, run, pairs):
    Path(run, "result.json").unlink()
    pairs.write_text(pairs.read_text() + '{"input": "a", "target": "b"}\n')
    done = cli("train", "--resume", run)
    assert done.code == 2 and "is not what this run began with" in done.err


def test_the_example(cli, monkeypatch):
    from minipeft.commands import train

    monkeypatch.setattr(train, "EXAMPLE", {**train.EXAMPLE, "base": "tiny-decoder-0.1m"})
    few = ("--steps", 2, "--batch-size", 4, "--dev-limit", 3)
    first, second = cli("train", *few), cli("train", *few, "--method", "prefix", "--length", 2)
    assert first.code == second.code == 0, first.err + second.err
    assert "this trains the example" in first.out and "Try next:" in first.out
    assert Path("runs/example/adapter").is_dir() and Path("runs/example-2/adapter").is_dir()
    assert "evaluate runs/example --data reverse" in first.out


@pytest.mark.slow
def test_torchrun_is_refused_in_one_sentence(tmp_path):
    """Two processes would write one folder: they write nothing, and one of them says why."""
    root = str(Path(__file__).parents[2])
    env = dict(os.environ, PYTHONPATH=root, OMP_NUM_THREADS="1")
    command = "-m torch.distributed.run --standalone --nproc-per-node 2 -m minipeft train --steps 2"
    options = dict(env=env, cwd=tmp_path, capture_output=True, text=True, timeout=patience(30))
    done = subprocess.run([sys.executable, *command.split()], **options)
    assert done.returncode != 0
    assert done.stderr.count("minipeft: The command train runs in one process") == 1
    assert not done.stdout and not list(tmp_path.iterdir())


SHIPPED = ("--base", "tiny-decoder-0.1m", "--data", "reverse")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--base", "tiny-decoder-0.1m"], "Say which data too"),
        (["--data", "reverse"], "Say which base too"),
        (["--base", "tiny-nothing", "--data", "reverse"], "nor one of: tiny-decoder"),
        (["--base", "tiny-decoder-0.1m", "--data", "nothing.csv", *TEXT], "does not exist"),
        (["--base", "tiny-decoder-0.1m", "--data", "pairs.jsonl"], "Say what the data asks for"),
        (["--base", "", "--data", "pairs.jsonl", *TEXT], "Say which base too"),
        (["--base", "tiny-encoder", "--data", ""], "Say which data too"),
        (["--base", "./nothing", "--data", "pairs.jsonl", *TEXT], "no folder ./nothing"),
        ([*SHIPPED, "--cut", "3"], "its own splits and columns: leave --cut away"),
        ([*SHIPPED, "--dev", "pairs.jsonl"], "its own splits and columns: leave --dev away"),
        ([*SHIPPED, "--input", "text"], "its own splits and columns: leave --input away"),
        (["--epochs", "inf"], "--epochs must be a number above 0"),
        (["--seed", "9" * 20], "seed must be a whole number"),
        (["--method", "lola"], "no method 'lola': did you mean LoRA?"),
        (["--method", "xyz"], "no method 'xyz'; choose of AdaLoRA, "),
        (["--method", "rslora"], "did you mean LoRA with --rank-stabilized"),
        (["--method", "LoRA+"], "did you mean LoRA with --plus 16"),
        (["--method", "prefix", "--rank", "4"], "unrecognized arguments: --rank"),
        (["--rank", "0"], "rank must be a whole number of at least 1"),
        (["--rank", "x"], "'x' is not a whole number"),
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["--learning-rate", "-1"], "learning_rate must be positive"),
        (["--steps", "3", "--epochs", "2"], "instead of --steps"),
        (["--targets", "nonsense"], "nonsense"),
        (["--dev-share", "2", "--data", "pairs.jsonl", *TEXT, "--base", "x"], "cannot be held out"),
        (["--device", "warp9"], "There is no device 'warp9'"),
        (["--resume", "nowhere"], "holds no run"),
        (["--out", "pairs.jsonl"], "holds something already"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(cli, pairs, words, sentence):
    before = sorted(Path().iterdir())
    done = cli("train", *words)
    assert done.code == 2 and sentence in done.err
    assert sorted(Path().iterdir()) == before  # and nothing was written


def test_a_base_that_is_none_is_one_sentence(cli, pairs, tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text('{"model_type": "gpt2"')
    done = cli("train", "--base", "base", "--data", pairs, *TEXT)
    assert done.code == 2 and "base/config.json is not JSON: it is damaged." in done.err
    (tmp_path / "base" / "config.json").write_text('{"model_type": "none such"}')
    done = cli("train", "--base", "base", "--data", pairs, *TEXT)
    assert done.code == 2 and "cannot be opened as a base" in done.err


@pytest.mark.parametrize(
    ("rows", "kind", "sentence"),
    [
        ([("a", "x"), ("b", "x")] * 9, "classification", "only 'x'"),
        ([(f"a {i}", "x y") for i in range(20)], "tagging", "only 1 words"),
        (
            [("", "x"), *((f"a {i}", "y") for i in range(20))],
            "text-to-text",
            "has nothing in 'input'",
        ),
        ([("a " * 200, "b"), *((f"a {i}", "y") for i in range(20))], "text-to-text", "positions"),
        ([("a", "b")], "text-to-text", "cannot be held out"),
    ],
)
def test_data_that_do_not_fit_are_one_sentence(cli, gpt2, tmp_path, rows, kind, sentence):
    path = tmp_path / "d.tsv"
    path.write_text("input\ttarget\n" + "".join(f"{x}\t{y}\n" for x, y in rows))
    if kind == "tagging":
        rows = rows[:-1]
        path.write_text(path.read_text() + "a b c\tx y\n")
        sentence = "words but"
    done = cli("train", "--base", gpt2, "--data", path, "--kind", kind, "--dev-share", "0.5")
    assert done.code == 2 and sentence in done.err


def test_a_longer_text_can_be_cut(cli, gpt2, tmp_path):
    lines = [f"{'a ' * 200}{i}\tb\n" for i in range(12)] + [f"a {i}\tb\n" for i in range(9)]
    (tmp_path / "d.tsv").write_text("input\ttarget\n" + "".join(lines))
    done = cli("train", "--base", gpt2, "--data", "d.tsv", *TEXT, *FEW, "--cut", 5, "--out", "r",
               "--method", "bitfit", "--dev-share", "0.5")  # fmt: skip
    assert done.code == 0, done.err


def test_the_help_shows_the_settings_of_the_method(cli):
    text = cli("train", "--method", "adapter", "--help").out
    assert "--bottleneck INT" in text and "--rank INT" not in text and "examples:" in text
    assert "--rank INT" in cli("train", "--help").out


def test_a_template_is_written_in_words(cli):
    done = cli("train", "--base", "tiny-encoder", "--data", "capital", *FEW, "--method", "ptuning",
               "--template", "[P] {x} the [P] {mask}", "--out", "r")  # fmt: skip
    assert done.code == 0, done.err
    settings = json.loads(Path("r/config.json").read_text())["method"]["settings"]
    assert settings["template"][0] == "P" and settings["template"][-1] == "{mask}"
    assert mp.PTuning(**{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})
    assert cli("evaluate", "r", "--data", "capital", "--limit", 3).code == 0


def test_what_a_name_of_elsewhere_is_called_can_be_made():
    for name, meant in options.OTHER_NAMES.items():
        with pytest.raises(ValueError, match=re.escape(f"did you mean {meant}?")):
            options.from_text(name)
        kind, _, rest = meant.partition(" with ")
        flag, _, text = rest.partition(" (in a grid ")
        assert options.method_class(kind).__name__ == kind
        if not flag:
            continue
        parser = options.Parser()
        options.add_flags(parser, options.method_class(kind))
        settings = options.settings(parser.parse_args(flag.split()))
        method = options.from_text(text.rstrip(")"))
        assert options.make(type(method), settings) == method != type(method)()
