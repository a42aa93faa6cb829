"""Prompts that a person writes, and what a frozen language model makes of them.

    accuracy(model, tokenizer, "the capital of {x} is", pairs)      # share of right answers
    accuracy(model, tokenizer, shots(examples) + "{x}:", pairs)     # in-context learning

A template is a text with {x} in it. An answer is right if its first token is the model's first
choice of all V tokens behind the filled template. Works with tiny_transformer and transformers.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from minipeft.contexts import evaluating
from minipeft.course.capitals import spelt
from minipeft.course.runs import quality
from minipeft.model.anatomy import Anatomy
from minipeft.report import Table
from minipeft.tasks import Task, load, make
from minipeft.tasks.encoding import Example
from tiny_transformer.models import Stack


def wordings(task: Task) -> dict[str, bool]:
    """Templates of a Tinyland relation that end where the answer begins: was it pretrained on?

    The six wordings of the corpus, its unused ones, and the bare {x} last.
    """
    known = [text for _, text in task.details["wordings"]]
    every = {text: text in known for text in [*known, *task.details["unused_wordings"]]}
    ends = " {y} ."
    asking = {text.removesuffix(ends): old for text, old in every.items() if text.endswith(ends)}
    return asking | {"{x}": False}


def ordinary(task: Task) -> dict[str, list[Example]]:
    """The splits of a Tinyland task in ordinary spelling: el_salvador -> El Salvador."""
    return {
        split: [Example(spelt(e.input), spelt(e.target)) for e in task.examples(split)]
        for split in ("train", "dev", "test")
    }


def shots(examples: Sequence[tuple[str, str]], pattern: str = "{x}: {y}\n") -> str:
    """Solved examples, one behind the other, to be put in front of a question."""
    return "".join(pattern.replace("{x}", x).replace("{y}", y) for x, y in examples)


def answers_moved(examples: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The same examples, each with the answer of the next one: the form is right, no answer is."""
    moved = [*examples[1:], *examples[:1]]
    return [(x, y) for (x, _), (_, y) in zip(examples, moved, strict=True)]


def accuracy(model: nn.Module, tokenizer, template: str, pairs: Sequence[tuple[str, str]]) -> float:
    """Share of (x, answer) pairs whose answer's first token is the model's first choice.

    Raises:
        ValueError: no {x} in the template, or no pairs.
    """
    if "{x}" not in template or not pairs:
        raise ValueError("accuracy needs a template with {x} in it and one or more pairs.")
    chosen = next_logits(model, tokenizer, [template.replace("{x}", x) for x, _ in pairs]).argmax(1)
    first = [_ids(tokenizer, f" {answer}", special=False)[0] for _, answer in pairs]
    return (chosen.cpu() == torch.tensor(first)).float().mean().item()


@torch.no_grad()
def next_logits(model: nn.Module, tokenizer, texts: Sequence[str]) -> Tensor:
    """Logits of the token behind each text: (N, V).

    What all texts begin with, solved examples say, goes through a model of transformers only once:
    its keys and values are kept and shared by all rows.
    """
    rows = [_ids(tokenizer, text) for text in texts]
    shared = 0 if isinstance(model, Stack) else _common(rows)  # Stack: of tiny_transformer
    rest = [row[shared:] for row in rows]
    T, pad = max(map(len, rest)), tokenizer.pad_token_id
    device = Anatomy(model).words().module.weight.device
    ids = torch.tensor([row + [pad] * (T - len(row)) for row in rest], device=device)  # (N, T)
    mask = torch.tensor([[1] * (shared + len(row)) + [0] * (T - len(row)) for row in rest])
    batch = {"input_ids": ids, "attention_mask": mask.to(device)}
    with evaluating(model):
        if shared:
            begin = torch.tensor([rows[0][:shared]], device=device)
            cache = model(begin, use_cache=True, logits_to_keep=1).past_key_values
            cache.batch_repeat_interleave(len(rows))
            batch["past_key_values"] = cache
        logits = model(**batch).logits  # (N, T, V)
    return behind_last(logits, batch["attention_mask"][:, shared:])


