"""Checks for what a transformer is trained on: the loss and the masked objective."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minipeft.checks.framework import CheckFailed, check, compare, expect


@check("mean of -log p(label) over the labels that are not -100")
def cross_entropy(function: Callable) -> None:
    """cross_entropy(logits, labels): (B, T, V), (B, T) -> one number, in nats."""
    logits = torch.randn(2, 4, 7) * 3
    labels = torch.tensor([[1, 2, -100, 3], [0, -100, -100, 6]])
    chosen = labels != -100
    probability = logits.softmax(-1)[chosen][torch.arange(5), labels[chosen]]  # p(label), (5,)
    every = logits.softmax(-1).gather(-1, labels.clamp(min=0)[..., None])
    answer = function(logits, labels)
    expect(
        isinstance(answer, Tensor) and answer.numel() == 1,
        "the loss is one number: take the mean over all labels that count",
    )
    mistakes = [
        ("labels of -100 count as word 0: leave them out", -every.log().mean()),
        ("this is the sum: divide by the number of labels that count", -probability.log().sum()),
        ("divide by the labels that count, not by all of them", -probability.log().sum() / 8),
        ("the logarithm is missing: the loss is -log p", -probability.mean()),
        ("the logarithm is missing: the loss is -log p", 1 - probability.mean()),
        ("the sign is wrong: the loss is -log p", probability.log().mean()),
        ("the loss is in bits: use the natural logarithm", -probability.log2().mean()),
        ("the softmax is missing: the loss is -logit", -_label_scores(logits, labels).mean()),
        (
            "the softmax is done twice: cross_entropy takes logits",
            -_label_scores(logits.softmax(-1).log_softmax(-1), labels).mean(),
        ),
    ]
    compare(answer.reshape(()), -probability.log().mean(), "the loss", mistakes)
    expect(
        bool(torch.isfinite(function(logits * 100, labels)).all()),
        "with large logits the loss is infinite: use log_softmax, not log(softmax)",
    )
    logits.requires_grad_()
    function(logits, labels).backward()
    expect(logits.grad is not None, "the logits get no gradient: do not detach")


def _label_scores(scores: Tensor, labels: Tensor) -> Tensor:
    chosen = labels != -100
    return scores[chosen][torch.arange(int(chosen.sum())), labels[chosen]]


class _Words:
    """As much of a tokenizer as `masked` asks for: ids 0..13 are special, 14..213 are words."""

    pad_token_id, bos_token_id, eos_token_id, unk_token_id, mask_token_id, sep_token_id = range(6)

    def __len__(self) -> int:
        return 214


@check("15 % of the words chosen; of these 80 % <mask>, 10 % random, 10 % kept; other labels -100")
def masked(function: Callable) -> None:
    """Devlin et al. 2019, section 3.1. masked(ids, tokenizer, generator) -> a batch."""
    words = _Words()
    ids = torch.randint(14, 214, (60, 400))
    ids[:, 0] = words.bos_token_id
    ids[:, -5:] = words.pad_token_id
    before = ids.clone()
    batch = function(ids, words, torch.Generator().manual_seed(0))
    expect(bool((ids == before).all()), "the ids that came in were changed: work on a copy")
    inputs, labels = batch["input_ids"], batch["labels"]
    chosen = labels != -100
    share = chosen[ids > 13].double().mean().item()
    expect(share < 0.9, "every word has a label: words that were not chosen get -100")
    expect(
        not chosen[ids <= 13].any(), "special tokens (padding, <bos>) are chosen: only words are"
    )
    expect(
        bool((labels[chosen] == ids[chosen]).all()),
        "the labels must be the words that stood there before they were hidden",
    )
    expect(abs(share - 0.15) < 0.02, f"{share:.0%} of the words are chosen, it should be 15 %")
    expect(
        bool((inputs[~chosen] == ids[~chosen]).all()),
        "words that were not chosen are changed: leave them as they are",
    )
    hidden = (inputs[chosen] == words.mask_token_id).double().mean().item()
    kept = (inputs[chosen] == ids[chosen]).double().mean().item()
    if hidden > 0.97:
        raise CheckFailed("all chosen words become <mask>: 10 % become a random word, 10 % stay")
    expect(abs(hidden - 0.8) < 0.05, f"{hidden:.0%} of the chosen become <mask>: it should be 80 %")
    expect(
        bool((inputs[chosen & (inputs != words.mask_token_id)] > 13).all()),
        "a random word is drawn among the special tokens: draw among the words",
    )
    expect(abs(kept - 0.1) < 0.03, f"{kept:.0%} of the chosen words stay: it should be 10 %")
    expect(
        bool((batch["attention_mask"] == (ids != words.pad_token_id)).all()),
        "attention_mask is 1 on every token but padding, <mask> included",
    )
