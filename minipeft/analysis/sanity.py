"""The sanity ladder: six questions to ask of every method before believing a number it gives.

    print(sanity_ladder(model, LoRA(rank=4), batch))

1. Is the loss of an untrained model ln V?  (the data, the labels and the loss fit together)
2. Is the model unchanged when the method is attached?  (identity at the start)
3. Can it learn one batch by heart?  (gradients reach the patches and the step has the right sign)
4. Does every new tensor get a gradient by the second step, and no tensor of the base?
5. Is the base the same after training, to the last bit?
6. Does unplugging give the base's answers back, bit for bit?
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import tiny_transformer as tt
from minipeft.attached import kind_of, tuners
from minipeft.contexts import evaluating, seeded
from minipeft.doors.door import bottom
from minipeft.doors.words import mask_of
from minipeft.methods.method import Method
from minipeft.model.devices import on_device_of
from minipeft.model.fingerprint import fingerprint
from minipeft.model.libraries import is_tiny
from minipeft.report import Table
from minipeft.training.loop import train
from minipeft.training.loss import loss_of
from minipeft.tuner import Tuner, attach


@dataclass(repr=False)
class Ladder(Table):
    """The six rungs as a table; `passed` when none failed."""

    passed: bool = True


def sanity_ladder(
    model: nn.Module,
    method: Method,
    batch: dict,
    steps: int = 100,
    learning_rate: float = 1e-2,
    untrained: nn.Module | bool | None = None,
    seed: int = 0,
) -> Ladder:
    """Climb the ladder with a method on a model; the model is the same afterwards.

    Args:
        model: a base without tuners.
        method: the method to try.
        batch: one small batch with labels, to be learned by heart.
        steps, learning_rate: for learning it.
        untrained: the same model with random weights; made from the model's class and config when
            None; False leaves the first rung out.
        seed: of everything random.
    """
    if tuners(model):
        raise ValueError(f"The model has tuners, {list(tuners(model))}: detach them first.")
    batch = on_device_of(model, batch)
    rungs = [_untrained_loss(model, batch, untrained, seed)]
    modules = list(model.modules())
    before, hash_before = _logits(model, batch), fingerprint(model)

    tuner = attach(model, method, name="sanity", seed=seed)
    rungs.append(_identity(tuner, batch, before))
    census = _census(tuner, batch, learning_rate)
    tuner.detach()

    tuner = attach(model, method, name="sanity", seed=seed)
    rungs += [_by_heart(model, batch, steps, learning_rate, seed), census]
    rungs.append(_unchanged(tuner, hash_before))
    tuner.detach()
    same = (
        torch.equal(_logits(model, batch), before)
        and fingerprint(model) == hash_before
        and all(a is b for a, b in zip(model.modules(), modules, strict=True))
    )
    rungs.append(
        ("unplugged", "the base's logits, bits and modules", _yes(same, "all equal"), same)
    )
    passed = all(rung[3] is not False for rung in rungs)
    marks = {True: "ok", False: "FAILED", None: "left out"}
    return Ladder(
        title=f"Sanity ladder: {method.describe()} on {type(model).__name__}",
        header=("rung", "expected", "measured", ""),
        rows=[(*rung[:3], marks[rung[3]]) for rung in rungs],
        notes=["All rungs hold." if passed else "At least one rung broke: trust no number yet."],
        passed=passed,
    )


# Each rung is (its name, what is expected, what is measured, does it hold?).


def _untrained_loss(model, batch, untrained, seed) -> tuple:
    name = "loss of an untrained model"
    if untrained is False:
        return name, "ln V", "not asked for", None
    if untrained is None:
        try:
            with seeded(seed):
                untrained = _fresh(model)
        except (AttributeError, TypeError):
            return name, "ln V", "pass untrained=", None
    untrained.eval()
    with torch.no_grad():
        out = untrained(**on_device_of(untrained, batch))
    expected, measured = math.log(out.logits.shape[-1]), out.loss.item()
    right = abs(measured - expected) < max(0.1, 0.15 * expected)
    return name, f"ln {out.logits.shape[-1]} = {expected:.2f}", f"{measured:.2f}", right


def _identity(tuner: Tuner, batch: dict, before: Tensor) -> tuple:
    """before: the logits of the base, (B, T, V) or (B, classes)."""
    model, method = tuner.model, tuner.method
    if tuner.words is None:
        start = (_logits(model, batch) - before).abs().max().item()
    else:  # a row has more words now: compare where something is asked
        behind = _behind_the_first(model, batch)
        wrapped = tuner.wrap(behind)
        with_prompt = _asked(model, _logits(model, wrapped), wrapped)
        start = (with_prompt - _asked(model, before, behind)).abs().max().item()
    identity = "0" if method.identity_at_start else "not 0: the method says so"
    return (
        "identity at the start",
        f"largest change of a logit {identity}",
        f"{start:.2g}",
        start == 0 or not method.identity_at_start,
    )


def _by_heart(model: nn.Module, batch: dict, steps: int, learning_rate: float, seed: int) -> tuple:
    options = dict(warmup=0, schedule="constant", seed=seed, progress=False)
    losses = train(model, [batch], steps, learning_rate, **options).losses
    return (
        "one batch by heart",
        f"loss below a tenth of {losses[0]:.3g}",
        f"{losses[-1]:.2g} after {steps} steps",
        losses[-1] < losses[0] / 10,
    )


def _unchanged(tuner: Tuner, hash_before: str) -> tuple:
    if tuner.base_values:
        return "base unchanged", "no: this method trains the base", "trained", True
    same = fingerprint(tuner.model) == hash_before
    return "base unchanged", f"SHA-256 {hash_before[:12]}", _yes(same, "the same"), same


def _fresh(model: nn.Module) -> nn.Module:
    """A model of the same class and config with random weights."""
    head = bottom(model.head) if is_tiny(model) else None
    if isinstance(head, tt.ClassificationHead):
        return type(model)(model.config, type(head)(model.config, head.classes.out_features))
    if isinstance(head, tt.TaggingHead):
        return type(model)(model.config, type(head)(model.config, head.tags.out_features))
    return type(model)(model.config)


def _logits(model: nn.Module, batch: dict) -> Tensor:
    with evaluating(model), torch.no_grad():
        return model(**batch).logits.clone()


def _behind_the_first(model: nn.Module, batch: dict) -> dict:
    """The batch, asking no decoder for a row's first word: without a prompt nothing answers it."""
    if kind_of(model) != "decoder" or batch["labels"].dim() != 2:
        return batch
    labels = batch["labels"].clone()
    first = mask_of(batch).int().argmax(dim=1)  # (B,)
    labels[torch.arange(len(labels)), first] = -100
    return {**batch, "labels": labels}


