"""The causal objective: Radford et al. 2018."""

from __future__ import annotations

import torch

from minipeft.checks.framework import OMIT, Case, Check, Draw, Trial, call, mistake
from tiny_transformer.tokenizer import WordTokenizer

TOKENIZERS = {
    kind: WordTokenizer([f"w{number}" for number in range(50)]) for kind in ("usual", "other")
}
TOKENIZERS["other"].pad_token_id, TOKENIZERS["other"].unk_token_id = 3, 0  # padding need not be 0


def inputs(case: Case, draw: Draw) -> dict:
    """ids (B, T): <bos> words <eos> and padding, on the left or the right, or none at all."""
    rows, tokenizer = [], TOKENIZERS[case.tokenizer]
    for row in range(case.B):
        words = torch.randint(14, len(tokenizer), (case.T,), generator=draw.generator).tolist()
        length = case.T if case.padding == "none" else max(1, case.T - 1 - row)
        rows.append(
            [tokenizer.bos_token_id, *words[1 : length - 1], tokenizer.eos_token_id][:length]
        )
    side = "left" if case.padding == "left" else "right"
    rows.append([tokenizer.bos_token_id, 20, tokenizer.unk_token_id, 4, 30, 2, 40][: case.T])
    ids = tokenizer.pad(rows[::-1], side)["input_ids"]
    generator = (
        torch.Generator().manual_seed(case.seed) if case.generator is True else case.generator
    )
    return {"ids": draw.whole(ids[: case.B]), "tokenizer": tokenizer, "generator": generator}


def run(causal, case: Case, given):
    return call(causal, given.ids, given.tokenizer, generator=given.generator)


MASK = "mask = (ids != tokenizer.pad_token_id).long()"
LABELS = '"labels": ids.masked_fill(mask == 0, -100)'
RIGHT = "ids.masked_fill(mask == 0, -100)"
TWICE = (
    "the labels are shifted here: the model shifts them again, and would learn the word after "
    "the next"
)


def labelled(sentence: str, wrong: str):
    return mistake(sentence, (LABELS, f'"labels": {wrong}'))


