"""README.md of a run, and the commands in it: they run from every folder."""

from __future__ import annotations

import argparse
import json
import os
import shlex
from pathlib import Path

from minipeft.training.history import History


def again(given: argparse.Namespace, folder: Path) -> str:
    """The command that trains the same in another folder, from wherever it is called."""
    places = ("--base", "--data", "--dev", "--start")  # absolute paths by now
    words, arguments = [], iter(given.arguments)
    for word in arguments:
        flag, is_joined, _ = word.partition("=")
        if flag not in ("--out", *places):
            words.append(word)
            continue
        if not is_joined:
            next(arguments)  # its value
        if flag in places:
            words += [flag, str(getattr(given, flag.removeprefix("--")))]
    return shlex.join(["python", "-m", "minipeft", *words, "--out", f"{folder.resolve()}-again"])


def with_places(command: str, places: dict[str, str]) -> str:
    """A command of `again` with what was moved in the place where it is now: name -> path."""
    words = shlex.split(command)
    for name, place in places.items():
        if f"--{name}" in words:
            words[words.index(f"--{name}") + 1] = place
        else:  # the run told it that this one started from
            words += [f"--{name}", place]
    return shlex.join(words)


def commands(config: dict, folder: Path) -> list[str]:
    """Lines that train the same again in another folder, and measure what this one holds."""
    lines, other = [config["command"]], f"{folder.resolve()}-again"
    for steps in dict.fromkeys(config.get("further", ())):
        words = ["python", "-m", "minipeft", "train", "--resume", other, "--steps", str(steps)]
        lines.append(shlex.join(words))
    file = config["data"]["files"][-1]
    lines.append(
        shlex.join(
            ["python", "-m", "minipeft", "evaluate", str(folder.resolve()), "--data", file["name"]]
        )
    )
    return lines


def details_of(task: dict) -> str:
    """How many labels a task has, or how its conversations are written; nothing of plain texts."""
    chat = task.get("chat")
    if chat is None:
        return f", {len(task['labels'])} labels" if task["labels"] else ""
    system = chat["system"] and " ".join(chat["system"].split())
    said = f", the system says {json.dumps(system, ensure_ascii=False)}" if system else ""
    return f", conversations by the chat template of the base{said}"


def card(config: dict, history: History, report, folder: Path) -> str:
    """README.md of a run: what was trained on what, how, and how well."""
    base, method, task = config["base"], config["method"], config["task"]
    data, options = config["data"], config["options"]
    base_name = base["name"] if not os.path.isabs(base["name"]) else Path(base["name"]).name
    settings = ", ".join(f"{key} {value}" for key, value in method["settings"].items() if value)
    rows = [f"| {key} | {value:.4f} |" for key, value in config["scores"].items()]
    files = [
        f"| {Path(file['name']).name} | {file['split']} | {file['examples']:,} | "
        f"{(file['sha256'] or '-')[:16]} |"
        for file in data["files"]
    ]
    trained = f"{report.trainable:,} numbers, {100 * report.trainable / report.total:.3g} %"
    trained += f", and {report.head:,} of the head" if report.head else ""
    head = history.settings.get("head_rate") if report.head else None
    head = f" (of the head {head:g})" if head else ""
    kept = f"the weights of step {history.best_step}" if history.best_step else "the last weights"
    return f"""---
library_name: peft
base_model: {json.dumps(base_name)}
tags: [minipeft, {method["name"].lower()}]
---

# {method["name"]} on {base_name}: {task["name"]}

| | |
|---|---|
| base | {base_name} ({base["kind"]}, {base["head"]} head), {report.base:,} parameters, frozen |
| base's SHA-256 | `{base["fingerprint"][:32]}` |
| method | {method["name"]}{f" ({settings})" if settings else ""} |
| trained | {trained} |
| task | {task["kind"]}{details_of(task)} |
| training | {options["steps"]} steps of {options["batch_size"]} x {options["accumulate"]}, \
learning rate {options["learning_rate"]:g}{head}, seed {options["seed"]}, {history.seconds:.0f} s |

## Numbers

On the dev split, {kept} (chosen on that very split, so expect a little less on new data):

| score | value |
|---|---|
{chr(10).join(rows)}

![Loss and scores](curves.png)

## Data

| file | split | examples | SHA-256 |
|---|---|---|---|
{chr(10).join(files)}

## Again, and further

{chr(10).join(f"    {line}" for line in commands(config, folder))}

The last line measures on the file of the dev split: name a file of yours in its place.

`adapter/` opens with `minipeft.load(model, "adapter")`. Versions: \
{", ".join(f"{name} {number}" for name, number in config["libraries"].items())}.
"""
