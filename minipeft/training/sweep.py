"""Many LoRAs at once: a sweep over ranks, learning rates, placements and seeds in one run.

    runs = [Run(LoRA(rank=4), learning_rate=3e-3, seed=s) for s in range(3)]
    results = train_side_by_side(model, runs, batch_of, steps=150)

S runs on one frozen base differ in their small matrices only. So their batches are laid on top of
one another, (S B, T), and pass through the base together; at each linear map the s-th part of the
rows meets the s-th A and B. No row sees another run's matrices, so every run learns what it would
have learnt alone, up to rounding (tested against `train`). It saves the overhead of S small passes.

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

from minipeft.methods.lora import LoRA, LoRAPatch
from minipeft.methods.method import Method
from minipeft.training.loop import learning_rate_at
from minipeft.tuner import Tuner, attach, seeded


@dataclass(frozen=True)
class Run:
    """One member of a sweep.

    seed: of A, and of the order of the examples.  start: what else to do to a fresh patch.
    """

    method: LoRA
    learning_rate: float = 1e-3
    seed: int = 0
    start: Callable[[LoRAPatch], None] | None = None


class Abreast(nn.Module):
    """LoRA of several runs beside one linear map: A (s, r, in), B (s, out, r), one slice per run.

    Smaller ranks are filled up with zeros. These stay zero: a zero row of A and the zero column of
    B beside it give each other no gradient.

    Args:
        patches: number of the run -> its LoRAPatch, whose first values are taken.
        runs: S, how many runs share the batch; those without a patch leave y as it is.
    """

    def __init__(self, patches: dict[int, LoRAPatch], runs: int) -> None:
        super().__init__()
        r = max(len(patch.A) for patch in patches.values())
        rows = [F.pad(p.A.detach(), (0, 0, 0, r - len(p.A))) for p in patches.values()]
        columns = [F.pad(p.B.detach(), (0, r - len(p.A))) for p in patches.values()]
        self.A = nn.Parameter(torch.stack(rows))  # (s, r, in)
        self.B = nn.Parameter(torch.stack(columns))  # (s, out, r)
        self.scale = torch.tensor([p.scale for p in patches.values()])[:, None, None]  # (s, 1, 1)
        self.who = torch.tensor(list(patches))  # (s,) numbers of the runs
        self.runs = runs

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (S B, T, in), y (S B, T, out) -> y plus each run's own detour."""
        rows = x.reshape(self.runs, -1, x.shape[-1])  # (S, B T, in)
        rows = rows if len(self.who) == self.runs else rows[self.who]  # (s, B T, in)
        detour = self.scale * (rows @ self.A.mT @ self.B.mT)  # (s, B T, out)
        flat = y.reshape(self.runs, -1, y.shape[-1])  # (S, B T, out)
        return flat.index_add(0, self.who, detour).reshape(y.shape)

    def delta(self) -> Tensor:
        """scale B A of every run here: (s, out, in)."""
        return self.scale * (self.B @ self.A)


@dataclass(frozen=True)
class SideBySide(Method):
    """The LoRAs of all runs as one method; see `train_side_by_side`."""

    runs: tuple[Run, ...]

    def install(self, tuner: Tuner) -> None:
        collected: dict[str, tuple] = {}  # path -> (place, {number of the run: patch})
        for number, run in enumerate(self.runs):
            if run.method.dropout:
                raise ValueError("Side by side there is no dropout: set it to 0, or use train().")
            with seeded(run.seed):
                run.method.install(_Collector(tuner, number, run.start, collected))
        for place, patches in collected.values():
            tuner.add(place, Abreast(patches, len(self.runs)))


