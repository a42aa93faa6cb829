"""Which head of a model answers a task."""

from __future__ import annotations

from minipeft.model.kind import KINDS


def head_for(task, model_kind: str, head: str | None = None) -> str:
    """The head that a model of this kind answers a task with: the one given, or the usual one.

    Raises:
        ValueError: no such kind of model, or a head that the task cannot be asked with.
    """
    if model_kind not in KINDS:
        raise ValueError(f"model_kind is decoder, encoder or encoder-decoder, not {model_kind!r}.")
    if head is None:
        by_head = task.kind == "regress" or (task.kind == "classify" and model_kind == "encoder")
        head = "tagging" if task.kind == "tag" else "classification" if by_head else "language"
    if (head == "tagging") != (task.kind == "tag"):
        raise ValueError(
            f"Task {task.name!r} is of kind {task.kind!r}: a tagging head and kind 'tag' go "
            "together; load the model with the head that the task needs."
        )
    if task.kind == "regress" and head != "classification":
        raise ValueError(
            f"Task {task.name!r} asks for numbers: load the model with a "
            "classification head of one label."
        )
    if head == "classification" and task.kind not in ("classify", "regress"):
        raise ValueError(f"Task {task.name!r} has no classes; load a language head instead.")
    if task.kind == "generate" and model_kind == "encoder":
        raise ValueError(f"An encoder cannot write; task {task.name!r} needs a decoder.")
    return head
