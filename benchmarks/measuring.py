"""Timing side by side, counting, and the table, the files and the picture that come of it."""

from __future__ import annotations

import csv
import gc
import io
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

HOW = (
    "Medians, quartiles in brackets; the models take turns in one process, and a ratio is that of "
    "steps in the same round. processor: the ratio of the time that the processors were busy."
)


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
    finish()
    gc.collect()
    gc.disable()
    try:
        for _ in tqdm(range(rounds), desc=label, leave=False):
            for name in order:
                wall, busy = time.perf_counter(), time.process_time()
                steps[name]()
                finish()
                times[name].processor.append(time.process_time() - busy)
                times[name].wall.append(time.perf_counter() - wall)
            order.reverse()
    finally:
        gc.enable()
    return times


def finish() -> None:
    """Wait for an accelerator, where there is one; it works on after a step has returned."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """A quarter, a half and three quarters of the values lie below these."""
    low, middle, high = torch.tensor(values).quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
    return low, middle, high


def ratio(ours: Times, theirs: Times) -> tuple[float, float, float]:
    """Quartiles of ours / theirs measured in the same round; below 1, ours is faster."""
    return quartiles([a / b for a, b in zip(ours.wall, theirs.wall, strict=True)])


def busy(ours: Times, theirs: Times) -> float:
    """The median of the same ratio, of the time that the processors were busy."""
    pairs = zip(ours.processor, theirs.processor, strict=True)
    return quartiles([a / b for a, b in pairs])[1]


def spread(values: tuple[float, float, float], digits: int = 2) -> str:
    """The median, and the quartiles in brackets: 0.98 (0.97-1.01)."""
    low, middle, high = (f"{value:.{digits}f}" for value in values)
    return f"{middle} ({low}-{high})"


def milliseconds(times: Times) -> str:
    """The median of the wall clock, the quartiles in brackets."""
    return spread(tuple(1000 * value for value in quartiles(times.wall)), 1)


def flops(step: Callable[[], None]) -> int:
    """Floating-point operations of a step, the products of matrices and attention counted.

    torch's counter does not know the attention that it has for processors; we tell it.
    """
    from torch.utils import flop_counter as counter

    def forward(q, k, v, *args, **kwargs) -> int:
        return counter.sdpa_flop_count(q, k, v)

    def backward(grad, q, k, v, *args, **kwargs) -> int:
        return counter.sdpa_backward_flop_count(grad, q, k, v)

    name = "_scaled_dot_product_flash_attention_for_cpu"
    uncounted = {
        getattr(torch.ops.aten, name): forward,
        getattr(torch.ops.aten, f"{name}_backward"): backward,
    }
    with counter.FlopCounterMode(display=False, custom_mapping=uncounted) as count:
        step()
    return count.get_total_flops()


@dataclass
class Sheet:
    """What a section found: a table with sentences under it, and a picture.

    draw: puts the numbers into the axes that it is given.
    """

    name: str
    title: str
    head: list[str]
    threads: int
    draw: Callable | None = None
    size: tuple[float, float] = (8, 5)  # of the picture, in inches
    panels: int = 1
    device: str = "cpu"
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def machine(self) -> str:
        """What the numbers were measured with."""
        parts = [processor(), f"{self.threads} threads", f"Python {platform.python_version()}"]
        if self.device != "cpu":
            parts.insert(0, accelerator(self.device))
        parts += [f"{name} {version(name)}" for name in ("torch", "transformers", "peft")]
        return ", ".join(parts)

    def markdown(self) -> str:
        """The table as Markdown that reads well in a terminal too."""
        lines = [self.head, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.head))]
        text = [
            "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
            for line in lines
        ]
        text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        notes = [f"- {note}" for note in self.notes]
        return "\n".join([f"## {self.title}", "", *text, "", *notes, f"- {self.machine()}", ""])

    def write(self, folder: Path) -> list[Path]:
        """<name>.md, <name>.csv and, where there is something to draw, <name>.png."""
        folder.mkdir(parents=True, exist_ok=True)
        kind_of_device = torch.device(self.device).type
        name = self.name if kind_of_device == "cpu" else f"{self.name}_{kind_of_device}"
        paths = [folder / f"{name}.{kind}" for kind in ("md", "csv", "png")]
        paths[0].write_text(self.markdown(), encoding="utf-8")
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.head, *self.rows])
        paths[1].write_text(text.getvalue(), encoding="utf-8")
        if self.draw is None:
            return paths[:2]
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(1, self.panels, figsize=self.size, dpi=100)
        self.draw(axes)
        figure.tight_layout()
        figure.savefig(paths[2])
        pyplot.close(figure)
        return paths


def bars(axes, groups: dict[str, dict[str, tuple]], label: str, line: float | None = None) -> None:
    """Horizontal bars, one colour per group: {group: {name: (low, middle, high)}}."""
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    high = 0.8 / len(groups)
    for number, (group, values) in enumerate(groups.items()):
        places = [names.index(name) - 0.4 + (number + 0.5) * high for name in values]
        middle = [m for _, m, _ in values.values()]
        error = [[m - low for low, m, _ in values.values()], [h - m for _, m, h in values.values()]]
        axes.barh(places, middle, 0.9 * high, xerr=error, label=group, capsize=2)
    if line is not None:
        axes.axvline(line, color="0.3", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    if len(groups) > 1:
        axes.legend(fontsize=8)


def version(package: str) -> str:
    """The version of a package, "missing" when it is not installed."""
    import importlib.metadata

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def accelerator(device: str) -> str:
    """The name of an accelerator, where its back end tells it."""
    backend = torch.get_device_module(device)
    return backend.get_device_name(device) if hasattr(backend, "get_device_name") else device


def processor() -> str:
    """The processor's name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
