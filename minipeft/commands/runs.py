"""The folder of a run.

| file          | what                                                                           |
|---------------|--------------------------------------------------------------------------------|
| config.json   | everything that decides the run: method, base, data with their hashes, options |
| log.jsonl     | a line for every step, and one for every validation, written as they happen    |
| checkpoint/   | the state of a run that is not finished                                        |
| adapter/      | what was trained, in the layout of 🤗 PEFT where it has one                    |
| curves.png    | loss and scores                                                                |
| README.md     | the model card                                                                 |
| result.json   | the numbers; written last, so that its presence means that the run is finished |
"""

from __future__ import annotations

import itertools
import json
import os
import platform
from contextlib import ExitStack, suppress
from pathlib import Path

from minipeft.commands.folder_lock import Taken, held
from minipeft.training.history import History
from tiny_transformer.files import sentences, write, write_text

LABELS = "labels.json"  # in an adapter's folder
CONFIG, RESULT, LOG, CHECKPOINT, ADAPTER = (
    "config.json",
    "result.json",
    "log.jsonl",
    "checkpoint",
    "adapter",
)
FORM = "minipeft run"  # how a config.json of a run is told from a model's


def fresh_folder(given: str | None, wished: str, stack: ExitStack) -> Path:
    """The folder of a new run: the one given, or the first of runs/wished, runs/wished-2, ..

    It is made, and held until the stack ends, so that runs that begin together have one each.

    Raises:
        ValueError: the folder given holds something already, or another process is at work in it.
        OSError: it cannot be made.
    """
    if given is None:
        for number in itertools.count(1):
            folder = Path("runs") / (f"{wished}-{number}" if number > 1 else wished)
            if folder.exists():
                continue
            with suppress(Taken):
                stack.enter_context(held(folder))
                if not any(folder.iterdir()):
                    return folder
    folder = Path(given)
    if folder.is_dir() or not folder.exists():
        stack.enter_context(held(folder))
    if (folder / CONFIG).is_file():
        raise ValueError(
            f"{folder} holds another run: go on with it by --resume {folder}, or give another "
            "--out."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} holds something already: give another --out.")
    return folder


def read_config(folder: Path) -> dict | None:
    """The configuration of a run, None when the folder is no run.

    Raises:
        ValueError: it is one, but damaged.
    """
    path = folder / CONFIG
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"{path} is not JSON: it is damaged.") from None
    if not isinstance(config, dict) or config.get("form") != FORM:
        return None
    kinds = {"options": dict, "method": dict, "base": dict, "task": dict, "data": dict}
    for key, kind in kinds.items():
        if not isinstance(config.get(key), kind):
            raise ValueError(f"{path} has no {key}: it is damaged.")
    return config


def run_of(folder: str | Path) -> tuple[Path, dict] | None:
    """(folder, configuration) of the run that a folder is, or whose adapter it is."""
    folder = Path(folder)
    for place in (folder, folder.parent):
        if folder.is_dir() and (place == folder or folder.name == ADAPTER):
            config = read_config(place)
            if config:
                return place, config
    return None


def inner(folder: str | Path) -> str:
    """'; name a folder in it: ...' where folders in this one can be opened, else nothing."""
    place = Path(folder)
    folders = sorted(path for path in place.iterdir() if path.is_dir()) if place.is_dir() else []
    files = (CONFIG, "adapter_config.json")  # of a run or a base, and of an adapter
    good = [str(path) for path in folders if any((path / file).is_file() for file in files)]
    return f"; name a folder in it: {', '.join(good)[:300]}" if good else ""


def options_of(folder: str | Path) -> dict:
    """The options that a run, or the run of an adapter, was trained with; else nothing."""
    run = run_of(folder)
    return run[1]["options"] if run else {}


def name_labels(adapter: Path, labels) -> None:
    """Keep the names of the classes in the adapter's folder, which may leave its run."""
    if labels:
        write_text(adapter / LABELS, json.dumps(list(labels), ensure_ascii=False))


def labels_of(adapter: str | Path) -> tuple[str, ...] | None:
    """The names of the classes that an adapter was trained for; None where none are kept."""
    path = Path(adapter) / LABELS
    try:
        labels = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValueError:
        labels = ()
    if labels is not None and not (labels and all(isinstance(label, str) for label in labels)):
        raise ValueError(f"{path} must be a list of names: mend it, or take it away.")
    return tuple(labels) if labels else None


def adapter_of(folder: str | Path) -> Path:
    """The adapter in a run's folder, or the folder itself.

    Raises:
        FileNotFoundError: the run has none yet.
    """
    folder = Path(folder)
    if read_config(folder) is None:
        return folder
    if not (folder / ADAPTER).is_dir():
        if (folder / RESULT).is_file():
            raise FileNotFoundError(
                f"{folder} is a finished run without its adapter: copy the whole folder again."
            )
        raise FileNotFoundError(
            f"{folder} has no adapter yet: finish the run with train --resume {folder}."
        )
    return folder / ADAPTER


def libraries() -> dict[str, str]:
    """Versions that a number may depend on."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version()}
    for name in ("minipeft", "torch", "transformers"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            pass
    return versions


class Log:
    """log.jsonl while a run goes on: pass `log.watch` to `train`.

    After a resume it is first written anew from the history, so that steps which were lost with
    the killed process are not in it twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.steps = self.evaluations = 0
        self.file = None

    def watch(self, history: History) -> None:
        lines = self.new_lines(history)
        if self.file is None:
            write_text(self.path, "\n".join(lines))
            self.file = self.path.open("a", encoding="utf-8")
            return
        with sentences(self.path):
            self.file.write("".join(f"{line}\n" for line in lines))
            self.file.flush()

    def new_lines(self, history: History) -> list[str]:
        scores = {entry["step"]: entry for entry in history.evaluations[self.evaluations :]}
        lines = []
        for i in range(self.steps, len(history.losses)):
            line = {
                "step": i + 1,
                "loss": history.losses[i],
                "learning_rate": history.learning_rates[i],
                "gradient_norm": history.gradient_norms[i],
            }
            lines.append(json.dumps(line))
            if i + 1 in scores:
                lines.append(json.dumps({"validation": scores[i + 1]}))
        self.steps, self.evaluations = len(history.losses), len(history.evaluations)
        return lines

    def close(self) -> None:
        if self.file:
            with suppress(OSError):  # of a full disk, which `watch` has told
                self.file.close()


def picture(path: Path, draw, width: float = 6.0, height: float = 3.6) -> bool:
    """Call draw(axes) and write the picture; False without matplotlib."""
    windows = os.environ.pop("MPLBACKEND", None)  # a wrong one ends the import; this is for a file
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    finally:
        if windows is not None:
            os.environ["MPLBACKEND"] = windows
    figure = Figure(figsize=(width, height), layout="constrained")
    draw(figure.add_subplot())
    kind = path.suffix.removeprefix(".") or "png"
    write(path, lambda name: figure.savefig(name, format=kind, dpi=120))
    return True
