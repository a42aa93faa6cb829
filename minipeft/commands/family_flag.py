"""`--family`: where a base that nobody listed keeps its parts, as JSON.

    --family family.json
    --family '{"blocks": "layers", "query": "attn.q", "value": "attn.v", "kind": "encoder"}'

The fields are those of `minipeft.Family`; a `Slice` is an object,
{"module": "attn.qkv", "index": 0, "of": 3}. A run keeps them in its config.json.
"""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from minipeft.model.family import Family, Slice


def add_flag(group) -> None:
    names = ", ".join(field.name for field in fields(Family))
    group.add_argument(
        "--family",
        type=read,
        metavar="JSON",
        help="where a base that is on no list keeps its parts: a .json file or the text itself, "
        """such as '{"blocks": "layers", "query": "attn.q", "value": "attn.v"}'; """
        f"fields: {names}",
    )


def read(text: str) -> dict:
    """The fields in a JSON text or a file with one, checked: argparse's `type`."""
    try:
        if not text.lstrip().startswith("{"):
            text = Path(text).expanduser().read_text(encoding="utf-8")
        described = json.loads(text)
        family_from(described)
    except OSError:
        raise argparse.ArgumentTypeError(f"there is no file {text}") from None
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"this is not JSON: {error}") from None
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return described


def family_of(options: argparse.Namespace) -> Family | None:
    """The family that was described in the command line, or in the run that is opened."""
    described = getattr(options, "family", None)
    return None if described is None else family_from(described)


def family_from(described: object) -> Family:
    """The Family of these fields.

    Raises:
        ValueError: one is unknown or impossible.
    """
    if not isinstance(described, dict) or not described.get("blocks"):
        raise ValueError("A family is an object with at least its blocks, such as "
                         '{"blocks": "layers"}.')  # fmt: skip
    check_names(described, Family)
    parts = {
        field: value if field == "kind" else tuple(map(part, listed(value)))
        for field, value in described.items()
    }
    return Family(**{"model_types": (), **parts})


def listed(value: object) -> list:
    return value if isinstance(value, list) else [value]


def part(name: object) -> object:
    """A name as it is; an object as a Slice."""
    if not isinstance(name, dict):
        return name
    check_names(name, Slice)
    missing = [key for key in ("module", "index", "of") if key not in name]
    if missing:
        raise ValueError(f"A part of a fused map needs its {missing[0]} in the family.")
    return Slice(**name | {"sizes": tuple(listed(name.get("sizes", [])))})


def check_names(given: Mapping, kind: type) -> None:
    """Raise ValueError for a field that a Family or a Slice does not have."""
    known = [field.name for field in fields(kind)]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            guess = f"; did you mean {near[0]!r}?" if near else "."
            raise ValueError(f"A {kind.__name__} has no {name!r}, only {', '.join(known)}{guess}")
