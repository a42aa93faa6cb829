"""Rows of .parquet files and of folders that 🤗 datasets saved, read by pyarrow."""

from __future__ import annotations

import datetime
import decimal
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from minipeft.tasks import reading

AT_ONCE = 1000  # rows; who looks at the first one need not wait for all
INSTALL = 'install it with `pip install "minipeft[data]"`, or save the table as .csv'


def is_dataset(path: Path) -> bool:
    """Is this a folder of `Dataset.save_to_disk` or `DatasetDict.save_to_disk`?"""
    return any((path / name).is_file() for name in ("dataset_dict.json", "dataset_info.json"))


def is_cache(file: Path) -> bool:
    """Is it one of the files in which `Dataset.map` keeps its results, beside the data?"""
    return file.name.startswith("cache-")


def rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number from 1, row) of a .parquet file or of a folder of 🤗 datasets.

    A class label of 🤗 datasets is given by its name where the table knows the names.

    Raises:
        ValueError: pyarrow is not installed, the folder holds several splits, or the file is
            damaged.
    """
    if (path / "dataset_dict.json").is_file():
        splits = sorted(p.name for p in path.iterdir() if (p / "dataset_info.json").is_file())
        raise ValueError(
            f"{path} holds several splits: name one of them, such as "
            f"{path / (splits[0] if splits else 'train')} (it has {', '.join(splits)})."
        )
    try:
        import pyarrow
        from pyarrow import ipc, parquet
    except ImportError:
        raise ValueError(f"{path} can only be read with the package pyarrow: {INSTALL}.") from None
    try:
        if path.is_dir():
            files = [f for f in sorted(path.glob("*.arrow")) if not is_cache(f)]
            check_whole(path, files)
            tables = [ipc.open_stream(file.read_bytes()).read_all() for file in files]
            table = pyarrow.concat_tables(tables) if tables else pyarrow.table({})
            schema, batches = table.schema, table.to_batches(AT_ONCE)
        else:
            file = parquet.ParquetFile(path)
            schema, batches = file.schema_arrow, file.iter_batches(AT_ONCE)
        reading.check_names(path, schema.names)
        names, number = class_names(schema.metadata), 0
        for batch in batches:
            for row in zip(*map(values, batch.columns), strict=True):
                pairs, number = zip(schema.names, row, strict=True), number + 1
                yield number, {key: plain(value, names.get(key)) for key, value in pairs}
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].split("'")[-1].strip(" :.")[:120]
        raise ValueError(f"{path} is not a table that pyarrow can read: {reason}.") from None


def check_whole(path: Path, files: Sequence[Path]) -> None:
    """Refuse a folder that lacks some of the files that the names of the others count.

    Raises:
        ValueError: data-00000-of-00003.arrow is there, and another of the three is not.
    """
    groups: dict[tuple[str, str], list[str]] = {}  # (before the number, how many) -> names
    for file in files:
        if counted := re.fullmatch(r"(.*-)\d+-of-(\d+)\.arrow", file.name):
            groups.setdefault(counted.groups(), []).append(file.name)
    for (_, count), names in groups.items():
        if len(names) != int(count):
            raise ValueError(
                f"{path} has {len(names)} of {int(count)} files ({names[0]}, ..): fetch the "
                "others too, or save the data set again."
            )


def values(column) -> list[Any]:
    """The values of a column; as pyarrow's where Python has no such ones, as of nanoseconds."""
    try:
        return column.to_pylist()
    except (ValueError, OverflowError):
        return list(column)  # no text and no number: refused only where the column is needed


def class_names(metadata: dict[bytes, bytes] | None) -> dict[str, list[str]]:
    """Column -> names of its classes, as 🤗 datasets writes them into the schema of a table.

    A column may hold a class, or a list of classes, as tags are.
    """
    named: dict[str, list[str]] = {}
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"].items()
    except (KeyError, TypeError, AttributeError, ValueError):  # another program's notes, or none
        return named
    for column, kind in features:
        if isinstance(kind, list) and kind:  # a list of classes, as older versions write it
            kind = kind[0]
        elif isinstance(kind, dict) and isinstance(kind.get("feature"), dict):
            kind = kind["feature"]
        if isinstance(kind, dict) and kind.get("_type") == "ClassLabel" and kind.get("names"):
            named[column] = kind["names"]
    return named


def plain(value: Any, names: list[str] | None) -> Any:
    """A value as JSON has it; a class by its name, and none where it is -1, as in test splits."""
    if isinstance(value, list):
        return [plain(each, names) for each in value]
    if names and isinstance(value, int) and value < len(names):
        return names[value] if value >= 0 else None
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value) if isinstance(value, decimal.Decimal) else value
