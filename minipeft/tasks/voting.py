"""Votes of an ensemble of prompts (Lester et al. 2021, section 3): one frozen model, one pass.

    mp.attach(model, mp.PromptTuning(length=5, ensemble=5)); mp.train(...)
    classes = vote(model, batch)                          # (B,)
    texts = vote_written(model, ids, max_new_tokens=8)    # (B, T)

Every row is shown E times, to prompt 0 .. E - 1 in turn. Members that disagree one against one are
decided by the sum of their probabilities, written answers by the first that was given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn

from minipeft.attached import tuners
from minipeft.generation import generate
from minipeft.methods.prompt_tuning import PromptTuning
from minipeft.routing import wrap


def members(model: nn.Module) -> int:
    """E of the ensemble that is attached and enabled."""
    ensembles = [
        t for t in tuners(model).values() if t.enabled and isinstance(t.method, PromptTuning)
    ]
    if len(ensembles) != 1 or model.minipeft.routing is not None:
        raise ValueError(
            "A vote needs exactly one enabled PromptTuning on the model, and no route(): disable "
            "the others."
        )
    return ensembles[0].method.ensemble


def repeated(batch: dict, times: int) -> dict:
    """Every row so many times in succession: (B, ..) -> (B times, ..)."""
    return {
        k: v.repeat_interleave(times, dim=0) if isinstance(v, Tensor) and v.dim() else v
        for k, v in batch.items()
        if k != "labels"
    }


@torch.no_grad()
def vote(model: nn.Module, batch: dict, score: Callable | None = None) -> Tensor:
    """The class that most prompts choose for each row: (B,).

    score: (model, batch) -> (B, labels), for a model without a classification head: for example
        lambda model, batch: minipeft.cloze(model, batch, words).
    """
    E = members(model)
    batch = repeated(batch, E)
    scores = score(model, batch) if score else model(**wrap(model, batch)).logits
    return majority(scores.unflatten(0, (-1, E)))


def majority(scores: Tensor) -> Tensor:
    """Scores (B, E, labels) -> the label with most votes, (B,)."""
    shares = scores.softmax(dim=-1)  # (B, E, labels)
    votes = torch.zeros_like(shares).scatter(-1, shares.argmax(-1, keepdim=True), 1.0)
    return (votes.sum(dim=1) + shares.mean(dim=1) / 2).argmax(dim=-1)  # a tie-breaker below 1


def vote_written(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor | None = None, **options
) -> Tensor:
    """The text that most prompts write for each row, as `minipeft.generate` gives it: (B, T)."""
    E = members(model)
    batch = {"input_ids": input_ids}
    if attention_mask is not None:
        batch["attention_mask"] = attention_mask
    written = generate(model, **repeated(batch, E), **options)  # (B E, T)
    best = []
    for texts in written.unflatten(0, (-1, E)).tolist():
        best.append(Counter(map(tuple, texts)).most_common(1)[0][0])
    return torch.tensor(best, device=written.device)
