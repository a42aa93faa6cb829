"""LoRAs on parts of one fused map, in one operation, are what each of them adds alone: float64."""

import contextlib

import pytest
import torch
import zoo
from closeness import HALF, close
from torch import nn

import minipeft as mp
from minipeft.doors.fused import Parts
from minipeft.doors.grouping import GROUPED, JOINED, grouped, joined
from minipeft.methods.dora import DoRAPatch
from minipeft.methods.lora import LoRAPatch
from minipeft.methods.parts import joined_lora

IN, OUT = 5, 12
FUSED = ("gpt2", "gpt_neox", "phi3", "falcon")  # side by side and here and there, of unequal sizes


def lora(rank: int = 2, alpha: float = 3.0, n_out: int = 4, dropout: float = 0.0) -> LoRAPatch:
    patch = LoRAPatch(IN, n_out, rank, alpha, dropout).double()
    nn.init.normal_(patch.B)
    return patch


def parts_of(scattered: bool, *patches: nn.Module) -> Parts:
    """The first patch on the last columns of 12, the next on the first, a third between them."""
    both = torch.arange(OUT) * (5 if scattered else 1) % OUT
    parts, columns = Parts(OUT), (both[7:], both[:4], both[4:6])
    for name, patch, its_columns in zip(("value", "query", "key"), patches, columns, strict=False):
        parts.add(name, patch, its_columns)
    return parts


