"""A method's passport: the same questions for every method, answered by measuring.

    passport(mp.LoRA(rank=8), rates=[3e-3, 1e-2, 3e-2])

shows a table and a picture and stores the answers as JSON in the cell's output, so that a later
lesson can lay all passports side by side: `passports()`.

The setting is the same for all: a small decoder of Tinyland, one latent task (the model knows how,
and nobody asks) and one novel task (it has never seen it), some learning rates, at least 3 seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import tiny_transformer as tt
from minipeft import tasks
from minipeft.course import claims
from minipeft.course.experiments import Outcome, contest, percent, spread
from minipeft.course.passport_facts import facts, latency
from minipeft.course.runs import Known, tuned_task
from minipeft.methods.method import Method
from minipeft.report import Table
from minipeft.training.gradients import Diverged

MIME = "application/vnd.minipeft.passport+json"
TASKS = {"latent": "reverse", "novel": "reverse-rotate"}
WIDER = 2  # so many rates are tried beyond each end of a grid, to see how far good ones reach
GOOD = 0.1  # a rate is good where it gains all but this share of what the best one gains


@dataclass(frozen=True)
class Passport:
    """The answers; see `table` for the questions. Lists hold one value per seed.

    memory: bytes while Adam trains, as `training_bytes` counts them.  latency: batch -> time of a
    pass against the base's: median, lower and upper quartile.  results: task -> what was measured.
    rates: task -> "best", "edge" (was it at the edge of the grid?), "good" (lowest and highest),
    "wider" (was even the lowest or the highest that was tried good?), "tried" (rate and dev).
    """

    method: str
    settings: str
    model: str
    steps: int
    seeds: list[int]
    door: str
    trained: int
    stored: int
    head: int
    base: int
    disk: int
    memory: dict[str, int]
    identity: float
    mergeable: bool
    mixed: bool
    latency: dict[str, list[float]]
    results: dict[str, dict[str, list[float]]]
    rates: dict[str, dict]

    def table(self) -> Table:
        """The questions and their answers."""
        rows = [
            ("door", self.door),
            ("parameters trained", f"{self.trained:,} ({percent(self.trained / self.base)})"),
            ("stored, and trained in the head", f"{self.stored:,}, {self.head:,}"),
            ("bytes on disk", f"{self.disk:,}"),
            ("bytes in training", f"{sum(self.memory.values()):,} (the base: {4 * self.base:,})"),
            (
                "identity at the start",
                _yes(self.identity == 0, f"no, logits differ by up to {self.identity:.2g}"),
            ),
            ("can be merged", _yes(self.mergeable)),
            ("mixed batches", _yes(self.mixed)),
            *(
                (
                    f"time of a pass, batch {batch}",
                    f"{middle:.2f} of the base ({low:.2f}-{high:.2f})",
                )
                for batch, (middle, low, high) in self.latency.items()
            ),
        ]
        for kind, measured in self.results.items():
            rows.append((f"{kind} task: exact match", spread(measured["test"])))
            rows.append((f"{kind} task: out of domain", spread(measured["ood"])))
        rows.append(("forgotten after the novel task", spread(self.results["novel"]["forgotten"])))
        for kind, rates in self.rates.items():
            low, high = rates["good"]
            edge = ", at the edge of what was tried" if rates["edge"] else ""
            rows.append((f"{kind} task: best learning rate", f"{rates['best']:g}{edge}"))
            wider = " or wider" if rates["wider"] else ""
            width = f"{low:g} to {high:g} (factor {high / low:.3g}{wider})"
            rows.append((f"{kind} task: good learning rates", width))
        notes = [
            f"{self.model}, {self.steps} steps, {len(self.seeds)} seeds; intervals of 95 %.",
            f"Good rates gain at least {100 * (1 - GOOD):.0f} % of what the best one gains on dev.",
        ]
        return Table(f"Passport of {self.settings}", ("", "measured"), rows, notes)

    def plot(self):
        """What it learns and forgets, and its learning rates: the same picture for every method."""
        from minipeft.analysis import plots

        colour, marker = plots.look(self.method) or (plots.NEUTRAL, "o")
        figure, (left, right) = plots.figure(2, height=3.6)
        bars = {
            "latent": self.results["latent"]["test"],
            "novel": self.results["novel"]["test"],
            "latent,\nlonger": self.results["latent"]["ood"],
            "novel,\nlonger": self.results["novel"]["ood"],
            "forgotten": self.results["novel"]["forgotten"],
        }
        for place, (label, values) in enumerate(bars.items()):
            mean, half = plots.interval(values)
            if not math.isnan(mean):
                down, up = plots.clipped([mean], [half], plots.SHARE)
                shade = plots.GREY if label == "forgotten" else colour
                left.bar(place, mean, yerr=[down, up], capsize=4, color=shade, alpha=0.7)
        left.set_xticks(range(len(bars)), list(bars))
        plots.finish(left, "", "share", self.method, limits=(0, 1), legend=False)
        for (kind, rates), style in zip(self.rates.items(), ("-", "--"), strict=True):
            tried = [(rate, dev) for rate, dev in rates["tried"] if math.isfinite(dev)]
            if tried:
                right.plot(
                    *zip(*tried, strict=True), style, color=colour, marker=marker, label=kind
                )
        right.set_xscale("log")
        plots.finish(right, "learning rate", "dev loss (nats)", "every rate tried, first seed")
        said = {label: plots.interval(values)[0] for label, values in bars.items()}
        plots.add_caption(
            figure,
            f"Left: rows that are right (latent task {_percent(said['latent'])}, novel task "
            f"{_percent(said['novel'])}; longer: than in training), and old skills that are lost. "
            "Right: where a curve is flat, the rate hardly matters.",
        )
        return figure

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        table = self.table()
        return {
            "text/plain": str(table),
            "text/html": table._repr_html_(),
            MIME: claims.plain(asdict(self)),
        }

    def __str__(self) -> str:
        return str(self.table())


def passport(
    method: Method,
    rates: Sequence[float],
    *,
    name: str = "",
    model: str = "tiny-decoder-0.4m",
    steps: int = 100,
    seeds: Sequence[int] = (0, 1, 2),
    batch_size: int = 8,
    rows: int = 100,
    quick: bool = False,
) -> None:
    """Measure a method, show its table and its picture, store the answers in the cell's output.

    Args:
        method: for example `LoRA(rank=8)`.
        rates: learning rates to try on each of the two tasks; extended where the best is at the
            edge.
        name: how the course calls it, for its colour; the class's name when empty.
        quick: a run of the code with hardly any steps, for fast builds.
    """
    if quick:
        steps, seeds, rates, rows = 2, list(seeds)[:2], list(rates)[:1], 6
    made = measure(
        *(method, rates),
        **dict(name=name, model=model, steps=steps, seeds=seeds, batch_size=batch_size, rows=rows),
        repeats=2 if quick else 25,
    )
    claims.show(made)
    made.plot()


def measure(
    method: Method,
    rates: Sequence[float],
    *,
    name: str = "",
    model: str = "tiny-decoder-0.4m",
    steps: int = 100,
    seeds: Sequence[int] = (0, 1, 2),
    batch_size: int = 8,
    rows: int = 100,
    repeats: int = 25,
) -> Passport:
    """The passport itself; arguments as `passport`. repeats: pairs of passes that are timed."""
    base_model, tokenizer = tt.load(model)
    loaded = {kind: tasks.load(task) for kind, task in TASKS.items()}
    known = Known(base_model, tokenizer, rows=min(40, rows))

    def run(kind: str, rate: float, seed: int) -> dict:
        return tuned_task(
            *((base_model, tokenizer), method, loaded[kind], rate, steps, seed),
            **dict(batch_size=batch_size, rows=rows, ood=True),
            known=known if kind == "novel" else None,
        )

    def dev_at(kind: str, rate: float) -> float:
        try:
            task = loaded[kind]
            scores = tuned_task(
                *((base_model, tokenizer), method, task, rate, steps, seeds[0]),
                **dict(batch_size=batch_size, rows=rows),
            )
        except Diverged:
            return math.inf
        return scores["dev"] if math.isfinite(scores["dev"]) else math.inf

    untrained = {
        kind: tuned_task((base_model, tokenizer), None, task, 0, 0, 0, rows=rows)["dev"]
        for kind, task in loaded.items()
    }
    outcomes = contest(
        dict.fromkeys(TASKS, rates),
        run,
        seeds,
        label=f"passport of {name or type(method).__name__}",
    )
    return Passport(
        method=name or type(method).__name__,
        settings=method.describe(),
        model=model,
        steps=steps,
        seeds=list(seeds),
        **facts(base_model, tokenizer, method),
        latency={str(batch): latency(base_model, method, batch, repeats) for batch in (1, 32)},
        results={
            kind: {
                key: outcomes[kind].values(key)
                for key in ("test", "ood", *(["forgotten"] if kind == "novel" else []))
            }
            for kind in TASKS
        },
        rates={
            kind: good_rates(outcomes[kind], untrained[kind], partial(dev_at, kind))
            for kind in TASKS
        },
    )


def good_rates(outcome: Outcome, untrained: float, dev_at: Callable[[float], float]) -> dict:
    """Best rate, and the range of rates that gain nearly as much on dev as it does.

    Args:
        untrained: dev loss of the base.
        dev_at: trains once more, with another rate. The grid goes on on either side, at most WIDER
            times, while its end is good.
    """
    tried = dict(outcome.tried)
    best = tried[outcome.rate]
    enough = best + GOOD * max(0.0, untrained - best)
    if len(tried) > 1:
        for side in (min, max):
            for _ in range(WIDER):
                end = side(tried)
                near = min((rate for rate in tried if rate != end), key=lambda r: abs(r - end))
                if tried[end] > enough:
                    break
                beyond = float(f"{end * end / near:.3g}")
                tried[beyond] = dev_at(beyond)
    good = [rate for rate, dev in tried.items() if dev <= enough] or [outcome.rate]
    return {
        "best": outcome.rate,
        "edge": outcome.edge,
        "good": [min(good), max(good)],
        "wider": min(good) == min(tried) or max(good) == max(tried),
        "tried": [[rate, dev] for rate, dev in sorted(tried.items())],
    }


def passports(notebooks: Path | None = None) -> dict[str, Passport]:
    """Name -> passport, of every lesson that has run, from the outputs of the notebooks.

    notebooks: a folder of executed notebooks, the committed ones when None.

    Raises:
        FileNotFoundError: there are no executed notebooks in an installed package.
    """
    folder = claims.folder() if notebooks is None else notebooks
    every = [_read(data) for _, _, data in claims.stored(folder, MIME)]
    return {one.method: one for one in every}


def _read(data: dict) -> Passport:
    """A passport as it was: JSON has no words for nan (a run failed) and infinity (its dev)."""
    for measured in data["results"].values():
        for key, values in measured.items():
            measured[key] = [math.nan if value is None else value for value in values]
    for rates in data["rates"].values():
        rates["tried"] = [[rate, math.inf if dev is None else dev] for rate, dev in rates["tried"]]
    return Passport(**data)


def side_by_side(every: dict[str, Passport]) -> Table:
    """All passports in one table, a column for each."""
    columns = [[answer for _, answer in one.table().rows] for one in every.values()]
    questions = [question for question, _ in next(iter(every.values())).table().rows]
    rows = [(question, *answers) for question, *answers in zip(questions, *columns, strict=True)]
    return Table("Passports", ("", *every), rows)


def _percent(share: float) -> str:
    return "failed" if math.isnan(share) else f"{100 * share:.0f} %"


def _yes(answer: bool, otherwise: str = "no") -> str:
    return "yes" if answer else otherwise
