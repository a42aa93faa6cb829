"""--pooling: what a classification head reads of an encoder, kept beside the adapter."""

from __future__ import annotations

import json
from pathlib import Path

from minipeft.commands.bases import Base
from minipeft.model.pooling import pool_by_mean
from tiny_transformer.files import write_text

KINDS = ("first", "mean")
FILE = "pooling.json"  # in an adapter's folder
NOTE = (
    "--pooling mean: other programs let the head read the first token, so this adapter's answers "
    "are right in minipeft only"
)


def apply(base: Base, pooling: str | None) -> None:
    """Let the head of an opened base read what was asked for.

    Raises:
        ValueError: the mean is asked for, and the base is no encoder with a classification head.
    """
    if pooling in (None, "first"):
        return
    if base.kind != "encoder" or base.head != "classification" or base.tiny:
        kind = "tiny model" if base.tiny else base.kind
        raise ValueError(
            f"--pooling mean is for a classification head on an encoder of transformers, and "
            f"{base.name} is a {kind} with a {base.head} head: leave it away."
        )
    pool_by_mean(base.model)
    base.notes.append(NOTE)


def keep(adapter: Path, pooling: str | None) -> None:
    """Say it in the adapter's folder, which may leave its run."""
    if pooling == "mean":
        write_text(adapter / FILE, json.dumps(pooling))


def kept(adapter: str | Path) -> str:
    """What an adapter was trained with.

    Raises:
        ValueError: the file that says so is damaged.
    """
    path = Path(adapter) / FILE
    try:
        pooling = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else "first"
    except ValueError:
        pooling = None
    if pooling not in KINDS:
        raise ValueError(f'{path} must hold "mean": mend it, or train the adapter anew.')
    return pooling


def refuse(adapter: str | Path) -> None:
    """A plain Hugging Face folder cannot say it.

    Raises:
        ValueError: the adapter was trained with the mean.
    """
    if kept(adapter) == "mean":
        raise ValueError(
            f"{adapter} was trained with --pooling mean, of which a merged folder would know "
            "nothing: keep the adapter beside its base."
        )
