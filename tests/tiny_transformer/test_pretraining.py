"""Pretraining learns, stops on nonsense, and goes on after a kill to the same bits."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from closeness import close
from safetensors.torch import load_file, save_file
from tiny_models import fresh

import tiny_transformer as tt
from tiny_transformer.pretraining import Stream, learning_rate

WORDS = [f"w{number}" for number in range(12)]
TEXTS = [f"w{i} w{i + 1} w{i + 2} w{i + 3}" for i in range(9)]  # after w3 always comes w4
KINDS = {"gpt2": "decoder", "bert": "encoder", "bart": "encoder-decoder"}


def toy(layout: str = "gpt2", seed: int = 0, dropout: float = 0.1):
    """A fresh model and a stream of counting texts."""
    tokenizer = tt.WordTokenizer(WORDS, ends=layout != "gpt2")
    model = fresh(layout, vocab_size=len(tokenizer), dropout=dropout, seed=seed)
    return model, Stream(TEXTS, tokenizer, KINDS[layout], 4, 16, seed)


def train(folder=None, layout: str = "gpt2", seed: int = 0, **how):
    model, stream = toy(layout, seed)
    how = {"steps": 12, "warmup": 3, "every": 5, "peak": 1e-2, "progress": False} | how
    return model, tt.pretrain(model, stream, folder=folder, **how)


def same_bits(one, two) -> bool:
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_the_learning_rate_rises_then_falls():
    rates = [learning_rate(step, 100, 2.0, 10, floor=0.1) for step in range(101)]
    assert rates[0] == pytest.approx(0.2, rel=1e-3)  # the first step already moves
    assert max(rates) == pytest.approx(2.0, rel=0.03) and rates.index(max(rates)) == 9
    assert rates[50] == pytest.approx(2.0 * (0.1 + 0.9 / 2))  # half of the cosine, half way
    assert rates[100] == pytest.approx(0.2)  # the floor
    assert all(a > b for a, b in zip(rates[9:], rates[10:], strict=False))


@pytest.mark.parametrize("layout", KINDS)
def test_the_loss_falls_from_knowing_nothing(layout):
    model, losses = train(layout=layout, steps=120)
    assert len(losses) == 120 and not model.training
    assert losses[0] == pytest.approx(math.log(model.config.vocab_size), rel=0.06)
    assert sum(losses[-10:]) / 10 < 0.75 * losses[0]


def test_it_learns_what_follows():
    model, _ = train(steps=200)
    tokenizer = tt.WordTokenizer(WORDS)
    ids = tokenizer("w2 w3")["input_ids"]
    assert tokenizer.decode(tt.generate(model, ids, max_new_tokens=2)[0]) == "w2 w3 w4 w5"


def test_the_first_step_is_adamw_s_by_hand():
    """Step 1 of AdamW moves each weight by rate * (sign of its gradient + decay * weight)."""
    model, stream = toy(dropout=0.0)
    before = {name: value.clone() for name, value in model.named_parameters()}
    model.train()(**stream(0)).loss.backward()
    gradient = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    tt.pretrain(model, stream, 1, peak=1e-2, warmup=1, weight_decay=0.1, progress=False)
    norm = torch.stack([g.norm() for g in gradient.values()]).norm()
    rate = learning_rate(0, 1, 1e-2, 1)
    for name, parameter in model.named_parameters():
        g = gradient[name] * min(1.0, 1.0 / (norm + 1e-6))  # clipped to length 1, as torch does it
        expected = before[name] * (1 - rate * 0.1) - rate * g / (g.abs() + 1e-8)
        close(parameter.data, expected)


# Resuming


@pytest.mark.parametrize("layout", KINDS)
def test_a_run_in_two_parts_is_a_run_in_one(layout, tmp_path):
    whole, losses = train(layout=layout)

    def stop(step: int):
        if step == 8:
            raise KeyboardInterrupt
        return stream(step)

    model, stream = toy(layout)
    how = {"steps": 12, "warmup": 3, "every": 5, "peak": 1e-2, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        tt.pretrain(model, stop, folder=tmp_path, **how)
    assert len(load_file(tmp_path / "pretraining.safetensors")["losses"]) == 5
    torch.rand(17)  # another process: another random state,
    again, stream = toy(layout, seed=3)  # and other weights to begin with
    stream = toy(layout)[1]
    assert tt.pretrain(again, stream, folder=tmp_path, **how) == losses
    assert same_bits(whole, again)


def test_a_finished_run_is_not_run_again(tmp_path):
    whole, losses = train(tmp_path)

    def never(step: int):
        raise AssertionError("no step is left")

    model, _ = toy(seed=5)
    how = {"steps": 12, "warmup": 3, "every": 5, "peak": 1e-2, "progress": False}
    assert tt.pretrain(model, never, folder=tmp_path, **how) == losses
    assert same_bits(whole, model)


SCRIPT = """
import sys, time
sys.path[:0] = {paths!r}
import torch
torch.set_num_threads({threads})
import tiny_transformer as tt
from test_pretraining import toy

