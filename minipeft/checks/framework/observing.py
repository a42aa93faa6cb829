"""Run one case with one object, and write down everything that can be seen of it."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from minipeft.checks.framework.cases import Case
from minipeft.checks.framework.errors import CheckFailed, expect
from minipeft.checks.framework.inputs import Draw, fill, leaves_of, snapshot, unchanged
from minipeft.checks.framework.surroundings import (
    moved_generators,
    restore_settings,
    seed_everything,
    settings,
)


@dataclass
class Observation:
    """What a case showed.

    inputs      what went in, as it was before the call
    result      what came back
    error       what was raised instead
    gradients   of every input and parameter, None where there is none
    after       what the arguments hold after the call
    changed     arguments (and parts of the object) that the call has changed
    shared      arguments that must stay apart from the result, and share memory with it
    moved       global generators that were drawn from or seeded
    settings    what the call has switched, in words
    """

    inputs: dict[str, Any]
    result: Any = None
    error: Exception | None = None
    gradients: dict[str, Tensor | None] = field(default_factory=dict)
    tracked: bool = False  # does the result require a gradient?
    after: dict[str, Any] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)
    raw: Any = None  # the result itself, to see whether a later call overwrites it
    outcomes: Any = None  # of many rows, see randomness

    def light(self) -> None:
        """Let go of what only the moment needs: the result itself, the frames of an error."""
        self.raw, error = None, self.error
        while error is not None:
            error.__traceback__, error = None, error.__cause__ or error.__context__


def share_memory(one: Any, other: Any) -> bool:
    """Would a change in place of one be seen in the other? Both tensors, or nested ones."""
    places = [
        {t.untyped_storage().data_ptr() for _, t in leaves_of(value) if _holds_numbers(t)}
        for value in (one, other)
    ]
    return bool(places[0] & places[1])


def _holds_numbers(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() > 0


class Subject:
    """The object under test, ready for a case: a function, or an instance with given parameters."""

    def __init__(self, trial, made, case: Case, parameters: Mapping[str, torch.Size]) -> None:
        self.trial, self.case = trial, case
        self.instance = made if trial.build is None else trial.build(made, case)
        self.parameters: dict[str, Tensor] = {}
        self.size = 10.0 if case.magnitude == "large" else 1.0  # of parameters
        if trial.build is None or not isinstance(self.instance, nn.Module):
            return
        if trial.prepare is not None:
            trial.prepare(self.instance, case)
        if "phase" in case:
            self.instance.train(case.phase == "training")
        if trial.fill:
            self._fill(parameters)

    def _fill(self, parameters: Mapping[str, torch.Size]) -> None:
        """The same numbers for the learner's instance as for the reference's."""
        kind = type(self.instance).__name__
        for name, shape in parameters.items():
            parameter = find_parameter(self.instance, name)
            expect(
                parameter.shape == shape,
                f"{name} of {kind} has shape {tuple(parameter.shape)}, it should be {tuple(shape)}",
            )
            with torch.no_grad():
                parameter.copy_(fill(name, self.case.seed, shape) * self.size)
            self.parameters[name] = parameter
        if self.trial.cast:
            self.instance.to(getattr(torch, self.case.dtype))

    def step(self) -> None:
        """A step of training: every parameter gets other numbers, in place."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                numbers = fill(f"{name} after a step", self.case.seed, parameter.shape)
                parameter.copy_(numbers * self.size)

    def draw(self) -> Draw:
        """The inputs of the case, to be drawn."""
        case, trial = self.case, self.trial
        return Draw(
            case.seed,
            getattr(torch, case.dtype),
            case.layout,
            gradients=case.gradients == "on",
            scale=100.0 if case.magnitude == "large" else 1.0,
            copies=trial.copies,
        )

    def observe(self, gradients: bool = True, shift: int = 0) -> Observation:
        """Call once. shift: changes what the global generators are seeded with."""
        trial, case = self.trial, self.case
        draw = self.draw()
        inputs = trial.inputs(case, draw)
        held = {k: v for k, v in inputs.items() if k not in trial.scratch}
        if isinstance(self.instance, nn.Module):
            held["the layer itself"] = self.instance
        seed = case.seed % 2**32 + shift
        seed_everything(seed)
        seen = Observation(inputs=plain(inputs))
        before, switched = self._snapshot(held), settings()
        try:
            with torch.set_grad_enabled(case.gradients != "off"):
                entered = torch.is_grad_enabled()
                seen.result = trial.run(self.instance, case, SimpleNamespace(**inputs))
                if torch.is_grad_enabled() != entered:
                    seen.settings.append("gradients are switched on or off")
        except (CheckFailed, MemoryError):
            raise
        except Exception as error:  # whatever a learner's code raises
            seen.error = error
        left = settings()
        restore_settings()
        seen.settings += [
            words
            for words, value in left.items()
            if value != switched[words] and words not in seen.settings
        ]
        seen.moved = moved_generators(seed)
        seen.after = self._snapshot(held)
        seen.changed = [k for k in held if not unchanged(before[k], seen.after[k])]
        if seen.error is None:
            seen.shared = [k for k in trial.not_shared if share_memory(inputs[k], seen.result)]
        if seen.error is None and gradients and case.gradients != "off":
            self._differentiate(seen, inputs, draw)
        if seen.error is None:
            seen.tracked = any(t.requires_grad for t in floating(seen.result))
            seen.raw, seen.result = seen.result, plain(seen.result)
        return seen

    def _snapshot(self, held: dict[str, Any]) -> dict[str, Any]:
        """What the arguments hold, and the layer, but for what it is asked to keep."""
        seen = snapshot(held)
        layer = seen.get("the layer itself", {})
        for key in [key for key in layer if key != "mode" and key[1] in self.trial.keeps]:
            del layer[key]
        return seen

    def _differentiate(self, seen: Observation, inputs: dict, draw: Draw) -> None:
        """The gradient of a weighted sum of the result, for each input and parameter."""
        names = {id(leaf): path for path, leaf in leaves_of(inputs)}
        wanted = {
            names.get(id(handed), "an input"): leaf
            for leaf, handed in draw.leaves
            if leaf.requires_grad
        }
        wanted |= {k: p for k, p in self.parameters.items() if p.requires_grad}
        outputs = [t for t in floating(seen.result) if t.requires_grad]
        if not outputs or not wanted:
            seen.gradients = dict.fromkeys(wanted)
            return
        loss = sum((weights_for(t[:1] if self.trial.copies else t) * t).sum() for t in outputs)
        try:
            gradients = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
        except RuntimeError as error:
            seen.error = error
            return
        seen.gradients = dict(zip(wanted, gradients, strict=True))


