"""What the jobs of `jobs.py` gave: benchmarks/results/jobs.csv, and docs/jobs.md made of it."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from minipeft.__main__ import main as minipeft
from minipeft.commands.options import method_class

if TYPE_CHECKING:
    from benchmarks.jobs import Job

RESULTS = Path(__file__).resolve().parent / "results" / "jobs.csv"
FIELDS = ("job", "method", "rate", "trained", "seconds", "dev", "scores", "device", "seed")
METHODS = (
    "FullFineTuning", "HeadOnly", "BitFit", "LoRA", "AdaLoRA", "VeRA", "Adapter", "IA3", "Prefix",
    "PromptTuning", "PTuning", "PTuningV2", "UniPELT",
)  # fmt: skip
STEP = 3.0  # between two rates of the grid
FAR = 0.1  # from the best rate of the grid; such a row is run with more seeds
MORE_SEEDS = (1, 2)
WIDEST = 2  # steps of the grid to each side, if the best is at its edge


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def device() -> str:
    """Where `train` runs if nobody says where: "cpu", or the name of the accelerator."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def default_rate(method: str) -> float:
    return method_class(method.lower()).default_rate


def measure(job: Job, method: str, rate: float, out: Path, seed: int = 0) -> dict[str, str]:
    """Train and evaluate: a line of the results."""
    run = out / job.name / f"{method}-{rate:g}{f'-seed{seed}' if seed else ''}"
    given = None if rate == default_rate(method) else rate
    begun = (run / "config.json").is_file()
    words = ["train", "--resume", str(run)] if begun else job.train_words(method, given, run, seed)
    for command in (words, job.evaluate_words(run)):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            code = minipeft(command)
        if code:
            raise RuntimeError(f"{shlex.join(command)} ended with {code}: {said.getvalue()}")
    scores = dict(re.findall(r"^(\w+) +(-?\d+(?:\.\d+)?)$", said.getvalue(), re.MULTILINE))
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    first, *others = job.metric.split(",")
    return {
        "job": job.name,
        "method": method,
        "rate": f"{rate:g}",
        "trained": str(result["trainable"] + result["head"]),
        "seconds": f"{result['seconds']:.0f}",
        "dev": f"{result['dev'][first]:.4f}",
        "scores": " ".join(f"{name}={scores[name]}" for name in (first, *others)),
        "device": device(),
        "seed": str(seed),
    }


class Results:
    """The lines of jobs.csv: (job, method, rate as text, device, seed as text) -> line."""

    def __init__(self, path: Path = RESULTS):
        self.path = path
        lines = rows_of(path) if path.is_file() else []
        names = ("job", "method", "rate", "device", "seed")
        self.lines = {tuple(line[name] for name in names): line for line in lines}

    def get(self, job: Job, method: str, rate: float, out: Path, seed: int = 0) -> dict[str, str]:
        """The line of this device; measured and written if it is not there."""
        key = (job.name, method, f"{rate:g}", device(), str(seed))
        if key not in self.lines:
            self.lines[key] = line = measure(job, method, rate, out, seed)
            new = not self.path.is_file()
            with self.path.open("a", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
                if new:
                    writer.writeheader()
                writer.writerow(line)
            print(*line.values(), flush=True)
        return self.lines[key]

    def rates(self, job: str, method: str) -> dict[str, dict[float, dict[str, str]]]:
        """Device -> rate -> line, of all that has been run with seed 0; the cpu first."""
        devices: dict[str, dict] = {"cpu": {}}
        for line in sorted(self.lines.values(), key=lambda line: float(line["rate"])):
            if (line["job"], line["method"], line["seed"]) == (job, method, "0"):
                devices.setdefault(line["device"], {})[float(line["rate"])] = line
        return devices

    def seeds(self, job: str, method: str, rate: str) -> dict[int, float]:
        """Seed -> first score of that rate; on the device that has most of them."""
        devices: dict[str, dict[int, float]] = {}
        for line in self.lines.values():
            if (line["job"], line["method"], line["rate"]) == (job, method, rate):
                devices.setdefault(line["device"], {})[int(line["seed"])] = first_score(line)
        return max(devices.values(), key=len)

    def grid(self, job: Job, method: str, out: Path) -> None:
        """A third and three times the default rate; on, while the best on dev is at the edge.

        Where the default rate is far from the best one, both are run with MORE_SEEDS.
        """
        rate = default_rate(method)
        low, high = -1, 1
        while True:
            tried = {n: rate * STEP**n for n in range(low, high + 1)}
            dev = {n: float(self.get(job, method, r, out)["dev"]) for n, r in tried.items()}
            best = max(dev, key=dev.get)
            if best == low and low > -WIDEST:
                low -= 1
            elif best == high and high < WIDEST:
                high += 1
            else:
                break
        at_default, score = (first_score(self.get(job, method, tried[n], out)) for n in (0, best))
        for seed in MORE_SEEDS if score - at_default > FAR else ():
            for n in (0, best):
                self.get(job, method, tried[n], out, seed)


def scores_of(line: dict[str, str]) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"(\w+)=(\S+)", line["scores"])}


