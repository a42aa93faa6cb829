"""`python -m minipeft inspect`: what is in an adapter's folder, or in a base."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

import minipeft as mp
from minipeft.commands import data, opened, options, runs
from minipeft.doors.layers import features, is_linear, is_transposed
from minipeft.files import saving as files
from minipeft.files.peft.adalora import SMALL
from minipeft.files.peft.common import PREFIX, by_pattern
from minipeft.model.anatomy import Anatomy
from minipeft.model.family import TARGETS
from minipeft.report import Table

EXAMPLES = """inspect runs/example
inspect runs/example --plot spectra.png
inspect ./adapter --base gpt2
inspect tiny-decoder --plot query.png --target query"""

DOORS = {
    "PromptTuning": "words",
    "PTuning": "words",
    "Prefix": "memory",
    "PTuningV2": "memory",
    "UniPELT": "memory and weights",
    "Combined": "those of its parts",
    "Together": "those of its parts",  # a file of version 0.1
}  # all others: weights
OF_PEFT = {
    "LORA": "LoRA",
    "ADALORA": "AdaLoRA",
    "IA3": "IA3",
    "PREFIX_TUNING": "Prefix",
    "PROMPT_TUNING": "PromptTuning",
    "P_TUNING": "PTuning",
    "VERA": "VeRA",
}


def add(commands, arguments: list[str]) -> None:
    parser = options.add_parser(
        commands,
        "inspect",
        "what is in an adapter or in a base",
        "Show what is in an adapter's folder (method, door, tensors, hashes) or in a base (its\n"
        "three doors and what fits into them). --plot draws singular values: how many directions\n"
        "does an update, or a weight of the base, really use?",
        EXAMPLES,
    )
    opened.add_flags(parser)
    parser.add_argument("--plot", metavar="FILE", help="draw the spectra into this .png or .svg")
    parser.add_argument(
        "--target", default="query", help="which weights of a base to draw (default %(default)s)"
    )
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    if given.plot and Path(given.plot).suffix not in (".png", ".svg", ".pdf"):
        raise ValueError("--plot must end in .png, .svg or .pdf.")
    if opened.is_adapter(given.what):
        matrices = adapter(given)
        title = f"spectra of {given.what}"
    else:
        matrices = base(given)
        title = f"{given.target} of {given.what}"
    if given.plot:
        draw(matrices, Path(given.plot), title)
        print(f"\nThe picture is in {given.plot}")
    return 0


def adapter(given: argparse.Namespace) -> dict[str, Tensor]:
    """Print an adapter; returns its matrices by name."""
    folder = runs.adapter_of(given.what)
    settings, tensors, ours = files.read(folder)
    kind = settings["peft_type"]
    method = ours["method"] if ours else OF_PEFT[kind]
    held = sum(tensor.numel() for tensor in tensors.values())
    rows = [
        ("method", method),
        ("door", DOORS.get(method, "weights")),
        ("layout", "minipeft's own" if kind == "MINIPEFT" else f"PEFT's {kind}"),
        ("numbers", f"{held:,} in {len(tensors)} tensors"),
        ("file", f"{(folder / files.TENSORS).stat().st_size:,} bytes"),
        ("file's SHA-256", data.digest(str(folder / files.TENSORS))),
    ]
    if ours:
        rows += [
            ("content hash", f"{ours['hash']} (checked)"),
            ("base", f"a {ours.get('model_type')}, {ours['base'].get('exact')}"),
        ]
    else:
        rows.append(("hashes", "none: this file was not written by minipeft"))
    named = settings.get("base_model_name_or_path")
    rows += [("base's name", named)] if named else []
    about = (ours or {}).get("settings") or settings
    rows += [(f"  {key}", str(value)) for key, value in about.items() if value not in (None, {})]
    print(Table(f"{folder}", ("what", ""), rows))
    print(f"\n{grouped(tensors)}")
    if given.base or runs.run_of(given.what):
        loaded = opened.open_model(given, head=None if runs.run_of(given.what) else "language")
        print(f"\n{loaded.tuner.report()}")
    return updates(tensors, settings)


def grouped(tensors: dict[str, Tensor]) -> Table:
    """Tensors of the file; those of repeated layers share a line."""
    lines: dict[tuple, list[int]] = {}
    for name, tensor in tensors.items():
        key = (re.sub(r"\b\d+\b", "*", name), str(tuple(tensor.shape)), str(tensor.dtype)[6:])
        line = lines.setdefault(key, [0, 0])
        line[0], line[1] = line[0] + 1, line[1] + tensor.numel()
    rows = [(*key, *line) for key, line in lines.items()]
    return Table("tensors", ("name", "shape", "dtype", "how many", "parameters"), rows)


def updates(tensors: dict[str, Tensor], settings: dict) -> dict[str, Tensor]:
    """The change of every weight that a LoRA makes, scale B A, or an AdaLoRA, scale P Lambda Q; of
    others every matrix as it is.
    """
    changes: dict[str, Tensor] = {}
    for name, A in tensors.items():
        path, _, end = name.rpartition(".lora_A")  # PEFT's AdaLoRA has no ".weight" at the end
        B = tensors.get(f"{path}.lora_B{end}")
        if not path or B is None or A.ndim != 2:  # convolutions have four dimensions
            continue
        Lambda = tensors.get(f"{path}.lora_E")  # (r, 1)
        A = A.float() if Lambda is None else Lambda.float() * A.float()  # (r, in)
        changes[short(name)] = scale_at(path, len(A), settings) * (B.float() @ A)  # (out, in)
    if changes:
        return changes
    return {
        short(name): t.float() for name, t in tensors.items() if t.ndim == 2 and min(t.shape) > 1
    }


def scale_at(path: str, rank: int, settings: dict) -> float:
    """What PEFT multiplies B A by at a linear map, as `adapter_config.json` says it."""
    alpha = settings.get("lora_alpha") or rank
    if settings["peft_type"] == "ADALORA":
        return alpha / (settings.get("init_r", rank) + SMALL)
    alpha = by_pattern(settings.get("alpha_pattern"), path.removeprefix(PREFIX), alpha)
    return alpha / (rank**0.5 if settings.get("use_rslora") else rank)


def short(name: str) -> str:
    """The part of a tensor's name that tells it from the others."""
    return re.sub(r"^base_model\.model\.|\.lora_[AB]|\.weight$", "", name)


