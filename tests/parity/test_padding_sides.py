"""A row alone, and the same row beside longer ones, padded on either side: one answer.

Every method on every architecture. Rows that read a memory or have new words count their own tokens
by themselves. The others count as their base does, which counts padding on the left as well, so
they are given position_ids; BART and its kin, which take none, are not tried with padding on
the left.
"""

import pytest
import torch
import zoo
from closeness import LOSS, close
from whole import part_of

import minipeft as mp
from minipeft.analysis import support
from minipeft.doors.words import positions
from minipeft.model.anatomy import Anatomy

ROWS = ([5, 9, 31, 4, 17, 8], [40, 4, 12, 22], [23, 7, 4])  # each has a 4, for the infix
INFIX = mp.Prefix(length=3, hidden=None, std=1.0, position="infix", after=4)
METHODS = support.METHODS | {"infix": INFIX, "end": mp.PromptTuning(length=3, position="end")}
COUNTS = ("Prefix", "PTuningV2", "UniPELT", "MAM", "PromptTuning", "PTuning", "infix", "end")
DECODERS = [n for n in (*zoo.MODELS, *zoo.MORE) if n not in (*zoo.SEQ2SEQ, *zoo.ENCODERS)]
NO_POSITIONS = ("bart", "mbart", "marian", "pegasus")  # none can be given, padding is counted
PAIRS = [
    (name, method)
    for name in support.ARCHITECTURES
    for method in METHODS
    if support.why_not("Prefix" if method == "infix" else method, name) is None
    and (method != "infix" or name in DECODERS)
]

WRITERS = ("LoRA", "Prefix", "UniPELT", "PromptTuning", "PTuning", "infix")
WRITTEN = [(name, method) for name in DECODERS for method in WRITERS]


def build(name: str, method: str):
    """The model and its tuner, which does something."""
    model = zoo.build(name)
    known = support.settings(method, name) if method in support.METHODS else METHODS[method]
    tuner = mp.attach(model, known, seed=0)
    zoo.shake(tuner)
    return model, tuner


def padded(model, name: str, sides: str) -> dict:
    """The rows in one batch, sides: one letter for each, left, right or both."""
    T, whole = max(map(len, ROWS)) + 2, []
    padding = getattr(model.config, "pad_token_id", None) or 0
    for row, side in zip(ROWS, sides, strict=True):
        room = T - len(row)
        front = {"l": room, "r": 0, "b": room // 2}[side]
        whole.append([None] * front + row + [None] * (room - front))
    mask = torch.tensor([[int(token is not None) for token in row] for row in whole])
    ids = torch.tensor([[padding if token is None else token for token in row] for row in whole])
    return with_labels({"input_ids": ids, "attention_mask": mask}, name)


def alone(row: list[int], name: str) -> dict:
    ids = torch.tensor([row])
    return with_labels({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, name)


def with_labels(batch: dict, name: str) -> dict:
    """Labels: what follows the first word of a row, which padding on the left would be asked."""
    if name in zoo.SEQ2SEQ:
        return {**batch, "labels": torch.tensor([[7, 5, 6]]).repeat(len(batch["input_ids"]), 1)}
    mask = batch["attention_mask"]
    asked = (mask == 1) & (mask.cumsum(dim=1) > 1)  # (B, T)
    return {**batch, "labels": batch["input_ids"].masked_fill(~asked, -100)}


def with_positions(model, method: str, batch: dict) -> dict:
    """With position_ids, where the tuner leaves counting to the base."""
    if method in COUNTS or not Anatomy(model).takes_positions():
        return batch
    return {**batch, "position_ids": positions(batch["attention_mask"])}


def logits_and_loss(model, name: str, tuner, batch: dict) -> tuple[list, torch.Tensor, list]:
    """Of every row: the logits of its own tokens. The loss, and how many labels a row has."""
    out = model(**batch)
    wrapped = tuner.wrap({k: v for k, v in batch.items() if k != "position_ids"})
    if name in zoo.SEQ2SEQ:
        rows = [*out.logits]
    else:
        mask = zoo.answered(out.logits, batch, wrapped)
        rows = [x[m] for x, m in zip(out.logits, mask, strict=True)]
    return rows, out.loss, (wrapped["labels"] != -100).sum(dim=1).tolist()


@pytest.mark.parametrize("name, method", part_of(PAIRS, 223))
@torch.no_grad()
def test_logits_and_loss(name, method):
    model, tuner = build(name, method)
    separate = [logits_and_loss(model, name, tuner, alone(row, name)) for row in ROWS]
    sides = "rrr" if name in NO_POSITIONS else "lrb"
    batch = with_positions(model, method, padded(model, name, sides))
    rows, loss, counts = logits_and_loss(model, name, tuner, batch)
    for row, (one, _, _) in zip(rows, separate, strict=True):
        close(row, one[0])
    each = [n * one for n, (_, one, _) in zip(counts, separate, strict=True)]
    mean = sum(each) / sum(counts)
    close(loss, mean, dtype=torch.float32, roundings=LOSS)


@pytest.mark.parametrize("name, method", part_of(WRITTEN, 59))
@torch.no_grad()
def test_written_words(name, method):
    """minipeft.generate, generate of transformers, and a loop of one's own around the cache."""
    if (name, method) not in PAIRS:
        pytest.skip("no such pair")
    model, tuner = build(name, method)
    texts = [torch.tensor([row]) for row in ROWS]
    how = dict(max_new_tokens=4)
    separate = [
        mp.generate(model, ids, torch.ones_like(ids), **how)[0, ids.shape[1] :] for ids in texts
    ]
    batch = padded(model, name, "lll")
    batch.pop("labels")
    T = batch["input_ids"].shape[1]
    together = mp.generate(model, **batch, **how)[:, T:]
    ways = [together]
    if name not in zoo.TINY:
        wrapped = tuner.wrap(batch)
        N = wrapped["input_ids"].shape[1]
        ways.append(model.generate(**wrapped, **how, do_sample=False)[:, N:])
        ways.append(step_by_step(model, with_positions(model, method, wrapped), method, 4))
    for written in ways:
        for row, one in zip(written, separate, strict=True):
            n = min(len(row), len(one))  # a row that has ended is filled up
            end = (one == 2).nonzero()
            n = n if not len(end) else min(n, int(end[0]) + 1)
            assert torch.equal(row[:n], one[:n])


def step_by_step(model, batch: dict, method: str, steps: int) -> torch.Tensor:
    """Greedy words (B, steps), the mask growing by one, positions given where they were before."""
    out, written, mask = model(**batch, use_cache=True), [], batch["attention_mask"]
    for _ in range(steps):
        written.append(out.logits[:, -1:].argmax(-1))  # (B, 1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        after = {"input_ids": written[-1], "attention_mask": mask}
        if "position_ids" in batch and method not in COUNTS:
            after["position_ids"] = positions(mask)[:, -1:]
        out = model(**after, past_key_values=out.past_key_values, use_cache=True)
    return torch.cat(written, dim=1)
