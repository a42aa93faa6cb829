"""Checks for methods that come in by the weights door."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minipeft.checks.framework import CheckFailed, check, compare, expect, same, weight


def _fill(patch: nn.Module) -> tuple[Tensor, Tensor]:
    """Random numbers into A and B; returns both."""
    A, B = weight(patch, "A"), weight(patch, "B")
    with torch.no_grad():
        A.normal_()
        B.normal_()
    return A.detach(), B.detach()


@check("h = W0 x + (alpha / r) B A x, identity at the start, dropout on x, delta = (alpha / r) B A")
def lora(LoRAPatch: type[nn.Module]) -> None:
    """Hu et al. 2021, eq. 3. LoRAPatch(in, out, rank, alpha, dropout, rank_stabilized)."""
    _lora_start(LoRAPatch(6, 4, rank=2, alpha=6))
    _lora_forward(LoRAPatch)
    _lora_delta(LoRAPatch(6, 4, rank=2, alpha=6))
    _lora_gradient(LoRAPatch(5, 5, rank=2, alpha=6))
    _lora_dropout(LoRAPatch)


def _lora_start(patch: nn.Module) -> None:
    """Shapes and initial values; in 6, out 4, r 2."""
    A, B = weight(patch, "A"), weight(patch, "B")
    shapes = tuple(A.shape), tuple(B.shape)
    expect(
        shapes != ((4, 2), (2, 6)),
        "A and B have changed places: A is (r, in) and meets x first, B is (out, r)",
    )
    expect(
        shapes == ((2, 6), (4, 2)),
        f"A has shape {shapes[0]} and B {shapes[1]}; A is (r, in) = (2, 6), B is (out, r) = (4, 2)",
    )
    more = [name for name, p in patch.named_parameters() if p is not A and p is not B]
    expect(not more, f"LoRA trains A and B only, no bias and no copy of W0: take out {more}")
    expect(
        A.abs().max() > 0 or B.abs().max() > 0,
        "A and B are both zero, so neither ever gets a gradient: A must be random",
    )
    expect(
        B.abs().max() == 0,
        "B is not zero at the start, so the model is not itself before training: only A is random",
    )
    x, y = torch.randn(2, 3, 6), torch.randn(2, 3, 4)
    patch.eval()
    compare(
        patch(x, y),
        y,
        "the output of forward at the start",
        [("forward returns the detour only: the base path y is dropped", torch.zeros_like(y))],
    )


def _lora_forward(LoRAPatch: type[nn.Module]) -> None:
    """Equation 3 on a square map first: there a wrong order gives a wrong answer, not an error."""
    for size, rank, stabilized in ((5, 2, False), (5, 4, True), (4, 2, False)):
        patch = LoRAPatch(5, size, rank=rank, alpha=6, rank_stabilized=stabilized).eval()
        A, B = _fill(patch)
        x, y = torch.randn(2, 3, 5), torch.randn(2, 3, size)
        detour = x @ A.T @ B.T  # (2, 3, size)
        scale = 6 / (rank**0.5 if stabilized else rank)
        mistakes = [
            ("the scale is missing: the detour is multiplied by alpha / r", y + detour),
            ("the scale is alpha, it should be alpha / r", y + 6 * detour),
            ("forward returns the detour only: the base path y is dropped", scale * detour),
            ("the scale falls on y as well: only the detour is scaled", scale * (y + detour)),
        ]
        if stabilized:
            wrong = "rank_stabilized is ignored: with it the scale is alpha / sqrt(r)"
            mistakes.append((wrong, y + 6 / rank * detour))
        else:
            wrong = "the scale is alpha / sqrt(r), which is rsLoRA's: it should be alpha / r"
            mistakes.append((wrong, y + 6 / rank**0.5 * detour))
        if size == 5:
            flipped = x @ B @ A  # (B A)^T x
            wrong = "x goes through B A transposed: x meets A (r, in) first, then B (out, r)"
            mistakes += [(wrong, y + factor * flipped) for factor in (scale, 6.0, 1.0)]
            mistakes.append(("the detour reads y, it should read x", y + scale * (y @ A.T @ B.T)))
        compare(patch(x, y), y + scale * detour, "the output of forward", mistakes)
    half = patch(x.bfloat16(), y.bfloat16())
    expect(
        half.dtype == torch.bfloat16,
        f"forward turns a bfloat16 y into {half.dtype}: give the sum back in y's dtype",
    )


def _lora_delta(patch: nn.Module) -> None:
    """The detour as one matrix; in 6, out 4, r 2, alpha 6."""
    A, B = _fill(patch)
    delta = patch.delta()
    compare(
        delta,
        3 * B @ A,
        "delta",
        [
            ("delta is transposed: it is (out, in), like the weight it joins", 3 * (B @ A).T),
            ("delta lacks the scale alpha / r, so merging changes the answer", B @ A),
            ("delta is scaled by alpha, it should be alpha / r", 6 * B @ A),
        ],
    )


def _lora_gradient(patch: nn.Module) -> None:
    x = torch.randn(2, 3, 5, requires_grad=True)
    y = torch.randn(2, 3, 5)
    patch(x, y).square().sum().backward()
    A, B = weight(patch, "A"), weight(patch, "B")
    expect(
        B.grad is not None and B.grad.abs().max() > 0,
        "B gets no gradient at the first step: is something detached, or made a plain tensor?",
    )
    _fill(patch)
    x.grad = A.grad = None
    patch(x, y).square().sum().backward()
    expect(
        A.grad is not None and A.grad.abs().max() > 0,
        "A gets no gradient even when B is not zero: is something detached?",
    )
    expect(
        x.grad is not None and x.grad.abs().max() > 0,
        "x gets no gradient through the detour, so the layers below would not learn: do not detach",
    )


def _lora_dropout(LoRAPatch: type[nn.Module]) -> None:
    """One feature in, two ranks, two out: dropout on x switches both outputs together."""
    patch = LoRAPatch(1, 2, rank=2, alpha=2, dropout=0.5)
    with torch.no_grad():
        weight(patch, "A").copy_(torch.ones(2, 1))
        weight(patch, "B").copy_(torch.eye(2))
    x, y = torch.ones(1, 400, 1), torch.full((1, 400, 2), 10.0)
    patch.eval()
    compare(patch(x, y), y + 1, "the output with dropout in eval mode")
    patch.train()
    detour = patch(x, y) - y  # (1, 400, 2)
    if same(detour, torch.ones_like(detour)):
        raise CheckFailed("dropout is never applied in training")
    expect(detour.min() > -5, "dropout falls on the base path y: only x on its way into A drops")
    together = bool((detour[..., 0] == detour[..., 1]).all())
    expect(together, "dropout falls on the output of A or B: drop parts of x, before A")
