"""Preference tuning by DPO (Rafailov et al. 2023, arXiv 2305.18290), with a tuner.

    history = prefer(model, tuner, pairs, steps=60, learning_rate=1e-3, beta=0.1)

Somebody was shown two answers y to a question x, and liked one better, y_w, than the other, y_l.
Section 4:

    L = -log sigmoid( beta log(pi(y_w|x) / pi_ref(y_w|x)) - beta log(pi(y_l|x) / pi_ref(y_l|x)) )
                                                                                        (eq. 7)
    pi       the model that is trained    pi_ref   the model before    beta   how far it may go

beta log(pi / pi_ref) is called the (implicit) reward of an answer. No reward model is trained and
nothing is sampled while training. And no second model is needed as pi_ref: it is the *same model
with the tuner off*, asked once before the first step.

Shapes: B pairs, T tokens, V words. A batch of pairs has 2 B rows: the better answers, then the
worse ones, in the same order; labels are -100 on the question and on padding.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from minipeft.contexts import evaluating, modes_kept, seeded
from minipeft.routing import wrap
from minipeft.training.batches import without_labels
from minipeft.training.schedule import learning_rate_at
from minipeft.tuner import Tuner


def answer_log_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """log pi(y|x) of every row, the sum over the tokens of its answer: (B,), in float32 or better.

    Args:
        logits: (B, T, V) of a causal model: position t says what comes at t + 1.
        labels: (B, T), the ids of the answer; -100 on the question and on padding.
    """
    logits = logits[:, :-1].to(torch.promote_types(logits.dtype, torch.float32))  # (B, T - 1, V)
    labels = labels[:, 1:]  # (B, T - 1)
    asked = labels != -100
    chosen = logits.log_softmax(dim=-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return (chosen * asked).sum(dim=1)


def dpo_loss(
    better: Tensor,
    worse: Tensor,
    reference_better: Tensor,
    reference_worse: Tensor,
    beta: float = 0.1,
) -> Tensor:
    """Equation 7, the mean over pairs: a number.

    Args:
        better, worse: log pi of the better and of the worse answers, (B,) each.
        reference_better, reference_worse: log pi_ref of the same answers, (B,) each.
        beta: times the rewards; the larger, the sooner a pair counts as learnt.
    """
    reward_better = beta * (better - reference_better)  # eq. 7: beta log(pi / pi_ref), (B,)
    reward_worse = beta * (worse - reference_worse)  # eq. 7: of the worse ones, (B,)
    return -F.logsigmoid(reward_better - reward_worse).mean()  # eq. 7: L


@dataclass
class PreferenceHistory:
    """What was seen in each step. losses: in nats.  margins: mean reward of the better answers
    minus that of the worse ones.  better, worse: mean log pi - log pi_ref."""

    losses: list[float] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    better: list[float] = field(default_factory=list)
    worse: list[float] = field(default_factory=list)


@torch.no_grad()
def log_probabilities(model: nn.Module, pairs: dict[str, Tensor], at_once: int = 16) -> Tensor:
    """log pi of all answers of a batch, in eval mode, some rows at a time: (rows,)."""
    parts = []
    with evaluating(model):
        for first in range(0, len(pairs["labels"]), at_once):
            rows = {key: value[first : first + at_once] for key, value in pairs.items()}
            parts.append(_of_rows(model, rows))
    return torch.cat(parts)


def _of_rows(model: nn.Module, rows: dict[str, Tensor]) -> Tensor:
    given = wrap(model, rows)  # while the labels say where an answer begins
    return answer_log_probability(model(**without_labels(given)).logits, given["labels"])


def check_pairs(pairs: dict[str, Tensor], beta: float, tuner: Tuner) -> None:
    """Raise what `prefer` says it raises."""
    labels = pairs.get("labels")
    if not isinstance(labels, Tensor) or labels.dim() != 2 or not len(labels) or len(labels) % 2:
        raise ValueError(
            "Pairs are one batch with labels (2 B, T): the better answers, then the worse ones."
        )
    if not bool((labels[:, 1:] != -100).any(dim=1).all()):
        raise ValueError("An answer has no labels: every row needs those of its answer, not -100.")
    if not beta > 0:
        raise ValueError("beta must be above 0: with 0 every pair has the loss log 2 for ever.")
    if tuner.words is not None:
        raise ValueError(
            "Preferences cannot be tuned with soft words: the reference would read other rows. "
            "Take a method of the weights or the memory door."
        )
    if not tuner.enabled or tuner.merged:
        raise ValueError(
            f"{tuner.name!r} is disabled or merged, so nothing of it would be trained: call "
            "enable() or unmerge() first."
        )


def prefer(
    model: nn.Module,
    tuner: Tuner,
    pairs: dict[str, Tensor],
    steps: int,
    learning_rate: float = 1e-3,
    *,
    beta: float = 0.1,
    batch_size: int = 8,
    seed: int = 0,
    clip: float = 1.0,
    progress: bool = True,
) -> PreferenceHistory:
    """Tune a tuner on pairs of answers by DPO; the reference is the model with that tuner off.

    Args:
        model: a causal language model.
        tuner: the one that is trained; others that are enabled act in the model and the reference.
        pairs: a batch of 2 B rows, see the head of this file.
        steps: of AdamW, with a linear warm-up over a tenth of them and a linear fall to 0.
        batch_size: pairs in a step, drawn without replacement until all were seen.
        seed: of the order of the pairs and of dropout.
        clip: longest gradient.

    Raises:
        ValueError: the pairs are no pairs, beta is not above 0, or the tuner cannot be trained.
    """
    check_pairs(pairs, beta, tuner)
    count, history = len(pairs["labels"]) // 2, PreferenceHistory()
    parameters = [p for p in tuner.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, learning_rate, weight_decay=0.0)
    generator, order = torch.Generator().manual_seed(seed), []
    with tuner.disabled():
        reference = log_probabilities(model, pairs)  # (2 B,), once: it does not change
    with seeded(seed), modes_kept(model):
        model.train()
        for step in tqdm(range(steps), disable=not progress, leave=False):
            while len(order) < min(batch_size, count):
                order += torch.randperm(count, generator=generator).tolist()
            chosen, order = torch.tensor(order[:batch_size]), order[batch_size:]
            rows = torch.cat([chosen, count + chosen])  # better, then worse
            log_pi = _of_rows(model, {key: value[rows] for key, value in pairs.items()})
            (better, worse), known = log_pi.chunk(2), reference[rows].chunk(2)
            loss = dpo_loss(better, worse, *known, beta)
            optimizer.param_groups[0]["lr"] = learning_rate_at(
                step, steps, learning_rate, 0.1, "linear"
            )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, clip)
            optimizer.step()
            moved = [(a - b).mean().item() for a, b in zip((better, worse), known, strict=True)]
            history.losses.append(loss.item())
            history.margins.append(beta * (moved[0] - moved[1]))
            history.better.append(moved[0])
            history.worse.append(moved[1])
    return history


@torch.no_grad()
def drift(model: nn.Module, tuner: Tuner, batch: dict[str, Tensor]) -> float:
    """KL(pi || pi_ref) in nats per labelled token: how far the tuner takes the model from itself.

    batch: as for `prefer`, of any number of rows; the words before a token are the batch's.
    """

    def spoken() -> Tensor:
        given = wrap(model, batch)
        asked = given["labels"][:, 1:] != -100  # (B, T - 1)
        logits = model(**without_labels(given)).logits[:, :-1][asked]  # (n, V)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)

    with evaluating(model):
        now = spoken()
        with tuner.disabled():
            before = spoken()
    return (now.exp() * (now - before)).sum(dim=-1).mean().item()
