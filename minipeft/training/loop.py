"""One training loop for tiny models and transformers models, with or without tuners.

    history = train(model, batches, steps=300, learning_rate=1e-3)
    history.plot()

AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) over the trainable parameters only, warm-up,
decay, clipping, evaluation, the best weights kept. Everything random is a function of `seed` and
the step, or is kept in the checkpoint, so that a run that was killed and resumed ends with the same
bits as one that was not. Under torchrun several processes share every batch: see distributed.py.
"""

from __future__ import annotations

import json
import math
import numbers
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from minipeft.contexts import evaluating, modes_kept
from minipeft.in_training import acting, chosen, in_training, said, tuners_of
from minipeft.methods.parts.validation import shorten
from minipeft.training.distributed import Alone, crew
from minipeft.training.precision import Precision
from minipeft.training.savings.kept_trunk import Trunk
from minipeft.training.savings.labelled_positions import labelled_loss
from minipeft.training.savings.shared_prompt import shared_loss
from minipeft.training.snapshots import Snapshots
from minipeft.tuner import seeded, wrap
from tiny_transformer.files import write_text

SCHEDULES = ("linear", "cosine", "constant")


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

    def plot(self, axes=None, label: str | None = None):
        """Draw the loss, and the scores if there are any; returns matplotlib's axes."""
        from minipeft import plots

        return plots.history(self, axes, label)

    def save(self, path: str | Path) -> None:
        """Write everything as JSON."""
        write_text(path, json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, path: str | Path) -> History:
        """Read what `save` wrote."""
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))

    def __repr__(self) -> str:
        if not self.losses:
            return "History(no steps)"
        last = sum(self.losses[-20:]) / len(self.losses[-20:])
        best = f", best {self.best_score:.4g} at step {self.best_step}" if self.best_step else ""
        of = f" of {self.trained}" if self.trained else ""
        return f"History({len(self.losses)} steps{of}, last losses {last:.4g}{best})"


