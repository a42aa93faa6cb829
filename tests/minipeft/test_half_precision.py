"""Bases in float16 and bfloat16: what is trained is float32, so small steps are not lost."""

import warnings
from itertools import product
from types import SimpleNamespace

import pytest
import torch
import zoo
from torch import nn
from whole import part_of

import minipeft as mp
from minipeft.training.precision import DIVISOR, FIRST_SCALE

HALVES = [torch.float16, torch.bfloat16]
halves = pytest.mark.parametrize("dtype", HALVES, ids=["fp16", "bf16"])
METHODS = {
    "head": mp.HeadOnly(),
    "bitfit": mp.BitFit(),
    "ia3": mp.IA3(),
    "adapter": mp.Adapter(bottleneck=2),
    "parallel": mp.Adapter(bottleneck=2, placement="parallel"),
    "prefix": mp.Prefix(length=2),
    "prompt": mp.PromptTuning(length=2),
    "p-tuning": mp.PTuning(length=2),
    "p-tuning v2": mp.PTuningV2(length=2),
    "lora": mp.LoRA(rank=2),
    "dora": mp.DoRA(rank=2),
    "vera": mp.VeRA(rank=4),
    "pissa": mp.PiSSA(rank=2),
    "adalora": mp.AdaLoRA(init_rank=2, target_rank=2),
    "qlora": mp.QLoRA(rank=2),
    "unipelt": mp.UniPELT(bottleneck=2, length=2, rank=2),
    "mam": mp.Combined((mp.Prefix(length=2), mp.Adapter(bottleneck=2))),
}
IN_PLACE = {"full": mp.FullFineTuning(), "top": mp.TopLayers()}
KINDS = {"bert": "classification", "gpt2": "language"}


def rounded(name: str, dtype: torch.dtype, wide: bool = False):
    """A model whose weights are numbers of that dtype, in that dtype or in float32."""
    model = zoo.build(name, KINDS[name]).to(dtype)
    return model.float() if wide else model


def run(model, name: str, method, steps: int = 8, rate: float = 1e-5):
    """(losses, tuner, first values)"""
    tuner = mp.attach(model, method, seed=0)
    first = [p.detach().clone() for p in tuner.parameters()]
    batch = zoo.batch(name, KINDS[name])
    return mp.train(model, [batch], steps, rate, progress=False).losses, tuner, first


@halves
@pytest.mark.parametrize("method, name", part_of([*product(METHODS, KINDS)], 13))
def test_small_steps_move_what_they_move_on_a_float32_base(method, name, dtype):
    losses, tuner, first = run(rounded(name, dtype), name, METHODS[method])
    losses_of_wide, other, _ = run(rounded(name, dtype, wide=True), name, METHODS[method])
    assert {p.dtype for p in tuner.parameters()} == {torch.float32}
    still = 0  # a key's bias gets a gradient by rounding only: what should move may not, a little
    for now, before, theirs in zip(tuner.parameters(), first, other.parameters(), strict=True):
        still += ((now == before) & (theirs != before)).sum().item()
    assert still <= 0.01 * sum(p.numel() for p in first)
    # the loss of a classifier is rounded to the base's dtype: its eps relative to a loss of 1 to 4
    assert losses == pytest.approx(losses_of_wide, rel=4 * torch.finfo(dtype).eps)


@halves
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("method", IN_PLACE)
def test_training_in_place_equals_a_loop_with_float32_values(method, name, dtype):
    steps, rate = 6, 1e-5
    model = rounded(name, dtype)
    tuner = mp.attach(model, IN_PLACE[method], seed=0)
    batch = zoo.batch(name, KINDS[name])
    options = dict(clip=None, warmup=0, schedule="constant", progress=False)
    mp.train(model, [batch, batch], steps, rate, accumulate=2, **options)

    twin = rounded(name, dtype)
    other = mp.attach(twin, IN_PLACE[method], seed=0).parameters()
    wide = [nn.Parameter(p.detach().float()) for p in other]
    optimizer = torch.optim.AdamW(wide, rate, weight_decay=0.0)
    scale = FIRST_SCALE if dtype == torch.float16 else 1.0
    twin.train()
    for _ in range(steps):
        for w in wide:
            w.grad = None
        for _ in range(2):
            (scale * twin(**batch).loss / 2).backward()
            for w, p in zip(wide, other, strict=True):
                if p.grad is not None:
                    w.grad = p.grad.float() + (0 if w.grad is None else w.grad)
                p.grad = None
        for w in wide:
            w.grad = None if w.grad is None else w.grad / scale
        optimizer.step()
        for w, p in zip(wide, other, strict=True):
            p.data.copy_(w)
    for ours, theirs in zip(tuner.parameters(), other, strict=True):
        assert torch.equal(ours, theirs)
    assert all(p.grad is None for p in model.parameters())


