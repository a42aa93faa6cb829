"""Section `pretraining_step`: one training step of tiny_transformer against transformers' class.

The same configuration, weights, batch and optimizer; a step is forward, backward and AdamW. Both
sides must reach the same losses, or the times mean nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import torch
from torch import Tensor

import tiny_transformer as tt

from .measuring import HOW, Sheet, Times, bars, busy, milliseconds, ratio, spread, take_turns

TINY = {"vocab_size": 900, "width": 128, "heads": 4, "positions": 96}
SHAPES = {  # name: (layout, numbers, rows, tokens, share of the tokens that is padding)
    "smallest": ("gpt2", TINY | {"layers": 1}, 2, 16, 0.0),  # for --quick
    "tiny-decoder": ("gpt2", TINY | {"layers": 4}, 16, 96, 0.0),
    "tiny-decoder, padded": ("gpt2", TINY | {"layers": 4}, 16, 96, 0.25),
    "tiny-encoder": ("bert", TINY | {"layers": 4}, 32, 48, 0.25),
    "tiny-encoder-decoder": ("bart", TINY | {"layers": 3}, 32, 32, 0.25),
    "GPT-2 shape, 6 x 384": (
        "gpt2",
        {"vocab_size": 5000, "width": 384, "heads": 6, "layers": 6, "positions": 128},
        *(8, 128, 0.0),
    ),
}
CLASSES = {
    "gpt2": (tt.Decoder, "GPT2LMHeadModel"),
    "bert": (tt.Encoder, "BertForMaskedLM"),
    "bart": (tt.EncoderDecoder, "BartForConditionalGeneration"),
}


def batch_of(layout: str, V: int, rows: int, tokens: int, padding: float) -> dict[str, Tensor]:
    """Random words, padded on the right; 15 % asked of an encoder, all of a decoder."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(14, V, (rows, tokens), generator=generator)
    shortest = tokens - int(2 * padding * tokens)  # lengths are even between here and `tokens`
    lengths = torch.linspace(shortest, tokens, rows).long()
    mask = (torch.arange(tokens) < lengths[:, None]).long()  # (B, T)
    ids = ids.masked_fill(mask == 0, 0)
    labels = ids.masked_fill(mask == 0, -100)
    if layout == "bert":
        hidden = torch.rand(ids.shape, generator=generator) < 0.15
        labels = labels.masked_fill(~hidden, -100)
        ids = ids.masked_fill(hidden & (mask == 1), 4)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def trainer(model, batch: dict[str, Tensor], losses: list[float], **options) -> Callable[[], None]:
    """A function that takes one step and notes its loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    model.train()

    def step() -> None:
        loss = model(**batch, **options).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    return step


def compare(name: str, rounds: int) -> tuple[str, dict[str, Times]]:
    """Both models from one folder, trained side by side: what it is, and both times."""
    import transformers

    layout, numbers, rows, tokens, padding = SHAPES[name]
    ours_class, theirs_class = CLASSES[layout]
    torch.manual_seed(0)
    ours = ours_class(getattr(tt.TransformerConfig, layout)(**numbers))
    with tempfile.TemporaryDirectory() as folder:
        tt.save(ours, None, folder)
        theirs = getattr(transformers, theirs_class).from_pretrained(folder)
    if layout == "bart":  # there a constant; here it would be trained, and the losses drift apart
        ours.head.words.bias.requires_grad_(False)
    batch = batch_of(layout, numbers["vocab_size"], rows, tokens, padding)
    losses: tuple[list, list] = ([], [])
    options = {} if layout == "bert" else {"use_cache": False}  # a cache is of no use in training
    steps = {
        "ours": trainer(ours, batch, losses[0]),
        "theirs": trainer(theirs, batch, losses[1], **options),
    }
    times = take_turns(steps, rounds, label=name)
    difference = max(abs(a - b) for a, b in zip(*losses, strict=True))
    if difference > 1e-3 or losses[0][-1] >= losses[0][0]:
        raise SystemExit(f"{name}: the two models do not learn the same ({difference:.1e} apart).")
    count = sum(parameter.numel() for parameter in ours.parameters())
    return f"{count / 1e6:.1f} M, {rows} x {tokens}, losses {difference:.0e} apart", times


def run(options) -> list[Sheet]:
    """A sheet with a pretraining step of every shape, ours and theirs."""
    results = {}
    for name in ["smallest"] if options.quick else list(SHAPES)[1:]:
        slow = name.startswith("GPT-2")
        results[name] = compare(name, 2 if options.quick else 8 if slow else 15)
    sheet = Sheet(
        "pretraining_step",
        "A pretraining step (forward, backward, AdamW): tiny_transformer and transformers",
        ["model", "tiny_transformer ms", "transformers ms", "ratio", "processor", "what"],
        options.threads,
        lambda axes: bars(
            axes,
            {"": {n: ratio(*t.values()) for n, (_, t) in results.items()}},
            "time / time of transformers",
            1.0,
        ),
        (8, 3),
    )
    for name, (about, times) in results.items():
        ours, theirs = times.values()
        sheet.rows.append(
            [
                name,
                milliseconds(ours),
                milliseconds(theirs),
                spread(ratio(ours, theirs)),
                f"{busy(ours, theirs):.2f}",
                about,
            ]
        )
    sheet.notes.append(HOW)
    return [sheet]
