"""A run that begins with what another one learnt: `--start RUN`, and more steps of a finished run.

`train --resume RUN --steps N` of a finished run begins with the weights that it kept (the best
ones) and trains the steps that are missing to N: the batches go on behind those of before, the
optimizer is fresh, and the rate rises and falls once more. While that is under way, earlier.json
in the run's folder has the history of the steps before.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, replace
from pathlib import Path

from minipeft.commands import bases, cards, data, opened, options, pooling, runs
from minipeft.commands.inspect import OF_PEFT
from minipeft.files import saving
from minipeft.methods.method import Method
from minipeft.tasks.heads import head_for
from minipeft.tasks.tasks import Task
from minipeft.training.history import History
from tiny_transformer.files import write_text

MOVABLE = ("base", "data", "dev", "start")
EARLIER = "earlier.json"
# how a file is read, which a task of the project says by itself
OF_FILES = ("kind", "input", "target", "columns", "cut", "chat", "system")
TAKEN_OVER = (*OF_FILES, "head", "pooling", "max_length", "family")


def lengthened(folder: Path, config: dict, steps: int) -> History:
    """What a finished run has learnt by, and its config with more steps; nothing is written yet.

    Raises:
        ValueError: it is not finished, or has as many steps already.
    """
    if not (folder / runs.RESULT).is_file():
        raise ValueError(
            f"{folder} is not finished, so that --resume takes everything from the run's folder: "
            "leave --steps away, and make it longer when it is."
        )
    history = history_of(folder)
    if steps <= len(history.losses):
        raise ValueError(
            f"{folder} has {len(history.losses)} steps already: give --steps more than that."
        )
    config["options"]["steps"] = steps
    config["further"] = [*config.get("further", ()), steps]
    return history


def write_config(folder: Path, config: dict, before: History | None) -> None:
    """From here on the run can be gone on with; a finished one is now one of more steps."""
    if before:
        write_text(folder / EARLIER, json.dumps(asdict(before)))
    write_text(folder / runs.CONFIG, json.dumps(config, indent=1))
    (folder / runs.RESULT).unlink(missing_ok=True)  # last: a kill before leaves a finished run


def history_of(folder: Path) -> History:
    """The history of a finished run, as its log and its result tell it.

    Raises:
        ValueError: one of them is damaged.
    """
    history = History()
    try:
        for line in (folder / runs.LOG).read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            if "validation" in entry:
                history.evaluations.append(entry["validation"])
            else:
                history.add(entry["loss"], entry["learning_rate"], entry["gradient_norm"])
        result = json.loads((folder / runs.RESULT).read_text(encoding="utf-8"))
        history.best_step, history.seconds = result["best_step"], result["seconds"]
        best = [entry for entry in history.evaluations if entry["step"] == history.best_step]
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(
            f"{folder} cannot be made longer: its {runs.LOG} or {runs.RESULT} is damaged."
        ) from None
    if best:
        history.best_score = next(value for key, value in best[-1].items() if key != "step")
    return history


def earlier(folder: Path) -> History | None:
    """The history of the steps before, where a finished run is being made longer."""
    if not (folder / EARLIER).is_file() or (folder / runs.RESULT).is_file():
        return None
    return History.load(folder / EARLIER)


def joined(before: History | None, after: History, best: str) -> History:
    """One history of both; best: "max" or "min", which score is better."""
    if before is None:
        return after
    steps = len(before.losses)
    moved = [{**entry, "step": entry["step"] + steps} for entry in after.evaluations]
    whole = replace(
        after,
        losses=before.losses + after.losses,
        learning_rates=before.learning_rates + after.learning_rates,
        gradient_norms=before.gradient_norms + after.gradient_norms,
        evaluations=before.evaluations + moved,
        seconds=before.seconds + after.seconds,
    )
    sign = 1 if best == "max" else -1
    old, new = before.best_score, after.best_score
    if old is not None and (new is None or sign * new <= sign * old):
        return replace(whole, best_step=before.best_step, best_score=old)
    return replace(whole, best_step=None if after.best_step is None else after.best_step + steps)


# -- a run whose parts were moved


def find_moved(given: argparse.Namespace, before: argparse.Namespace, config: dict) -> None:
    """Give a run that goes on the places that its base, its files and its adapter have now.

    given: the options of now.  before: of the run, which are changed, as its config is.

    Raises:
        FileNotFoundError, ValueError: the data, or the adapter that it began with, are others.
    """
    moved = {name: getattr(given, name) for name in MOVABLE if getattr(given, name)}
    if "dev" in moved and not before.dev:
        raise ValueError("This run held its dev split out of --data: leave --dev away.")
    if "start" in moved and not before.start:
        raise ValueError("This run did not begin with an adapter: leave --start away.")
    for name, place in moved.items():
        if name == "start":
            moved[name] = adapter_to_begin_with(place)
            continue
        is_file = name != "base" and Path(place).exists()
        moved[name] = os.path.abspath(place) if is_file else bases.absolute(place)
    vars(before).update(moved)
    config["command"] = cards.with_places(config["command"], moved)
    for file in config["data"]["files"]:
        place = before.data if file["split"] == "train" else before.dev or before.data
        same = data.digest(place) == file["sha256"] if file["sha256"] else place == file["name"]
        if not same:
            raise ValueError(
                f"{place} is not what this run began with: put that file back, say where it is "
                f"now (--data, --dev), or begin a new run."
            )
    if before.start and hash_of_adapter(before.start) != config.get("start"):
        raise ValueError(
            f"{before.start} is not what this run began with: put that adapter back, or say where "
            "it is now (--start)."
        )


# -- --start


def adapter_to_begin_with(place: str) -> str:
    """The folder of an adapter, or of that of a run, as an absolute path.

    Raises:
        FileNotFoundError: none is there.
    """
    if not Path(place).is_dir() or not opened.is_adapter(place):
        raise FileNotFoundError(f"{place} holds no adapter to begin with: check --start.")
    return str(runs.adapter_of(place).resolve())


def begin_with(given: argparse.Namespace) -> None:
    """--start: what was not said is as in the run that the adapter comes from.

    Raises:
        FileNotFoundError, ValueError: no adapter is there, or settings of a method are given.
    """
    if options.settings(given) or any(word.split("=")[0] == "--method" for word in given.arguments):
        raise ValueError(
            "--start takes the method from the adapter that it begins with: leave --method and its "
            "settings away."
        )
    run, given.start = runs.run_of(given.start), adapter_to_begin_with(given.start)
    before = run[1]["options"] if run else {}
    is_shipped = given.data is not None and data.is_shipped(given.data)
    for name in TAKEN_OVER:
        if is_shipped and name in OF_FILES:
            continue
        if getattr(given, name) is None:
            setattr(given, name, before.get(name))
    if run and run[1]["task"].get("chat") and not is_shipped:
        given.chat = True
    if run is None and (saved := opened.trained_head(given.start)):
        given.head, given.kind = given.head or saved[0], given.kind or saved[1]
    if given.pooling is None and pooling.kept(given.start) == "mean":
        given.pooling = "mean"
    if given.base is None:
        given.base = opened.base_name(given.start, None, run and run[1])
        given.local_only = True  # the folder names it, not the user
    if is_shipped:
        given.kind = None


def method_of(adapter: str) -> str:
    """The name of an adapter's method."""
    settings, _, ours = saving.read(Path(adapter))
    return ours["method"] if ours else OF_PEFT[settings["peft_type"]]