def _asked(model: nn.Module, logits: Tensor, batch: dict) -> Tensor:
    """The logits (N, V) that answer for the N labels of a batch, or (B, classes)."""
    labels = batch["labels"]
    if logits.dim() == 2:
        return logits
    if kind_of(model) == "decoder":  # position t answers for t + 1
        logits, labels = logits[:, :-1], labels[:, 1:]
    return logits[labels != -100]


def _census(tuner: Tuner, batch: dict, learning_rate: float) -> tuple:
    """Two steps; which of the new tensors have had a gradient, and has one of the base?"""
    model, trained = tuner.model, set(tuner.parameters())
    optimizer = torch.optim.SGD(trained, lr=learning_rate)
    reached: set[nn.Parameter] = set()
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        reached |= {p for p in trained if p.grad is not None and bool(p.grad.count_nonzero())}
        optimizer.step()
    leaked = [p for p in model.parameters() if p not in trained and p.grad is not None]
    optimizer.zero_grad()
    return (
        "gradient census",
        f"{len(trained)} of {len(trained)} new tensors by step 2, 0 of the base",
        f"{len(reached)} of {len(trained)}, {len(leaked)} of the base",
        len(reached) == len(trained) and not leaked,
    )


def _yes(same: bool, text: str) -> str:
    return text if same else "changed"
