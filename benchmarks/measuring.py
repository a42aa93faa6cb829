"""Timing side by side, and the table, the JSON file and the picture that come of it."""

from __future__ import annotations

import gc
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm


@dataclass
class Times:
    """Seconds of every measured step, by the clock on the wall and of the processors."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)


def take_turns(
    steps: dict[str, Callable[[], None]], rounds: int, warmup: int = 2, label: str = ""
) -> dict[str, Times]:
    """How long each step takes, measured in turns: A B, B A, A B, ...

    Whatever else the machine does in the meantime meets all of them alike, and no one always comes
    first. The i-th times of two names were measured directly after one another. The time of the
    processors is the one to trust on a busy machine, where the wall clock also measures waiting.
    """
    order, times = list(steps), {name: Times() for name in steps}
    for step in steps.values():
        for _ in range(warmup):
            step()
    gc.collect()
    gc.disable()
    try:
        for _ in tqdm(range(rounds), desc=label, leave=False):
            for name in order:
                wall, busy = time.perf_counter(), time.process_time()
                steps[name]()
                times[name].processor.append(time.process_time() - busy)
                times[name].wall.append(time.perf_counter() - wall)
            order.reverse()
    finally:
        gc.enable()
    return times


def quantiles(values: list[float]) -> tuple[float, float, float]:
    """The 5 %, 50 % and 95 % quantiles."""
    low, middle, high = torch.tensor(values).quantile(torch.tensor([0.05, 0.5, 0.95])).tolist()
    return low, middle, high


@dataclass
class Row:
    """One comparison: ours and theirs, measured in turns."""

    name: str
    about: str
    ours: Times
    theirs: Times

    def ratio(self) -> float:
        """Median of ours / median of theirs; below 1, ours is faster."""
        return quantiles(self.ours.wall)[1] / quantiles(self.theirs.wall)[1]

    def paired(self) -> tuple[float, float, float]:
        """5 %, 50 %, 95 % of ours / theirs measured directly after one another."""
        pairs = zip(self.ours.wall, self.theirs.wall, strict=True)
        return quantiles([a / b for a, b in pairs])

    def processor(self) -> float:
        """`ratio` of the time that the processors were busy."""
        return quantiles(self.ours.processor)[1] / quantiles(self.theirs.processor)[1]


@dataclass
class Report:
    """What a section measured."""

    name: str
    title: str
    ours: str
    theirs: str
    threads: int
    rows: list[Row] = field(default_factory=list)

    def machine(self) -> dict[str, str | int]:
        """What the numbers were measured with."""
        import transformers

        return {
            "processor": processor(),
            "threads": self.threads,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    def table(self) -> str:
        """Medians in milliseconds with the span from 5 % to 95 %, and ratios."""
        head = ["", self.ours + " ms", self.theirs + " ms", "ratio", "of pairs", "processor"]
        head.append("what")
        lines = [head]
        for row in self.rows:
            both = (row.ours.wall, row.theirs.wall)
            ours, theirs = ([1000 * q for q in quantiles(times)] for times in both)
            low, middle, high = row.paired()
            lines.append(
                [
                    row.name,
                    *(f"{t[1]:.1f} ({t[0]:.1f}-{t[2]:.1f})" for t in (ours, theirs)),
                    f"{row.ratio():.3f}",
                    f"{middle:.3f} ({low:.2f}-{high:.2f})",
                    f"{row.processor():.3f}",
                    row.about,
                ]
            )
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        text = [" | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines]
        text.insert(1, "-|-".join("-" * width for width in widths))
        about = ", ".join(f"{key} {value}" for key, value in self.machine().items())
        note = "Medians, 5 % to 95 % in brackets. Ratios: ours / theirs of the medians, of steps "
        note += "taken one after the other, of the processors' time."
        return "\n".join([self.title, about, "", *text, "", note, ""])

    def write(self, folder: Path) -> list[Path]:
        """Every single time as JSON, and a picture."""
        folder.mkdir(parents=True, exist_ok=True)
        numbers = asdict(self) | {"machine": self.machine()}
        for row, found in zip(self.rows, numbers["rows"], strict=True):
            found |= {"ratio_of_medians": row.ratio(), "median_of_paired_ratios": row.paired()[1]}
            found |= {"ratio_of_processor_medians": row.processor()}
        paths = [folder / f"{self.name}.json", folder / f"{self.name}.png"]
        paths[0].write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
        self.draw(paths[1])
        return paths

    def draw(self, path: Path) -> None:
        """One bar per model: the median, with the span from 5 % to 95 %."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(figsize=(8, 1.2 + 0.8 * len(self.rows)), dpi=100)
        for side, (label, colour) in enumerate(((self.ours, "tab:blue"), (self.theirs, "0.6"))):
            times = [row.theirs if side else row.ours for row in self.rows]
            spans = [[1000 * q for q in quantiles(one.wall)] for one in times]
            places = [i + 0.2 * (2 * side - 1) for i in range(len(self.rows))]
            middle = [m for _, m, _ in spans]
            error = [[m - low for low, m, _ in spans], [high - m for _, m, high in spans]]
            axes.barh(places, middle, 0.36, xerr=error, label=label, color=colour, capsize=2)
        for i, row in enumerate(self.rows):
            right = 1000 * max(quantiles(times.wall)[2] for times in (row.ours, row.theirs))
            axes.text(right, i, f"  ratio {row.ratio():.2f}", va="center")
        axes.set_yticks(range(len(self.rows)), [row.name for row in self.rows])
        axes.invert_yaxis()
        axes.set_xlim(0, axes.get_xlim()[1] * 1.15)
        axes.set_xlabel("milliseconds per step (median; lines from 5 % to 95 %)")
        axes.set_title(f"{self.title}, {self.threads} threads", fontsize=10)
        axes.legend(loc="lower right")
        figure.tight_layout()
        figure.savefig(path)
        pyplot.close(figure)


def processor() -> str:
    """The processor's name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
