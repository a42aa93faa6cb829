"""What happened in a run, step by step: numbers to look at, to plot and to keep in a file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tiny_transformer.files import write_text


@dataclass
class History:
    """What happened in a run: one entry per step, one per evaluation.

    losses: mean over the micro-batches of a step, penalties included.  evaluations: dicts with
    "step" and the scores.  best_step: the evaluation whose weights the model has now, None when
    the last weights were kept.  settings: the numbers that `train` was called with.  trained: names
    of the tuners, or "the model itself".
    """

    losses: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    evaluations: list[dict] = field(default_factory=list)
    best_step: int | None = None
    best_score: float | None = None
    seconds: float = 0.0
    settings: dict = field(default_factory=dict)
    trained: str = ""
    records: dict[str, list[dict]] = field(default_factory=dict)

    def add(self, loss: float, rate: float, norm: float) -> None:
        """One step more."""
        self.losses.append(loss)
        self.learning_rates.append(rate)
        self.gradient_norms.append(norm)

    def plot(self, axes=None, label: str | None = None):
        """Draw the loss, and the scores if there are any; returns matplotlib's axes."""
        from minipeft import plots

        return plots.history(self, axes, label)

    def save(self, path: str | Path) -> None:
        """Write everything as JSON."""
        write_text(Path(path).expanduser(), json.dumps(asdict(self), indent=1, default=float))

    @classmethod
    def load(cls, path: str | Path) -> History:
        """Read what `save` wrote."""
        return cls(**json.loads(Path(path).expanduser().read_text(encoding="utf-8")))

    def __repr__(self) -> str:
        if not self.losses:
            return "History(no steps)"
        last = sum(self.losses[-20:]) / len(self.losses[-20:])
        best = f", best {self.best_score:.4g} at step {self.best_step}" if self.best_step else ""
        trained = f" of {self.trained}" if self.trained else ""
        return f"History({len(self.losses)} steps{trained}, last losses {last:.4g}{best})"
