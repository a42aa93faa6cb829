"""Many LoRAs at once: a sweep over ranks, learning rates, placements and seeds in one run.

    runs = [Run(LoRA(rank=4), learning_rate=3e-3, seed=s) for s in range(3)]
    results = train_side_by_side(model, runs, batch_of, steps=150)

S runs on one frozen base differ in their small matrices only. So their batches are laid on top of
one another, (S B, T), and pass through the base together; at each linear map the s-th part of the
rows meets the s-th A and B. No row sees another run's matrices, so every run learns what it would
have learnt alone, up to rounding (tested against `train`). It saves the overhead of S small passes.
What would not be so is refused: other methods than LoRA, dropout, other models than decoders.

This is `route` with two differences: the matrices of all runs are multiplied in one operation, and
the runs may adapt different maps.

Shapes: S runs, B rows of each, T tokens, r the largest rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from minipeft.attaching.in_training import chosen
from minipeft.contexts import seeded
from minipeft.doors import words
from minipeft.doors.layers import features
from minipeft.methods.lora import LoRA, LoRAPatch
from minipeft.methods.method import Method
from minipeft.methods.parts.grouped_lora import GroupedLoRA
from minipeft.methods.parts.validation import shorten
from minipeft.model.anatomy import Anatomy
from minipeft.training.arguments import check_arguments
from minipeft.training.savings.shared_prompt import drops
from minipeft.training.schedule import learning_rate_at
from minipeft.tuner import Tuner, attach
from tiny_transformer import Decoder


@dataclass(frozen=True)
class Run:
    """One member of a sweep.

    method: LoRA with any settings but dropout.  learning_rate: of A, and of B `plus` times as much.
    seed: of A, and of the order of the examples.  start: what else to do to a fresh patch.
    """

    method: LoRA
    learning_rate: float = 1e-3
    seed: int = 0
    start: Callable[[LoRAPatch], None] | None = None


@dataclass(frozen=True)
class SideBySide(Method):
    """The LoRAs of all runs as one method; see `train_side_by_side`."""

    runs: tuple[Run, ...]

    def install(self, tuner: Tuner) -> None:
        collected: dict[tuple, tuple] = {}  # part of a map -> (place, {number of the run: patch})
        for number, run in enumerate(self.runs):
            with seeded(run.seed):
                run.method.install(_Collector(tuner, number, run.start, collected))
        whole = {path for path, columns in collected if columns is None}
        for path, columns in collected:
            if columns is not None and path in whole:
                raise ValueError(
                    f"Side by side, one run adapts {path} as a whole and another a part of it: "
                    "put them into two sweeps."
                )
        for place, patches in collected.values():
            tuner.add(place, GroupedLoRA(patches, len(self.runs)))


class _Collector:
    """Looks like a tuner to LoRA.install, and keeps what it adds."""

    def __init__(self, tuner: Tuner, number: int, start, collected: dict) -> None:
        self.find, self.choose = tuner.find, tuner.choose
        self.number, self.start, self.collected = number, start, collected

    def add(self, place, patch: LoRAPatch) -> None:
        if self.start:
            self.start(patch)
        columns = None if place.columns is None else tuple(place.columns.tolist())
        part = self.collected.setdefault((place.path, columns), (place, {}))
        part[1][self.number] = patch


@dataclass
class Result:
    """What became of one run. losses: by step. deltas: path of a linear map -> scale B A."""

    run: Run
    losses: list[float]
    deltas: dict[str, Tensor]
    scores: dict[str, float]


def train_side_by_side(
    model: nn.Module,
    runs: Sequence[Run],
    batch_of: Callable[[int, int], dict[str, Tensor]],
    steps: int,
    *,
    evaluate: dict[str, Tensor] | Callable[[nn.Module, int], list[dict]] | None = None,
    warmup: float = 0.1,
    clip: float | None = 1.0,
    progress: bool = True,
) -> list[Result]:
    """Train every run for `steps` steps, as `train` would, and leave the model as it was.

    Args:
        model: a decoder of tiny_transformer or of transformers, without dropout.
        batch_of: (seed, step) -> batch with input_ids, attention_mask, labels; as many rows for
            every seed.
        evaluate: a batch on which every run is scored at the end, by `exact_and_loss`; or a
            function (model, number of runs) -> scores of each run.
        warmup: share or number of steps in which the learning rate rises, then it falls to 0 in a
            line.
        clip: longest gradient of a run, as the norm over all of its matrices; None does not clip.

    A run whose loss leaves the numbers keeps its nan and does not disturb the others.

    Raises:
        ValueError, TypeError: a run, the model or a batch is of a kind that would not train here as
            it does alone.
    """
    runs = tuple(runs)
    _check(model, runs, steps, warmup, clip)
    tuner = attach(model, SideBySide(runs), name="side_by_side", head=False)
    try:
        with chosen(model, tuner.name):
            losses = _train(model, tuner, batch_of, steps, warmup, clip, progress)
        curves = torch.stack(losses, dim=1).tolist()  # (S, steps)
        if callable(evaluate):
            scores = evaluate(model, len(runs))
        else:
            scores = exact_and_loss(model, evaluate, len(runs)) if evaluate else [{} for _ in runs]
        deltas: list[dict[str, Tensor]] = [{} for _ in runs]
        for place, patch in tuner.patches:
            for number, delta in zip(patch.who.tolist(), patch.deltas().detach(), strict=True):
                if place.columns is not None:  # (out of the part, in) -> (out, in)
                    whole = deltas[number].get(place.path)
                    if whole is None:
                        whole = delta.new_zeros(features(place.module)[1], delta.shape[1])
                    delta = whole.index_copy(0, place.columns.to(delta.device), delta)
                deltas[number][place.path] = delta
    finally:
        tuner.detach()
    return [Result(*row) for row in zip(runs, curves, deltas, scores, strict=True)]


def _train(
    model: nn.Module,
    tuner: Tuner,
    batch_of: Callable[[int, int], dict[str, Tensor]],
    steps: int,
    warmup: int,
    clip: float | None,
    progress: bool,
) -> list[Tensor]:
    """The steps of all runs; gives the losses (S,) of each."""
    runs, patches = tuner.method.runs, [patch for _, patch in tuner.patches]
    device = patches[0].A.device
    rates = torch.tensor([run.learning_rate for run in runs], device=device)[:, None, None]
    plus = torch.tensor([run.method.plus or 1.0 for run in runs], device=device)[:, None, None]
    groups = [(patch.A, rates[patch.who]) for patch in patches]  # rates (s, 1, 1)
    adam = Adam(groups + [(patch.B, (rates * plus)[patch.who]) for patch in patches])
    losses = []
    for step in tqdm(range(steps), disable=not progress, delay=2, mininterval=0.5):
        fresh = {seed: batch_of(seed, step) for seed in {run.seed for run in runs}}
        batch = together([fresh[run.seed] for run in runs])
        each, _ = _measure(model, {k: v.to(device) for k, v in batch.items()}, len(runs))
        each.sum().backward()  # the runs share no number: each gets its own gradient
        if clip:
            _clip(patches, len(runs), clip)
        adam.step(learning_rate_at(step, steps, 1.0, warmup, "linear"))
        losses.append(each.detach())
    return losses


def _check(model: nn.Module, runs: tuple[Run, ...], steps: int, warmup, clip) -> None:
    """Refuse what would train otherwise than alone."""
    if not runs:
        raise ValueError("train_side_by_side needs one or more runs, such as Run(LoRA(rank=4)).")
    for run in runs:
        if not isinstance(run, Run):
            raise TypeError(
                f"train_side_by_side needs runs such as Run(LoRA()), not {shorten(run)}."
            )
        if type(run.method) is not LoRA:
            raise ValueError(
                f"Only LoRA is trained side by side, not {type(run.method).__name__}: train that "
                "one by itself, with train()."
            )
        if run.method.dropout:
            raise ValueError("Side by side there is no dropout: set it to 0, or use train().")
        check_arguments(
            steps=steps,
            learning_rate=run.learning_rate,
            warmup=warmup,
            schedule="linear",
            clip=clip,
        )
    anatomy = Anatomy(model)
    if not anatomy.writes() or anatomy.heads():
        raise ValueError(
            "Side by side only causal language models are trained: this model is an encoder, has "
            "an encoder, or has a task head, so use train()."
        )
    if getattr(model.config, "output_router_logits", False):
        raise ValueError(
            "Side by side there is no loss that balances experts over a batch: switch "
            "output_router_logits off in the model's config, or use train()."
        )
    if drops(model):
        raise ValueError(
            "Side by side there is no dropout, and this model has some in training: set the "
            "dropout of its config to 0 before it is made, or use train()."
        )


@torch.no_grad()
def _clip(patches: Sequence[GroupedLoRA], runs: int, longest: float) -> None:
    """Shorten the gradient of every run that is longer, all of its matrices by the same factor."""
    squares = patches[0].A.new_zeros(runs)
    for patch in patches:
        for p in (patch.A, patch.B):
            squares.index_add_(0, patch.who, p.grad.square().sum(dim=(1, 2)))
    factors = (longest / (squares.sqrt() + 1e-6)).clamp(max=1)[:, None, None]  # (S, 1, 1)
    for patch in patches:
        for p in (patch.A, patch.B):
            p.grad *= factors[patch.who]


class Adam:
    """Adam (Kingma & Ba 2015, arXiv 1412.6980) with a learning rate for every slice of a tensor.

    parameters: (parameter (s, ..), learning rates that broadcast with it, (s, 1, 1)).
    """

    def __init__(self, parameters, betas=(0.9, 0.999), epsilon: float = 1e-8) -> None:
        self.rows = [(p, rate, torch.zeros_like(p), torch.zeros_like(p)) for p, rate in parameters]
        self.betas, self.epsilon, self.steps = betas, epsilon, 0

    @torch.no_grad()
    def step(self, share: float) -> None:
        """One update with `share` of the learning rates; the gradients are cleared."""
        self.steps += 1
        b1, b2 = self.betas
        for p, rate, mean, square in self.rows:
            mean.lerp_(p.grad, 1 - b1)
            square.lerp_(p.grad**2, 1 - b2)
            size = (square / (1 - b2**self.steps)).sqrt() + self.epsilon
            p -= share * rate * (mean / (1 - b1**self.steps)) / size
            p.grad = None


@torch.no_grad()
def exact_and_loss(model: nn.Module, batch: dict[str, Tensor], runs: int = 1) -> list[dict]:
    """Scores of each run on one batch: {"exact": .., "loss": ..}.

    exact is the share of rows in which every labelled token is the model's first choice. With the
    end of the text among the labels that is exactly the share that greedy writing gets right.
    """
    B, most = len(batch["labels"]), max(1, 1000 // runs)  # rows at a time
    parts = [{k: v[i : i + most] for k, v in batch.items()} for i in range(0, B, most)]
    total = {"exact": torch.zeros(runs), "loss": torch.zeros(runs)}
    device = next(model.parameters()).device
    for part in parts:
        rows = {key: value.to(device) for key, value in together([part] * runs).items()}
        loss, right = _measure(model, rows, runs)
        share = len(part["labels"]) / B
        total["exact"] += share * right.float().mean(dim=1).cpu()
        total["loss"] += share * loss.cpu()
    exact, loss = (values.tolist() for values in total.values())  # one number per run
    return [{"exact": e, "loss": n} for e, n in zip(exact, loss, strict=True)]


def together(batches: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """S batches (B, T_s) -> one (S B, T), padded on the right to the longest."""
    for batch in batches:
        if set(batch) != {"input_ids", "attention_mask", "labels"}:
            raise ValueError(
                f"Side by side a batch has input_ids, attention_mask and labels and nothing else, "
                f"not {', '.join(map(str, batch))}."
            )
    if len({len(batch["input_ids"]) for batch in batches}) > 1:
        raise ValueError("Side by side the batches of all runs need the same number of rows.")
    B = len(batches[0]["input_ids"])
    rows = [range(B * number, B * (number + 1)) for number in range(len(batches))]
    return words.together(batches, rows, left=False, padding=0)


def _measure(model: nn.Module, batch: dict[str, Tensor], runs: int) -> tuple[Tensor, Tensor]:
    """Each run's mean loss (S,), and which of its rows are right in every label (S, B)."""
    labels = batch["labels"][:, 1:]  # position t answers for token t + 1
    if isinstance(model, Decoder):  # a tiny_transformer asks nothing of padding
        labels = labels.masked_fill(batch["attention_mask"][:, :-1] == 0, -100)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    asked = labels != -100  # (S B, T - 1)
    answers = logits[:, :-1][asked]  # (number of labels, V): only where something is asked
    answers = answers.to(torch.promote_types(answers.dtype, torch.float32))
    losses = answers.new_zeros(asked.shape)
    losses[asked] = F.cross_entropy(answers, labels[asked], reduction="none")
    counts = asked.reshape(runs, -1).sum(dim=1)  # (S,)
    wrong = answers.new_zeros(asked.shape)
    wrong[asked] = (answers.detach().argmax(dim=-1) != labels[asked]).to(answers.dtype)
    right = (wrong.sum(dim=1) == 0).reshape(runs, -1)  # (S, B)
    return losses.reshape(runs, -1).sum(dim=1) / counts, right
