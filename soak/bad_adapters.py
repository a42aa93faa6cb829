"""Adapter folders that are damaged, hostile, or for another model, opened by `load`.

Each trial takes a good folder of some method, ours or as another library writes it, does one thing
to it, and opens it.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import struct
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import minipeft as mp
from soak import small
from soak.bad_settings import VALUES, at_most
from soak.bases import Bases
from soak.ledger import Clock, Line

COUNT = 5000
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


class Bomb:
    """What a pickle may do when it is opened."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place / "exploded"),)


def truncated(folder: Path, rng: random.Random) -> None:
    path = folder / rng.choice((CONFIG, TENSORS))
    whole = path.read_bytes()
    path.write_bytes(whole[: rng.randrange(len(whole))] + rng.choice((b"", b"", b"\0" * 50)))


def flipped(folder: Path, rng: random.Random) -> None:
    path = folder / rng.choice((CONFIG, TENSORS))
    whole = bytearray(path.read_bytes())
    room = len(whole) if rng.random() < 0.5 else min(len(whole), 600)
    for _ in range(rng.choice((1, 1, 1, 2, 20))):
        whole[rng.randrange(room)] ^= 1 << rng.randrange(8)
    path.write_bytes(whole)


def header(folder: Path, rng: random.Random) -> None:
    """A header of safetensors that says something else: huge, negative, overlapping, nonsense."""
    whole = (folder / TENSORS).read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    said = json.loads(whole[8 : 8 + length])
    name = rng.choice([key for key in said if key != "__metadata__"])
    entry = said[name]
    what = rng.randrange(8)
    if what == 0:
        entry["shape"] = rng.choice(([2**40, 2**20], [2**62, 4], [-1, 4], [], ["a"], [0], [10**30]))
    elif what == 1:
        entry["data_offsets"] = rng.choice(([0, 2**50], [5, 1], [-4, 4], [], [0], "x", [0, 10**40]))
    elif what == 2:
        entry["dtype"] = rng.choice(("F64", "I64", "BOOL", "F8_E4M3", "BF16", "C64", "Q9", 3, None))
    elif what == 3:
        said["__metadata__"] = rng.choice((None, {}, {"minipeft": "{"}, {"minipeft": 3}, "x", [1]))
    elif what == 4:
        said[name + rng.choice(("", "é", "\n", "." * 50))] = dict(entry)
    elif what == 5:
        said[name] = rng.choice((None, 3, [], {}, "x"))
    elif what == 6:
        said["__metadata__"]["minipeft"] = rng.choice(("[" * 100_000, "null", "[]", '"x"', "1e999"))
    text = json.dumps(said).encode()
    length = rng.choice((2**63, 2**40, 10**8, 0)) if what == 7 else len(text)
    (folder / TENSORS).write_bytes(struct.pack("<Q", length) + text + whole[8 + len(text) :])


def tensors(folder: Path, rng: random.Random) -> None:
    """Tensors of other names, shapes, dtypes and values; most often as if from another library."""
    held = load_file(folder / TENSORS)
    ours = rng.random() < 0.2
    names = list(held)
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(names)
        value = held.get(name, torch.zeros(2, 2))
        what = rng.randrange(12)
        if what == 0:
            held[rng.choice((name + "x", name[1:], name.replace("0", "7"), "", "x" * 300))] = value
            held.pop(name, None)
        elif what == 1:
            held.pop(name, None)
        elif what == 2:
            held[name] = torch.zeros(rng.choice(((), (0,), (3, 0), (1, 1, 1, 1), (7, 16), (16, 7))))
        elif what == 3:
            kinds = (torch.int64, torch.bool, torch.uint8, torch.float16, torch.bfloat16)
            held[name] = value.to(rng.choice((*kinds, torch.float64, torch.complex64)))
        elif what == 4:
            held[name] = value.clone().fill_(rng.choice((torch.nan, torch.inf, -torch.inf, 1e38)))
        elif what == 5:
            held[name] = value.flatten()
        elif what == 6:
            held[name] = value[None]
        elif what == 7:
            held[name] = value.T.contiguous() if value.dim() == 2 else value
        elif what == 8:
            held[name] = torch.cat([value, value]) if value.dim() else value
        elif what == 9:
            held[
                "base_model.model." + rng.choice(("", "x", "head", "blocks.0", "lm_head.weight"))
            ] = value
        elif what == 10:
            held.clear()
            break
        else:
            held = {key.replace("0", "1"): v for key, v in held.items()}
    about = _metadata(folder) if ours else {"format": "pt"}
    save_file({k: v.contiguous().clone() for k, v in held.items()}, folder / TENSORS, about)


