"""Prefix-tuning looked at closely: where attention goes, what a prefix learns, four that are ill.

prefix_share(model, tuner, batch)          # lambda: what each head gives to the prefix, (L, H)
prefix_gradients(query, .., upstream)      # dL/dP_k and dL/dP_v, by hand
examine(model, batch, "A")                 # what can be seen of a patient, one row of a table
"""

from __future__ import annotations

import copy
import math
import random

import torch
from torch import Tensor, nn

from minipeft.contexts import evaluating
from minipeft.course.prompt_tuning import nearest_words
from minipeft.doors.patch import MemoryPatch
from minipeft.methods.method import Method
from minipeft.methods.prefix import Prefix, PrefixPatch
from minipeft.model.fingerprint import base_tensors, fingerprint
from minipeft.report import Table
from minipeft.routing import wrap
from minipeft.tasks.tasks import Task, make
from minipeft.tasks.tasks import load as load_task
from minipeft.tuner import Tuner, attach
from tiny_transformer import Decoder, Encoder


def prefix_gradients(
    query: Tensor,
    prefix_keys: Tensor,
    prefix_values: Tensor,
    keys: Tensor,
    values: Tensor,
    upstream: Tensor,
) -> tuple[Tensor, Tensor]:
    """What the prefix of one attention layer learns from a batch, without autograd.

        o = softmax(Q [P_k ; K]^T / sqrt D) [P_v ; V]

    Args:
        query: Q (B, H, T, D).
        prefix_keys, prefix_values: P_k and P_v (H, P, D), the same for every row of the batch.
        keys, values: K and V (B, H, S, D). No query is hidden from any key.
        upstream: dL/do (B, H, T, D), what comes back from the layers above.

    Returns:
        dL/dP_k and dL/dP_v, each (H, P, D).
    """
    B, P, D = len(query), prefix_keys.shape[1], query.shape[-1]
    all_keys = torch.cat([prefix_keys.expand(B, -1, -1, -1), keys], dim=2)  # (B, H, P + S, D)
    all_values = torch.cat([prefix_values.expand(B, -1, -1, -1), values], dim=2)
    weights = (query @ all_keys.mT / math.sqrt(D)).softmax(dim=-1)  # (B, H, T, P + S)
    output = weights @ all_values  # o: (B, H, T, D)
    to_prefix = weights[..., :P]  # (B, H, T, P)
    # dL/dscore = a (g . (v - o)): (B, H, T, P)
    of_scores = to_prefix * (upstream @ prefix_values.mT - (upstream * output).sum(-1, True))
    of_keys = (of_scores.mT @ query).sum(dim=0) / math.sqrt(D)  # (H, P, D)
    of_values = (to_prefix.mT @ upstream).sum(dim=0)  # (H, P, D)
    return of_keys, of_values


@torch.no_grad()
def prefix_share(model: nn.Module, tuner: Tuner, batch: dict[str, Tensor]) -> Tensor:
    """Lambda of He et al. 2022: the share of attention that goes to the prefix, (L, H).

    The mean over the tokens of a batch, padding left out. A model of transformers must compute
    attention "eager", which keeps its weights.
    """
    P = tuner.method.length
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    with evaluating(model):
        if isinstance(model, Decoder | Encoder):
            layers = [
                place.module for place, patch in tuner.patches if isinstance(patch, MemoryPatch)
            ]
            for layer in layers:
                layer.keep_weights = True
            try:
                model(**inputs)
                weights = [layer.weights for layer in layers]  # L of (B, H, T, P + S)
            finally:
                for layer in layers:
                    layer.keep_weights, layer.weights = False, None
        else:
            weights = model(**inputs, output_attentions=True).attentions
    real = batch["attention_mask"].bool()  # (B, T)
    shares = [
        w[..., :P].sum(dim=-1).transpose(1, 2)[real].mean(dim=0) for w in weights
    ]  # L of (H,)
    return torch.stack(shares)


# ---- patients ----

CAUSES = {
    "mask": "the mask hides the prefix from every token",
    "detached": "P_k and P_v are cut off from the graph (detached) on their way into attention",
    "size": "the numbers of the prefix are far too large at the start",
    "base": "the base is trained too",
    "healthy": "nothing is wrong",
}
PATIENTS = {"A": "size", "B": "healthy", "C": "mask", "D": "base", "E": "detached"}


