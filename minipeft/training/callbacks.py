"""What happens around the steps of a run, one class each. `train` calls them in their order.

begin(run)              before the first step
after_step(run, step)   after the optimizer's step; the gradients are still there
end(run)                after the last step, when all went well; the last one's first
close()                 in any case
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from minipeft.attaching.in_training import in_training
from minipeft.contexts import evaluating, seeded
from minipeft.methods.parts.validation import shorten
from minipeft.training.distributed import SingleProcess
from minipeft.training.history import History
from minipeft.training.precision import Precision
from minipeft.training.snapshots import Snapshots


@dataclass
class Run:
    """What callbacks see of a run.

    steps: in all.  first: the step it begins with, above 0 where it goes on.  best_weights: by
    name, empty while there are none.  rate: the learning rate of this step.
    """

    model: nn.Module
    steps: int
    history: History
    optimizer: torch.optim.Optimizer
    precision: Precision
    processes: SingleProcess
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    first: int = 0
    rate: float = 0.0

    def is_last(self, step: int) -> bool:
        """Is this the last step of the run? Steps are counted from 0."""
        return step + 1 == self.steps


class Callback:
    """What is done beside the steps of a run; each method does nothing by default."""

    def begin(self, run: Run) -> None:
        """Called before the first step."""

    def after_step(self, run: Run, step: int) -> None:
        """Called after every step, counted from 0, when the optimizer has changed the weights."""

    def end(self, run: Run) -> None:
        """Called after `close`, last callback first, where nothing was raised."""

    def close(self) -> None:
        """Called when the steps are over, before `end`, also after an exception."""


class Tuners(Callback):
    """What the methods in training do in every step; what they say of it goes into the records."""

    def begin(self, run: Run) -> None:
        for tuner in in_training(run.model):
            tuner.method.begin(tuner, run.steps)

    def after_step(self, run: Run, step: int) -> None:
        for tuner in in_training(run.model):
            record = tuner.method.after_step(tuner, step, run.steps)
            if record:
                run.history.records.setdefault(tuner.name, []).append({"step": step, **record})

    def end(self, run: Run) -> None:
        for tuner in in_training(run.model):
            tuner.method.finish(tuner)


class Evaluation(Callback):
    """Scores every so many steps and at the end; the weights of the best score come back.

    evaluate: model -> a score, or a dict of scores of which the first counts.  best: "max", "min",
    or None to keep the last weights.
    """

    def __init__(self, evaluate: Callable | None, every: int, best: str | None) -> None:
        self.evaluate, self.every, self.best = evaluate, every, best

    def after_step(self, run: Run, step: int) -> None:
        if self.evaluate is None or not ((step + 1) % self.every == 0 or run.is_last(step)):
            return
        if self.is_best(run, step, self.scores(run)):
            parameters = run.precision.parameters.items()
            run.best_weights = {name: p.detach().clone() for name, p in parameters}

    def scores(self, run: Run) -> dict[str, float]:
        """In eval mode, without gradients; no number of the training is drawn."""

        def ask() -> dict[str, float]:
            return as_scores(self.evaluate(run.model))

        seed = run.history.settings["seed"]
        with evaluating(run.model), torch.no_grad(), seeded(seed):
            return run.processes.broadcast(ask)

    def is_best(self, run: Run, step: int, scores: dict[str, float]) -> bool:
        """Write the scores down; are they the best so far?"""
        history, tuners = run.history, in_training(run.model)
        history.evaluations.append({"step": step + 1, **scores})
        value = next(iter(scores.values()))
        settled = all(tuner.method.settled(tuner, step, run.steps) for tuner in tuners)
        if self.best is None or math.isnan(value) or not settled:
            return False
        sign = 1 if self.best == "max" else -1
        if history.best_score is not None and sign * value <= sign * history.best_score:
            return False
        history.best_step, history.best_score = step + 1, value
        return True

    @torch.no_grad()
    def end(self, run: Run) -> None:
        for name, value in run.best_weights.items():
            run.precision.parameters[name].copy_(value)
        run.precision.write()


def as_scores(result) -> dict[str, float]:
    """What `evaluate` gave, as numbers by name.

    Raises:
        ValueError: it is no number and no dict of numbers.
    """
    named = result if isinstance(result, Mapping) else {"score": result}
    try:
        scores = {key: float(value) for key, value in named.items()}
    except (TypeError, ValueError):
        scores = {}
    if not scores:
        raise ValueError(
            "evaluate must give a number, or a dict of one or more numbers by name, not "
            f"{shorten(result)}."
        )
    return scores


class Stopwatch(Callback):
    """Seconds of the run, those before it was interrupted included."""

    def begin(self, run: Run) -> None:
        self.started, self.before = time.perf_counter(), None

    def after_step(self, run: Run, step: int) -> None:
        if self.before is None:  # what a checkpoint has told by now
            self.before = run.history.seconds
        run.history.seconds = self.before + time.perf_counter() - self.started


class Checkpoints(Callback):
    """The state of the run in a folder, every so many steps and at the end; `begin` restores it.

    resume: go on from what is there; otherwise a folder with another run in it is refused.
    """

    def __init__(self, folder: str | Path | None, every: int, resume: bool) -> None:
        self.folder, self.every, self.resume = folder, every, resume

    def begin(self, run: Run) -> None:
        parameters, settings = run.precision.parameters, run.history.settings
        if len(run.optimizer.param_groups) > 1:
            settings["factors"] = [group["factor"] for group in run.optimizer.param_groups]
        self.snapshots = Snapshots(self.folder, run.model, parameters, run.optimizer, settings)
        if self.resume:
            run.first, run.best_weights = self.snapshots.restore(run.history)
        else:
            run.first, run.best_weights = self.snapshots.fresh()
        run.precision.resume(run.history.records)

    def restore_random_numbers(self) -> None:
        """They go on where they were, whatever has been drawn to get there."""
        self.snapshots.restore_random_numbers()

    def after_step(self, run: Run, step: int) -> None:
        if self.folder is not None and ((step + 1) % self.every == 0 or run.is_last(step)):
            self.write(run, step)
            run.processes.wait()

    def write(self, run: Run, step: int) -> None:
        if run.processes.rank == 0:
            self.snapshots.write(step + 1, run.history, run.best_weights)


class Interruption(Callback):
    """With a folder for checkpoints, the first Ctrl-C ends the run behind the step that it is in,
    when its state has been written down; a second one ends it at once.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints, self.asked = checkpoints, False
        self.taken: list[int] = []  # signals whose handler is `ask` for the time of the run

    def begin(self, run: Run) -> None:
        main = threading.current_thread() is threading.main_thread()
        if self.checkpoints.folder is None or not main or run.processes.size > 1:
            return
        for number in (signal.SIGINT, signal.SIGTERM):  # the second one where it acts as Ctrl-C
            if signal.getsignal(number) is signal.default_int_handler:
                signal.signal(number, self.ask)
                self.taken.append(number)

    def ask(self, *_) -> None:
        self.asked = True
        self.close()

    def after_step(self, run: Run, step: int) -> None:
        if self.asked:
            if not run.is_last(step):
                self.checkpoints.write(run, step)
            raise KeyboardInterrupt

    def close(self) -> None:
        while self.taken:
            signal.signal(self.taken.pop(), signal.default_int_handler)


class Processes(Callback):
    """How many processes share the run, and what they send, is written down."""

    def begin(self, run: Run) -> None:
        size, sent = run.processes.size, run.processes.bytes
        if size > 1:
            shared = {"step": run.first, "processes": size, "bytes": sent}
            run.history.records.setdefault("in parallel", []).append(shared)


class Watch(Callback):
    """A function of the user's that is called with the history after every step."""

    def __init__(self, watch: Callable[[History], None] | None) -> None:
        self.watch = watch

    def after_step(self, run: Run, step: int) -> None:
        if self.watch and run.processes.rank == 0:
            self.watch(run.history)


class ProgressBar(Callback):
    """A bar, shown when a run takes longer than two seconds."""

    def __init__(self, wanted: bool) -> None:
        self.wanted, self.bar = wanted, None

    def begin(self, run: Run) -> None:
        self.bar = tqdm(
            total=run.steps,
            initial=run.first,
            disable=not (self.wanted and run.processes.rank == 0),
            delay=2,
            mininterval=0.5,
            unit="step",
            desc=run.history.trained,
        )

    def after_step(self, run: Run, step: int) -> None:
        self.bar.update()
        self.bar.set_postfix(loss=f"{run.history.losses[-1]:.3f}", refresh=False)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