def train(
    model: nn.Module,
    batches: Iterable[dict] | Callable[[int], dict],
    steps: int,
    learning_rate: float = 1e-3,
    *,
    warmup: float = 0.1,
    schedule: str = "linear",
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    clip: float | None = 1.0,
    accumulate: int = 1,
    seed: int = 0,
    evaluate: Callable[[nn.Module], float | dict] | None = None,
    evaluate_every: int = 50,
    best: str | None = "max",
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 100,
    resume: bool = False,
    progress: bool = True,
    watch: Callable[[History], None] | None = None,
    keep_trunk: bool = False,
    tuners: str | Sequence | None = None,
) -> History:
    """Train what is trainable in a model.

    Args:
        model: called as `model(**batch)`, gives `.loss`. With tuners attached, those that are
            enabled are trained, unless they had been trained before the last one came (see
            `tuners`); without, every parameter that requires a gradient.
        batches: a list of batches, gone through in an order that `seed` shuffles anew in every
            epoch; or a function step -> batch; or any iterable, begun again when it ends. A batch
            is a dict of tensors, labels included.
        steps: optimizer steps in all.
        learning_rate: the highest one.
        warmup: share of the steps (below 1) or number of steps in which the rate rises to it.
        schedule: what follows: "linear" to 0, "cosine" to 0, or "constant".
        weight_decay, betas: AdamW's.
        clip: longest gradient, as the norm over all parameters; None does not clip.
        accumulate: micro-batches whose gradients are averaged into one step.
        seed: of the order of batches and of dropout. torch's own generator is left as it was.
        evaluate: model -> a score, or a dict of scores of which the first counts; called in eval
            mode, without gradients, every `evaluate_every` steps and at the end.
        best: "max" or "min" keeps the weights of the best score and gives them back at the end;
            None keeps the last ones.
        checkpoint: folder for the state of the run, written every `checkpoint_every` steps.
        resume: go on from the checkpoint in that folder, if there is one.
        watch: called with the history after every step, to write it down somewhere.
        keep_trunk: run the frozen blocks below everything that is trained once per batch and keep
            what they give; its size is told first. See minipeft.training.savings.kept_trunk.
        tuners: names of the tuners to train. None trains those that are enabled, but for one that
            had been trained, or was loaded, before another came that is enabled too: it acts, stays
            as it is, and a warning says so. See minipeft.in_training.

    Raises:
        ValueError: nothing is trainable, an argument is impossible, the loss is not a number any
            more, or the checkpoint belongs to another run.
    """
    check_arguments(
        steps=steps,
        learning_rate=learning_rate,
        warmup=warmup,
        schedule=schedule,
        best=best,
        accumulate=accumulate,
        weight_decay=weight_decay,
        betas=betas,
        clip=clip,
        evaluate_every=evaluate_every,
        checkpoint_every=checkpoint_every,
    )
    with chosen(model, tuners), seeded(seed), modes_kept(model):
        trained = trainable(model)
        precision = Precision(model, trained)
        parameters = precision.parameters
        rising = warmup_steps(warmup, steps)
        settings = dict(steps=steps, learning_rate=learning_rate, warmup=warmup, schedule=schedule)
        settings |= dict(weight_decay=weight_decay, betas=list(betas), clip=clip, seed=seed)
        settings |= dict(accumulate=accumulate, evaluate_every=evaluate_every, best=best)
        for tuner in in_training(model):
            tuner.method.begin(tuner, steps)
        groups = precision.groups(by_factor(model, trained))
        if len(groups) > 1:
            settings["factors"] = [group["factor"] for group in groups]
        history = History(settings=settings, trained=said(model))
        optimizer = torch.optim.AdamW(groups, learning_rate, betas, weight_decay=weight_decay)
        best_weights: dict[str, Tensor] = {}
        device = next(iter(parameters.values())).device
        snapshots = Snapshots(checkpoint, model, parameters, optimizer, settings)
        mates = crew(model, parameters, seed)  # one process, unless torchrun started more

        begin, best_weights = snapshots.restore(history) if resume else snapshots.fresh()
        precision.resume(history.records)
        if mates.size > 1:
            shared = {"step": begin, "processes": mates.size, "bytes": mates.bytes}
            history.records.setdefault("in parallel", []).append(shared)
        feed = Feed(batches, seed, begin * accumulate)
        trunk = trunk_of(model, batches, device, mates, progress) if keep_trunk else None
        snapshots.random()  # after the feed, which may have drawn numbers to get where we were
        started = time.perf_counter() - history.seconds
        bar = tqdm(
            total=steps,
            initial=begin,
            disable=not (progress and mates.rank == 0),
            delay=2,
            mininterval=0.5,
            unit="step",
            desc=history.trained,
        )

        def gradients(step: int, drawn: dict[int, dict]) -> tuple[float, float]:
            """Of one step: (the loss, the gradient's norm). drawn: its micro-batches so far."""
            loss = 0.0
            optimizer.zero_grad()
            for part in range(accumulate):
                number = step * accumulate + part
                if number not in drawn:
                    drawn[number] = feed(number)
                batch, times = mates.share(to_device(drawn[number], device))
                work = partial(backward, model, batch, accumulate * times, precision.scale)
                with mates.noise(number):
                    loss += trunk.run(feed.place(number), work) if trunk else work()
                precision.gather()
            loss = mates.reduce(loss)
            precision.unscale()
            return loss, nn.utils.clip_grad_norm_(parameters.values(), clip or math.inf).item()

        model.train()
        try:
            for step in range(begin, steps):
                rate = learning_rate_at(step, steps, learning_rate, rising, schedule)
                for group in optimizer.param_groups:
                    group["lr"] = rate * group["factor"]
                loss, norm = gradients(step, drawn := {})
                while math.isfinite(loss) and not math.isfinite(norm):
                    if not precision.lower(step, history.records):
                        break
                    loss, norm = gradients(step, drawn)
                if not (math.isfinite(loss) and math.isfinite(norm)):
                    raise ValueError(
                        f"The loss is {loss} and the gradient's norm {norm} at step {step}, with a "
                        f"learning rate of {rate:.2g}: lower it, or look for rows whose labels are "
                        f"all -100{precision.hint()}. The weights are those before this step."
                    )
                optimizer.step()
                precision.write()
                for tuner in in_training(model):
                    record = tuner.method.after_step(tuner, step, steps)
                    if record:
                        history.records.setdefault(tuner.name, []).append({"step": step, **record})
                history.losses.append(loss)
                history.learning_rates.append(rate)
                history.gradient_norms.append(norm)
                last = step + 1 == steps
                if evaluate and ((step + 1) % evaluate_every == 0 or last):
                    if score(model, evaluate, step + 1, history, best, mates):
                        best_weights = {k: p.detach().clone() for k, p in parameters.items()}
                history.seconds = time.perf_counter() - started
                if checkpoint and ((step + 1) % checkpoint_every == 0 or last):
                    if mates.rank == 0:
                        snapshots.write(step + 1, history, best_weights)
                    mates.wait()
                if watch and mates.rank == 0:
                    watch(history)
                bar.update()
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        finally:
            bar.close()
            precision.clear()
        with torch.no_grad():
            for name, value in best_weights.items():
                parameters[name].copy_(value)
        precision.write()
        for tuner in in_training(model):
            tuner.method.finish(tuner)
    return history