def behind_last(logits: Tensor, mask: Tensor) -> Tensor:
    """The prediction behind each row's last token: logits (B, T, V) -> (B, V).

    mask: (B, T), 1 at tokens and 0 at padding, which may stand behind a row or before it.
    """
    rows = torch.arange(len(mask), device=mask.device)  # (B,)
    places = torch.arange(mask.shape[1], device=mask.device)  # (T,)
    last = (mask * places).argmax(dim=1)  # (B,), the rightmost place with a 1
    return logits[rows, last]


def _common(rows: list[list[int]]) -> int:
    """How many first tokens all rows share; each keeps one or more of its own."""
    shortest = min(map(len, rows)) - 1
    return next((n for n in range(shortest) if len({row[n] for row in rows}) > 1), shortest)


def _ids(tokenizer, text: str, special: bool = True) -> list[int]:
    return list(tokenizer(text, add_special_tokens=special, return_tensors=None)["input_ids"])


def one_word_changed(template: str, words: Sequence[str], seed: int) -> list[str]:
    """For every word of a template but {x}: the template with another word in its place."""
    draw, parts, changed = random.Random(seed), template.split(), []
    for place, part in enumerate(parts):
        if "{x}" not in part:
            other = draw.choice([word for word in words if word != part])
            changed.append(" ".join([*parts[:place], other, *parts[place + 1 :]]))
    return changed


def asked(task: Task, template: str) -> Task:
    """The task with its inputs put into a template, for tasks that ask for whole texts."""
    splits = {
        split: [(template.replace("{x}", e.input), e.target) for e in task.examples(split)]
        for split in ("dev", "test", "ood")
    }
    return make(f"{task.name}, asked", task.kind, labels=task.labels, **splits)


def best_chain(
    model: nn.Module, tokenizer, task: Task, names: Sequence[str], rows: int = 50
) -> tuple[str, float, int]:
    """The best way of naming one or two functions before a row of nouns: chosen on dev.

    Returns:
        (template, exact match on test, how many templates were tried).
    """
    templates = [f"{a} : {{x}}" for a in names]
    templates += [f"{a} {middle}{b} : {{x}}" for a in names for b in names for middle in ("", ": ")]
    dev = {
        text: quality(model, tokenizer, asked(task, text), "dev", rows=rows) for text in templates
    }
    best = max(dev, key=dev.get)
    return best, quality(model, tokenizer, asked(task, best), "test", rows=rows), len(templates)


def string_functions() -> tuple[str, ...]:
    """What Tinyland's rows of nouns can be asked for by name."""
    names = ("copy", "double", "last", "reverse", "rotate", "swap")
    return tuple(name for name in names if load(name).family == "latent")


def passport(model: nn.Module, tokenizer, template: str, latent: float, novel: float) -> Table:
    """The answers of a written prompt to the questions of `minipeft.course.passport`.

    Args:
        latent, novel: exact match on the two tasks of the passports, as measured by the caller.
    """
    fixed = len(_ids(tokenizer, template.replace("{x}", ""), special=False))
    rows = [
        ("door", "words"),
        ("parameters trained", "0"),
        ("bytes on disk", f"{len(template.encode())} (the text)"),
        ("identity at the start", "no: words that are read change the answer, as they should"),
        ("can be merged", "no"),
        ("mixed batches", "yes: each row has its own words"),
        ("costs with every question", f"{fixed} tokens in every layer, and as many positions"),
        ("latent task: exact match", f"{100 * latent:.0f} %"),
        ("novel task: exact match", f"{100 * novel:.0f} % (best of all that were tried)"),
        ("forgotten", "0.0 %: no weight moves"),
        ("learning rate", "none; labelled examples are needed to choose the wording"),
    ]
    return Table(f"Passport of a written prompt, {template!r}", ("", "measured"), rows, [])
