"""`python -m minipeft doctor`: exit code 1 with a finding, 0 without, 2 for unusable input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file


def test_a_healthy_run(cli, run, pairs):
    for words in ((), ("a b c", "d e"), ("--data", pairs)):
        done = cli("doctor", run, *words)
        assert done.code == 0, done.out + done.err
        assert "nothing found" in done.out and "Examined: labels" in done.out


def test_a_broken_adapter_is_told_by_the_exit_code(cli, run, pairs):
    file = next(Path("run/adapter").glob("*.safetensors"))
    zero = {key: torch.zeros_like(tensor) for key, tensor in load_file(file).items()}
    adapter = Path("broken")
    adapter.mkdir()
    settings = json.loads((file.parent / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    save_file(zero, adapter / file.name)
    done = cli("doctor", adapter, "--base", base_of(run), "--data", pairs, "--kind", "text-to-text")
    assert done.code == 1, done.out + done.err
    assert "zero start" in done.out and "both are 0" in done.out


def base_of(run) -> str:
    return json.loads((Path(run) / "config.json").read_text())["base"]["name"]


def test_other_kinds_of_runs(cli):
    for base, data, method in (
        ("tiny-encoder", "tags", "headonly"),
        ("tiny-encoder", "tags", "prefix"),
        ("tiny-encoder-decoder", "reverse", "prompttuning"),
        ("tiny-decoder", "reverse", "ia3"),
    ):
        folder = f"{data}-{method}"
        done = cli("train", "--base", base, "--data", data, "--method", method, "--steps", 2,
                   "--batch-size", 4, "--dev-limit", 3, "--out", folder)  # fmt: skip
        assert done.code == 0, done.err
        for words in ((), ("--data", data)):
            done = cli("doctor", folder, *words)
            assert done.code == 0, done.out + done.err


def test_a_run_that_predicts_numbers(cli):
    Path("d.csv").write_text("input,target\n" + "".join(f"good w{n},{n}.5\n" for n in range(20)))
    done = cli("train", "--base", "tiny-encoder", "--data", "d.csv", "--kind", "regression",
               "--steps", 2, "--batch-size", 4, "--out", "r")  # fmt: skip
    assert done.code == 0, done.err
    for words in ((), ("a text", "another"), ("--data", "d.csv")):
        done = cli("doctor", "r", *words)
        assert done.code == 0, done.out + done.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("tiny-decoder",), "no run and no adapter"),
        (("run", "a b", "--data", "x.jsonl"), "not both"),
        (("run", "--batch-size", "0"), "--batch-size"),
        (("run", " "), "A text is empty"),
    ],
)
def test_what_cannot_be_used(cli, run, words, sentence):
    done = cli("doctor", *words)
    assert done.code == 2 and sentence in done.err
