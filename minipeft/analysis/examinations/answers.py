"""Two things that a model's answers must not depend on: padding, and an untrained tuner."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from minipeft.analysis.examinations.subject import Finding
from minipeft.analysis.examinations.visit import LeftOut, Visit, difference, noise
from minipeft.attached import kind_of
from minipeft.doors.words import is_left_padded, own_columns

ROWS = 4  # padded rows that are looked at


def start(visit: Visit) -> Iterator[Finding]:
    """Before any step most methods change nothing."""
    visit.check_passes()
    for name in visit.subject.random_starts():
        yield Finding(
            "start",
            name,
            f"{name} sets init_lora_weights=False, which starts B from random numbers, so that the "
            "model answers otherwise than its base before the first step: leave it out.",
        )
    if not visit.subject.untouched():
        raise LeftOut("it was trained already, or does not start as the base")
    tuned, alone = visit.tuned, visit.untuned()
    change = difference(tuned, alone)
    if not change <= noise(visit.dtype):
        yield Finding(
            "start",
            "logits",
            f"Nothing was trained yet, and logits differ from the base's by {change:.2g} of the "
            "largest: look for a scale, a head or a first value that is not what the method says.",
        )


def padding(visit: Visit) -> Iterator[Finding]:
    """A row must give the same answers alone, without padding, as in its batch.

    Of the answers those at the row's own tokens are compared, of the tuned model and of its base.
    """
    visit.check_passes()
    batch, subject = visit.batch, visit.subject
    mask, ids = batch.get("attention_mask"), batch.get("input_ids")
    if not isinstance(mask, Tensor) or not isinstance(ids, Tensor) or mask.shape != ids.shape:
        raise LeftOut("the batch has no attention_mask")
    padded = [
        row for row in range(len(mask)) if not bool(mask[row].all()) and bool(mask[row].any())
    ]
    if not padded:
        raise LeftOut("no row of the batch is padded")
    aligned = kind_of(subject.inner) != "encoder-decoder"
    columns = own_columns(batch)

    def moved(logits) -> tuple[float, int]:
        whole = logits(batch)
        worst = (0.0, padded[0])
        for row in padded[:ROWS]:
            one = alone(batch, row, columns[row], aligned)
            a, b = whole[row], logits(one)[0]
            if aligned and a.dim() == 2:  # (T, V): a prompt of PEFT stands in front of all
                a, b = a[-ids.shape[1] :][columns[row]], b[-len(columns[row]) :]
                if len(a) != len(b):
                    raise LeftOut("answers are not one for each token")
            if a.shape != b.shape:
                raise LeftOut("answers are not one for each token")
            worst = max(worst, (difference(a, b), row))
        return worst

    side = "left" if is_left_padded(batch) else "right"
    alone_moves, row = moved(visit.untuned)
    limit = noise(visit.dtype)
    if not alone_moves <= limit:
        yield Finding(
            "padding",
            f"row {row}",
            f"The base itself answers row {row} otherwise with its padding than without "
            f"({alone_moves:.2g} of the largest logit): it counts positions from the padding on "
            f"the {side}; pad on the other side, or give position_ids.",
        )
        return
    tuned_moves, row = moved(visit.logits)
    if not tuned_moves <= max(limit, 10 * alone_moves):
        yield Finding(
            "padding",
            f"row {row}",
            f"With what was added, row {row} is answered otherwise with its padding on the {side} "
            f"than without ({tuned_moves:.2g} of the largest logit), while the base alone answers "
            f"it alike: {why_moved(visit, side)}.",
        )


def why_moved(visit: Visit, side: str) -> str:
    """What padding does to what was added, and what to do."""
    if not visit.subject.prompt:
        return "what was added reads padding; batch rows of one length, or give position_ids"
    if side == "left":
        return (
            "the prompt stands in front of the padding and so at another distance in every row; "
            f"{visit.subject.advice['prompt']}"
        )
    return (
        "the prompt comes as vectors, in which a head cannot tell padding from a row's last word; "
        "batch rows of one length, or attach minipeft.PromptTuning, whose words are ids"
    )


def alone(batch: dict, row: int, columns: list[int], aligned: bool) -> dict:
    """One row of a batch, its padding taken out."""
    B, T = batch["input_ids"].shape
    one = {}
    for key, value in batch.items():
        if isinstance(value, Tensor) and value.dim() and len(value) == B:
            value = value[row : row + 1]
            of_text = aligned or not (key == "labels" or key.startswith("decoder_"))
            if of_text and value.shape[1:2] == (T,):
                value = value[:, columns]
        one[key] = value
    return one
