"""The loop: AdamW as torch has it, the order a function of seed and step, resume to the bit."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import torch
import zoo
from closeness import LOSS, close
from patience import patience
from torch import nn

import minipeft as mp
from minipeft.training.feed import Feed
from minipeft.training.optimizer import trainable
from minipeft.training.schedule import learning_rate_at


def batches(count: int = 5, rows: int = 2) -> list[dict]:
    return [zoo.batch("tiny-decoder", rows=rows, seed=seed) for seed in range(count)]


def tuned(dropout: float = 0.0, name: str = "tiny-decoder", seed: int = 0):
    model = zoo.build(name, dropout=dropout)
    return model, mp.attach(model, mp.LoRA(rank=2, dropout=dropout), seed=seed)


def test_steps_equal_a_plain_adamw_loop():
    model, tuner = tuned()
    twin, other = tuned()
    data = batches(1)
    mp.train(
        model, data, 6, 1e-2, warmup=2, weight_decay=0.1, clip=0.5, accumulate=1, progress=False
    )
    optimizer = torch.optim.AdamW(other.parameters(), lr=1e-2, weight_decay=0.1)
    rates = [0.5e-2, 1e-2, 1e-2, 0.75e-2, 0.5e-2, 0.25e-2]  # warm-up 2, then a line to 0 at step 6
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        twin(**data[0]).loss.backward()
        torch.nn.utils.clip_grad_norm_(other.parameters(), 0.5)
        optimizer.step()
    for ours, theirs in zip(tuner.parameters(), other.parameters(), strict=True):
        close(ours, theirs)


HEADS = {"tiny-encoder": "head.", "bert": "classifier.", "gpt2": "score."}


@pytest.mark.parametrize("method", [mp.LoRA(rank=2), mp.FullFineTuning(), mp.Adapter(4)])
@pytest.mark.parametrize("name", HEADS)
def test_a_head_learns_at_a_rate_of_its_own(name, method):
    """The first step of Adam moves every number that has a gradient by the rate."""
    model = zoo.build(name, "classification")
    mp.attach(model, method, seed=0)
    before = {name: p.detach().clone() for name, p in trainable(model).items()}
    mp.train(
        model, [zoo.batch(name, "classification")], 1, 1e-4, head_rate=1e-2, warmup=0, clip=None,
        progress=False,
    )  # fmt: skip
    now = trainable(model)
    moved = {path: (now[path] - start).abs().max().item() for path, start in before.items()}
    heads = {path for path in moved if path.startswith(HEADS[name])}
    assert heads and max(moved[path] for path in heads) == pytest.approx(1e-2, rel=1e-3)
    others = moved.keys() - heads
    assert others and max(moved[path] for path in others) == pytest.approx(1e-4, rel=1e-3)


def test_accumulated_micro_batches_equal_one_large_batch():
    data = [zoo.batch("tiny-decoder", rows=1, seed=seed) for seed in range(4)]  # no padding
    large = {key: torch.cat([b[key] for b in data]) for key in data[0]}
    model, tuner = tuned()
    twin, other = tuned()
    small = mp.train(model, lambda i: data[i % 4], 3, 1e-2, accumulate=4, progress=False)
    whole = mp.train(twin, [large], 3, 1e-2, progress=False)
    close(small.losses, whole.losses, dtype=torch.float32, roundings=LOSS)
    for a, b in zip(tuner.parameters(), other.parameters(), strict=True):
        close(a, b)


@pytest.mark.parametrize(
    "schedule, ends",
    [("linear", [10, 7.5, 5, 2.5]), ("constant", [10, 10, 10, 10]), ("cosine", None)],
)
def test_schedules(schedule, ends):
    rates = [learning_rate_at(i, 6, 10.0, 2, schedule) for i in range(6)]
    assert rates[:2] == [5.0, 10.0]
    if schedule == "cosine":
        ends = [5 * (1 + math.cos(math.pi * i / 4)) for i in range(4)]
    assert rates[2:] == pytest.approx(ends)


def test_an_epoch_sees_every_batch_once_in_an_order_of_its_own():
    data = list(range(7))
    feed = Feed(data, seed=1, begin=0)
    seen = [feed(i) for i in range(21)]
    epochs = [seen[i : i + 7] for i in (0, 7, 14)]
    assert all(sorted(epoch) == data for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [Feed(data, seed=1, begin=9)(i) for i in range(9, 21)] == seen[9:]  # nothing is replayed
    assert [Feed(data, seed=2, begin=0)(i) for i in range(21)] != seen


def test_iterables_begin_again_and_one_shot_iterables_say_so():
    class Again:
        def __iter__(self):
            return iter([1, 2, 3])

    feed = Feed(Again(), seed=0, begin=4)
    assert [feed(i) for i in range(4, 8)] == [2, 3, 1, 2]
    feed = Feed((x for x in [1, 2]), seed=0, begin=0)
    assert [feed(0), feed(1)] == [1, 2]
    with pytest.raises(ValueError, match="ran out and cannot begin again"):
        feed(2)


def test_a_run_depends_on_its_seed_and_on_nothing_else():
    runs = []
    for seed, noise in [(0, 1), (0, 2), (1, 1)]:
        model, _ = tuned(dropout=0.3)
        torch.manual_seed(noise)
        torch.rand(noise)
        state = torch.get_rng_state()
        runs.append(mp.train(model, batches(), 6, 1e-2, seed=seed, progress=False).losses)
        assert torch.equal(torch.get_rng_state(), state)
    assert runs[0] == runs[1] != runs[2]


def test_evaluation_changes_nothing_and_the_best_weights_come_back():
    scores = iter([1.0, 3.0, 2.0, 2.5])
    kept = []

    def evaluate(model):
        assert not model.training and not torch.is_grad_enabled()
        torch.rand(3)
        kept.append([p.detach().clone() for p in mp.tuners(model)["default"].parameters()])
        return {"accuracy": next(scores), "other": 0.0}

    model, tuner = tuned(dropout=0.3)
    options = dict(steps=8, learning_rate=1e-2, progress=False)
    history = mp.train(model, batches(), evaluate=evaluate, evaluate_every=2, **options)
    assert [e["step"] for e in history.evaluations] == [2, 4, 6, 8]
    assert (history.best_step, history.best_score) == (4, 3.0)
    assert all(torch.equal(p, q) for p, q in zip(tuner.parameters(), kept[1], strict=True))
    assert not model.training  # as it was
    twin, _ = tuned(dropout=0.3)
    assert mp.train(twin, batches(), **options).losses == history.losses
    scores = iter([1.0, 3.0, 0.5, 2.5])
    model, tuner = tuned(dropout=0.3)
    history = mp.train(model, batches(), evaluate=evaluate, evaluate_every=2, best="min", **options)
    assert history.best_step == 6
    scores = iter([1.0, 3.0, 2.0, 2.5])
    model, tuner = tuned(dropout=0.3)
    history = mp.train(model, batches(), evaluate=evaluate, evaluate_every=2, best=None, **options)
    assert history.best_step is None
    assert all(torch.equal(p, q) for p, q in zip(tuner.parameters(), kept[-1], strict=True))


def test_a_loss_that_is_no_number_stops_before_the_step():
    model, tuner = tuned()
    bad = batches(1)[0] | {"labels": torch.full((2, 7), -100)}

    def data(step):
        return bad if step == 2 else batches(1)[0]

    mp.train(model, data, 2, 1e-2, warmup=0, schedule="constant", progress=False)
    good = [p.detach().clone() for p in tuner.parameters()]
    tuner.detach()
    tuner = mp.attach(model, mp.LoRA(rank=2), seed=0)
    with pytest.raises(ValueError, match=r"The loss is nan .* at step 2, with a learning rate of"):
        mp.train(model, data, 5, 1e-2, warmup=0, schedule="constant", progress=False)
    assert all(torch.equal(p, q) for p, q in zip(tuner.parameters(), good, strict=True))
    assert not model.training and all(p.grad is None for p in tuner.parameters())


def test_only_what_acts_is_trained():
    model = zoo.build("tiny-decoder")
    a = mp.attach(model, mp.LoRA(), name="a", seed=0)
    b = mp.attach(model, mp.LoRA(), name="b", seed=1)
    a.disable()
    assert set(trainable(model).values()) == set(b.parameters())
    before = [p.detach().clone() for p in a.parameters()]
    mp.train(model, batches(), 2, 1e-2, weight_decay=0.1, progress=False)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), before, strict=True))
    b.merge()
    with pytest.raises(ValueError, match="enable or unmerge a, b"):
        mp.train(model, batches(), 2)
    b.detach(), a.detach()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="attach a method first"):
        mp.train(model, batches(), 2)


def test_a_model_without_tuners_is_trained_whole():
    model = zoo.build("tiny-decoder")
    history = mp.train(model, batches(1), 30, 1e-2, progress=False)
    assert history.losses[-1] < history.losses[0] / 2


@pytest.mark.parametrize(
    "options, sentence",
    [
        (dict(steps=0), "steps must be"),
        (dict(learning_rate=0.0), "learning_rate must be positive"),
        (dict(warmup=-1), "warmup must be"),
        (dict(warmup=9), "warmup must be"),
        (dict(schedule="lin"), "schedule must be one of linear, cosine, constant"),
        (dict(best="maximum"), "best must be"),
        (dict(accumulate=0), "accumulate must be"),
        (dict(evaluate_every=0, evaluate=lambda m: 1.0), "evaluate_every must be"),
        (dict(checkpoint_every=0), "checkpoint_every must be"),
        (dict(checkpoint_every=2.5), "checkpoint_every must be"),
        (dict(clip=-1), "clip must be"),
        (dict(clip=math.nan), "clip must be"),
        (dict(clip="1"), "clip must be"),
        (dict(betas=(0.9,)), "betas must be two numbers"),
        (dict(betas=(0.9, 1.0)), "betas must be two numbers"),
        (dict(betas=0.9), "betas must be two numbers"),
        (dict(weight_decay=-0.1), "weight_decay must be"),
        (dict(learning_rate="fast"), "learning_rate must be a number, not the text"),
        (dict(head_rate="fast"), "head_rate must be a number, not the text"),
        (dict(head_rate=0), "head_rate must be positive, not 0"),
        (dict(learning_rate=math.nan), "learning_rate must be positive"),
        (dict(warmup=None), "warmup must be"),
        (dict(learning_rate=[1e-3] * 99), "learning_rate must be positive, not .{1,101}$"),
        (dict(steps=True), "steps must be"),
        (dict(seed="0"), "seed must be a whole number"),
        (dict(seed=1.0), "seed must be a whole number"),
        (dict(seed=None), "seed must be a whole number"),
        (dict(seed=10**20), "seed must be a whole number"),
        (dict(evaluate=0.5), "evaluate must be a function"),
        (dict(watch="print"), "watch must be a function"),
        (dict(checkpoint=3), "checkpoint must be the path"),
        (dict(resume="no"), "resume must be True or False"),
        (dict(keep_trunk=[]), "keep_trunk must be True or False"),
        (dict(evaluate=lambda m: {}), "evaluate must give a number, or a dict"),
        (dict(evaluate=lambda m: None), "evaluate must give a number, or a dict"),
        (dict(evaluate=lambda m: {"f1": "good"}), "evaluate must give a number, or a dict"),
        (dict(batches=[]), "the list is empty"),
        (dict(resume=True), "needs the folder"),
    ],
)
def test_impossible_arguments_are_refused(options, sentence):
    model, _ = tuned()
    with pytest.raises(ValueError, match=sentence) as refused:
        mp.train(model, **(dict(batches=batches(), steps=2, progress=False) | options))
    assert "\n" not in str(refused.value) and len(str(refused.value)) > 30


def test_numbers_of_numpy_are_numbers(tmp_path):
    model, _ = tuned()
    given = dict(steps=numpy.int64(2), learning_rate=numpy.float32(1e-3), seed=numpy.int32(1))
    history = mp.train(model, batches(), **given, checkpoint=tmp_path, progress=False)
    history.save(tmp_path / "history.json")
    assert mp.History.load(tmp_path / "history.json").losses == history.losses
    again = mp.train(model, batches(), **given, checkpoint=tmp_path, resume=True, progress=False)
    assert again.losses == history.losses


def test_batches_of_a_wrong_kind_are_refused():
    model, _ = tuned()
    for wrong, sentence in [
        (batches(1)[0], r"give \[batch\]"),
        (3, "a list, a function or an iterable"),
        ([torch.ones(2)], "must be a dict of tensors, not Tensor"),
    ]:
        with pytest.raises(TypeError, match=sentence):
            mp.train(model, wrong, 2)


def test_history_round_trip(tmp_path):
    model, _ = tuned()
    history = mp.train(model, batches(), 3, evaluate=lambda m: 0.5, progress=False)
    history.save(tmp_path / "history.json")
    assert mp.History.load(tmp_path / "history.json") == history
    assert "3 steps" in repr(history) and "best 0.5 at step 3" in repr(history)


# ---- checkpoints ----

RUN = """
import sys, torch, zoo, minipeft as mp
from safetensors.torch import save_file
folder, out, method, pause = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
model = zoo.build("tiny-decoder", dropout=0.2)
method = {"lora": mp.LoRA(rank=2, dropout=0.2), "full": mp.FullFineTuning()}[method]
tuner = mp.attach(model, method, seed=0)
data = [zoo.batch("tiny-decoder", rows=2, seed=seed) for seed in range(5)]
def feed(step):
    import time; time.sleep(pause)
    return data[(7 * step) % 5]
