"""Pretraining: AdamW on one objective, warm-up then cosine decay, clipped gradients, exact resume.

    rise(s) = min(1, (s + 1) / warmup)
    fall(s) = floor + (1 - floor) (1 + cos(pi s / steps)) / 2
    learning rate at step s = peak * rise(s) * fall(s)

The batch is a function of (seed, step) and the random state is stored with the weights, so a run
that is killed and started again ends with the same bits as one that was not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import trange

from . import objectives
from .files import write_tensors
from .run_state import first_difference, optimizer_tensors, restore_optimizer, seeded


class Stream:
    """Endless batches from a list of documents; `stream(step)` always gives the same batch.

    | kind            | a row is                                | objective                        |
    |-----------------|-----------------------------------------|----------------------------------|
    | decoder         | documents packed to T tokens            | causal                           |
    | encoder         | one document; at odd steps a packed row | masked words                     |
    | encoder-decoder | one document; at every fourth step      | span corruption; at every fourth |
    |                 | three                                   | step "source => target" as pairs |

    Args:
        documents: texts, one per document.
        tokenizer: makes ids of them.
        kind: "decoder", "encoder" or "encoder-decoder".
        batch_size: B, rows.
        length: T, tokens in a packed row, and the most tokens of any row.
        seed: of the order of the documents and of what is hidden.
        corruption_rate: of the words that are hidden (encoder, encoder-decoder).
    """

    def __init__(
        self, documents, tokenizer, kind, batch_size=32, length=48, seed=0, corruption_rate=0.15
    ) -> None:
        self.tokenizer, self.kind, self.seed, self.corruption_rate = (
            tokenizer,
            kind,
            seed,
            corruption_rate,
        )
        self.batch_size, self.length, self.room = batch_size, length, length - 2
        encode = tokenizer.encode
        self.documents = [encode(text, add_special_tokens=False)[: self.room] for text in documents]
        arrow = tokenizer.convert_tokens_to_ids(["=", ">"])
        self.pairs = []
        for ids in self.documents:
            where = next((i for i in range(len(ids)) if ids[i : i + 2] == arrow), None)
            if where is not None:
                self.pairs.append((ids[:where], ids[where + 2 :]))

    def __call__(self, step: int) -> dict[str, Tensor]:
        """The batch of this step."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        if self.kind == "decoder":
            return objectives.causal(self.packed(generator), self.tokenizer)
        if self.kind == "encoder":
            if step % 2:
                ids = self.packed(generator)
            else:
                rows = self.of_like_length(self.documents, step // 2, len)
                ids = self.tokenizer.pad([self.framed(row) for row in rows], "right")["input_ids"]
            return objectives.masked(ids, self.tokenizer, generator, self.corruption_rate)
        if step % 4 == 1 and self.pairs:
            drawn = self.of_like_length(self.pairs, step // 4, lambda pair: len(pair[0]))
            sources = [self.framed(source) for source, _ in drawn]
            targets = [[*target, self.tokenizer.eos_token_id] for _, target in drawn]
            return objectives.pairs(sources, targets, self.tokenizer)
        rows = self.of_like_length(self.documents, step, len)
        if step % 4 == 2:  # three documents in a row, so that later positions are learnt too
            rows = [sum(rows[i : i + 3], [])[: self.room] for i in range(0, len(rows), 3)]
        return objectives.span_corruption(rows, self.tokenizer, generator, self.corruption_rate)

    def framed(self, ids: list[int]) -> list[int]:
        """`<bos> ids <eos>`."""
        return [self.tokenizer.bos_token_id, *ids, self.tokenizer.eos_token_id]

    def draw(self, source: list, count: int, generator: torch.Generator) -> list:
        """`count` documents, with replacement."""
        return [source[i] for i in torch.randint(len(source), (count,), generator=generator)]

    def packed(self, generator: torch.Generator) -> Tensor:
        """(B, T) ids, every row full."""
        rows = []
        for _ in range(self.batch_size):
            drawn = self.draw(self.documents, 2 + self.length // 4, generator)
            rows.append(objectives.pack(drawn, self.length, self.tokenizer)[0])
        return torch.stack(rows)

    def of_like_length(self, source: list, step: int, size: Callable) -> list:
        """4 B short documents of similar length, for little padding.

        Eight batches are drawn together, sorted by size and dealt out in a random order.
        """
        B = 4 * self.batch_size
        group, place = divmod(step, 8)
        generator = torch.Generator().manual_seed((self.seed + 1) * 7_000_003 + group)
        drawn = sorted(self.draw(source, 8 * B, generator), key=size)
        place = int(torch.randperm(8, generator=generator)[place])
        return drawn[place * B : (place + 1) * B]


def learning_rate(step: int, steps: int, peak: float, warmup: int, floor: float = 0.05) -> float:
    """Warm-up to `peak`, then half a cosine down to `floor * peak`."""
    rise = min(1.0, (step + 1) / max(1, warmup))
    return peak * rise * (floor + (1 - floor) * (1 + math.cos(math.pi * step / steps)) / 2)


def pretrain(
    model,
    batches: Callable[[int], dict[str, Tensor]],
    steps: int,
    peak: float = 2e-3,
    warmup: int = 200,
    weight_decay: float = 0.01,
    clip: float = 1.0,
    seed: int = 0,
    folder: str | Path | None = None,
    every: int = 250,
    progress: bool = True,
) -> list[float]:
    """Train every weight of a model.

    Args:
        model: any model of this package.
        batches: step -> batch; a function, so that a resumed run sees what it would have seen.
        steps: optimizer steps in all.
        peak: highest learning rate.
        warmup: steps in which the rate rises to it.
        weight_decay: AdamW's, on every weight.
        clip: longest gradient, over all weights together.
        seed: of dropout. torch's own generator is left as it was.
        folder: where a snapshot is kept every `every` steps; a run that finds one goes on from it.
        every: steps between snapshots; the last step always leaves one.
        progress: show a bar.

    Returns:
        the loss of every step, in nats per predicted token.

    Raises:
        ValueError: the loss is not a number any more, or the snapshot is damaged or of another run.
    """
    with seeded(seed):
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=weight_decay
        )
        run = {"steps": steps, "peak": peak, "warmup": warmup, "seed": seed}
        run |= {"weight_decay": weight_decay, "clip": clip, "model": model.config.to_dict()}
        path = None if folder is None else Path(folder) / "pretraining.safetensors"
        losses = _restore(path, model, optimizer, run) if path and path.is_file() else []
        model.train()
        bar = trange(len(losses), steps, initial=len(losses), total=steps, disable=not progress)
        for step in bar:
            rate = learning_rate(step, steps, peak, warmup)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = model(**batches(step)).loss
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise ValueError(
                    f"The loss is {losses[-1]} at step {step}; lower the learning rate."
                )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            if step % 20 == 0:
                bar.set_postfix(loss=f"{sum(losses[-50:]) / len(losses[-50:]):.3f}")
            if path and ((step + 1) % every == 0 or step + 1 == steps):
                _snapshot(path, model, optimizer, run, losses)
        model.eval()
        return losses


def _snapshot(path: Path, model, optimizer, run: dict, losses: list[float]) -> None:
    """Weights, optimizer state, random state and losses, in one file that is moved into place."""
    tensors = {f"model.{name}": value for name, value in model.named_parameters()}
    tensors |= optimizer_tensors(optimizer)
    tensors["random"] = torch.get_rng_state()
    tensors["losses"] = torch.tensor(losses, dtype=torch.float64)
    write_tensors(path, tensors, {"format": "pt", "run": json.dumps(run)})


def _restore(path: Path, model, optimizer, run: dict) -> list[float]:
    """Put a snapshot back; returns the losses so far."""
    try:
        with safe_open(path, "pt") as file:
            stored = json.loads((file.metadata() or {})["run"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, KeyError, ValueError) as problem:
        raise ValueError(f"{path} is no whole snapshot ({problem}); delete it.") from None
    other = first_difference(stored, {name: run.get(name) for name in stored})
    if other is not None:
        raise ValueError(
            f"{path} belongs to a run with another {other}, {stored[other]} and not "
            f"{run.get(other)}; give another folder or delete the file."
        )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
    restore_optimizer(optimizer, tensors)
    torch.set_rng_state(tensors["random"])
    return tensors["losses"].tolist()
