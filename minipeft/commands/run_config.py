"""What a run of the command line writes down of itself: config.json in its folder."""

from __future__ import annotations

from minipeft.commands import bases, data, options, runs
from minipeft.methods.method import Method
from minipeft.tasks.encoding import Encoding
from minipeft.tasks.tasks import Task


def describe(
    given, config: dict, base: bases.Base, fingerprint: str, method: Method, task: Task
) -> dict:
    """What config.json of the run says: options, method, base, task, data, versions.

    fingerprint: of the base, as `bases.fingerprint_of` gave it before the tuner was attached.
    """
    kept = vars(given).keys() - {"run", "parser", "command", "resume", "method", "out", "arguments"}
    kept -= {"trust_remote_code", "local_only"}
    kept = {key for key in kept if not key.startswith(options.DEST)}
    files = []
    for split, name in (("train", given.data), ("dev", given.dev or given.data)):
        count = len(task.splits[split])
        files.append({"name": name, "split": split, "examples": count, "sha256": data.digest(name)})
    letters = base.tokenizer.alphabet if isinstance(base.tokenizer, bases.Letters) else None
    return {
        "form": runs.FORM,
        "command": config["command"],
        "options": {key: getattr(given, key) for key in sorted(kept)} | {"epochs": None},
        "method": {"name": type(method).__name__, "settings": method.settings()},
        "base": {
            "name": given.base,
            "kind": base.kind,
            "head": base.head,
            "fingerprint": fingerprint,
        },
        "task": {
            "name": task.name,
            "kind": task.kind,
            "labels": list(task.labels) if task.labels else None,
            "borrowed": dict(letters.borrowed) if letters else {},
            "longest": longest_answer(task, base),
            "chat": task.details.get("chat"),
        },
        "data": {"files": files},
        "libraries": runs.libraries(),
    } | {key: config[key] for key in ("start", "further") if key in config}


def check_base(config: dict, given, fingerprint: str) -> None:
    """A run that goes on must have the base that it began with, wherever that is now.

    Raises:
        ValueError: the weights are others.
    """
    before = config.get("base", {})
    if before.get("fingerprint") in (None, fingerprint):
        return
    if before["name"] == given.base:
        raise ValueError(f"{given.base} has other weights than when this run began: put them back.")
    raise ValueError(
        f"{given.base} has other weights than the base that this run began with, {before['name']}: "
        "name a folder of that one."
    )


def longest_answer(task: Task, base: bases.Base) -> list[int] | None:
    """Tokens and words of the longest answer to be written; None where labels are chosen."""
    if base.head != "language" or task.kind not in ("generate", "cloze"):
        return None
    return list(Encoding(task, base.tokenizer, base.kind, base.head).longest)
