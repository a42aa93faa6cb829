"""`python -m minipeft convert`: an adapter to and from the layout of 🤗 PEFT."""

from __future__ import annotations

import argparse
import dataclasses
import json
import warnings
from pathlib import Path

import torch

import minipeft as mp
from minipeft.commands import opened, options, pooling, runs
from minipeft.commands.merge import probe, refuse, whole
from minipeft.files import peft as layouts
from minipeft.files import saving as files
from minipeft.tuner import Tuner
from tiny_transformer.files import write_text

PROMPTS = ("Prefix", "PTuningV2", "PromptTuning", "PTuning")  # PEFT has them, in places of its own

EXAMPLES = """convert runs/example for-peft --to peft
convert ./from-peft ours --to minipeft --base gpt2"""


def add(commands, arguments: list[str]) -> None:
    parser = options.add_parser(
        commands,
        "convert",
        "to and from the layout of PEFT",
        "Write an adapter as a folder that PeftModel.from_pretrained opens, or check a stranger's\n"
        "folder and write it as one of ours, which knows its base and its own hash. What PEFT has\n"
        "a layout for is stored in it anyway, so one folder serves both; prompts and prefixes are\n"
        "put where PEFT has them; what it has not (full fine-tuning, UniPELT, ...) is refused.\n"
        "The copy is opened again and must answer alike.",
        EXAMPLES,
        "Exit code: 0 written, 1 written but its answers differ, 2 what was given cannot be used\n"
        "(one sentence says why).",
    )
    opened.add_flags(parser, bare=False)
    parser.add_argument("out", help="the folder to write; it must not be there yet")
    parser.add_argument("--to", choices=("peft", "minipeft"), default="peft", help="(default peft)")
    parser.add_argument(
        "--head",
        choices=("language", "classification", "tagging"),
        default=None,
        help="of the base, where no run tells it (default language)",
    )
    parser.add_argument(
        "--labels", type=int, metavar="N", help="number of classes or tags of that head"
    )
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    refuse(given.out)
    if not opened.is_adapter(given.what):
        raise ValueError(
            f"{given.what} holds no adapter: there is nothing to convert{runs.inner(given.what)}."
        )
    folder = runs.adapter_of(given.what)
    settings, tensors, ours = files.read(folder)
    kind = settings["peft_type"]
    other = given.to == "peft" and kind not in layouts.READERS
    if other and not (ours and ours["method"] in PROMPTS):
        method = ours["method"] if ours else kind
        raise ValueError(f"PEFT has no layout for {method}: only minipeft opens this adapter.")
    if given.labels is not None and given.labels < 1:
        raise ValueError(f"--labels must be at least 1, not {given.labels}.")
    labels = tuple(map(str, range(given.labels))) if given.labels else None
    loaded = opened.open_model(given, labels=labels, head=given.head or "language")
    batch = probe(loaded.base)
    with torch.no_grad():
        before = loaded.base.model(**batch).logits
    if other:
        loaded.tuner = as_in_peft(loaded)
    whole(given.out, lambda part: save(loaded, part, given))
    loaded.tuner.detach()
    mp.load(loaded.base.model, given.out, "task", family=loaded.base.family)
    with torch.no_grad():
        after = loaded.base.model(**batch).logits
    difference = (after - before).abs().max().item()
    count = sum(tensor.numel() for tensor in tensors.values())
    print(
        f"{kind}, {len(tensors)} tensors, {count:,} numbers: from {folder}"
        f" ({'minipeft' if ours else 'a stranger'}) to {given.out}; logits differ by "
        f"{difference:.2g}"
    )
    if other and difference >= 1e-5:
        print(
            "PEFT puts such a prompt or prefix elsewhere than this training did, so its answers "
            "are others: train with --compatibility peft to have the same in both."
        )
    if given.to == "peft":
        print(f'open it: PeftModel.from_pretrained(base, "{given.out}")')
    return 0 if difference < 1e-5 else 1


def as_in_peft(loaded: opened.Opened) -> Tuner:
    """The tuner with the same vectors where PEFT puts them.

    Raises:
        ValueError: PEFT has no such prompt (a template, some layers only, a model of this kind).
    """
    model, method = loaded.base.model, loaded.tuner.method
    method, values = method.import_state(method.export_state(loaded.tuner))
    try:
        theirs = dataclasses.replace(method, compatibility="peft")
        loaded.tuner.detach()
        tuner = mp.attach(model, theirs, "task", head=False, family=loaded.base.family)
        files.fill(tuner, values)
    except ValueError as error:
        raise ValueError(f"PEFT has no layout for this {type(method).__name__}: {error}") from None
    writer = layouts.WRITERS[type(theirs)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it says is the sentence below
        if writer(tuner) is None:
            raise ValueError(
                f"PEFT cannot put this {type(theirs).__name__} into a {type(model).__name__}: only "
                "minipeft opens this adapter."
            )
    return tuner


def save(loaded: opened.Opened, folder: str, given: argparse.Namespace) -> None:
    """What `save` writes, and the name of the base, which PEFT keeps too."""
    loaded.tuner.save(folder)
    runs.name_labels(Path(folder), runs.labels_of(runs.adapter_of(given.what)))
    pooling.keep(Path(folder), pooling.kept(runs.adapter_of(given.what)))
    path = Path(folder, files.CONFIG)
    settings = json.loads(path.read_text(encoding="utf-8"))
    if settings.get("base_model_name_or_path") != loaded.base.name:
        settings |= {"base_model_name_or_path": loaded.base.name, "revision": None}
    write_text(path, json.dumps(settings, indent=2, sort_keys=True))