def one_by_one(parts: Parts, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Every patch alone, on its columns of y."""
    y = y.clone()
    for part in parts.order():
        columns = parts.columns(part)
        y = y.index_copy(-1, columns, parts.parts[part](x, y[..., columns]))
    return y


def gradients(answer, tensors) -> list[torch.Tensor]:
    return torch.autograd.grad((answer * answer.detach().cos()).sum(), list(tensors))


@contextlib.contextmanager
def alone():
    """Inside, patches are called one after the other."""
    kinds = dict(JOINED)
    JOINED.clear()
    try:
        yield
    finally:
        JOINED.update(kinds)


@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("ranks", [(2,), (2, 2), (1, 3), (3, 1, 2), (90, 70)])
def test_the_same_values_and_gradients(ranks, dropout, scattered):
    """Also above LARGEST_BLOCK, with dropout (the same numbers are drawn) and unequal scales."""
    sizes = (5, 4, 2)
    parts = parts_of(
        scattered, *(lora(r, r + 0.5, n, dropout) for r, n in zip(ranks, sizes, strict=False))
    )
    assert joined(parts) is not None and parts.is_scattered() is scattered
    x = torch.randn(2, 3, IN).double().requires_grad_()
    y = torch.randn(2, 3, OUT).double().requires_grad_()
    results = []
    for way in (parts, lambda x, y: one_by_one(parts, x, y)):
        torch.manual_seed(7)
        answer = way(x, y)
        results.append((answer, gradients(answer, [x, y, *parts.parameters()])))
    (ours, our_gradients), (plain, expected) = results
    close(ours, plain)
    assert not torch.allclose(ours, y)
    for one, other in zip(our_gradients, expected, strict=True):
        assert other.abs().max() > 0
        close(one, other)


def test_nothing_is_put_together_on_the_way_back():
    """y's gradient is the answer's: of y's size one tensor is asked for, and that is the answer."""
    from torch.profiler import ProfilerActivity, profile

    n = 256
    parts = parts_of(False, lora(n_out=5), lora())
    x, upstream = (torch.randn(n, size, dtype=torch.float64) for size in (IN, OUT))
    y = torch.randn(n, OUT, dtype=torch.float64, requires_grad=True)
    asked = []
    for joins in (True, False):
        with contextlib.nullcontext() if joins else alone():
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
                torch.autograd.grad(parts(x, y), [y, *parts.parameters()], upstream)
        asked.append(sum(e.self_cpu_memory_usage == 8 * n * OUT for e in seen.events()))
    assert asked == [1, 2]


@pytest.mark.parametrize("what", ["second derivative", "torch.func"])
def test_it_can_be_differentiated_as_without(what):
    parts = parts_of(False, lora(n_out=5), lora(3))
    x, y = torch.randn(2, IN).double(), torch.randn(2, OUT).double()
    B = parts.parts["query"].B
    results = []
    for way in (parts, lambda x, y: one_by_one(parts, x, y)):
        if what == "torch.func":
            results.append(torch.func.jacrev(way, argnums=(0, 1))(x, y))
            results.append((torch.func.vmap(way)(x[:, None], y[:, None]),))
            continue
        given = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(way(given, y).sin().sum(), given, create_graph=True)
        results.append(torch.autograd.grad(first.square().sum(), [given, B]))
    half = len(results) // 2
    for ours, plain in zip(results[:half], results[half:], strict=True):
        for one, other in zip(ours, plain, strict=True):
            close(one, other)


@pytest.mark.parametrize("scattered", [False, True])
def test_no_patch_is_called_and_all_are_read_in_one_product(scattered, monkeypatch):
    parts, calls = parts_of(scattered, lora(n_out=5), lora(3)), []
    monkeypatch.setattr(LoRAPatch, "forward", lambda *_: calls.append("patch"))
    linear = joined_lora.F.linear
    monkeypatch.setattr(joined_lora.F, "linear", lambda x, W: calls.append(len(W)) or linear(x, W))
    parts(torch.randn(2, IN).double(), torch.randn(2, OUT).double())
    assert calls[0] == 5 and "patch" not in calls  # both A, 2 and 3 rows


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize(
    "state",
    ["attached", "dropout", "disabled", "merged", "unmerged", "routed", "rows of two", "quantized"],
)
def test_in_every_state_of_a_model(name, state):
    """Two tuners on the same maps; the second has other ranks and fewer targets."""
    results = []
    for way in (contextlib.nullcontext, alone):
        model = zoo.build(name)
        rate = 0.3 if state == "dropout" else 0.0
        kind = mp.QLoRA if state == "quantized" else mp.LoRA
        first = mp.attach(
            model,
            kind(2, targets=("query", "value"), ranks={"value": 3}, dropout=rate),
            name="first",
            seed=0,
        )
        second = mp.attach(model, mp.LoRA(1, 5, targets=("value",)), name="second", seed=1)
        for number, tuner in enumerate((first, second)):
            zoo.shake(tuner, seed=number)
        if state == "disabled":
            first.disable()
        if state in ("merged", "unmerged"):
            first.merge()
        if state == "unmerged":
            first.unmerge()
        rows = {"routed": ["second", None, "first"], "rows of two": ["first", "second", "first"]}
        rows["rows of two"][0] = ("first", "second")
        routed = mp.route(model, rows[state]) if state in rows else contextlib.nullcontext()
        model.train()
        torch.manual_seed(3)
        with way(), routed:
            loss = model(**zoo.batch(name)).logits.sin().sum()
        trained = [p for p in model.parameters() if p.requires_grad]
        given = torch.autograd.grad(loss, trained, allow_unused=True)
        results.append((loss, [torch.zeros(()) if g is None else g for g in given]))
    (loss, ours), (plain, expected) = results
    close(loss, plain, size=100.0)
    assert len(ours) == len(expected) and any(g.abs().max() > 0 for g in expected)
    for one, other in zip(ours, expected, strict=True):
        close(one, other)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox"])
@pytest.mark.parametrize("kind", ["autocast", "half base"])
def test_in_half_precision(name, kind):
    results = []
    for way in (contextlib.nullcontext, alone):
        model = zoo.build(name, dtype=torch.float32)
        model = model.bfloat16() if kind == "half base" else model
        zoo.shake(mp.attach(model, mp.LoRA(2), seed=0))
        with way(), torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
            results.append(model(**zoo.batch(name)).logits)
    close(results[0], results[1], dtype=torch.bfloat16, roundings=HALF)
    assert results[0].dtype == results[1].dtype


@pytest.mark.parametrize(
    "other",
    [
        lambda: DoRAPatch(IN, 4, 2, 3.0).double(),
        lambda: lora().float(),
        lambda: nn.Identity(),
        lambda: type("Changed", (LoRAPatch,), {})(IN, 4, 2, 3.0).double(),
    ],
    ids=["another method", "dtype", "somebody's", "a subclass"],
)
def test_what_is_something_else_is_not_joined(other):
    assert joined(parts_of(False, lora(n_out=5), lora())) is not None
    assert joined(parts_of(False, lora(n_out=5), other())) is None


@pytest.mark.parametrize("watch", ["hook", "pre-hook", "forward"])
def test_a_patch_that_is_watched_is_called(watch):
    """Its hooks run whether the patch has a part of a map, or rows of its own."""
    patches, seen = [lora(n_out=5), lora()], []
    parts = parts_of(False, *patches)
    if watch == "hook":
        patches[1].register_forward_hook(lambda *_: seen.append(1))
    elif watch == "pre-hook":
        patches[1].register_forward_pre_hook(lambda *_: seen.append(1))
    else:
        plain = patches[1].forward
        patches[1].forward = lambda *inputs: seen.append(1) or plain(*inputs)
    parts(torch.randn(2, IN).double(), torch.randn(2, OUT).double())
    assert seen == [1] and joined(parts) is None
    assert LoRAPatch in GROUPED and grouped([lora(), patches[1]]) is None


@pytest.mark.parametrize("scattered", [False, True])
def test_somebodys_patch_may_write_into_its_part(scattered):
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(3.0, dtype=torch.float64))

        def forward(self, x, y):
            return y.mul_(self.scale)

    patch = InPlace()
    parts = parts_of(scattered, patch)
    y = torch.randn(2, OUT).double().requires_grad_()
    before = y * 1
    changed = parts(torch.randn(2, IN).double(), before)
    columns = parts.columns("value")
    close(changed[..., columns], 3 * y[..., columns])
    given = torch.autograd.grad(changed.sum(), [y, patch.scale])
    expected = torch.ones_like(y).index_fill(-1, columns, 3.0)
    close(given[0], expected)
    close(given[1], y[..., columns].sum())
