"""Every cell of `python -m minipeft support`: each pair of method, architecture and head.

The parts of the evidence that need generation, checkpointing or another dtype are run on the head
for words; those of files, gradients and the base on every head. `make test` tries an eighth of the
cells, all of them are tried with WHOLE=1.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import lru_cache, partial

import pytest
import torch
import zoo
from closeness import close
from torch.utils.checkpoint import checkpoint
from whole import WHOLE

import minipeft as mp
from minipeft.__main__ import main
from minipeft.analysis import support
from minipeft.doors.words import is_left_padded, positions
from minipeft.model.anatomy import Anatomy
from minipeft.model.families import FAMILIES

CELLS = support.cells()
METHODS, ARCHITECTURES = [*support.METHODS], [*support.ARCHITECTURES]
HEADS = sorted({cell.head for cell in CELLS})


def is_taken(cell) -> bool:
    """Every eighth method, other ones of the next architecture and head."""
    number = METHODS.index(cell.method) + ARCHITECTURES.index(cell.architecture)
    return WHOLE or (number + HEADS.index(cell.head)) % 8 == 0


TESTED = [cell for cell in CELLS if cell.why_not is None and is_taken(cell)]
REFUSED = [cell for cell in CELLS if cell.why_not is not None and is_taken(cell)]
TRAIN_THE_BASE = ("FullFineTuning", "TopLayers", "HeadOnly")


def name_of(cell) -> str:
    return f"{cell.method}-{cell.architecture}-{cell.head}"


@pytest.mark.parametrize("cell", TESTED, ids=name_of)
def test_pair(cell, tmp_path):
    name, head = cell.architecture, cell.head
    method = support.settings(cell.method, name)
    base, batch = base_of(name, head), zoo.batch(name, head)
    model = copy.deepcopy(base.model)
    tuner = mp.attach(model, method, seed=0)
    if method.identity_at_start:
        close(zoo.logits(model, batch), base.logits)
    check_gradients(cell, model, tuner, batch)
    check_files(base, tuner, batch, tmp_path)
    check_one_row(model, name, head)
    check_limit(tuner, name, head)
    if base.evenly_padded:
        left, right = (padded(model, name, head, side) for side in ("left", "right"))
        close(left, right)
    if head == "language":
        check_generation(model, name)
        check_checkpointing(model, tuner, batch)
        check_half(base, method, name)
    assert tuner.detach() is model
    assert mp.fingerprint(model) == base.mark
    assert torch.equal(zoo.logits(model, batch), base.logits)


@pytest.mark.parametrize("cell", REFUSED, ids=name_of)
def test_no_such_pair(cell):
    base, batch = base_of(cell.architecture, cell.head), zoo.batch(cell.architecture, cell.head)
    model = copy.deepcopy(base.model)
    with pytest.raises(ValueError, match=cell.why_not.removeprefix("no ").split()[0]):
        mp.attach(model, support.settings(cell.method, cell.architecture))
    assert mp.fingerprint(model) == base.mark and not mp.tuners(model)
    assert torch.equal(zoo.logits(model, batch), base.logits)


def test_every_architecture_is_there():
    named = {model_type for family in FAMILIES for model_type in family.model_types}
    assert named == set(support.ARCHITECTURES)
    built = {*zoo.MODELS, *zoo.MORE} - {"t5-gated"}
    assert built == set(support.ARCHITECTURES)


def test_every_method_is_tried_with_every_head_and_on_every_architecture():
    every = [cell for cell in CELLS if cell.why_not is None]
    pairs = [("method", "head"), ("architecture", "head"), ("method", "architecture")]
    for pair in pairs if WHOLE else pairs[:2]:
        pairs_of = [
            {tuple(getattr(c, key) for key in pair) for c in some} for some in (TESTED, every)
        ]
        assert pairs_of[0] == pairs_of[1]


def test_the_command_prints_what_is_tested(capsys):
    assert main(["support", "--list"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert {tuple(line[:3]) for line in lines if line[3] == "tested"} == {
        (c.method, c.architecture, c.head) for c in CELLS if c.why_not is None
    }
    assert main(["support"]) == 0
    text = capsys.readouterr().out
    for word in (*support.METHODS, *support.ARCHITECTURES, "no memory door", "no biases"):
        assert word in text


@dataclass(frozen=True)
class Base:
    """What all methods of an architecture and head begin with: each takes a copy of the model.

    logits: of `zoo.batch`.  mark: its fingerprint.  evenly_padded: see there.
    """

    model: torch.nn.Module
    logits: torch.Tensor
    mark: str
    evenly_padded: bool


@lru_cache(maxsize=3)  # the cells of one are neighbours
def base_of(name: str, head: str) -> Base:
    model = zoo.build(name, head)
    logits = zoo.logits(copy.deepcopy(model), zoo.batch(name, head))
    even = evenly_padded(copy.deepcopy(model), name, head)
    return Base(model, logits, mp.fingerprint(model), even)


def check_gradients(cell, model, tuner, batch) -> None:
    """New tensors get a gradient by the second step, the base none; then some more steps."""
    theirs = [p for p in tuner.anatomy.parameters() if p not in tuner.base_values]
    optimizer = torch.optim.AdamW(tuner.parameters(), lr=1e-2)
    reached = {p: False for p in tuner.parameters()}
    for _ in range(2):
        optimizer.zero_grad()
        loss = model(**tuner.wrap(batch)).loss
        penalty = method.penalty(tuner) if (method := tuner.method) else None
        (loss if penalty is None else loss + penalty).backward()
        for parameter in reached:
            grad = parameter.grad
            moved = grad is not None and (cell.method == "BitFit" or bool(grad.any()))
            reached[parameter] |= moved  # a key's bias: softmax does not see it
        assert all(parameter.grad is None for parameter in theirs), "the base got a gradient"
        optimizer.step()
    if cell.method not in TRAIN_THE_BASE:
        names = {p: n for n, p in model.named_parameters()}
        assert all(reached.values()), [names[p] for p, nonzero in reached.items() if not nonzero]
    assert any(reached.values())
    mp.train(model, [batch], 3, 1e-3, progress=False, clip=None)


def check_files(base, tuner, batch, folder) -> None:
    """What was saved answers as what was there."""
    tuner.save(folder)
    other = copy.deepcopy(base.model)
    again = mp.load(other, folder)
    close(zoo.logits(other, again.wrap(batch)), zoo.logits(tuner.model, tuner.wrap(batch)))
    again.detach()


def check_one_row(model, name, head) -> None:
    """A batch of one gives the row's answer."""
    batch = {k: v for k, v in zoo.batch(name, head).items() if k != "labels" or name in zoo.SEQ2SEQ}
    if head == "classification":
        batch.pop("labels", None)
    one = {key: value[:1] for key, value in batch.items()}
    close(zoo.logits(model, one)[0], zoo.logits(model, batch)[0])