def base(given: argparse.Namespace) -> dict[str, Tensor]:
    """Print a base and its doors; returns the matrices that --target names."""
    loaded = opened.open_model(given, head="language")
    model = loaded.base.model
    anatomy = loaded.base.anatomy()
    listed, limit = anatomy.family is not None, anatomy.limit
    rows = [
        ("class", type(model).__name__),
        ("kind", loaded.base.kind),
        ("parameters", f"{sum(p.numel() for p in model.parameters()):,}"),
        ("blocks", str(len(anatomy.blocks())) if listed else "on no list: see --family"),
        ("positions", f"{limit:,}" if limit else "no limit" if listed else "not known"),
        ("dtype", str(next(model.parameters()).dtype)[6:]),
        ("SHA-256", mp.fingerprint(model)),
    ]
    print(Table(given.what, ("what", ""), rows))
    doors = word_rows(anatomy) + memory_rows(anatomy)
    for target in TARGETS if listed else ():
        doors += weight_rows(anatomy, target)
    doors += [] if listed else rows_of_maps(anatomy)
    header = ("door", "target", "module", "shape", "places", "parameters")
    print(f"\n{Table('doors', header, doors)}")
    for note in loaded.base.notes:
        print(f"note: {note}")
    if not given.plot:
        return {}
    places = anatomy.find((given.target,))
    return {f"{place.path}": weight(place) for place in places}


def word_rows(anatomy: Anatomy) -> list[tuple]:
    try:
        site = anatomy.words()
    except ValueError:
        return []
    V, C = site.module.num_embeddings, site.width
    return [("words", "", site.path, f"{V:,} x {C}", 1, V * C)]


def memory_rows(anatomy: Anatomy) -> list[tuple]:
    try:
        sites = anatomy.attentions()
    except ValueError:
        return []
    groups: dict[str, int] = {}
    for site in sites:
        path = re.sub(r"\b\d+\b", "*", site.path)
        groups[path] = groups.get(path, 0) + 1
    return [("memory", "", path, "keys and values", count, 0) for path, count in groups.items()]


def weight_rows(anatomy: Anatomy, target: str) -> list[tuple]:
    """The places of one target; nothing where the model has none."""
    try:
        places = anatomy.find((target,))
    except ValueError:
        return []
    if target == "qkv" and not anatomy.family.qkv:
        return []  # not fused: query, key and value have their own lines
    return weight_lines((target, p.path, p.in_features, p.out_features) for p in places)


def rows_of_maps(anatomy: Anatomy) -> list[tuple]:
    """The linear maps of a model that nobody listed, each with the end of its name as target."""
    maps = [(path, module) for path, module in anatomy.modules.items() if is_linear(module)]
    return weight_lines((path.split(".")[-1], path, *features(module)) for path, module in maps)


def weight_lines(maps: Iterable[tuple[str, str, int, int]]) -> list[tuple]:
    """(target, path, in, out) of linear maps as rows, repeated layers in one."""
    groups: dict[tuple, list[int]] = {}
    for target, path, n_in, n_out in maps:
        key = (target, re.sub(r"\b\d+\b", "*", path), f"{n_out} x {n_in}")
        line = groups.setdefault(key, [0, 0])
        line[0], line[1] = line[0] + 1, line[1] + n_in * n_out
    return [("weights", *key, *line) for key, line in groups.items()]


def weight(place) -> Tensor:
    """The matrix of a place (out, in); of a fused map its own part."""
    matrix = place.module.weight.detach().float()
    if is_transposed(place.module):
        matrix = matrix.T
    return matrix if place.columns is None else matrix[place.columns.to(matrix.device)]


def draw(matrices: dict[str, Tensor], path: Path, title: str) -> None:
    """Singular values of at most a dozen matrices.

    Raises:
        ValueError: there is no matrix, or no matplotlib.
    """
    from minipeft import plots

    some = {name: m for name, m in matrices.items() if bool(torch.any(m != 0))}
    if not some:
        raise ValueError("There is no matrix to draw here, or all of them are zero.")
    step = -(-len(some) // 12)  # a dozen lines can still be told apart
    some = dict(list(some.items())[::step])

    def onto(axes) -> None:
        plots.singular_values(some, axes, title=title)

    if not runs.picture(path, onto, 8.0, 4.5):
        raise ValueError("A picture needs matplotlib: pip install 'minipeft[plots]'.")
