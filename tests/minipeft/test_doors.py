"""The weights door: transparent, in order, by name, by part, by row, mergeable without a trace."""

import copy

import pytest
import torch
from closeness import close
from torch import nn

from minipeft.doors.copies import CopyDoor
from minipeft.doors.door import doors, walk
from minipeft.doors.fused import Parts
from minipeft.doors.layers import features, is_transposed
from minipeft.doors.rows import Routing
from minipeft.doors.weights import WeightDoor
from minipeft.methods.lora import LoRAPatch


class Conv1D(nn.Module):
    """As in transformers: the weight is (in, out)."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.nf = n_out
        self.weight = nn.Parameter(torch.randn(n_in, n_out))
        self.bias = nn.Parameter(torch.randn(n_out))

    def forward(self, x):
        return x @ self.weight + self.bias


class Times(nn.Module):
    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x, y):
        return self.factor * y


class Plus(nn.Module):
    """Adds the input's sum, so that the order of patches matters and x is seen."""

    def forward(self, x, y):
        return y + x.sum(-1, keepdim=True)


def random_lora(n_in: int, n_out: int, rank: int = 2, alpha: float = 3.0) -> LoRAPatch:
    patch = LoRAPatch(n_in, n_out, rank, alpha)
    with torch.no_grad():
        patch.B.normal_()
    return patch


def test_patches_act_in_the_order_of_attachment():
    x = torch.randn(2, 3, 4)
    door = WeightDoor(nn.Linear(4, 5))
    door.add("plus", Plus())
    door.add("times", Times(3.0))
    expected = 3.0 * (door.base(x) + x.sum(-1, keepdim=True))
    assert torch.equal(door(x), expected)
    door.off.add("plus")
    assert torch.equal(door(x), 3.0 * door.base(x))


def test_door_is_transparent():
    base = nn.Linear(4, 5)
    door = WeightDoor(base)
    assert door.weight is base.weight and door.bias is base.bias
    assert (door.in_features, door.out_features, door.weight.dtype) == (4, 5, torch.float32)
    assert WeightDoor(Conv1D(4, 5)).nf == 5
    with pytest.raises(AttributeError):
        door.no_such_thing  # noqa: B018
    assert sorted(dict(door.named_parameters())) == ["base.bias", "base.weight"]


def test_tying_a_weight_reaches_the_base():
    door, words = WeightDoor(nn.Linear(4, 9)), nn.Embedding(9, 4)
    door.weight = words.weight
    assert door.base.weight is words.weight and "weight" not in door._parameters


def test_a_door_survives_copying():
    door = WeightDoor(nn.Linear(4, 5))
    door.add("a", random_lora(4, 5))
    twin = copy.deepcopy(door)
    x = torch.randn(2, 4)
    assert torch.equal(twin(x), door(x)) and twin.weight is not door.weight


def test_a_name_is_taken_once():
    door = WeightDoor(nn.Linear(4, 5))
    door.add("a", Plus())
    with pytest.raises(ValueError, match="already has a patch named 'a'"):
        door.add("a", Plus())


@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
def test_lora_equals_the_equation_on_both_orientations(kind):
    x = torch.randn(2, 3, 4)
    base = kind(4, 5)
    assert features(base) == (4, 5) and is_transposed(base) == (kind is Conv1D)
    door = WeightDoor(base)
    door.add("a", random_lora(4, 5))
    W0 = base.weight if kind is nn.Linear else base.weight.T  # (out, in)
    patch = door.patches["a"]
    expected = torch.empty(2, 3, 5)
    for b in range(2):  # equation 3, one vector at a time
        for t in range(3):
            h = W0 @ x[b, t] + base.bias
            expected[b, t] = h + (3.0 / 2) * (patch.B @ (patch.A @ x[b, t]))
    close(door(x), expected)


@pytest.mark.parametrize("n_out", [4, 5])  # square too: there a wrong orientation fits as well
@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
def test_merge_changes_the_weight_and_unmerge_gives_the_bits_back(kind, n_out):
    x = torch.randn(2, 3, 4)
    door = WeightDoor(kind(4, n_out))
    first = door.base.weight.detach().clone()
    for name in "ab":
        door.add(name, random_lora(4, n_out))
    before = door(x)
    door.merge("a")
    assert list(door.active(2)) and not torch.equal(door.base.weight, first)
    close(door(x), before)
    door.merge("b")
    assert not list(door.active(2))
    close(door(x), before)
    door.unmerge("a")  # in the other order
    close(door(x), before)
    door.unmerge("b")
    assert torch.equal(door.base.weight, first) and torch.equal(door(x), before)
    assert "original" not in vars(door)


def test_merging_past_a_patch_that_acts_before_is_refused():
    door = WeightDoor(nn.Linear(4, 5))
    door.add("times", Times(2.0))
    door.add("lora", random_lora(4, 5))
    with pytest.raises(ValueError, match="'times' acts before it"):
        door.merge("lora")
    with pytest.raises(ValueError, match="Times is no change of a weight matrix"):
        door.merge("times")
    door.off.add("times")
    door.merge("lora")