def check_limit(tuner, name, head) -> None:
    """More tokens than the model knows positions are refused by a sentence."""
    limit = tuner.anatomy.limit
    if limit is None:
        return
    P = len(tuner.words or ())
    batch = zoo.batch(name, head, tokens=limit - P + 1)
    with pytest.raises(ValueError, match="tokens"):
        zoo.logits(tuner.model, batch)


def padded(model, name, head, side: str) -> torch.Tensor:
    """The logits of all own tokens of two rows, the shorter one padded on that side."""
    ids, long = zoo.batch(name, "language", rows=2, tokens=7, seed=3)["input_ids"], 7
    ids = torch.where(ids == 0, 3, ids)
    mask, short = torch.ones_like(ids), 4
    row = ids[1, :short].clone()
    ids[1], mask[1] = 0, 0
    where = slice(long - short, long) if side == "left" else slice(0, short)
    ids[1, where], mask[1, where] = row, 1
    ids = torch.where(mask == 1, ids, getattr(model.config, "pad_token_id", None) or 0)
    batch = {"input_ids": ids, "attention_mask": mask}
    tuners = list(mp.tuners(model).values())
    if name in zoo.SEQ2SEQ and head == "language":
        batch["labels"] = torch.full((2, 3), 5)
    for tuner in tuners:
        batch = tuner.wrap(batch)
    if is_left_padded(batch) and name not in zoo.TINY and "position_ids" not in batch:
        anatomy = Anatomy(model)
        if anatomy.takes_positions():
            batch["position_ids"] = positions(batch["attention_mask"])
    logits = zoo.logits(model, batch)
    if logits.dim() == 2 or name in zoo.SEQ2SEQ and head == "language":
        return logits
    return logits[batch["attention_mask"].bool()]


def evenly_padded(model, name, head) -> bool:
    """Does the base itself not mind on which side the padding is? (A pooler reads token 0.)"""
    if name in zoo.SEQ2SEQ and head == "classification":
        return False  # these read the end token, of which every row needs one
    try:
        left, right = (padded(model, name, head, side) for side in ("left", "right"))
    except TypeError:
        return False
    return left.shape == right.shape and bool((left - right).abs().max() < 1e-5)


def check_generation(model, name) -> None:
    """With the cache as without."""
    if name in zoo.ENCODERS:
        return
    ids = zoo.batch(name, rows=2, tokens=5)["input_ids"].clamp(min=3)
    written = [
        mp.generate(model, ids, torch.ones_like(ids), max_new_tokens=4, use_cache=cache)
        for cache in (True, False)
    ]
    assert torch.equal(*written)
    if name not in zoo.SEQ2SEQ:
        assert torch.equal(written[0][:, :5], ids)


def check_checkpointing(model, tuner, batch) -> None:
    """Computing blocks again in the backward pass changes neither loss nor gradients."""
    if getattr(model, "supports_gradient_checkpointing", True) is False:
        return  # ALBERT
    stacks = [m for m in model.modules() if hasattr(m, "gradient_checkpointing")]
    if hasattr(model, "config") and hasattr(model, "supports_gradient_checkpointing"):
        model._set_gradient_checkpointing(True, partial(checkpoint, use_reentrant=False))
    assert stacks, "nothing in this model can be checkpointed"

    def switch(on: bool) -> None:
        for stack in stacks:
            stack.gradient_checkpointing = on

    results = []
    model.train()
    for on in (False, True):
        switch(on)
        model.zero_grad()
        torch.manual_seed(0)
        loss = model(**tuner.wrap(batch)).loss
        loss.backward()
        grads = [p.grad.clone() for p in tuner.parameters() if p.grad is not None]
        results.append((loss.detach(), grads))
    switch(False)
    model.eval()
    model.zero_grad()
    close(results[0][0], results[1][0])
    assert len(results[0][1]) == len(results[1][1])
    for one, two in zip(results[0][1], results[1][1], strict=True):
        close(one, two)


def check_half(base, method, name) -> None:
    """A bf16 base trains, its new tensors in fp32."""
    model, batch = copy.deepcopy(base.model).to(torch.bfloat16), zoo.batch(name)
    tuner = mp.attach(model, method, seed=0)
    new = [p for p in tuner.parameters() if p not in tuner.base_values]
    copies = {p for twin in tuner.copies.values() for p in twin.parameters()}
    assert all(p.dtype == torch.float32 for p in new if p not in copies)
    history = mp.train(model, [batch], 1, 1e-3, progress=False)
    assert history.losses[0] == history.losses[0]
    assert torch.isfinite(zoo.logits(model, batch)).all()
    tuner.detach()
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())