@halves
def test_steps_too_small_for_the_model_add_up(dtype):
    """A weight of 1, a gradient of 1, a hundred steps of a twentieth of eps: 1 - 5 eps."""

    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(1, dtype=dtype))

        def forward(self, x):
            return SimpleNamespace(loss=(self.w * x).sum())

    model, eps = Line(), torch.finfo(dtype).eps
    options = dict(warmup=0, schedule="constant", progress=False)
    mp.train(model, [{"x": torch.ones(1, dtype=dtype)}], 100, eps / 20, **options)
    assert model.w.dtype == dtype and model.w.item() == pytest.approx(1 - 5 * eps, abs=eps / 2)


class Faint(nn.Module):
    """A loss whose gradient inside the float16 part is `strength` times what the patches see."""

    def __init__(self, strength: float):
        super().__init__()
        self.query, self.top = nn.Linear(4, 4), nn.Linear(4, 1)
        self.strength = strength

    def forward(self, x, y):
        answer = self.top(self.query(x)).float()[..., 0]
        return SimpleNamespace(loss=self.strength * (answer - y).square().mean())


@pytest.mark.parametrize("strength", [1e-8, 1.0, 1e3, 1e5])
def test_gradients_that_float16_cannot_hold_arrive(strength):
    runs, options = [], dict(clip=None, warmup=0, schedule="constant", progress=False)
    for dtype in (torch.float16, torch.float32):
        torch.manual_seed(0)
        model = Faint(strength).half().to(dtype)
        tuner = mp.attach(model, mp.LoRA(rank=2, targets=("query",)), seed=0)
        data = {"x": torch.randn(8, 4).half().to(dtype), "y": torch.randn(8)}
        history = mp.train(model, [data], 3, 1e-3, **options)
        runs.append((tuner.parameters(), history))
    (ours, history), (theirs, other) = runs
    assert history.gradient_norms == pytest.approx(other.gradient_norms, rel=0.02)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-4)
    lowered = [record["scale"] for record in history.records.get("loss scale", [])]
    assert lowered == [FIRST_SCALE / DIVISOR ** (i + 1) for i in range(len(lowered))]
    assert bool(lowered) == (strength > 100) and not other.records


def test_where_float16_is_at_its_end_the_sentence_says_so():
    torch.manual_seed(0)
    model = Faint(1e9).half()
    mp.attach(model, mp.LoRA(rank=2, targets=("query",)), seed=0)
    data = {"x": torch.randn(8, 4).half(), "y": torch.randn(8)}
    with pytest.raises(ValueError, match="load the model in bfloat16 or float32"):
        mp.train(model, [data], 3, 1e-3, progress=False)


@halves
@pytest.mark.parametrize("method", [mp.FullFineTuning(), mp.LoRA(rank=2)], ids=["full", "lora"])
def test_a_run_is_resumed_to_the_bit(method, dtype, tmp_path):
    def part(folder=None, **options):
        model = rounded("bert", dtype)
        tuner = mp.attach(model, method, seed=0)
        batch = zoo.batch("bert", "classification")
        mp.train(model, [batch], 6, 1e-4, checkpoint=folder, progress=False, **options)
        return tuner.parameters()

    def stop(history):
        if len(history.losses) == 3:
            raise KeyboardInterrupt

    whole = part()
    with pytest.raises(KeyboardInterrupt):
        part(tmp_path, checkpoint_every=2, watch=stop)
    again = part(tmp_path, checkpoint_every=2, resume=True)
    assert all(map(torch.equal, whole, again))