class DetachedPatch(PrefixPatch):
    """A prefix that nothing can reach."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = super().forward(x)
        return keys.detach(), values.detach()


def examine(model: nn.Module, batch: dict[str, Tensor], patient: str) -> dict[str, float | bool]:
    """One training step of a prefix that has a fault, seen from outside.

    patient: one of PATIENTS. The model is a tiny_transformer; a copy of it is used.

    Returns:
        "share": lambda, mean over layers and heads; "loss": minus the base's; "keys", "values":
        lengths of the gradients of all P_k and all P_v; "same base": after one step of SGD.
    """
    fault, model = PATIENTS[patient], copy.deepcopy(model)
    with evaluating(model), torch.no_grad():
        before = model(**batch).loss.item()
    method = Prefix(10, hidden=None, std=300.0 if fault == "size" else 0.5)
    tuner = attach(model, method, seed=0)
    for _, patch in tuner.patches:
        if fault == "mask":
            patch.since = torch.full((len(batch["input_ids"]),), batch["input_ids"].shape[1])
        if fault == "detached":
            patch.__class__ = DetachedPatch
    bits = fingerprint(model)
    if fault == "base":
        model.requires_grad_(True)
    share = prefix_share(model, tuner, batch).mean().item()
    loss = model(**batch).loss
    if loss.requires_grad:
        loss.backward()
    table = tuner.patches[0][1].encoder.table  # (P, 2 L H D), of which 2 H D belong to each layer
    gradient = torch.zeros_like(table) if table.grad is None else table.grad
    H, D = tuner.patches[0][1].shape
    keys, values = gradient.view(len(table), -1, 2, H * D).unbind(dim=2)  # each (P, L, H D)
    trained = [p for p in model.parameters() if p.grad is not None]
    if trained:
        torch.optim.SGD(trained, lr=0.1).step()
    return {
        "share": share,
        "loss": loss.item() - before,
        "keys": keys.norm().item(),
        "values": values.norm().item(),
        "same base": fingerprint(model) == bits,
    }


def patients_table(model: nn.Module, batch: dict[str, Tensor]) -> Table:
    """What can be seen of every patient at the start and after one step, see `examine`."""
    rows = []
    for who in PATIENTS:
        seen = examine(model, batch, who)
        numbers = (f"{seen[name]:.3f}" for name in ("share", "loss", "keys", "values"))
        rows.append((who, *numbers, "yes" if seen["same base"] else "no"))
    head = (
        "",
        "lambda",
        "loss",
        "gradient of P_k",
        "gradient of P_v",
        "base is the same after a step",
    )
    return Table("Five prefixes and their first step", head, rows)


# ---- what a prefix changes and needs ----


def output_changes(model: nn.Module, tuner: Tuner, batch: dict[str, Tensor]) -> list[float]:
    """By layer: how far the least changed output of attention moves, relative to its length."""

    def outputs() -> list[Tensor]:
        seen: list[Tensor] = []
        doors = [block.attention for block in model.blocks]
        hooks = [door.register_forward_hook(lambda *call: seen.append(call[-1])) for door in doors]
        try:
            with evaluating(model), torch.no_grad():
                model(**batch)
        finally:
            for hook in hooks:
                hook.remove()
        return seen  # L of (B, T, C)

    after = outputs()
    with tuner.disabled():
        before = outputs()
    real = batch["attention_mask"].bool()  # (B, T)
    changes = [(a - b).norm(dim=-1) / b.norm(dim=-1) for a, b in zip(after, before, strict=True)]
    return [change[real].min().item() for change in changes]


def nearest(vectors: Tensor, words: Tensor) -> Tensor:
    """The cosine of every vector (n, C) with the word (V, C) that is nearest to it: (n,)."""
    return nearest_words(vectors, words)[0]


def words_as_pairs(model: Decoder, words: Tensor) -> Tensor:
    """Keys and values that each word alone has in the lowest layer, as rows (V, 2 H D)."""
    cache: list = []
    with evaluating(model), torch.no_grad():
        model(words[:, None], cache=cache)  # (V, 1)
    pair = cache[0]["self"]  # each (V, H, 1, D)
    return torch.cat([pair["key"].flatten(1), pair["value"].flatten(1)], dim=1)


def longest_input(model: Decoder, method: Method | None) -> int:
    """How many tokens the model can read with this method attached, found by trying."""
    tuner = attach(model, method, seed=0) if method else None
    try:
        for T in range(model.config.positions, 0, -1):
            ids = torch.ones(1, T, dtype=torch.long)
            batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            try:
                with evaluating(model), torch.no_grad():
                    model(**wrap(model, batch))
            except (ValueError, IndexError):
                continue
            return T
    finally:
        if tuner:
            tuner.detach()
    return 0


def gradient_path(model: Decoder, batch: dict[str, Tensor]) -> tuple[list[float], int]:
    """A prefix in layer 0 only: the length of the gradient above each frozen layer, lowest first,
    and how many numbers of the base got a gradient."""
    tuner = attach(model, Prefix(5, hidden=None, layers=(0,)), seed=0)
    states: list[Tensor] = []

    def keep(module, given, output) -> None:
        output.retain_grad()
        states.append(output)

    hooks = [block.register_forward_hook(keep) for block in model.blocks]
    try:
        model(**batch).loss.backward()
        touched = sum(p.numel() for _, p in base_tensors(model) if p.grad is not None)
        return [state.grad.norm().item() for state in states], touched
    finally:
        for hook in hooks:
            hook.remove()
        tuner.detach()


def few_examples(name: str, count: int, seed: int) -> Task:
    """A task with `count` examples to learn from, drawn anew for every seed."""
    task = load_task(name)
    chosen = random.Random(seed).sample(list(task.train), count)
    return make(name, task.kind, train=chosen, dev=task.dev, test=task.test)
