"""`python -m minipeft merge`: write what was trained into the base, as a plain model's folder."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from minipeft.commands import bases, opened, options, pooling, runs
from minipeft.commands.folder_lock import check_name
from minipeft.model.devices import on_device_of
from tiny_transformer.files import sentences

FAR = 1e-3  # a difference of logits, of the size of the logits, that rounding does not explain

EXAMPLES = """merge runs/example merged/
merge ./adapter merged/ --base gpt2
evaluate merged/ --data reverse"""


def add(commands, arguments: list[str]) -> None:
    parser = options.add_parser(
        commands,
        "merge",
        "write an adapter into its base: a plain model",
        "Add an adapter to the weights of its base and write a plain Hugging Face folder, which\n"
        "needs minipeft no more. The folder is then opened and compared with the adapter.\n"
        "Prompts and prefixes cannot be merged: no weight could take them.",
        EXAMPLES,
        "Exit code: 0 written, 1 written but its answers differ, 2 what was given cannot be used\n"
        "(one sentence says why).",
    )
    opened.add_flags(parser, bare=False)
    parser.add_argument("out", help="the folder to write; it must not be there yet")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    refuse(given.out)
    if not opened.is_adapter(given.what):
        inside = runs.inner(given.what)
        raise ValueError(f"{given.what} holds no adapter: there is nothing to merge{inside}.")
    pooling.refuse(runs.adapter_of(given.what))
    loaded = opened.open_model(given)
    base, tuner = loaded.base, loaded.tuner
    ids = probe(base)
    with torch.no_grad():
        before = base.model(**ids).logits.float()
    tuner.merge()
    whole(given.out, base.save)
    print(f"{tuner.method.describe()} is in the weights of {given.out}")
    again = bases.open_base(given.out, given, base.head, loaded.labels)
    with torch.no_grad():
        after = again.model(**ids).logits.float()
    difference = (after - before).abs().max().item()
    size = before.abs().mean().item()
    print(
        f"opened again: its logits differ by at most {difference:.2g} (their mean size is "
        f"{size:.3g})"
    )
    if not difference <= FAR * max(1.0, size):
        half = next(base.model.parameters()).dtype in (torch.float16, torch.bfloat16)
        advice = ", or merge with --dtype float32" if half else ""
        print(f"That is more than rounding: do not use it, and keep the adapter{advice}.")
        return 1
    return 0


def probe(base: bases.Base) -> dict[str, torch.Tensor]:
    """A few ids that every model can read."""
    V = base.anatomy().vocabulary() or 2  # CANINE has no table of words
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, V, (2, 8), generator=generator)
    end = getattr(base.model.config, "eos_token_id", None)
    if base.kind == "encoder-decoder" and base.head != "language" and isinstance(end, int):
        ids[ids == end] = (end + 1) % V  # BART's and T5's classifiers read where a text ends
        ids[:, -1] = end
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if base.kind == "encoder-decoder" and base.head == "language":
        batch["decoder_input_ids"] = ids[:, :4]
    return on_device_of(base.model, batch)


def refuse(out: str) -> None:
    """A folder that holds something is never written over."""
    path = Path(out)
    check_name(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{out} holds something already: give a folder that is not there yet.")


def whole(out: str, save: Callable[[str], None]) -> None:
    """Call save(temporary folder) and move it to `out`: the folder is there whole or not at all."""
    path = Path(out).resolve()
    with sentences(out):
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{path.name}.*.part"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        part = tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with sentences(out):
            save(part)
        os.chmod(part, 0o755)
        os.replace(part, path)  # an empty folder of that name may be there
    finally:
        shutil.rmtree(part, ignore_errors=True)