folder, slow = sys.argv[1], float(sys.argv[2])
model, stream = toy({layout!r})

def batches(step):
    print(step, flush=True)
    time.sleep(slow)
    return stream(step)

tt.pretrain(model, batches, 12, peak=1e-2, warmup=3, every=2, folder=folder, progress=False)
tt.save(model, None, folder + "/model")
"""


def start(folder: Path, layout: str, slow: float) -> subprocess.Popen:
    """The toy run in a process of its own; it prints each step before it takes it."""
    this_file = Path(__file__).resolve()
    paths = [str(this_file.parents[2]), str(this_file.parents[1]), str(this_file.parent)]
    script = SCRIPT.format(paths=paths, layout=layout, threads=torch.get_num_threads())
    command = [sys.executable, "-c", script, str(folder), str(slow)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_run_that_is_killed_at_several_moments_ends_with_the_same_bits(tmp_path):
    """SIGKILL in the middle of steps, before the first snapshot and between snapshots."""
    whole, _ = train(layout="bart", every=100)
    for kill_at in (1, 5, 10):
        process = start(tmp_path, "bart", slow=0.05)
        for line in process.stdout:
            if int(line) == kill_at:
                time.sleep(0.01 * kill_at)  # at another point of the step
                process.send_signal(signal.SIGKILL)
                break
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
        assert not (tmp_path / "model").exists()
    process = start(tmp_path, "bart", slow=0.0)
    steps = [int(line) for line in process.stdout]
    process.stdout.close()
    assert process.wait() == 0
    assert 5 < steps[0] <= 10 and steps[-1] == 11  # it did go on and did not begin again
    again, _ = tt.load(tmp_path / "model")  # as float32
    assert same_bits(whole.float(), again)


def test_a_kill_while_the_snapshot_is_written_leaves_the_old_one(tmp_path, monkeypatch):
    """The new file has its name only once it is whole."""
    whole, losses = train()
    replace, count = os.replace, []

    def second_fails(*names):
        count.append(names)
        if len(count) == 2:
            raise KeyboardInterrupt
        replace(*names)

    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path)
    monkeypatch.undo()
    assert len(load_file(tmp_path / "pretraining.safetensors")["losses"]) == 5
    again, again_losses = train(tmp_path)
    assert again_losses == losses and same_bits(whole, again)


# Refusals


@pytest.mark.parametrize(
    "other, name",
    [
        ({"steps": 13}, "steps"),
        ({"peak": 2e-2}, "peak"),
        ({"warmup": 4}, "warmup"),
        ({"seed": 1}, "seed"),
        ({"weight_decay": 0.5}, "weight_decay"),
        ({"clip": 0.5}, "clip"),
        ({"layout": "bert"}, "model"),
    ],
)
def test_a_snapshot_of_another_run_is_refused(tmp_path, other, name):
    train(tmp_path)
    model, stream = toy(other.pop("layout", "gpt2"))
    how = {"steps": 12, "warmup": 3, "every": 5, "peak": 1e-2, "progress": False} | other
    before = [value.clone() for value in model.state_dict().values()]
    with pytest.raises(
        ValueError, match=f"belongs to a run with another {name}, .*delete the file"
    ):
        tt.pretrain(model, stream, folder=tmp_path, **how)
    after = model.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign"])
def test_a_damaged_snapshot_is_refused(tmp_path, damage):
    train(tmp_path)
    path = tmp_path / "pretraining.safetensors"
    if damage == "foreign":
        save_file({"a": torch.zeros(2)}, path)
    else:
        path.write_bytes(path.read_bytes()[: 1000 if damage == "truncated" else 0])
    with pytest.raises(ValueError, match="is no whole snapshot .*; delete it"):
        train(tmp_path)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_run(tmp_path, bad):
    model, stream = toy()

    def poisoned(step: int):
        if step == 7:
            with torch.no_grad():
                model.norm.weight[0] = bad
        return stream(step)

    with pytest.raises(
        ValueError, match="The loss is (nan|inf) at step 7; lower the learning rate"
    ):
        tt.pretrain(model, poisoned, 12, folder=tmp_path, every=5, progress=False)
    kept = load_file(tmp_path / "pretraining.safetensors")
    assert all(value.isfinite().all() for name, value in kept.items() if "model" in name)


def test_the_global_generator_is_left_alone():
    """Dropout draws numbers of its own: a run changes nothing that comes after it."""
    model, stream = toy()
    before = torch.get_rng_state()
    tt.pretrain(model, stream, 3, seed=5, progress=False)
    assert torch.equal(torch.get_rng_state(), before)
