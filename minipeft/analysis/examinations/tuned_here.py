"""A model with tuners of minipeft, as the doctor sees it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from minipeft.analysis.examinations.subject import Part, Subject, Target
from minipeft.attached import anatomy_of
from minipeft.attaching.in_training import active, changed, in_training
from minipeft.attaching.refusals import check_merge
from minipeft.doors.patch import as_patch
from minipeft.doors.rounding import changes
from minipeft.methods.method import Method
from minipeft.model.libraries import unwrapped
from minipeft.model.sites import Place

NAMED_LAYER = re.compile(r"(^|\.)(\d+|\[(?!0-9\]|!).*?\])(\.|$)")  # [0-9] means every number


class TunedHere(Subject):
    """The tuners of a model that act; of those, the ones in training have the new tensors."""

    advice = {
        "copy": 'attach(..., head=("{path}",)) trains and saves a copy of it',
        "targets": "name every module you mean, or use layers=",
        "experts": "name the experts' maps in targets=, or keep to methods of other doors",
        "float32": "train with minipeft.train, which keeps them in float32, or attach to a base in "
        "float32",
        "reentrant": "checkpoint with use_reentrant=False (in transformers "
        'gradient_checkpointing_kwargs={{"use_reentrant": False}})',
        "prompt": 'leave compatibility="peft" out, so that it stands right before the text, or pad '
        "on the other side",
    }

    def __init__(self, model: nn.Module) -> None:
        self.model, self.inner = model, unwrapped(model)
        self.anatomy = anatomy_of(model)
        self.acting, self.tuners = active(model), in_training(model)
        self.parts, self.in_place, self.targets = [], set(), []
        self.unmatched_copies = []
        for tuner in self.tuners:
            for place, patch in tuner.patches:
                self.parts.append(part_of(place, patch))
            modules = tuner.anatomy.modules
            for path, twin in tuner.copies.items():
                tensors = dict(twin.named_parameters())
                self.parts.append(Part(path, tensors, modules[path], copy=True))
            self.in_place.update(tuner.base_values)
            for method in tuner.method.parts():
                self.targets += targets_of(method, tuner)
        self.hosts = [part.host for part in self.parts if part.host is not None]
        self.parts = [part for part in self.parts if part.tensors]
        self.base = {name: p for p, name in self.anatomy.parameter_names().items()}
        self.stored = {
            p for tuner in self.inner.minipeft.tuners.values() for p in tuner.parameters()
        }
        self.prompt = sum(len(tuner.words or ()) for tuner in self.acting)

    def modules(self) -> dict[str, nn.Module]:
        return self.anatomy.modules

    def untouched(self) -> bool:
        plain = all(t.method.identity_at_start and not t.words for t in self.acting)
        return plain and not any(changed(tuner) for tuner in self.acting)

    @contextmanager
    def disabled(self) -> Iterator[nn.Module]:
        with ExitStack() as stack:
            for tuner in reversed(self.acting):
                stack.enter_context(tuner.disabled())
            yield self.model

    @contextmanager
    def merged(self) -> Iterator[None]:
        done = []
        try:
            with warnings.catch_warnings():  # of rounding, which has an examination of its own
                warnings.simplefilter("ignore", UserWarning)
                for tuner in self.acting:
                    tuner.merge()
                    done.append(tuner)
            yield
        finally:
            for tuner in reversed(done):
                tuner.unmerge()

    def changes(self) -> Iterator[tuple[Tensor, Tensor, torch.dtype]]:
        for tuner in self.acting:
            check_merge(tuner)
            for door in tuner.doors():
                yield from changes(door, tuner.name)

    def describe(self) -> str:
        return (
            " and ".join(tuner.method.describe() for tuner in self.acting) or "no tuner that acts"
        )


def part_of(place, patch: nn.Module) -> Part:
    """The new tensors of a patch."""
    scale = getattr(as_patch(patch), "scale", 1.0)  # of LoRA and its kin
    scale = float(scale) if isinstance(scale, int | float) else 1.0
    host = place.module if isinstance(place, Place) else None
    # what looks words up acts on the input alone, and is not merged where its matrix is shared
    merges = host is not None and as_patch(patch).unmergeable() is None
    merges = merges and not isinstance(host, nn.Embedding)
    in_weight = merges and as_patch(patch).changes_weight
    begin = "" if place.columns is None else f"{place.target}."  # of a fused map
    named = {f"{begin}{name}": tensor for name, tensor in patch.named_parameters()}
    tensors = {name: t for name, t in named.items() if t.numel()}  # AdaLoRA may leave a rank of 0
    return Part(place.path, tensors, host, scale, in_weight=in_weight)


def targets_of(method: Method, tuner) -> list[Target]:
    """The targets of one method, with what they matched."""
    names = getattr(method, "targets", None) or ()
    everywhere = getattr(method, "layers", None) is None
    targets = []
    for name in names:
        paths = [place.path for place, _ in tuner.patches if place.target == name]
        if paths:
            targets.append(Target(name, paths, everywhere and not NAMED_LAYER.search(name)))
    if "all-linear" in names:
        targets.append(Target("all-linear", [place.path for place, _ in tuner.patches]))
    return targets