MISTAKES = [
    mistake(
        "padding has not always the id 0: ask the tokenizer, tokenizer.pad_token_id",
        when=lambda view: view.case.tokenizer == "other" and view.difference.kind == "value",
    ),
    mistake(
        "the batch should be a dict (is a return missing?)",
        when=lambda view: view.difference.kind == "type" and not view.difference.where,
    ),
    labelled(TWICE, f"torch.nn.functional.pad({RIGHT}[:, 1:], (0, 1), value=-100)"),
    labelled(TWICE, "ids[:, 1:]"),
    labelled(TWICE, f"{RIGHT}[:, 1:]"),
    labelled(TWICE, f"{RIGHT}.roll(-1, 1)"),
    labelled(TWICE, "ids.roll(-1, 1).masked_fill(mask == 0, -100)"),
    labelled(TWICE, "ids.roll(-1, 1)"),
    labelled(TWICE, "torch.nn.functional.pad(ids[:, 1:], (0, 1), value=-100)"),
    labelled(
        TWICE,
        "torch.nn.functional.pad(ids[:, 1:], (0, 1), value=-100).masked_fill(mask == 0, -100)",
    ),
    labelled(
        "the labels are shifted to the right: label t is word t",
        f"torch.nn.functional.pad({RIGHT}[:, :-1], (1, 0), value=-100)",
    ),
    labelled("padding is asked for: its labels should be -100", "ids"),
    mistake(
        "padding is not looked for: its labels should be -100, its attention_mask 0",
        (LABELS, '"labels": ids'),
        (MASK, "mask = (ids == ids).long()"),
    ),
    labelled(
        "the end of a text is not asked for: the model must learn to stop, so <eos> counts",
        f"{RIGHT}.masked_fill(ids == tokenizer.eos_token_id, -100)",
    ),
    labelled(
        "the start of a text is taken out of the labels: label t is word t, the model drops <bos> "
        "itself when it shifts",
        f"{RIGHT}.masked_fill(ids == tokenizer.bos_token_id, -100)",
    ),
    labelled(
        "unknown and masked words are taken out of the labels: only padding is",
        f"{RIGHT}.masked_fill((ids > 2) & (ids < 14), -100)",
    ),
    labelled("padding gets the label 0, which is a word of the vocabulary: use -100", "ids * mask"),
    labelled(
        "padding gets the label -1: what does not count is -100", "ids.masked_fill(mask == 0, -1)"
    ),
    labelled("every label is -100: only padding is not asked for", "ids * 0 - 100"),
    labelled(
        "the labels are upside down: -100 stands on the words", "ids.masked_fill(mask == 1, -100)"
    ),
    mistake(
        "the last word is cut off: the model drops what it does not need",
        ('"input_ids": ids', '"input_ids": ids[:, :-1]'),
    ),
    mistake(
        "the first word is cut off: the model drops what it does not need",
        ('"input_ids": ids', '"input_ids": ids[:, 1:]'),
    ),
    mistake(
        "the inputs hold the labels' -100, which is no word: input_ids are the ids as they came",
        ('"input_ids": ids', f'"input_ids": {RIGHT}'),
    ),
    mistake(
        "attention_mask is 1 on padding too: it is 1 on real tokens only",
        ('"attention_mask": mask', '"attention_mask": mask * 0 + 1'),
    ),
    mistake(
        "attention_mask is upside down: 1 on real tokens, 0 on padding",
        ('"attention_mask": mask', '"attention_mask": 1 - mask'),
    ),
    mistake(
        "attention_mask is what is added to the scores: the model makes that itself, here it is 1 "
        "on real tokens and 0 on padding",
        ('"attention_mask": mask', '"attention_mask": (1 - mask) * -10000'),
    ),
    mistake(
        "padding is looked for behind the text only, by the number of its tokens: it may stand "
        "before it",
        (
            MASK,
            "mask = (torch.arange(ids.shape[1]) < (ids != tokenizer.pad_token_id)"
            ".sum(1, keepdim=True)).long()",
        ),
    ),
    mistake(
        "padding is looked for behind the text only, from the first one on: it may stand before it",
        (MASK, "mask = (ids != tokenizer.pad_token_id).long().cumprod(1)"),
    ),
    mistake(
        "padding is looked for before the last word only: it may stand before the text",
        (MASK, "mask = (ids != tokenizer.pad_token_id).flip(1).long().cummax(1).values.flip(1)"),
    ),
    mistake(
        "padding is looked for in the first row only: each row has its own",
        (MASK, "mask = (ids[:1] != tokenizer.pad_token_id).long().expand_as(ids)"),
    ),
    mistake(
        "what stands behind <eos> is taken for padding, and nothing else: ask for "
        "tokenizer.pad_token_id",
        (
            MASK,
            "ends = (ids == tokenizer.eos_token_id).long()\n"
            "    mask = (ends.cumsum(1) - ends == 0).long()",
        ),
    ),
    mistake(
        "attention_mask is the triangle of the past: the model adds that itself, here it is 1 on "
        "real tokens, (B, T)",
        when=lambda view: (
            view.difference.where == "attention_mask" and view.difference.kind == "shape"
        ),
    ),
]

causal = Check(
    "causal",
    "tiny_transformer.objectives:causal",
    "inputs unchanged, labels the same words in the same places, -100 at padding",
    [
        Trial(
            "the batch",
            inputs,
            run,
            axes={
                "B": (2, 1, 3),
                "T": (6, 1, 3),
                "padding": ("right", "left", "none"),
                "generator": (OMIT, None, True),
                "tokenizer": ("usual", "other"),
            },
            dtypes=("float32",),
            free_dtype=("attention_mask",),
            gradients=("on",),
            more_keys=True,
        )
    ],
    MISTAKES,
)