def backward(model: nn.Module, batch: dict, accumulate: float, scale: float = 1.0) -> float:
    """Add the gradients of one micro-batch; returns its share, one of so many, of the loss.

    scale: by which all gradients are multiplied; see minipeft.training.precision.
    """
    batch, loss = wrap(model, batch), None
    if not hasattr(model, "unshard"):  # FSDP fetches the weights for one whole forward pass
        loss = shared_loss(model, batch)
        loss = labelled_loss(model, batch) if loss is None else loss
    if loss is None:
        loss = model(**batch).loss
    for tuner in in_training(model):
        penalty = tuner.method.penalty(tuner)
        loss = loss if penalty is None else loss + penalty
    (scale * loss / accumulate).backward()
    return loss.item() / accumulate


def trunk_of(model, batches, device: torch.device, mates: Alone, progress: bool) -> Trunk:
    """The trunk to keep; says how large it will be."""
    if mates.size > 1:
        raise ValueError("keep_trunk=True works in one process: leave it out under torchrun.")
    trunk = Trunk(model.train(), batches, lambda batch: wrap(model, to_device(batch, device)))
    if progress:
        tqdm.write(
            f"{len(trunk.frozen)} frozen blocks run once for each of {len(batches)} batches; what "
            f"they give is kept: {trunk.bytes / 2**20:.1f} MiB."
        )
    return trunk


def by_factor(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> list[dict]:
    """The optimizer's groups: parameters that learn at the same multiple of the rate together."""
    factors: dict[nn.Parameter, float] = {}
    for tuner in in_training(model):
        factors |= tuner.method.learning_rates(tuner)
    groups: dict[float, list] = {}
    for parameter in parameters.values():
        groups.setdefault(factors.get(parameter, 1.0), []).append(parameter)
    return [{"params": group, "factor": factor} for factor, group in groups.items()]


def warmup_steps(warmup: float, steps: int) -> int:
    """A share of the steps (below 1) or a number of steps, as a number of steps."""
    return round(warmup * steps) if warmup < 1 else int(warmup)


def learning_rate_at(step: int, steps: int, peak: float, warmup: int, schedule: str) -> float:
    """The rate of a step: a straight rise to the peak over `warmup` steps, then the schedule."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)  # 0 at the peak, almost 1 at the last step
    if schedule == "cosine":
        return peak * (1 + math.cos(math.pi * done)) / 2
    return peak * (1 - done) if schedule == "linear" else peak


class Feed:
    """Number of a micro-batch -> the micro-batch, whatever `batches` is."""

    def __init__(self, batches, seed: int, begin: int) -> None:
        self.batches = batches
        self.seed = seed
        self.orders: dict[int, list[int]] = {}
        if isinstance(batches, Mapping):
            raise TypeError("batches must hold dicts, and is one: give [batch] to repeat a batch.")
        if isinstance(batches, list | tuple):
            if not batches:
                raise ValueError("There are no batches to train on: the list is empty.")
            self.kind = "list"
        elif callable(batches):
            self.kind = "function"
        elif isinstance(batches, Iterable):
            self.kind = "iterable"
            self.running = iter(batches)
            for _ in range(begin):  # an iterable cannot be asked for its 500th batch: draw them all
                self.draw()
        else:
            raise TypeError(f"batches must be a list, a function or an iterable, not {batches!r}.")

    def __call__(self, number: int) -> dict:
        if self.kind == "function":
            return self.batches(number)
        if self.kind == "iterable":
            return self.draw()
        return self.batches[self.place(number)]

    def place(self, number: int) -> int:
        """Where in the list the micro-batch of this number is."""
        epoch, place = divmod(number, len(self.batches))
        if epoch not in self.orders:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            order = torch.randperm(len(self.batches), generator=generator).tolist()
            self.orders = {epoch: order}
        return self.orders[epoch][place]

    def draw(self) -> dict:
        try:
            return next(self.running)
        except StopIteration:
            self.running = iter(self.batches)
        try:
            return next(self.running)
        except StopIteration:
            raise ValueError(
                "The batches ran out and cannot begin again: give a list or a function of the step."
            ) from None


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter that `train` would change: they require a gradient and are not disabled."""
    idle = [t for t in tuners_of(model).values() if t not in acting(model)]
    resting = {parameter for tuner in idle for parameter in tuner.parameters()}
    found = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter not in resting
    }
    if not found:
        names = ", ".join(t.name for t in idle)
        raise ValueError(
            "Nothing in this model is trainable: "
            + (f"enable or unmerge {names}." if idle else "attach a method first.")
        )
    return found