def with_labels_of(task: Task, adapter: str) -> Task:
    """The task with the labels of the adapter that it begins with.

    Raises:
        ValueError: the data have a label that the adapter's head has not.
    """
    run = runs.run_of(adapter)
    known = runs.labels_of(adapter) or (run and tuple(run[1]["task"]["labels"] or ()))
    if task.labels is None or (not known and task.kind == "regress"):
        return task
    if not known:
        head, notes = opened.trained_head(adapter), []
        named = head and opened.names_for(task.labels, head[2], adapter, notes)
        for note in notes:
            print(f"note: {note}")
        return replace(task, labels=named or task.labels)
    new = [label for label in task.labels if label not in known]
    if new:
        raise ValueError(
            f"The data have the label {new[0]!r}, which the adapter of --start does not know (it "
            f"knows {', '.join(known[:10])}{', ...' * (len(known) > 10)}): train without --start."
        )
    return replace(task, labels=known)


def with_labels_of_base(task: Task, given: argparse.Namespace, config: dict) -> Task:
    """The task with its labels in the places that the head of the base has for them.

    It may have more labels than the data. A base without such a head, or with one for other
    labels, leaves them sorted.  config: of a run that goes on, which has its labels; else nothing.
    """
    if task.kind not in ("classify", "tag"):
        return task
    head = head_for(task, bases.kind_of(given.base, given), given.head)
    names = config["task"]["labels"] if "task" in config else None
    names = names or bases.labels_in(given.base, given, head) or ()
    if len(names) == len(task.labels) and all(map(opened.NUMBERED.fullmatch, names)):
        notes: list[str] = []
        names = opened.names_for(task.labels, names, given.base, notes)
        for note in notes:
            print(f"note: {note}")
    return replace(task, labels=tuple(names)) if set(task.labels) <= set(names) else task


def hash_of_adapter(adapter: str) -> str | None:
    """A hash of the adapter that a run begins with."""
    return data.digest(f"{adapter}/{saving.TENSORS}")


def check_start(config: dict, start: str, task: Task, method: Method) -> None:
    """A run that goes on must begin with the settings and labels that it began with, too.

    config: of the run; of one that begins now, nothing is known yet.

    Raises:
        ValueError: the files beside the adapter's tensors have changed.
    """
    if "method" not in config:
        return
    before, now = config["method"]["settings"], json.loads(json.dumps(method.settings()))
    changed = any(now.get(key, value) != value for key, value in before.items())
    if changed or list(task.labels or ()) != (config["task"]["labels"] or []):
        raise ValueError(
            f"{start} has other settings, or other labels, than when this run began: put that "
            "adapter back."
        )
