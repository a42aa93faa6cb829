"""LoRAs that are computed in one operation are what each of them computes alone, in float64."""

import pytest
import torch
from closeness import close
from torch import nn

from minipeft.doors.fused import Parts
from minipeft.doors.grouping import grouped
from minipeft.doors.rows import Routing
from minipeft.doors.weights import WeightDoor
from minipeft.methods.dora import DoRAPatch
from minipeft.methods.lora import LoRAPatch
from minipeft.methods.parts.grouped_lora import GroupedLoRA

S, B, T, IN, OUT = 3, 2, 4, 5, 6


def lora(rank: int = 2, alpha: float = 3.0, n_out: int = OUT, dropout: float = 0.0) -> LoRAPatch:
    patch = LoRAPatch(IN, n_out, rank, alpha, dropout).double()
    with torch.no_grad():
        patch.B.normal_()
    return patch


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """x (S B, T, in), y (S B, T, out)."""
    return torch.randn(S * B, T, IN).double(), torch.randn(S * B, T, OUT).double()


def one_by_one(patches, x, y) -> torch.Tensor:
    """The s-th patch on the s-th of the rows."""
    pairs = zip(patches, x.chunk(S), y.chunk(S), strict=True)
    return torch.cat([y if patch is None else patch(x, y) for patch, x, y in pairs])


def gradients(answer: torch.Tensor, parameters) -> list[torch.Tensor]:
    return torch.autograd.grad(answer.square().sum(), list(parameters))


def test_those_of_one_shape_as_the_door_groups_them():
    patches, (x, y) = [lora() for _ in range(S)], batch()
    alone = one_by_one(patches, x, y)
    together = grouped(patches)(x.unflatten(0, (S, B)), y.unflatten(0, (S, B))).flatten(0, 1)
    close(together, alone)
    parameters = [p for patch in patches for p in patch.parameters()]
    for one, other in zip(
        gradients(together, parameters), gradients(alone, parameters), strict=True
    ):
        close(one, other)


@pytest.mark.parametrize("ranks", [(2, 2, 2), (1, 4, 2), (3, None, 1), (None, None, 2)])
def test_those_of_any_rank_as_a_sweep_trains_them(ranks):
    """A run without a patch leaves its rows alone; what fills up a smaller rank stays zero."""
    patches = [None if r is None else lora(r, alpha=r + 0.5) for r in ranks]
    x, y = batch()
    every = GroupedLoRA({i: p for i, p in enumerate(patches) if p is not None}, S).double()
    answer, alone = every(x, y), one_by_one(patches, x, y)
    close(answer, alone)
    A, B_ = gradients(answer, [every.A, every.B])
    present = [patch for patch in patches if patch is not None]
    for number, patch in enumerate(present):
        r = len(patch.A)
        wanted = gradients(one_by_one(patches, x, y), [patch.A, patch.B])
        close(A[number, :r], wanted[0])
        close(B_[number, :, :r], wanted[1])
        assert not A[number, r:].any() and not B_[number, :, r:].any()
        close(every.deltas()[number], patch.delta())


def test_both_ways_are_one_equation():
    patches, (x, y) = [lora() for _ in range(S)], batch()
    door = GroupedLoRA.forward_grouped(patches, x.unflatten(0, (S, B)), y.unflatten(0, (S, B)))
    close(door.flatten(0, 1), GroupedLoRA(dict(enumerate(patches)), S).double()(x, y))


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_in_a_door_under_route(fused, shuffled):
    door = WeightDoor(nn.Linear(IN, OUT)).double()
    names = list("abc")
    for name in names:
        patch = lora(n_out=OUT // 2 if fused else OUT)
        if fused:
            parts = Parts(OUT)
            parts.add("query", patch, torch.arange(OUT // 2))
            patch = parts
        door.add(name, patch)
    x, _ = batch()
    order = torch.tensor([4, 0, 2, 5, 1, 3]) if shuffled else torch.arange(S * B)
    rows = [(names[int(i) // B],) for i in order]
    alone = []
    for i, (name,) in enumerate(rows):
        door.routing = Routing([(name,)])
        alone.append(door(x[i : i + 1]))
    door.routing = Routing(rows)
    assert grouped(list(door.patches.values())) is not None
    close(door(x), torch.cat(alone))


@pytest.mark.parametrize(
    "others",
    [
        lambda: [lora(rank=3)],
        lambda: [lora(alpha=1.0)],
        lambda: [lora().float()],
        lambda: [lora(dropout=0.5)],
        lambda: [DoRAPatch(IN, OUT, 2, 3.0).double()],
        lambda: [nn.Identity()],
    ],
    ids=["rank", "scale", "dtype", "dropout", "another method", "somebody's"],
)
def test_what_is_not_equal_is_not_grouped(others):
    assert grouped([lora(), lora()]) is not None
    assert grouped([lora(), *others()]) is None
    assert grouped([*others(), lora()]) is None
