"""Lesson 16: five folders of an adapter, four of them wrong."""

from __future__ import annotations

import copy
import tempfile
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from minipeft.course.checkpoints import contents
from minipeft.course.passport_facts import answers, largest_difference, shake
from minipeft.course.runs import attached
from minipeft.files.saving import load as load_tuner
from minipeft.methods.lora import LoRA
from minipeft.model.fingerprint import fingerprint
from minipeft.report import Table
from minipeft.tuner import Tuner, attach

CAUSES = {
    "names": "the tensors' names do not fit, and the script loads with strict=False",
    "scale": "the script adds B A, without lora_alpha / r",
    "base": "the base is not the one that the adapter was trained on",
    "early": "the adapter was saved before its first step",
    "healthy": "nothing is wrong",
}
FOLDERS = {"A": "early", "B": "scale", "C": "healthy", "D": "names", "E": "base"}
RANK, ALPHA = 4, 8


def write_folder(model: nn.Module, cause: str, folder: Path) -> None:
    """An adapter of random numbers in PEFT's layout, in a folder that has the fault."""
    with attached(model, LoRA(rank=RANK, alpha=ALPHA), seed=0) as tuner:
        if cause != "early":
            shake(tuner, seed=0, size=0.2)
        tuner.save(folder)
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    if cause == "names":  # as an older script of the same author called the blocks
        tensors = {key.replace(".blocks.", ".layers."): value for key, value in tensors.items()}
        save_file(tensors, path, {"format": "pt"})


def open_by_script(model: nn.Module, cause: str, folder: Path) -> tuple[Tuner, int]:
    """What a short script of a stranger does with a folder: (tuner, how many tensors it took)."""
    settings, tensors = contents(folder)[0], load_file(folder / "adapter_model.safetensors")
    alpha = settings["r"] if cause == "scale" else settings["lora_alpha"]
    tuner = attach(model, LoRA(rank=settings["r"], alpha=alpha), seed=1)
    taken = 0
    for place, patch in tuner.patches:
        for letter in "AB":
            key = f"base_model.model.{place.path}.lora_{letter}.weight"
            if key in tensors:
                getattr(patch, letter).data.copy_(tensors[key])
                taken += 1
    return tuner, taken


def examine(model: nn.Module, batch: dict[str, Tensor], which: str) -> dict[str, float]:
    """One of FOLDERS, opened by a script, seen from outside.

    Returns:
        "taken" and "in file": numbers of tensors; "change": length of all that is added to the
        weights, as a share of the author's; "author", "bare": do the answers equal the author's,
        those of the bare base? "base": has the base the bits that the author's had?
    """
    cause = FOLDERS[which]
    model = copy.deepcopy(model).eval()
    bits, bare = fingerprint(model), answers(model, batch)
    with attached(model, LoRA(rank=RANK, alpha=ALPHA), seed=0) as tuner:
        shake(tuner, seed=0, size=0.2)
        wanted, length = answers(model, batch), length_of(tuner)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_folder(model, cause, folder)
        if cause == "base":  # somebody has trained it on since
            with torch.no_grad():
                for number, parameter in enumerate(model.parameters()):
                    generator = torch.Generator().manual_seed(number)
                    parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
        tuner, taken = open_by_script(model, cause, folder)
        in_file = len(contents(folder)[1])
    seen = {
        "taken": taken,
        "in file": in_file,
        "change": length_of(tuner) / length,
        "author": float(largest_difference(wanted, answers(model, batch)) < 1e-3),
        "bare": float(largest_difference(bare, answers(model, batch)) < 1e-3),
        "base": float(fingerprint(model) == bits),
    }
    tuner.detach()
    return seen


@torch.no_grad()
def length_of(tuner: Tuner) -> float:
    """Of all that a LoRA adds to the weights, as one vector."""
    return torch.stack([patch.delta().norm() for _, patch in tuner.patches]).norm().item()


def folders_table(model: nn.Module, batch: dict[str, Tensor]) -> Table:
    """What can be seen of every folder, see `examine`."""
    rows, said = [], ("no", "yes")
    for which in FOLDERS:
        seen = examine(model, batch, which)
        flags = [said[int(seen[key])] for key in ("author", "bare", "base")]
        taken = f"{int(seen['taken'])} of {int(seen['in file'])}"
        rows.append((which, taken, f"{seen['change']:.2f}", *flags))
    header = ("folder", "tensors taken", "change of the weights / the author's",
              "answers as the author's", "answers as the bare base's",
              "the base has the author's bits")  # fmt: skip
    return Table("Five folders, opened by a short script", header, rows)


def library_says(model: nn.Module, cause: str) -> str:
    """What `minipeft.load` does with a folder that has the fault: its sentence, or "opened"."""
    model = copy.deepcopy(model).eval()
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_folder(model, cause, Path(name))
        if cause == "base":
            with torch.no_grad():
                next(model.parameters()).add_(0.01)
        try:
            load_tuner(model, name)
        except ValueError as error:
            return str(error).replace(name, "the folder")
    return "opened"