def to_device(batch: Mapping, device: torch.device) -> dict:
    """The batch with its tensors on the device; what is no tensor stays."""
    if not isinstance(batch, Mapping):
        raise TypeError(f"A batch must be a dict of tensors, not {type(batch).__name__}.")
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}


def score(model, evaluate, step: int, history: History, best: str | None, mates: Alone) -> bool:
    """Evaluate and write it down; True when this is the best so far. Draws no training numbers."""

    def ask() -> dict[str, float]:
        result = evaluate(model)
        result = result if isinstance(result, Mapping) else {"score": result}
        try:
            scores = {key: float(value) for key, value in result.items()}
        except (TypeError, ValueError):
            scores = {}
        if not scores:
            raise ValueError(
                "evaluate must give a number, or a dict of one or more numbers by name, not "
                f"{shorten(result)}."
            )
        return scores

    with evaluating(model), torch.no_grad(), seeded(history.settings["seed"]):
        scores = mates.told(ask)
    history.evaluations.append({"step": step, **scores})
    value = next(iter(scores.values()))
    steps = history.settings["steps"]
    settled = all(tuner.method.settled(tuner, step - 1, steps) for tuner in in_training(model))
    if best is None or math.isnan(value) or not settled:
        return False
    sign = 1 if best == "max" else -1
    if history.best_score is None or sign * value > sign * history.best_score:
        history.best_step, history.best_score = step, value
        return True
    return False


def check_arguments(
    *,
    steps,
    learning_rate,
    warmup,
    schedule,
    best=None,
    accumulate=1,
    weight_decay=0.0,
    betas=(0.9, 0.999),
    clip=None,
    evaluate_every=1,
    checkpoint_every=1,
) -> None:
    """One sentence for each impossible argument of `train`."""
    counts = dict(steps=steps, accumulate=accumulate, evaluate_every=evaluate_every)
    for name, value in (counts | dict(checkpoint_every=checkpoint_every)).items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}.")
    if not is_number(learning_rate) or not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate must be positive, not {learning_rate!r}.")
    if not is_number(warmup) or not 0 <= warmup <= steps:
        raise ValueError(
            f"warmup must be a share below 1 or at most {steps} steps, not {warmup!r}."
        )
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, not {schedule!r}.")
    if best not in ("max", "min", None):
        raise ValueError(f'best must be "max", "min" or None, not {best!r}.')
    if not is_number(weight_decay) or not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay must be a number of at least 0, not {weight_decay!r}.")
    pair = betas if isinstance(betas, tuple | list) else ()
    if len(pair) != 2 or not all(is_number(beta) and 0 <= beta < 1 for beta in pair):
        raise ValueError(
            f"betas must be two numbers of at least 0 and below 1, such as (0.9, 0.999), not "
            f"{betas!r}."
        )
    if clip is not None and (not is_number(clip) or not clip >= 0):
        raise ValueError(f"clip must be a positive number, or None to clip nothing, not {clip!r}.")


def is_number(value) -> bool:
    """A real number of Python, or of numpy."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