def settings(folder: Path, rng: random.Random) -> None:
    """adapter_config.json with other values, in a stranger's folder, since ours is hashed."""
    said = json.loads((folder / CONFIG).read_text())
    stranger(folder)
    for _ in range(rng.choice((1, 1, 2, 4))):
        key = rng.choice([*said, "made_up", "use_dora", "num_layers", "token_dim"])
        value = rng.choice((*VALUES, *JSON, "LORA", "IA3", "ADALORA", "PREFIX_TUNING", "P_TUNING"))
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            value = str(value)
        said[key] = value
    (folder / CONFIG).write_text(json.dumps(said))


JSON = ([[]], {"a": {}}, [None], {"": 0}, {"(": 2}, {".*": 3}, {"query": [1]}, [[1, 2], 3], "all")


def json_text(folder: Path, rng: random.Random) -> None:
    """Text that is no JSON, or JSON of the worst kind."""
    if rng.random() < 0.7:
        stranger(folder)
    said = json.loads((folder / CONFIG).read_text())
    texts = (
        *(b"", b"null", b"[]", b"3", b'"LORA"', b"{", b"\xff\xfe{}", b"\0", b"NaN", b"[" * 100_000),
        *(b'{"peft_type": "LORA"}', b'{"peft_type": "LORA", "r": 1e999}', b'{"a":' * 50_000),
        *(b'{"peft_type": "LORA", "r": ' + b"9" * n + b"}" for n in (30, 5000)),
        *(
            b'{"peft_type": ' + json.dumps(k).encode() + b"}"
            for k in (None, 3, [], "", "NOT", "IA3")
        ),
        b"\xef\xbb\xbf" + json.dumps(said).encode(),
        json.dumps(said).encode("utf-16"),
        json.dumps(said).replace("}", ', "r": "twice"}').encode(),
        (json.dumps(said)[:-1] + ', "x": ' + "[" * 50_000 + "]" * 50_000 + "}").encode(),
    )
    (folder / CONFIG).write_bytes(rng.choice(texts))


def places(folder: Path, rng: random.Random) -> None:
    """Pickles, links, folders in the place of files, files in the place of folders."""
    name = rng.choice((CONFIG, TENSORS))
    path, what = folder / name, rng.randrange(7)
    whole = path.read_bytes()
    path.unlink()
    if what == 0:
        path.write_bytes(pickle.dumps(Bomb(folder)))
    elif what == 1:
        (folder / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(folder)))
    elif what == 2:
        path.symlink_to("/dev/zero" if rng.random() < 0.3 else "/etc/passwd")
    elif what == 3:
        path.mkdir()
    elif what == 4:
        path.symlink_to(path)
    elif what == 5:
        outside = folder.parent / "outside"
        outside.write_bytes(whole)
        path.symlink_to(outside)
    else:
        torch.save({"a": torch.ones(2)}, path)


def stranger(folder: Path) -> None:
    """The folder as another library writes it: no metadata of ours."""
    save_file(load_file(folder / TENSORS), folder / TENSORS, {"format": "pt"})


def _metadata(folder: Path) -> dict:
    whole = (folder / TENSORS).read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    return json.loads(whole[8 : 8 + length])["__metadata__"]


DAMAGES = (truncated, flipped, header, tensors, settings, json_text, places)


def soak(count: int | None, clock: Clock) -> list[Line]:
    """A line for each kind of damage."""
    lines = {damage: Line(f"adapter: {damage.__name__}") for damage in DAMAGES}
    bases = Bases()
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as place, at_most(3):
        shelf, folder = Path(place) / "shelf", Path(place) / "folder"
        good = [(layout, name) for layout in bases.models for name in small.METHODS]
        for number in range(COUNT if count is None else count):
            if clock.over():
                break
            begun = time.monotonic()
            layout, name = rng.choice(good)
            damage = DAMAGES[number % len(DAMAGES)]
            model, line = bases.models[layout], lines[damage]
            if not (shelf / layout / name).is_dir():
                tuner = mp.attach(model, small.METHODS[name], seed=0)
                small.shake(tuner)
                tuner.save(shelf / layout / name)
                tuner.detach()
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(shelf / layout / name, folder)
            damage(folder, rng)
            trial = f"{number}, {name} on {layout}"
            any_base = rng.random() < 0.3

            def use(model=model, any_base=any_base) -> None:
                tuner = mp.load(model, folder, any_base=any_base)
                try:
                    small.logits(model, small.batch(rows=2))
                finally:
                    tuner.detach()

            line.attempt(trial, use)
            if (folder / "exploded").exists() or Path("exploded").exists():
                line.fail(trial, "a pickle was opened")
            bases.check(layout, line, trial, whole=number % 10 == 0)
            line.seconds += time.monotonic() - begun
    for layout in bases.models:
        bases.check(layout, next(iter(lines.values())), layout, whole=True)
    return list(lines.values())