def weights_for(tensor: Tensor) -> Tensor:
    """Fixed weights of a sum over a tensor, so that no two of its numbers count alike."""
    generator = torch.Generator().manual_seed(zlib.crc32(repr(tuple(tensor.shape)).encode()))
    return torch.randn(tensor.shape, generator=generator).to(tensor.dtype)


def floating(value: Any) -> list[Tensor]:
    """The floating-point tensors of a result."""
    tensors = [leaf for _, leaf in leaves_of(value) if isinstance(leaf, Tensor)]
    return [t for t in tensors if t.is_floating_point() and not isinstance(t, nn.Parameter)]


def plain(value: Any) -> Any:
    """A copy of nested values without their history. Parameters and modules stay what they are."""
    if isinstance(value, nn.Parameter):
        return value
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if type(value) is tuple:
        return tuple(map(plain, value))
    if type(value) is list:
        return list(map(plain, value))
    return value


def find_parameter(owner: nn.Module, name: str) -> nn.Parameter:
    """The parameter called `name`, or the weight of a layer of that name ("A", "query.bias")."""
    value: Any = owner
    for part in name.split("."):
        value = getattr(value, part, None)
    expect(value is not None, f"{type(owner).__name__} has no {name}: name its parts as given")
    value = getattr(value, "weight", value)
    expect(
        isinstance(value, nn.Parameter),
        f"{name} must be an nn.Parameter, else no optimizer will find it",
    )
    return value
