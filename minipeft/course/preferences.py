"""Lesson 19, second half: a judge, pairs of answers, tuning on them, five runs, four of them ill.

Asked `in peru`, a decoder of Tinyland goes on with the money, the government or the language. The
*judge* stands for a person who writes nothing, and only says which of two answers is better: a
traveller, to whom the language is worth more than the capital, and the capital more than the money.

    pairs = judged_pairs(model, tokenizer, opened("train"), seed=0)     # (question, better, worse)
    batch = as_batch(pairs, model, tokenizer)            # for `prefer` of training/preferences.py
    score(model, tokenizer, opened("test"), seed=0)      # what the judge thinks now, -1 to 2
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache, lru_cache

import torch
from torch import Tensor, nn

from minipeft.attached import tuners
from minipeft.course.runs import attached
from minipeft.generation import generate
from minipeft.methods.lora import LoRA
from minipeft.model.kind import kind_of
from minipeft.report import Table
from minipeft.tasks.encoding import Encoding
from minipeft.tasks.tasks import load, make
from minipeft.training import preferences
from minipeft.training.loop import train
from minipeft.tuner import Tuner

OPENING, OTHER_OPENING = "in {x}", "at night in {x}"
SAID = {  # what an answer of the base says, and what that is worth
    "language": ("you hear {y} in the street", 2),
    "capital": ("the government sits in {y}", 1),
    "currency": ("the shops take the {y}", 0),
}
WRONG = -1  # not true, or nothing of the kind

Pair = tuple[str, str, str]  # question, better answer, worse answer


@cache
def facts(relation: str) -> Mapping[str, str]:
    """Country -> its language, capital or currency."""
    task = load(relation)
    return {e.input: e.target for split in ("train", "dev", "test") for e in task.examples(split)}


def opened(split: str, opening: str = OPENING) -> list[str]:
    """The countries of a split as questions. Nothing is judged of those of dev and test."""
    return [opening.format(x=example.input) for example in load("capital").examples(split)]


def judge(question: str, answer: str) -> int:
    """What the judge thinks: 2 for the language, 1 for the capital, 0 for the money, -1 if that is
    not true or something else. Only the first sentence counts."""
    country, said = question.split()[-1], answer.removesuffix(".").strip()
    for relation, (words, worth) in SAID.items():
        if said == words.format(y=facts(relation).get(country)):
            return worth
    return WRONG


def write(
    model: nn.Module,
    tokenizer,
    questions: Sequence[str],
    sample: bool = True,
    seed: int = 0,
    words: int = 10,
) -> list[str]:
    """An answer to each question, one sentence, drawn or greedy."""
    ids = [list(tokenizer(q, return_tensors=None)["input_ids"]) for q in questions]
    longest, pad = max(map(len, ids)), tokenizer.pad_token_id
    end = tokenizer(" .", return_tensors=None, add_special_tokens=False)["input_ids"][0]
    batch = torch.tensor([[pad] * (longest - len(row)) + row for row in ids])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids])
    options = dict(max_new_tokens=words, sample=sample, seed=seed, eos_token_id=end)
    written = generate(model, batch, mask, **options)[:, longest:].tolist()
    rows = [row[: row.index(end)] if end in row else row for row in written]
    return [f"{tokenizer.decode(row)} ." for row in rows]


def score(
    model: nn.Module, tokenizer, questions: Sequence[str], seed: int, draws: int = 2
) -> float:
    """Mean of what the judge thinks of answers that are drawn, -1 to 2."""
    worth = [
        judge(question, answer)
        for draw in range(draws)
        for question, answer in zip(
            questions, write(model, tokenizer, questions, seed=1000 * seed + draw), strict=True
        )
    ]
    return sum(worth) / len(worth)


def judged_pairs(
    model: nn.Module, tokenizer, questions: Sequence[str], seed: int = 0, draws: int = 2
) -> list[Pair]:
    """Two answers of the model to every question, so many times; those pairs of which the judge
    likes one better."""
    pairs = []
    for draw in range(draws):
        first, second = (
            write(model, tokenizer, questions, seed=500_000 + 1000 * seed + 2 * draw + i)
            for i in range(2)
        )
        for question, one, other in zip(questions, first, second, strict=True):
            a, b = judge(question, one), judge(question, other)
            if a != b:
                pairs.append((question, one, other) if a > b else (question, other, one))
    return pairs


@lru_cache(maxsize=8)
def pairs_of_the_base(
    model: nn.Module, tokenizer, seed: int, draws: int
) -> tuple[list[Pair], list[Pair]]:
    """Pairs of the train and of the test countries, judged once for all runs of a seed.

    Raises:
        ValueError: there is a tuner on the model, so that it is not the base that speaks.
    """
    if tuners(model):
        raise ValueError("The pairs are to be the base's answers: detach its tuners first.")
    train_pairs, test_pairs = (
        judged_pairs(model, tokenizer, opened(split), seed, draws) for split in ("train", "test")
    )
    return train_pairs, test_pairs


def as_batch(pairs: Sequence[Pair], model: nn.Module, tokenizer) -> dict[str, Tensor]:
    """A batch of 2 B rows: the better answers, then the worse ones."""
    rows = [(q, better) for q, better, _ in pairs] + [(q, worse) for q, _, worse in pairs]
    task = make("pairs", "generate", test=rows)
    return Encoding(task, tokenizer, kind_of(model)).batch(task.test)


def winners(pairs: Sequence[Pair]):
    """The better answers as a task, for supervised tuning."""
    return make("winners", "generate", train=[(question, better) for question, better, _ in pairs])


def tuned(
    pair: tuple[nn.Module, object],
    method: LoRA,
    kind: str,
    rate: float,
    steps: int,
    seed: int,
    *,
    beta: float = 0.1,
    pairs_per_step: int = 8,
    draws: int = 2,
    known=None,
) -> dict:
    """Tune on pairs ("DPO") or on their better answers alone ("SFT"), ask the judge, detach.

    A step of either sees equally many answers: 8 pairs, or 16 better answers.

    Returns:
        "dev", lower is better: minus the score on the countries of dev.  "test", "other": scores on
        held-out countries, opened as the pairs were or otherwise.  "right": share of held-out
        pairs whose better answer has the higher reward.  "drift": nats per token.  "forgotten".
        "history": of DPO.
    """
    model, tokenizer = pair
    pairs, held_out = pairs_of_the_base(model, tokenizer, seed, draws)
    held = as_batch(held_out, model, tokenizer)
    with attached(model, method, seed=seed) as tuner:
        history = None
        if kind == "DPO":
            batch = as_batch(pairs, model, tokenizer)
            history = preferences.prefer(
                *(model, tuner, batch, steps, rate),
                **dict(beta=beta, batch_size=pairs_per_step, seed=seed, progress=False),
            )
        elif steps:
            feed = winners(pairs).batches(
                "train", tokenizer, batch_size=2 * pairs_per_step, seed=seed
            )
            train(model, feed, steps, rate, seed=seed, progress=False)
        measured = {
            "dev": -score(model, tokenizer, opened("dev"), seed, 4),
            "test": score(model, tokenizer, opened("test"), seed),
            "other": score(model, tokenizer, opened("test", OTHER_OPENING), seed),
            "right": right_pairs(model, tuner, held),
            "drift": preferences.drift(model, tuner, held),
            "history": history,
            "pairs": len(pairs),
        }
        return measured | (known.forgotten(model) if known else {})


def right_pairs(model: nn.Module, tuner: Tuner, pairs: dict[str, Tensor]) -> float:
    """Share of the pairs whose better answer has the higher reward."""
    with tuner.disabled():
        before = preferences.log_probabilities(model, pairs)
    better, worse = (preferences.log_probabilities(model, pairs) - before).chunk(2)
    return (better > worse).float().mean().item()


def mixture(model: nn.Module, tokenizer, questions: Sequence[str], seed: int = 0) -> dict:
    """Share of the answers that say what: "language", "capital", "currency", "other"."""
    worth = {value: relation for relation, (_, value) in SAID.items()} | {WRONG: "other"}
    said = [
        worth[judge(question, answer)]
        for draw in range(4)
        for question, answer in zip(
            questions, write(model, tokenizer, questions, seed=1000 * seed + draw), strict=True
        )
    ]
    return {name: said.count(name) / len(said) for name in (*SAID, "other")}


# ---- the reference ----


def reference_table(model: nn.Module, tuner: Tuner, pairs: dict[str, Tensor]) -> tuple[Table, dict]:
    """log pi_ref of a frozen copy of the base and of the model with the tuner off, and bytes."""
    with tuner.disabled():
        off = preferences.log_probabilities(model, pairs)
    on = preferences.log_probabilities(model, pairs)
    copied = deepcopy(tuner.model)
    for other in list(tuners(copied).values()):
        other.detach()
    copy = preferences.log_probabilities(copied, pairs)
    size = sum(parameter.nbytes for parameter in copied.parameters())
    most = lambda a, b: (a - b).abs().max().item()  # noqa: E731
    rows = [
        ("a frozen copy of the base", f"{size:,}", "-"),
        ("this model, tuner off", "0", f"{most(off, copy):.2g}"),
        ("this model, tuner on", "0", f"{most(on, copy):.2g}"),
    ]
    table = Table(
        "Who can be the reference?",
        ("", "bytes besides", "log π_ref differs by up to (nats)"),
        rows,
    )
    return table, {"bytes": size, "equal": torch.equal(off, copy)}


# ---- patients ----

CAUSES = {
    "moving": "the reference is the model as it is now: the tuner was not switched off",
    "none": "there is no reference: its log-probabilities count as 0",
    "swapped": "better and worse have changed places",
    "beta": "beta is a thousand times too large",
    "healthy": "nothing is wrong",
}
PATIENTS = {"A": "swapped", "B": "none", "C": "healthy", "D": "moving", "E": "beta"}


def ill(
    pair: tuple[nn.Module, object], pairs: Sequence[Pair], cause: str, steps: int, rate: float
) -> dict:
    """A DPO with one of CAUSES, all pairs in every step; what can be seen of it from outside."""
    model, tokenizer = pair
    batch = as_batch(pairs, model, tokenizer)
    given = {key: value for key, value in batch.items() if key != "labels"}
    beta, losses = 100.0 if cause == "beta" else 0.1, []
    with attached(model, LoRA(8, alpha=16), seed=0) as tuner:
        with tuner.disabled():
            before = preferences.log_probabilities(model, batch)
        optimizer = torch.optim.AdamW(tuner.parameters(), rate, weight_decay=0.0)
        for _ in range(steps):
            log_pi = preferences.answer_log_probability(model(**given).logits, batch["labels"])
            reference = {"moving": log_pi.detach(), "none": torch.zeros_like(before)}
            answers = (*log_pi.chunk(2), *reference.get(cause, before).chunk(2))  # (B,) each
            if cause == "swapped":
                answers = tuple(answers[i] for i in (1, 0, 3, 2))
            loss = preferences.dpo_loss(*answers, beta)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        better, worse = (preferences.log_probabilities(model, batch) - before).chunk(2)
        return {
            "first": losses[0],
            "last": losses[-1],
            "better": better.mean().item(),
            "worse": worse.mean().item(),
            "drift": preferences.drift(model, tuner, batch),
        }


def patients_table(
    pair: tuple[nn.Module, object], pairs: Sequence[Pair], steps: int = 25, rate: float = 3e-4
) -> Table:
    """What can be seen of every patient, see `ill`."""
    rows = []
    for who, cause in PATIENTS.items():
        seen = ill(pair, pairs, cause, steps, rate)
        moved = (f"{seen[name]:+.2f}" for name in ("better", "worse"))
        losses = (f"{seen[name]:.3f}" for name in ("first", "last"))
        rows.append((who, *losses, *moved, f"{seen['drift']:.3f}"))
    head = ("", "loss, step 1", f"loss, step {steps}", "log pi of the better: change")
    head += ("of the worse", "drift, nats per token")
    return Table(f"Five runs of DPO, {len(pairs)} pairs, {steps} steps", head, rows)
