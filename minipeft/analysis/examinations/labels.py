"""Do the labels ask for anything?"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from minipeft.analysis.examinations.subject import Finding
from minipeft.analysis.examinations.visit import Visit
from minipeft.attached import kind_of
from minipeft.model.kind import head_of


def examine_labels(visit: Visit) -> Iterator[Finding]:
    """Labels of -100 ask for nothing; a decoder is never asked for a row's first token either.

    Rows without any are told of decoders and encoder-decoders: of a masked text a short row may
    hide no word.
    """
    given = visit.batch["labels"]
    kind = kind_of(visit.subject.inner)
    shifted = kind == "decoder" and head_of(visit.subject.inner) == "language"
    asked = asked_for(given, shifted)
    if not asked.any():
        visit.asks = False
        yield Finding(
            "labels",
            "labels",
            f"All labels of the batch's {len(given)} rows are -100"
            + (", or stand at a row's first token, which nothing predicts" if shifted else "")
            + ", so that nothing is asked and nothing is learnt: give the tokens of the answers "
            "their ids as labels, and look whether the answers were cut off.",
        )
    elif given.dim() > 1 and kind != "encoder":
        empty = [row for row, some in enumerate(asked.flatten(1).any(dim=1).tolist()) if not some]
        if empty:
            rows = ", ".join(map(str, empty[:5]))
            yield Finding(
                "labels",
                f"labels[{empty[0]}]",
                f"{len(empty)} of the batch's {len(given)} rows have labels of -100 only (row "
                f"{rows}), so that nothing is learnt from them: look whether their answers were "
                "cut off, or leave these rows out.",
            )


def asked_for(labels: Tensor, shifted: bool) -> Tensor:
    """Which labels a model is asked for: True or False, in the shape of `labels`.

    Args:
        labels: (B, T), or (B,) with one label a row; -100 where nothing is asked.
        shifted: does place t answer the label at t + 1? Then nobody answers a row's first label.
    """
    asked = labels != -100
    if shifted and labels.dim() == 2:
        asked[:, 0] = False
    return asked