def first_score(line: dict[str, str]) -> float:
    """The score that decides: the first of the job's metrics."""
    return next(iter(scores_of(line).values()))


def page(results: Results, texts: dict[str, tuple[str, str]]) -> str:
    """docs/jobs.md; texts: job -> (what is asked, command)."""
    devices = sorted({line["device"] for line in results.lines.values()})
    where = f"The grid ran on: {', '.join(devices)}."
    lines = [
        "# Jobs from the command line",
        "",
        "Written by `python -m benchmarks.jobs --page` from benchmarks/results/jobs.csv, which "
        "`python -m benchmarks.jobs --grid --corpora FOLDER` measures. Each row is one run of the "
        "command above its table with another `--method`, at that method's default learning rate, "
        "and its scores on the test file; a head that starts from random numbers learns at 0.01 or "
        "more. One seed, one core: worked examples, not a contest (that is lesson 15). Seconds are "
        "of a machine with other work. All numbers that are trained count, the head's included.",
        "",
        "The last three columns are another run, the grid: the default rate, its third and its "
        "triple, one step further where the best on dev was at the edge. They give the test score "
        f"at the default, the rate that was best on dev, and the test score at that rate. {where} "
        "A row that stays at chance did not learn within "
        "these steps at any rate that was tried.",
        "",
    ]
    gaps, far = [], []
    for name, (asked, command) in texts.items():
        first = next((line for key, line in results.lines.items() if key[0] == name), None)
        if first is None:
            continue  # not run yet
        names = list(scores_of(first))
        lines += [f"## {name}: {asked}", "", f"    {command}", ""]
        head = ["method", "numbers trained", "default rate", *names, "seconds"]
        head += [f"{names[0]} in the grid", "best rate of the grid", f"{names[0]} with it"]
        lines.append(f"| {' | '.join(head)} |")
        lines.append("|---" * len(head) + "|")
        for method in METHODS:
            devices, default = results.rates(name, method), float(f"{default_rate(method):g}")
            grid = max((d for d in devices.values() if default in d), key=len, default={})
            line = devices["cpu"].get(default)
            if line is None:
                continue
            scores = " | ".join(f"{value:.3f}" for value in scores_of(line).values())
            cells = (f"{int(line['trained']):,}", line["rate"], scores, line["seconds"])
            row = f"| {method} | {' | '.join(cells)}"
            if len(grid) > 1:
                best = max(grid.values(), key=lambda tried: float(tried["dev"]))
                at_default, score = first_score(grid[default]), first_score(best)
                gaps.append(score - at_default)
                if gaps[-1] > FAR:
                    far.append(further(results, name, method, line["rate"], best["rate"]))
                row += f" | {at_default:.3f} | {best['rate']} | {score:.3f} |"
            else:
                row += " | - | - | - |"
            lines.append(row)
        lines.append("")
    if gaps:
        lines += [
            "## Do the default rates work?",
            "",
            f"{len(gaps) - len(far)} of {len(gaps)} rows are within ten points of the best rate of "
            f"their grid, with one seed. {' '.join(far)}".rstrip(),
            "",
        ]
    return "\n".join(lines)


def further(results: Results, job: str, method: str, default: str, best: str) -> str:
    """A sentence on a default rate that is far from the best one: with how many seeds?"""
    pair = [results.seeds(job, method, rate) for rate in (default, best)]
    seeds = sorted(set(pair[0]) & set(pair[1]))
    means = [sum(scores[seed] for seed in seeds) / len(seeds) for scores in pair]
    return (
        f"{method} on {job} is further away there; over the seeds {', '.join(map(str, seeds))} it "
        f"has {means[0]:.3f} at its default, {default}, and {means[1]:.3f} at {best}."
    )
