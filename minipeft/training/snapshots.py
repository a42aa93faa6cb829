"""The state of a training run on disk, whole at every moment.

A snapshot is a folder `step-000300` with `state.safetensors` (weights, optimizer, random numbers)
and `state.json` (history, settings). It is written under another name, flushed, and renamed: a kill
at any moment leaves the one before it untouched. Only then are older ones deleted.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tiny_transformer.files import sentences, write_tensors, write_text
from tiny_transformer.run_state import first_difference, optimizer_tensors, restore_optimizer


class Snapshots:
    """Writes and restores the snapshots of one run; does nothing when there is no folder."""

    def __init__(
        self,
        folder: str | Path | None,
        model: nn.Module,
        parameters: dict[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        settings: dict,
    ) -> None:
        self.folder = None if folder is None else Path(folder).expanduser()
        self.parameters = parameters
        self.buffers = dict(model.named_buffers())  # running means: batch norm, AdaLoRA
        self.optimizer = optimizer
        self.run = {
            "settings": settings,
            "parameters": {name: list(p.shape) for name, p in parameters.items()},
        }
        self.random_states: dict[str, Tensor] = {}

    def steps(self) -> list[int]:
        """The steps that there are snapshots of."""
        if self.folder is None or not self.folder.is_dir():
            return []
        numbers = (path.name.removeprefix("step-") for path in self.folder.glob("step-*"))
        return sorted(int(number) for number in numbers if number.isdecimal())

    def fresh(self) -> tuple[int, dict]:
        """A run from its first step; refuses a folder that holds another one."""
        if self.steps():
            raise ValueError(
                f"{self.folder} holds step {self.steps()[-1]} of an earlier run: go on with it by "
                "resume=True, or give another folder."
            )
        return 0, {}

    def write(self, step: int, history, best: dict[str, Tensor]) -> None:
        """Keep everything that the rest of the run depends on."""
        tensors = {f"weights.{name}": p for name, p in self.parameters.items()}
        tensors |= {f"buffers.{name}": b for name, b in self.buffers.items()}
        tensors |= {f"best.{name}": value for name, value in best.items()}
        tensors |= optimizer_tensors(self.optimizer)
        tensors["random.cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            for number, state in enumerate(torch.cuda.get_rng_state_all()):
                tensors[f"random.cuda.{number}"] = state
        whole = self.folder / f"step-{step:06d}"
        part = self.folder / f".writing-step-{step:06d}"
        with sentences(whole):
            for path in self.folder.glob(".writing-*"):  # what a killed run left behind
                shutil.rmtree(path)
            part.mkdir(parents=True)
        try:
            # every tensor gets memory of its own, tied buffers included: safetensors wants it so
            write_tensors(part / "state.safetensors", {k: t.clone() for k, t in tensors.items()})
            state = {"history": asdict(history), **self.run}
            write_text(part / "state.json", json.dumps(state, default=float))  # numpy's numbers
            with sentences(whole):
                os.replace(part, whole)
        finally:
            shutil.rmtree(part, ignore_errors=True)  # there is one only when something failed
        for older in self.steps():
            if older != step:
                shutil.rmtree(self.folder / f"step-{older:06d}", ignore_errors=True)

    def restore(self, history) -> tuple[int, dict[str, Tensor]]:
        """Put the last snapshot back; returns (steps done, best weights so far)."""
        if self.folder is None:
            raise ValueError("resume=True needs the folder of the checkpoint, checkpoint=...")
        if not self.steps():
            return 0, {}
        step = self.steps()[-1]
        path = self.folder / f"step-{step:06d}"
        try:
            kept = json.loads((path / "state.json").read_text(encoding="utf-8"))
            tensors = load_file(path / "state.safetensors")
        except (OSError, ValueError, SafetensorError) as error:
            raise ValueError(f"{path} cannot be read ({error}): delete it to start anew.") from None
        for what in ("settings", "parameters"):
            old, new = kept[what], json.loads(json.dumps(self.run[what], default=float))
            key = first_difference(old, new)
            if key is not None:
                raise ValueError(
                    f"{path} belongs to another run: {key} is {old.get(key)} there and "
                    f"{new.get(key)} here; give another folder or the same {what}."
                )
        for key, value in kept["history"].items():
            setattr(history, key, value)
        best: dict[str, Tensor] = {}
        with torch.no_grad():
            for name, value in tensors.items():
                kind, _, rest = name.partition(".")
                if kind == "weights":
                    self.parameters[rest].copy_(value)
                elif kind == "buffers":
                    name = re.sub("_unsure$", "_uncertainty", rest)  # as version 0.1 calls it
                    self.buffers[name].copy_(value)
                elif kind == "best":
                    best[rest] = value
                elif kind == "random":
                    self.random_states[rest] = value
        restore_optimizer(self.optimizer, tensors)
        return step, best

    def restore_random_numbers(self) -> None:
        """Put torch's generators where they were when the snapshot was written."""
        for name, state in self.random_states.items():
            if name == "cpu":
                torch.set_rng_state(state)
            else:
                torch.cuda.set_rng_state(state, int(name.removeprefix("cuda.")))