# ---- copies of heads and norms ----


@halves
@pytest.mark.parametrize("method", ["head", "adapter", "lora"])
def test_copies_answer_in_the_dtype_of_the_base(method, dtype):
    model = rounded("bert", dtype)
    batch = zoo.batch("bert", "classification")
    base = zoo.logits(model, batch)
    tuner = mp.attach(model, METHODS[method] if method != "adapter" else mp.Adapter(sigma=0))
    assert tuner.copies and {p.dtype for p in tuner.parameters()} == {torch.float32}
    at_start = zoo.logits(model, batch)
    assert at_start.dtype == dtype
    torch.testing.assert_close(at_start, base, rtol=0, atol=8 * torch.finfo(dtype).eps)
    zoo.shake(tuner)
    alone = zoo.logits(model, batch)
    with mp.route(model, ["default", None, "default"]):
        mixed = zoo.logits(model, batch)
    tolerance = dict(rtol=0, atol=16 * torch.finfo(dtype).eps)
    torch.testing.assert_close(mixed[[0, 2]], alone[[0, 2]], **tolerance)
    torch.testing.assert_close(mixed[1], base[1], **tolerance)
    tuner.detach()
    assert torch.equal(zoo.logits(model, batch), base)


@halves
@pytest.mark.parametrize("method", ["head", "lora"])
def test_copies_are_merged_in_the_dtype_of_the_base_and_come_back(method, dtype):
    model = rounded("bert", dtype)
    batch = zoo.batch("bert", "classification")
    before = mp.fingerprint(model)
    tuner = mp.attach(model, METHODS[method])
    zoo.shake(tuner)
    kept, attached = [p.clone() for p in tuner.parameters()], zoo.logits(model, batch)
    for _ in range(2):
        tuner.merge()
        assert {p.dtype for p in model.parameters()} == {dtype}
        assert not any(p.requires_grad for p in model.parameters())
        merged = zoo.logits(model, batch)
        torch.testing.assert_close(merged, attached, rtol=0, atol=32 * torch.finfo(dtype).eps)
        tuner.unmerge()
        assert torch.equal(zoo.logits(model, batch), attached)
    assert all(map(torch.equal, tuner.parameters(), kept))
    tuner.merge()
    tuner.detach()
    assert mp.fingerprint(model) == before


@halves
def test_a_trained_head_goes_through_a_file(dtype, tmp_path):
    model = rounded("bert", dtype)
    batch = zoo.batch("bert", "classification")
    _, tuner, _ = run(model, "bert", mp.LoRA(rank=2))
    kept, trained = [p.clone() for p in tuner.parameters()], zoo.logits(model, batch)
    tuner.save(tmp_path)
    tuner.detach()
    tuner = mp.load(model, tmp_path)
    assert all(map(torch.equal, tuner.parameters(), kept))
    assert torch.equal(zoo.logits(model, batch), trained)


def test_a_float64_base_and_a_float32_base_keep_their_dtype():
    for dtype in (torch.float32, torch.float64):
        model = zoo.build("bert", "classification").to(dtype)
        tuner = mp.attach(model, mp.Adapter(bottleneck=2))
        assert {p.dtype for p in tuner.parameters()} == {dtype}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            mp.train(model, [zoo.batch("bert", "classification")], 1, progress=False)


@halves
@pytest.mark.parametrize("method", IN_PLACE)
def test_a_loop_of_ones_own_in_half_precision_is_told_once(method, dtype):
    model = rounded("gpt2", dtype)
    tuner = mp.attach(model, IN_PLACE[method])
    optimizer = torch.optim.SGD(tuner.parameters(), 1e-5)
    with pytest.warns(UserWarning, match="float16, where a small step is rounded away: train with"):
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
        run(rounded("gpt2", dtype), "gpt2", IN_PLACE[method])  # minipeft.train keeps float32 values
        run(rounded("gpt2", dtype, wide=True), "gpt2", IN_PLACE[method])
