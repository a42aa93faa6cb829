"""The base class of patches does nothing by itself; modules that know nothing of it are welcome."""

import copy
import inspect
import pickle

import pytest
import torch
import zoo
from closeness import close
from torch import Tensor, nn

import minipeft as mp
from minipeft import methods
from minipeft.doors.patch import MemoryPatch, Patch, as_patch
from minipeft.doors.rows import Routing
from minipeft.doors.weights import WeightDoor
from minipeft.methods.method import Method


class Nothing(Patch):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y


class Doubling(nn.Module):
    """A user's module that has never heard of Patch: y <- a y, with a trained number a."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.a * y).to(y.dtype)


class UsersPatch(nn.Module):
    """Another one, with what the weights door has always asked for by name."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.D = nn.Parameter(torch.randn(n_out, n_in))

    def before(self, x: Tensor) -> Tensor:
        return 3 * x

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y + x @ self.D.T.to(x.dtype)

    def bind_base(self, frozen) -> None:
        self.first = frozen()

    def fold(self, weight: Tensor, bias: Tensor | None):
        return 3 * weight + self.D.to(weight), bias


def doubling(place) -> Doubling:
    return Doubling()


class Scaled(Method):
    """A user's method that puts a user's module everywhere."""

    def __init__(self, make):
        self.make = make

    def install(self, tuner) -> None:
        for place in tuner.find(("query", "down")):
            tuner.add(place, self.make(place))

    def describe(self) -> str:
        return "Scaled()"


def test_a_patch_that_says_nothing_does_nothing():
    patch, x = Nothing(), torch.randn(2, 3)
    assert patch.before(x) is x and patch.base_replacement() is None and patch.delta() is None
    assert patch.bind_base(lambda: x) is None and patch.trained_on(x) is x
    assert not (patch.changes_input() or patch.is_additive() or patch.needs_bias)
    assert patch.changes_weight and patch.unmergeable() == "Nothing"
    assert as_patch(patch) is patch
    memory = MemoryPatch()
    assert memory.since is None and memory.window is None and memory.bias is None


def test_every_patch_of_a_method_is_one():
    """Whatever takes (x, y), or is called a patch, in the files of methods."""
    kinds = [kind for kind in vars(methods).values() if isinstance(kind, type)]
    kinds = [kind for kind in kinds if issubclass(kind, nn.Module)]
    kinds = [kind for kind in kinds if kind.forward is not nn.Module.forward]  # not what only keeps
    assert len(kinds) >= 15
    assert all(issubclass(kind, Patch) for kind in kinds), [k.__name__ for k in kinds]


@pytest.mark.parametrize("name", ["PatchA", "delta", "before", "fold", "bind_base"])
def test_what_a_patch_may_do_is_documented(name):
    member = Patch if name == "PatchA" else getattr(Patch, name)
    assert len(inspect.getdoc(member)) > 30


@pytest.mark.parametrize("name", ["tiny-decoder", "gpt2", "gpt_neox"])
def test_a_module_with_a_forward_alone_works_in_every_model(name):
    model = zoo.build(name)
    batch = zoo.batch(name)
    base = zoo.logits(model, batch)
    tuner = mp.attach(model, Scaled(doubling), name="own")
    changed = zoo.logits(model, batch)
    assert not torch.allclose(changed, base)
    close(zoo.logits(copy.deepcopy(model), batch), changed)
    close(zoo.logits(pickle.loads(pickle.dumps(model)), batch), changed)
    assert sorted(tuner.named_tensors())[0].endswith(".a")
    with pytest.raises(ValueError, match="Doubling is no change of a weight matrix"):
        tuner.merge()
    with mp.route(model, ["own"] * len(batch["input_ids"])):
        close(zoo.logits(model, batch), changed)
    with mp.route(model, ["own", None, "own"]):
        half = zoo.logits(model, batch)
    close(half[[0, 2]], changed[[0, 2]])
    close(half[1], base[1])
    tuner.detach()
    assert torch.equal(zoo.logits(model, batch), base)


def test_what_a_module_has_of_a_patch_s_methods_is_used():
    base, x = nn.Linear(4, 5).double(), torch.randn(2, 3, 4).double()
    door, user_patch = WeightDoor(base), UsersPatch(4, 5).double()
    as_patch(user_patch).bind_base(lambda: base.weight)
    assert user_patch.first is base.weight
    door.add("user_patch", user_patch)
    close(door(x), base(3 * x) + x @ user_patch.D.T)
    before = door(x)
    door.merge("user_patch")
    close(base(x), before)  # 3 W x + D x + b


class ForeignReplacing(nn.Module):
    """No Patch, with the two methods of one that are about another map in the base's place."""

    def __init__(self, other: nn.Module):
        super().__init__()
        self.other = other

    def base_replacement(self) -> nn.Module:
        return lambda x, bias: self.other(x) + bias

    def trained_on(self, weight: Tensor) -> Tensor:
        return self.other.weight

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return 3 * y


def test_a_module_that_is_no_patch_may_answer_for_the_base_too():
    base, other = nn.Linear(4, 5).double(), nn.Linear(4, 5, bias=False).double()
    door, patch, x = WeightDoor(base), ForeignReplacing(other), torch.randn(2, 3, 4).double()
    assert as_patch(patch).trained_on(base.weight) is other.weight
    door.add("foreign", patch)
    assert door.is_replaced()
    close(door(x), 3 * (other(x) + base.bias))


class Replacing(Patch):
    """Another map answers in place of the base."""

    def __init__(self, replacement: nn.Module):
        super().__init__()
        self.replacement = replacement

    def base_replacement(self) -> nn.Module:
        return lambda x, bias: self.replacement(x) + bias

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return 2 * y


def test_of_several_that_answer_for_the_base_the_last_does():
    """And each still acts on what comes out; the base's bias is handed to it."""
    base, one, two = (nn.Linear(4, 5, bias=i == 0).double() for i in range(3))
    x = torch.randn(2, 3, 4).double()
    door = WeightDoor(base)
    door.add("one", Replacing(one))
    close(door(x), 2 * (one(x) + base.bias))
    door.add("two", Replacing(two))
    assert door.is_replaced()
    close(door(x), 4 * (two(x) + base.bias))
    rows = Routing([("one",), ("two",), ("one", "two"), ()])
    door.routing, x = rows, torch.randn(4, 3, 4).double()
    wanted = [2 * (one(x) + base.bias), 2 * (two(x) + base.bias), 4 * (two(x) + base.bias), base(x)]
    close(door(x), torch.stack([answer[i] for i, answer in enumerate(wanted)]))
