"""Lesson 14: ten broken runs that raise no error, each beside the run that it should have been.

room("one")                         # name -> Exhibit: the five whose loss does not fall
room("two")                         # name -> Exhibit: the five whose loss does fall
chart_one(room), chart_two(room)    # what can be seen of every run from outside, as a table

The kinds are those of `minipeft.doctor`. Every run learns a few sentences by heart, so that it is
small; what is wrong is what goes wrong in large ones.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import minipeft as mp
import tiny_transformer as tt
from minipeft.contexts import seeded
from tiny_transformer.models import Output

V, C, T, ROWS = 64, 32, 8, 8  # words, width, tokens of a row, rows
FIRST = {"A": "checkpointing", "B": "labels", "C": "precision", "D": "reach", "E": "zero start"}
OWN = mp.Family(model_types=(), blocks=("layers",), words=("words",))  # of Residual
SECOND = {"F": "padding", "G": "targets", "H": "head", "I": "tied weights", "J": "experts"}


@dataclass
class Exhibit:
    """A run: its model with a tuner, its batch.

    rate: the learning rate of its own loop.
    """

    model: nn.Module
    tuner: mp.Tuner
    batch: dict[str, Tensor]
    rate: float = 1e-2

    def train(self, steps: int = 20) -> list[float]:
        """A plain loop, as people write it; returns the loss of every step."""
        self.model.train()
        trained = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.rate, weight_decay=0.0)
        losses = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch and of this library: they would tell
            for _ in range(steps):
                optimizer.zero_grad()
                loss = self.model(**self.batch).loss
                losses.append(float(loss.detach()))
                if loss.requires_grad:
                    loss.backward()
                optimizer.step()
        self.model.eval()
        return losses


class Residual(nn.Module):
    """A small model of its own kind: `layers` add to the states what a feed-forward layer gives.

    experts: the last layer has so many, and each token goes to one of them; stacked: their weights
    stand in one tensor, (experts, C, C), as libraries keep them today, and not in a list of maps.
    fading: every token also sees those before it, the nearer the clearer; padding it does not see.
    checkpointed: layers are computed again in the backward pass, in torch's older way.
    unused: the upper layers are there, but not in the pass.
    """

    def __init__(
        self,
        layers: int = 4,
        experts: int = 0,
        stacked: bool = False,
        fading: bool = False,
        checkpointed: bool = False,
        unused: int = 0,
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(V, C)
        self.layers = nn.ModuleList(Layer() for _ in range(layers))
        kind = StackedExperts if stacked else Experts
        self.mixture = kind(experts) if experts else None
        self.out = nn.Linear(C, V)
        self.checkpointed, self.fading, self.depth = checkpointed, fading, layers - unused

    def forward(self, input_ids, attention_mask=None, labels=None) -> Output:
        x = self.words(input_ids)  # (B, T, C)
        if self.fading:
            x = x + faded(x, attention_mask)
        for layer in self.layers[: self.depth]:
            inside = self.checkpointed and self.training
            x = checkpoint(layer, x, use_reentrant=True) if inside else layer(x)
        if self.mixture is not None:
            x = self.mixture(x, input_ids)
        logits = self.out(x)  # (B, T, V)
        asked = labels[:, 1:].flatten()  # (B (T - 1),)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), asked)
        return Output(logits, loss, x, None)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(C, 2 * C), nn.Linear(2 * C, C)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(x)))


class StackedExperts(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.experts = nn.ParameterDict({"weight": torch.randn(count, C, C) / C**0.5})

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        W = self.experts["weight"][ids % len(self.experts["weight"])]  # (B, T, C, C)
        return x + torch.einsum("btc,btdc->btd", x, W)


class Experts(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(C, C, bias=False) for _ in range(count))

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            mine = ids % len(self.experts) == number  # (B, T)
            y = y.index_put((mine,), expert(x[mine]))
        return x + y


def faded(x: Tensor, mask: Tensor | None) -> Tensor:
    """The sum over the tokens before, each 0.7 times as clear as the next: x (B, T, C)."""
    places = torch.arange(x.shape[1])
    distance = places[:, None] - places  # (T, T)
    weight = torch.where(distance > 0, 0.7 ** distance.abs().float(), 0.0)
    seen = x if mask is None else x * mask[..., None]
    return torch.einsum("ts,bsc->btc", weight, seen)


def decoder(layers: int = 2, width: int = C) -> nn.Module:
    numbers = dict(vocab_size=V, width=width, layers=layers, heads=4, positions=4 * T)
    return tt.Decoder(tt.TransformerConfig.gpt2(**numbers, dropout=0.0)).eval()


def sentences(rows: int = ROWS, seed: int = 0) -> dict[str, Tensor]:
    """Rows of words to be learnt by heart; the first word of each tells which it is."""
    ids = torch.randint(ROWS + 8, V, (rows, T), generator=torch.Generator().manual_seed(seed))
    ids[:, 0] = torch.arange(rows)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}


def lora(model: nn.Module, *targets: str, **settings) -> mp.Tuner:
    return mp.attach(model, mp.LoRA(rank=4, alpha=8, targets=targets), seed=0, **settings)


# ---- room one: the loss does not fall ----


def checkpointing(mended: bool) -> Exhibit:
    model = Residual(checkpointed=not mended)
    return Exhibit(model, lora(model, "layers.*.up", head=("out",)), sentences())


def labels(mended: bool) -> Exhibit:
    model, batch = decoder(), sentences()
    tuner = lora(model, "query", "value", "up")
    if not mended:  # the prompt took all the room, and the answers were cut off
        batch["labels"][:, 1:] = -100
    return Exhibit(model, tuner, batch)


def precision(mended: bool) -> Exhibit:
    model = decoder().to(torch.float32 if mended else torch.bfloat16)
    return Exhibit(model, mp.attach(model, mp.FullFineTuning()), sentences(), rate=1e-5)


def reach(mended: bool) -> Exhibit:
    model = Residual(layers=8, unused=6)
    targets = ("layers.[0-1].up",) if mended else ("layers.*.up",)
    return Exhibit(model, lora(model, *targets), sentences())


def zero_start(mended: bool) -> Exhibit:
    model = decoder()
    tuner = lora(model, "query", "value", "up")
    if not mended:
        for _, patch in tuner.patches:
            nn.init.zeros_(patch.A)
    return Exhibit(model, tuner, sentences())


# ---- room two: the loss falls ----


def padding(mended: bool) -> Exhibit:
    model, batch = Residual(fading=True), sentences()
    prompt = mp.PromptTuning(length=4, compatibility=None if mended else "peft")
    tuner = mp.attach(model, prompt, family=OWN, head=False, seed=0)
    batch["input_ids"][0, :3], batch["attention_mask"][0, :3] = 0, 0  # shorter rows, padded left
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    return Exhibit(model, tuner, batch, rate=1e-1)


def targets(mended: bool) -> Exhibit:
    model = decoder(layers=12)
    pattern = "blocks.*.attention.value" if mended else "blocks.[0-9].attention.value"
    return Exhibit(model, lora(model, pattern), sentences())


def head(mended: bool) -> Exhibit:
    numbers = dict(vocab_size=V, width=C, layers=2, heads=4, positions=4 * T, dropout=0.0)
    config = tt.TransformerConfig.bert(**numbers)
    model = tt.Encoder(config, tt.ClassificationHead(config, 4)).eval()
    tuner = lora(model, "query", "value", head="auto" if mended else False)
    if not mended:
        model.head.requires_grad_(True)
    batch = sentences()
    batch["labels"] = torch.arange(ROWS) % 4
    return Exhibit(model, tuner, batch)


def tied(mended: bool) -> Exhibit:
    model = decoder()
    if mended:
        model.head.words.weight = nn.Parameter(model.embeddings.words.weight.detach().clone())
    return Exhibit(model, lora(model, "head.words"), sentences())


def experts(mended: bool) -> Exhibit:
    model = Residual(layers=2, experts=4, stacked=not mended)
    also = ("mixture.experts.*",) if mended else ()
    return Exhibit(model, lora(model, "layers.*.up", "layers.*.down", *also), sentences())


MAKERS: dict[str, Callable[[bool], Exhibit]] = {
    **{"checkpointing": checkpointing, "labels": labels, "precision": precision, "reach": reach},
    **{"zero start": zero_start, "padding": padding, "targets": targets, "head": head},
    **{"tied weights": tied, "experts": experts},
}


def exhibit(kind: str, mended: bool = False) -> Exhibit:
    """The run of a kind, before its first step; mended: as it should have been."""
    with seeded(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MAKERS[kind](mended)