def evaluate(model):
    return -model(**data[0]).loss.item()
history = mp.train(model, feed if pause else data, 24, 1e-2, evaluate=evaluate, evaluate_every=5,
    checkpoint=folder, checkpoint_every=3, resume=True, progress=False)
history.seconds = 0.0
history.save(out + ".json")
save_file({k: v.contiguous() for k, v in tuner.named_tensors().items()}, out)
"""


def run(folder: Path, out: Path, method: str, pause: float, kill_at: int | None = None) -> int:
    """The run above in a process of its own; kill -9 once it has a snapshot of step `kill_at`."""
    env = dict(os.environ, PYTHONPATH=str(Path(__file__).parents[1]), OMP_NUM_THREADS="1")
    command = [sys.executable, "-c", RUN, str(folder), str(out), method, str(pause)]
    process = subprocess.Popen(command, env=env)
    deadline = time.monotonic() + patience(75)
    while kill_at is not None and process.poll() is None and time.monotonic() < deadline:
        if (folder / f"step-{kill_at:06d}").exists():
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.001)
    return process.wait(timeout=patience(75))


@pytest.mark.slow
def test_killed_and_resumed_gives_the_same_bits(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(tmp_path / "a", whole, "lora", 0.02) == 0
    for step in (3, 12):
        assert run(tmp_path / "b", broken, "lora", 0.02, kill_at=step) == -signal.SIGKILL
        assert not broken.exists()
    assert run(tmp_path / "b", broken, "lora", 0.02) == 0
    assert whole.read_bytes() == broken.read_bytes()
    a, b = (json.loads(Path(f"{path}.json").read_text()) for path in (whole, broken))
    assert a == b and len(a["losses"]) == 24


class Stop(Exception):
    pass


@pytest.mark.parametrize("method", [mp.LoRA(rank=2, dropout=0.2), mp.FullFineTuning()])
@pytest.mark.parametrize("kind", ["list", "function", "iterable"])
def test_resumed_after_any_interruption_gives_the_same_bits(tmp_path, method, kind):
    """Without a process of its own, at many moments, for every kind of batches."""

    def attempt(folder: Path, stops: list[int], write_fails: bool = False):
        model = zoo.build("tiny-decoder", dropout=0.2)
        tuner = mp.attach(model, method, seed=0)
        data = batches(5)
        given = {"list": data, "function": lambda step: data[(7 * step) % 5], "iterable": None}
        count = [0]

        def evaluate(model):
            count[0] += 1
            if stops and count[0] == stops[0]:
                stops.pop(0)
                raise Stop
            return -model(**data[0]).loss.item()

        history = mp.train(
            model,
            given[kind] or torch.utils.data.DataLoader(data, batch_size=None),
            *(13, 1e-2),
            evaluate=evaluate,
            evaluate_every=2,
            checkpoint=folder,
            checkpoint_every=3,
            resume=True,
            progress=False,
        )
        return [p.detach().clone() for p in tuner.parameters()], history

    expected, smooth = attempt(tmp_path / "a", [])
    stops = [3, 2, 2]
    while stops:
        with pytest.raises(Stop):
            attempt(tmp_path / "b", stops)
    got, history = attempt(tmp_path / "b", stops)
    assert history.losses == smooth.losses and history.evaluations == smooth.evaluations
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))
    again, _ = attempt(tmp_path / "b", [])  # a finished run gives its result at once
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))


def test_half_a_snapshot_is_never_seen(tmp_path, monkeypatch):
    import minipeft.training.snapshots as snapshots

    data = batches(2)

    def go(resume=True):
        model = zoo.build("tiny-decoder")
        tuner = mp.attach(model, mp.LoRA(rank=2), seed=0)
        options = dict(checkpoint=tmp_path / "c", checkpoint_every=2, resume=resume)
        history = mp.train(model, data, 6, 1e-2, progress=False, **options)
        return history.losses, [p.detach().clone() for p in tuner.parameters()]

    replace = os.replace
    for name, fails_on in [("write_text", 2), ("replace", 2), ("rmtree", 1)]:
        calls = [0]
        place = {"write_text": snapshots, "replace": snapshots.os, "rmtree": snapshots.shutil}[name]
        original = getattr(place, name)

        def fail(*args, calls=calls, fails_on=fails_on, original=original, **kwargs):
            calls[0] += 1
            if calls[0] == fails_on:
                raise Stop
            return original(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(place, name, fail)
            with pytest.raises(Stop):
                go()
        assert os.replace is replace
        steps = sorted(p.name for p in (tmp_path / "c").glob("step-*"))
        assert steps, name
        for step in steps:
            assert {p.name for p in (tmp_path / "c" / step).iterdir()} == {
                *("state.json", "state.safetensors"),
            }
    losses, weights = go()
    for path in (tmp_path / "c").iterdir():
        assert path.name == "step-000006"
    model = zoo.build("tiny-decoder")
    tuner = mp.attach(model, mp.LoRA(rank=2), seed=0)
    assert mp.train(model, data, 6, 1e-2, progress=False).losses == losses
    assert all(torch.equal(a, b) for a, b in zip(weights, tuner.parameters(), strict=True))


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    model, tuner = tuned()
    options = dict(checkpoint=tmp_path, checkpoint_every=2, progress=False)
    mp.train(model, batches(), 4, 1e-2, **options)
    with pytest.raises(ValueError, match="holds step 4 of an earlier run"):
        mp.train(model, batches(), 4, 1e-2, **options)
    with pytest.raises(ValueError, match="learning_rate is 0.01 there and 0.02 here"):
        mp.train(model, batches(), 4, 2e-2, resume=True, **options)
    tuner.detach()
    mp.attach(model, mp.LoRA(rank=3))
    with pytest.raises(ValueError, match=r"belongs to another run: blocks.0.attention.query"):
        mp.train(model, batches(), 4, 1e-2, resume=True, **options)
    (tmp_path / "step-000004" / "state.safetensors").write_bytes(b"short")
    with pytest.raises(ValueError, match="cannot be read"):
        mp.train(model, batches(), 4, 1e-2, resume=True, **options)


def test_running_means_are_part_of_a_snapshot(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))

        def forward(self, x, labels):
            from types import SimpleNamespace

            logits = self.layers(x)
            return SimpleNamespace(loss=nn.functional.cross_entropy(logits, labels), logits=logits)

    def go(steps_before: int, folder: Path):
        torch.manual_seed(0)
        model = Net()
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(6, 8, 4, generator=generator)
        data = [dict(x=row, labels=(row.sum(1) > 0).long()) for row in x]

        def evaluate(model):
            if len(seen) == steps_before:
                raise Stop
            seen.append(1)
            return 0.0

        seen: list = []
        options = dict(evaluate=evaluate, evaluate_every=1, best=None, progress=False)
        mp.train(
            model, data, 6, 1e-2, checkpoint=folder, checkpoint_every=1, resume=True, **options
        )
        return model.state_dict()

    whole = go(99, tmp_path / "a")
    with pytest.raises(Stop):
        go(3, tmp_path / "b")
    resumed = go(99, tmp_path / "b")
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_a_snapshot_that_cannot_be_written_is_a_sentence_and_the_last_one_stays(
    tmp_path, monkeypatch
):
    model, _ = tuned()
    (tmp_path / "step-of-mine").mkdir()  # a folder of somebody else's is no snapshot

    def full(history):
        if len(history.losses) == 2:
            monkeypatch.setattr(os, "replace", refuse)

    def refuse(source, target):
        raise OSError(30, "Read-only file system")

    with pytest.raises(OSError, match="could not be written .Read-only file system.: make room"):
        mp.train(
            model, batches(), 4, checkpoint=tmp_path, checkpoint_every=2, watch=full, progress=False
        )
    assert sorted(os.listdir(tmp_path)) == ["step-000002", "step-of-mine"]
    monkeypatch.undo()
    again, _ = tuned()
    history = mp.train(again, batches(), 4, checkpoint=tmp_path, resume=True, progress=False)
    assert len(history.losses) == 4


def test_ctrl_c_ends_a_run_behind_its_step_and_it_resumes_to_the_same_bits(tmp_path):
    """Also before the first checkpoint was due; the handler is then what it was before."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        data, numbers = batches(5), []

        def attempt(folder, stop=None, resume=False):
            model = zoo.build("tiny-decoder", dropout=0.2)
            tuner = mp.attach(model, mp.LoRA(rank=2, dropout=0.2), seed=0)

            def batch(step):
                if step == stop:
                    signal.raise_signal(signal.SIGINT)
                numbers.append(step)
                return data[step % 5]

            options = dict(checkpoint=folder, checkpoint_every=50, resume=resume, progress=False)
            history = mp.train(model, batch, 9, 1e-2, **options)
            return history.losses, tuner.named_tensors()

        losses, tensors = attempt(tmp_path / "whole")
        numbers.clear()
        with pytest.raises(KeyboardInterrupt):
            attempt(tmp_path / "broken", stop=4)
        assert numbers == [0, 1, 2, 3, 4]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        again, resumed = attempt(tmp_path / "broken", resume=True)
        assert numbers == list(range(9)) and again == losses
        assert all(torch.equal(resumed[key], value) for key, value in tensors.items())
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_tuner_that_the_batch_does_not_reach_is_told():
    """Such as one for pictures only, where there is text: no error of autograd's."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.text, self.picture = nn.Linear(4, 2), nn.Linear(4, 4)

        def forward(self, x, labels, picture=None):
            x = x if picture is None else x + self.picture(picture)
            return SimpleNamespace(loss=nn.functional.cross_entropy(self.text(x), labels))

    batch = {"x": torch.ones(3, 4), "labels": torch.tensor([0, 1, 0])}
    model = Two()
    mp.attach(model, mp.LoRA(rank=1, targets="picture"), head=False)
    model(**batch, picture=torch.ones(3, 4))  # it acted before
    with pytest.raises(ValueError, match="Nothing that is trained acts on this batch"):
        mp.train(model, [batch], 1, 1e-2, progress=False)


DROPPED = {  # half of all passes leave out both of its layers
    "lora": mp.LoRA(rank=2),
    "prefix": mp.Prefix(length=2, hidden=4),
    "unipelt": mp.UniPELT(bottleneck=2, length=2, rank=2),
}


@pytest.mark.parametrize("method", DROPPED.values(), ids=DROPPED)
def test_a_step_whose_layers_were_dropped_by_chance_changes_nothing(method):
    """LayerDrop left out every layer that is trained: no gradient, and the run goes on."""
    hf = pytest.importorskip("transformers")
    sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, ffn_dim=32)
    sizes |= dict(word_embed_proj_dim=16, vocab_size=48, layerdrop=0.7, dropout=0.0)
    torch.manual_seed(0)
    model = hf.OPTForCausalLM(hf.OPTConfig(**sizes))
    tuner = mp.attach(model, method, seed=0)
    ids = torch.arange(3, 9)[None]
    batch = {"input_ids": ids, "labels": ids}
    history = mp.train(model, [batch], 12, 1e-2, progress=False)
    still = [norm == 0 for norm in history.gradient_norms]
    assert any(still) and not all(still)
    assert all(torch.isfinite(value).all() for value in tuner.named_tensors().values())


def test_an_expert_that_gets_no_token_in_some_batches_is_trained_on_the_others():
    hf = pytest.importorskip("transformers")
    sizes = dict(vocab_size=48, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4)
    sizes |= dict(num_experts=8, decoder_start_token_id=0, num_decoder_layers=2, dropout_rate=0.0)
    sizes |= dict(num_sparse_encoder_layers=1, num_sparse_decoder_layers=1, router_jitter_noise=0.0)
    torch.manual_seed(0)
    model = hf.SwitchTransformersForConditionalGeneration(hf.SwitchTransformersConfig(**sizes))
    name = next(
        n
        for n, _ in model.named_modules()
        if n.endswith("decoder.block.1.layer.2.mlp.experts.expert_3.wi")
    )
    mp.attach(model, mp.LoRA(rank=2, targets=(name,)), seed=0)
    ids = torch.arange(3, 35)[:, None]
    batches = [{"input_ids": row[None], "labels": row[None]} for row in ids]
    history = mp.train(model, batches, 32, 1e-2, progress=False)
    assert 0 < sum(norm > 0 for norm in history.gradient_norms) < 32
