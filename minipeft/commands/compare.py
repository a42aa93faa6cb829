"""`python -m minipeft compare`: methods x learning rates x seeds on one data set.

Every finished cell of the grid is one file, written whole: an interrupted grid goes on, and a
larger grid in the same folder computes only what is new.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import re
import sys
import time
from pathlib import Path

from tqdm import tqdm

import minipeft as mp
from minipeft import tasks
from minipeft.commands import bases, data, fitting, longer, options, runs, scoring, train
from minipeft.commands.folder_lock import held
from minipeft.report import Table
from minipeft.tasks.scoring import LOWER_IS_BETTER, possible
from minipeft.tasks.tasks import Task, tidied
from tiny_transformer.files import write_text

GRID = "grid.json"
PRINT = "base fingerprint"  # in it

EXAMPLES = """compare --base tiny-decoder --data reverse --methods lora:rank=4 prefix ia3 bitfit \\
        --learning-rates 1e-3 1e-2 --seeds 0 1 2 --steps 100 --out runs/grid
compare --base bert-base-uncased --data train.tsv --dev dev.tsv --test test.tsv \\
        --kind classification --input sentence --target label \\
        --methods "lora:rank=8;alpha=8" adapter"""


def add(commands, arguments: list[str]) -> None:
    parser = options.add_parser(
        commands,
        "compare",
        "methods x learning rates x seeds on one data set",
        "Train every method with every learning rate and seed, and print a table: for each\n"
        "method the rate that is best on dev, and its scores, mean and 95 % interval over seeds.\n"
        "The folder gets the table, a picture, and all cells as .csv. Run the same command again\n"
        "to go on after an interruption, or with more methods, rates or seeds to add to the grid.",
        EXAMPLES,
        "Exit code: 0 done, 1 some cells could not be trained (the table says why), 2 what was\n"
        "given cannot be used (one sentence says why).",
    )
    parser.usage = "%(prog)s --base BASE --data FILE --kind KIND --methods METHOD .. [options]"
    parser.add_argument("--base", required=True, help="tiny-..., a folder, or a name on the Hub")
    parser.add_argument("--data", metavar="FILE", required=True, help="as for train")
    parser.add_argument("--test", metavar="FILE", help="file to report on (default: a task's own)")
    parser.add_argument(
        "--out", metavar="FOLDER", default="runs/compare", help="(default %(default)s)"
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        default=["lora", "ia3", "prefix"],
        metavar="METHOD",
        help="names, with settings behind a colon: lora:rank=4 'adapter:bottleneck=8;norms=false'",
    )
    parser.add_argument(
        "--learning-rates", nargs="+", type=float, metavar="RATE", help="default: each method's"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="SEED")
    data.add_flags(parser, dev=True)
    train.add_training_flags(parser)
    bases.add_flags(parser)
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    if given.learning_rate is not None:
        raise ValueError("compare takes several rates: --learning-rates 1e-3 1e-2.")
    data.check_flags(given)
    given.base = bases.fetched(given.base)
    methods = {text: options.from_text(text) for text in dict.fromkeys(given.methods)}
    rates = {
        text: tuple(dict.fromkeys(given.learning_rates or [method.rate()]))
        for text, method in methods.items()
    }
    for rate in {rate for some in rates.values() for rate in some}:
        train.check_numbers(seeded(given, given.seed, rate))
    task = longer.with_labels_of_base(data.training_task(given), given, {})
    test = test_examples(given, task)
    scoring.named(given.metric, task)
    folder = Path(given.out)
    with held(folder):
        return gone_through(folder, methods, rates, task, test, given)


def gone_through(folder: Path, methods, rates, task: Task, test: Task | None, given) -> int:
    """Train the cells that are missing in the folder; methods and rates by their words."""
    given.steps = train.steps_of(given, task)
    shared, before = decisive(given, task), begun(folder)
    same_grid(folder, before, shared)
    cells = [
        (seed, text, rate)
        for seed in dict.fromkeys(given.seeds)
        for text in methods
        for rate in rates[text]
    ]
    missing = [cell for cell in cells if read_cell(folder, cell) is None]
    base, of_seed = None, None
    if missing or before.get("base") != given.base:
        of_seed, _, rate = (missing or cells)[0]
        base = train.open_for(task, seeded(given, of_seed, rate))
        shared[PRINT] = bases.fingerprint_of(base)
        same_base(folder, before, shared)
    if not before:
        write_text(folder / GRID, json.dumps(shared, indent=1))
    print(f"{len(cells)} cells, {len(cells) - len(missing)} of them are there; in {folder}")
    bar = tqdm(missing, disable=not sys.stderr.isatty(), unit="cell")
    for seed, text, rate in bar:
        bar.set_description(f"{text}, seed {seed}, rate {rate:g}")
        if seed != of_seed:  # another seed is another fresh head, too
            base, of_seed = train.open_for(task, seeded(given, seed, rate)), seed
        result = one(base, methods[text], task, test, seeded(given, seed, rate))
        result |= {"method": text, "seed": seed, "learning_rate": rate}
        write_text(cell_path(folder, (seed, text, rate)), json.dumps(result, indent=1))
    return summary(folder, [read_cell(folder, cell) for cell in cells], given)


def seeded(given: argparse.Namespace, seed: int, rate: float) -> argparse.Namespace:
    """The options of one cell. The split into train and dev is the same for all."""
    return argparse.Namespace(**{**vars(given), "seed": seed, "learning_rate": rate})


def one(base: bases.Base, method, task: Task, test: Task | None, given) -> dict:
    """Train one cell on a base that is afterwards as it was."""
    started, tuner = time.perf_counter(), None
    try:
        task, test = (
            split and data.shortened(split, base, given.max_length)[0] for split in (task, test)
        )
        tuner = mp.attach(base.model, method, "task", family=base.family, seed=given.seed)
        for split in filter(None, (task, test)):
            data.check_fits(split, base, extra=tuner.taken)
        report = tuner.report()
        history = fitting.fit(tuner, task, base, given)
        result = {"dev": fitting.kept_scores(history)}
        if test:
            examples = test.splits["test"]
            inputs = [example.input for example in examples]
            said = scoring.answers(test, base, inputs, progress=False)
            names = scoring.named(given.metric, test)
            letters = scoring.by_letters(base)
            true = [e.target for e in examples]
            result["test"] = scoring.scores(test, said, true, letters, names, inputs)
        result |= {"trainable": report.trainable, "head": report.head, "losses": history.losses}
    except ValueError as error:
        result = {"error": " ".join(str(error).split())}
    finally:
        if tuner:
            tuner.detach()
    return result | {"seconds": time.perf_counter() - started}


def test_examples(given: argparse.Namespace, trained: Task) -> Task | None:
    """The split that is reported, which nothing is chosen by; trained: the task of the training."""
    if given.test:
        kind = trained.kind
        how = (given.input, given.target, given.cut, given.columns, kind)
        how += (data.wrapping_like(trained, given),)
        examples = tidied(kind, data.read(given.test, *how))
        task = Task(Path(given.test).stem, kind, {"test": examples}, labels=trained.labels)
        data.check_labels(task, "test", given.test)
        return task
    if data.is_shipped(given.data):
        task = tasks.load(given.data)
        examples = data.limited(task.kind, task.examples("test"), given)
        return Task(task.name, task.kind, {"test": examples}, labels=task.labels)
    return None


def decisive(given: argparse.Namespace, task: Task) -> dict:
    """The settings that all cells of a grid share, by name."""
    names = (
        "base",
        "data",
        "dev",
        "test",
        "kind",
        "input",
        "target",
        "cut",
        "head",
        "steps",
        "dtype",
    )
    names += ("batch_size", "accumulate", "warmup", "schedule", "weight_decay", "clip", "seed")
    names += ("dev_share", "dev_limit", "validate_every")
    # None in grids older than these:
    names += ("columns", "max_length", "metric", "pooling", "family", "head_rate", "chat", "system")
    shared = {name: getattr(given, name) for name in names}
    for name in ("data", "dev", "test"):
        if shared[name]:
            shared[f"{name} sha256"] = data.digest(shared[name])
    return shared | {"examples": len(task.splits["train"])}


def begun(folder: Path) -> dict:
    """What the grid in a folder shares; nothing where none has begun.

    Raises:
        ValueError: the folder holds something else, or a damaged grid.
    """
    path = folder / GRID
    if not path.is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"{folder} holds something else: give another --out.")
        return {}
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        before = None
    if not isinstance(before, dict):
        raise ValueError(f"{path} is damaged: give another --out.")
    return before


def same_grid(folder: Path, before: dict, shared: dict) -> None:
    """See that a grid that goes on has the same settings and data; of the base see `same_base`.

    Raises:
        ValueError: it has others.
    """
    for key, value in json.loads(json.dumps(shared)).items() if before else ():
        if key.endswith("sha256") and before.get(key) is None:
            continue  # of before folders of data had a hash
        same_file = shared.get(f"{key} sha256")
        if same_file and same_file == before.get(f"{key} sha256"):
            continue  # it was moved
        if key == "base" and before.get(PRINT):
            continue
        if before.get(key) != value:
            raise ValueError(
                f"{folder} holds a grid whose {key} is {before.get(key)}, here it is {value}: "
                "give another --out, or the same settings."
            )


def same_base(folder: Path, before: dict, shared: dict) -> None:
    """See that a grid that goes on has the base that it began with, wherever that is now.

    Raises:
        ValueError: the weights are others.
    """
    if before.get(PRINT) in (None, shared[PRINT]):
        return
    raise ValueError(
        f"{shared['base']} has other weights than the base of the grid in {folder}, "
        f"{before['base']}, had when it began: put that one back, or give another --out."
    )


def cell_path(folder: Path, cell: tuple) -> Path:
    seed, text, rate = cell
    name = re.sub(r"[^\w.=]+", "-", text)
    return folder / "cells" / f"{name}-rate{rate:g}-seed{seed}.json"


def read_cell(folder: Path, cell: tuple) -> dict | None:
    """A finished cell, None when it has to be computed."""
    try:
        result = json.loads(cell_path(folder, cell).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    seed, text, rate = cell
    mine = {"seed": seed, "method": text, "learning_rate": rate}
    fits = isinstance(result, dict) and all(result.get(k) == v for k, v in mine.items())
    return result if fits and ("dev" in result or "error" in result) else None


def summary(folder: Path, cells: list[dict], given: argparse.Namespace) -> int:
    """Write the table, the picture and the csv of a grid; returns the exit code."""
    failed = [cell for cell in cells if "error" in cell]
    good = [cell for cell in cells if "dev" in cell]
    write_text(folder / "cells.csv", as_csv(cells))
    if good:
        first = next(iter(good[0]["dev"]))  # the score that decides
        lower = first in LOWER_IS_BETTER
        split = "test" if all("test" in cell for cell in good) else "dev"
        chosen = best_rates(good, first, lower)
        rows = [row(text, group, first, split) for text, group in chosen.items()]
        rows.sort(key=lambda row: row[3] if lower else -row[3])
        title = f"{given.base} on {Path(given.data).stem}: {first} on {split}, rates chosen on dev"
        header = ("method", "parameters", "rate", first, "interval", "seeds", "seconds")
        note = "interval: of 95 % over seeds, the part of it that is possible"
        table = Table(title, header, rows, [note])
        write_text(folder / "table.txt", str(table))
        print(table)
        from minipeft import plots

        bars = {text: [c[split][first] for c in group] for text, group in chosen.items()}

        def onto(axes) -> None:
            title, limits = Path(given.data).stem, possible(first)
            plots.bars(bars, axes, f"{first} on {split}", title, limits=limits)

        runs.picture(folder / "compare.png", onto, max(4.0, 1.1 * len(bars) + 1.5))
        print(f"In {folder}: table.txt, cells.csv, compare.png, cells/")
    for cell in failed:
        where = f"{cell['method']}, rate {cell['learning_rate']:g}, seed {cell['seed']}"
        print(f"{where}: {cell['error']}")
    return 1 if failed else 0


def best_rates(cells: list[dict], first: str, lower: bool) -> dict[str, list[dict]]:
    """Method -> its cells with the rate whose mean on dev is best."""
    groups: dict[str, dict[float, list[dict]]] = {}
    for cell in cells:
        groups.setdefault(cell["method"], {}).setdefault(cell["learning_rate"], []).append(cell)

    def mean(group: list[dict]) -> float:
        return sum(cell["dev"][first] for cell in group) / len(group)

    choose = min if lower else max
    return {text: choose(rates.values(), key=mean) for text, rates in groups.items()}


def row(text: str, cells: list[dict], first: str, split: str) -> tuple:
    mean, half = mp.interval([cell[split][first] for cell in cells])
    seconds = sum(cell["seconds"] for cell in cells) / len(cells)
    low, high = possible(first)
    reach = f"{max(low, mean - half):.3g} to {min(high, mean + half):.3g}"
    reach = "-" if math.isnan(half) else reach
    rate = f"{cells[0]['learning_rate']:g}"
    return (text, cells[0]["trainable"], rate, round(mean, 4), reach, len(cells), round(seconds, 1))


def as_csv(cells: list[dict]) -> str:
    """All cells, one line each."""
    names = ["method", "learning_rate", "seed", "trainable", "head", "seconds"]
    scores = dict.fromkeys(
        f"{split} {name}"
        for cell in cells
        for split in ("dev", "test")
        for name in cell.get(split, ())
    )
    file = io.StringIO()
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow([*names, *scores, "error"])
    for cell in cells:
        values = [cell.get(name, "") for name in names]
        for key in scores:
            split, _, name = key.partition(" ")
            values.append(cell.get(split, {}).get(name, ""))
        lines.writerow([*values, cell.get("error", "")])
    return file.getvalue()
