"""Three ways to learn from plain text, as data transforms: rows of ids in, a batch out.

| objective       | paper                             | the model sees        | and answers      |
|-----------------|-----------------------------------|-----------------------|------------------|
| causal          | Radford et al. 2018               | the words so far      | the next word    |
| masked          | Devlin et al. 2019, section 3.1   | 15 % of words hidden  | the hidden words |
| span_corruption | Raffel et al. 2020, section 3.1.4 | runs of words cut out | the runs, each   |
|                 |                                   |                       | after its gap    |

A batch is what a model takes: input_ids, attention_mask, labels (-100 where nothing is asked).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .tokenizer import SENTINELS, WordTokenizer


def pack(documents: list[list[int]], length: int, tokenizer: WordTokenizer) -> tuple[Tensor, list]:
    """Fill one row of `length` tokens with whole documents, `<bos> words <eos> words <eos> ...`.

    Returns:
        the row (length,), cut or padded at its end, and the documents that were not needed.
    """
    row = [tokenizer.bos_token_id]
    rest = list(documents)
    while rest and len(row) < length:
        row += [*rest.pop(0), tokenizer.eos_token_id]
    row = row[:length] + [tokenizer.pad_token_id] * (length - len(row))
    return torch.tensor(row), rest


def causal(ids: Tensor, tokenizer: WordTokenizer, generator=None) -> dict[str, Tensor]:
    """Every word is asked for, from the words before it. ids: (B, T)."""
    mask = (ids != tokenizer.pad_token_id).long()
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": ids.masked_fill(mask == 0, -100),
    }


def masked(
    ids: Tensor, tokenizer: WordTokenizer, generator=None, corruption_rate: float = 0.15
) -> dict[str, Tensor]:
    """Hide `corruption_rate` of the words: 80 % become <mask>, 10 % a random word, 10 % stay.

    ids: (B, T).
    """
    first = tokenizer.sep_token_id + 1 + len(SENTINELS)  # ids below are special tokens

    def uniform() -> Tensor:
        return torch.rand(ids.shape, generator=generator)

    chosen = (uniform() < corruption_rate) & (ids >= first)
    action = uniform()
    noise = torch.randint(first, len(tokenizer), ids.shape, generator=generator)
    hidden = ids.masked_fill(chosen & (action < 0.8), tokenizer.mask_token_id)
    hidden = torch.where(chosen & (action >= 0.9), noise, hidden)
    return {
        "input_ids": hidden,
        "attention_mask": (ids != tokenizer.pad_token_id).long(),
        "labels": ids.masked_fill(~chosen, -100),
    }


def span_corruption(
    documents: list[list[int]],
    tokenizer: WordTokenizer,
    generator=None,
    corruption_rate: float = 0.25,
    mean_span: float = 2.0,
) -> dict[str, Tensor]:
    """Cut runs of words out of each document and ask for them.

        source  <bos> anna <gap0> in <gap1> . <eos>
        target  <gap0> lives <gap1> paris <eos>

    Args:
        documents: rows of ids without <bos> and <eos>, of any length.
        corruption_rate: about this share of the words is cut out, at least one.
        mean_span: mean length of a run.
    """
    gaps = tokenizer.convert_tokens_to_ids(list(SENTINELS))
    sources, targets = [], []
    for document in documents:
        T = len(document)
        spans = min(len(gaps), max(1, round(T * corruption_rate / mean_span)))
        cut = torch.zeros(T, dtype=torch.bool)
        for _ in range(spans):
            length = 1 + int(torch.rand((), generator=generator) * (2 * mean_span - 1))
            start = int(torch.randint(0, max(1, T - length + 1), (), generator=generator))
            cut[start : start + length] = True
        source, target, inside, number = [tokenizer.bos_token_id], [], False, 0
        for word, hidden in zip(document, cut.tolist(), strict=True):
            if hidden and not inside:
                source.append(gaps[number])
                target.append(gaps[number])
                number += 1
            (target if hidden else source).append(word)
            inside = hidden
        sources.append([*source, tokenizer.eos_token_id])
        targets.append([*target, tokenizer.eos_token_id])
    return pairs(sources, targets, tokenizer)


def pairs(sources: list[list[int]], targets: list[list[int]], tokenizer) -> dict[str, Tensor]:
    """Sources and targets of any length -> one padded batch for an encoder-decoder."""
    batch = tokenizer.pad(sources, "right")
    answer = tokenizer.pad(targets, "right")
    labels = answer["input_ids"].masked_fill(answer["attention_mask"] == 0, -100)
    return batch | {"labels": labels}