def test_parts_touch_their_own_columns_only():
    x = torch.randn(2, 3, 4)
    door = WeightDoor(nn.Linear(4, 6))
    parts = Parts(6)
    door.add("a", parts)
    first, last = random_lora(4, 2), random_lora(4, 2)
    parts.add("query", first, torch.tensor([0, 1]))
    parts.add("value", last, torch.tensor([5, 3]))  # any order, not side by side
    change = door(x) - door.base(x)  # (2, 3, 6)
    assert change[..., [2, 4]].abs().max() == 0
    close(change[..., [0, 1]], x @ first.delta().T)
    close(change[..., [5, 3]], x @ last.delta().T)
    close(x @ parts.delta().T, change)
    with pytest.raises(ValueError, match="named twice"):
        parts.add("query", first, torch.tensor([0, 1]))


@pytest.mark.parametrize("each", [1, 3])
def test_rows_get_their_own_patches(each):
    """each: rows per name, as beams or flattened tokens make them."""
    door = WeightDoor(nn.Linear(4, 5))
    door.add("a", random_lora(4, 5))
    door.add("b", Times(2.0))
    x = torch.randn(4 * each, 4)
    door.routing = Routing([("a",), (), ("b",), ("a", "b")])
    y, base = door(x), door.base(x)
    lora = base + x @ door.patches["a"].delta().T
    expected = [lora, base, 2 * base, 2 * lora]
    for i in range(4 * each):
        close(y[i], expected[i // each][i])
    door.routing = Routing([("a",)] * 3)  # nobody need tell the rows apart
    close(door(x[:1]), lora[:1])
    door.routing = Routing([("a",), (), ("a",)])
    with pytest.raises(ValueError, match="names 3 rows, but a layer got a batch of"):
        door(x[:4])


def test_rows_carry_gradients():
    door = WeightDoor(nn.Linear(4, 5))
    door.add("a", random_lora(4, 5))
    door.routing = Routing([("a",), ()])
    x = torch.randn(2, 4, requires_grad=True)
    door(x)[1].sum().backward()
    assert door.patches["a"].A.grad.abs().max() == 0  # the second row does not pass by it
    assert x.grad[1].abs().max() > 0
    door(x)[0].sum().backward()
    assert door.patches["a"].B.grad.abs().max() > 0


def test_copy_door_answers_with_the_last_active_copy():
    x = torch.randn(3, 4)
    door = CopyDoor(nn.Linear(4, 2))
    door.add("a", nn.Linear(4, 2))
    door.add("b", nn.Linear(4, 2))
    a, b = door.patches["a"], door.patches["b"]
    assert torch.equal(door(x), b(x))
    door.off.add("b")
    assert torch.equal(door(x), a(x))
    door.off.clear()
    door.routing = Routing([("a",), (), ("b",)])
    expected = torch.stack([a(x)[0], door.base(x)[1], b(x)[2]])
    close(door(x), expected)


def test_walk_looks_through_doors():
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4)))
    names = [name for name, _ in model.named_modules()]
    model[1][0] = WeightDoor(model[1][0])
    model[1][0].add("a", random_lora(4, 4))
    assert [name for name, _ in walk(model)] == names
    assert dict(walk(model))["1.0"] is model[1][0].base
    assert doors(model) == [model[1][0]]


# ---- what is done in one go must be what is done one by one


def lora(seed: int, size=(6, 5), rank: int = 2) -> torch.nn.Module:
    torch.manual_seed(seed)
    patch = LoRAPatch(*size, rank, 4)
    torch.nn.init.normal_(patch.B)
    return patch


def parts_of(seed: int, straight: bool = True) -> Parts:
    """Two patches on columns of 12: side by side, or here and there."""
    both = torch.arange(12) * (1 if straight else 5) % 12
    parts = Parts(12)
    parts.add("value", lora(seed), both[7:])
    parts.add("query", lora(seed + 1), both[:5])
    return parts


@pytest.mark.parametrize("kind", ["alike", "ranks differ", "parts", "parts apart", "uneven"])
def test_rows_with_patches_of_their_own_get_what_they_get_alone(kind):
    torch.manual_seed(0)
    door = WeightDoor(torch.nn.Linear(6, 12 if "parts" in kind else 5))
    names = ["a", "b", "c"]
    for number, name in enumerate(names):
        if "parts" in kind:
            door.add(name, parts_of(number, kind == "parts"))
        else:
            door.add(name, lora(number, rank=1 + number if kind == "ranks differ" else 2))
    rows = ["b", None, "a", "c", "a" if kind == "uneven" else None]
    x = torch.randn(10, 3, 6)  # two beams for each row
    door.routing = Routing([(name,) if name else () for name in rows])
    y = door(x)
    for i, name in enumerate(rows):
        pair = slice(2 * i, 2 * i + 2)
        door.routing = Routing([(name,) if name else ()])
        close(y[pair], door(x[pair]))
    assert torch.equal(y[2:4], door.base(x)[2:4])
    assert not torch.allclose(y[:2], door.base(x)[:2])


def test_parts_side_by_side_or_not_change_the_same_columns():
    x, y = torch.randn(2, 3, 6), torch.randn(2, 3, 12)
    ours = parts_of(0)
    changed = ours(x, y)
    assert torch.equal(changed[..., 5:7], y[..., 5:7])
    close(changed[..., :5], ours.parts["query"](x, y[..., :5]))
    close(changed[..., 7:], ours.parts["value"](x, y[..., 7:]))
    columns = torch.arange(12) * 5 % 12
    scattered = parts_of(0, straight=False)
    assert None in scattered.spans.values()
    back = scattered(x, y.index_copy(-1, columns, y))
    close(back[..., columns], changed)