class _Collector:
    """Looks like a tuner to LoRA.install, and keeps what it adds."""

    def __init__(self, tuner: Tuner, number: int, start, collected: dict) -> None:
        self.find, self.choose = tuner.find, tuner.choose
        self.number, self.start, self.collected = number, start, collected

    def add(self, place, patch: LoRAPatch) -> None:
        if self.start:
            self.start(patch)
        self.collected.setdefault(place.path, (place, {}))[1][self.number] = patch


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
    evaluate: dict[str, Tensor] | None = None,
    warmup: float = 0.1,
    clip: float = 1.0,
    progress: bool = True,
) -> list[Result]:
    """Train every run for `steps` steps, as `train` would, and leave the model as it was.

    Args:
        model: a decoder of tiny_transformer or of transformers.
        batch_of: (seed, step) -> batch with input_ids, attention_mask, labels.
        evaluate: a batch on which every run is scored at the end, by `exact_and_loss`.
        warmup: share of steps in which the learning rate rises, then it falls to 0 in a line.
        clip: longest gradient of a run, as the norm over all of its matrices.

    A run whose loss leaves the numbers keeps its nan and does not disturb the others.
    """
    tuner = attach(model, SideBySide(tuple(runs)), name="side_by_side", head=False)
    try:
        rates = torch.tensor([run.learning_rate for run in runs])[:, None, None]  # (S, 1, 1)
        adam = Adam(
            [(p, rates[patch.who]) for _, patch in tuner.places for p in patch.parameters()]
        )
        losses = []
        for step in tqdm(range(steps), disable=not progress, delay=2, mininterval=0.5):
            fresh = {seed: batch_of(seed, step) for seed in {run.seed for run in runs}}
            each, _ = _measure(model, together([fresh[run.seed] for run in runs]), len(runs))
            each.sum().backward()  # the runs share no number: each gets its own gradient
            _clip([patch for _, patch in tuner.places], len(runs), clip)
            adam.step(learning_rate_at(step, steps, 1.0, round(warmup * steps), "linear"))
            losses.append(each.detach())
        curves = torch.stack(losses, dim=1).tolist()  # (S, steps)
        scores = exact_and_loss(model, evaluate, len(runs)) if evaluate else [{} for _ in runs]
        deltas: list[dict[str, Tensor]] = [{} for _ in runs]
        for place, patch in tuner.places:
            for number, delta in zip(patch.who.tolist(), patch.delta().detach(), strict=True):
                deltas[number][place.path] = delta
    finally:
        tuner.detach()
    return [Result(*row) for row in zip(runs, curves, deltas, scores, strict=True)]


@torch.no_grad()
def _clip(patches: Sequence[Abreast], runs: int, longest: float) -> None:
    """Shorten the gradient of every run that is longer, all of its matrices by the same factor."""
    squares = torch.zeros(runs)
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
    for part in parts:
        loss, right = _measure(model, together([part] * runs), runs)
        share = len(part["labels"]) / B
        total["exact"] += share * right.float().mean(dim=1)
        total["loss"] += share * loss
    exact, loss = (values.tolist() for values in total.values())  # one number per run
    return [{"exact": e, "loss": n} for e, n in zip(exact, loss, strict=True)]


def together(batches: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """S batches (B, T_s) -> one (S B, T), padded on the right to the longest."""
    T = max(batch["input_ids"].shape[1] for batch in batches)
    fill = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    return {
        key: torch.cat([F.pad(b[key], (0, T - b[key].shape[1]), value=value) for b in batches])
        for key, value in fill.items()
    }


def _measure(model: nn.Module, batch: dict[str, Tensor], runs: int) -> tuple[Tensor, Tensor]:
    """Each run's mean loss (S,), and which of its rows are right in every label (S, B)."""
    labels = batch["labels"][:, 1:]  # position t answers for token t + 1
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    asked = labels != -100  # (S B, T - 1)
    answers = logits[:, :-1][asked]  # (number of labels, V): only where something is asked
    losses = torch.zeros(asked.shape)
    losses[asked] = F.cross_entropy(answers, labels[asked], reduction="none")
    counts = asked.reshape(runs, -1).sum(dim=1)  # (S,)
    wrong = torch.zeros(asked.shape)
    wrong[asked] = (answers.detach().argmax(dim=-1) != labels[asked]).float()
    right = (wrong.sum(dim=1) == 0).reshape(runs, -1)  # (S, B)
    return losses.reshape(runs, -1).sum(dim=1) / counts, right
