"""One training loop for tiny models and transformers models, with or without tuners.

    history = train(model, batches, steps=300, learning_rate=1e-3)
    history.plot()

AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) over the trainable parameters only, warm-up,
decay, clipping, evaluation, the best weights kept. Everything random is a function of `seed` and
the step, or is kept in the checkpoint, so that a run that was killed and resumed ends with the same
bits as one that was not.

What stands around the loop is elsewhere: the loss and its exact savings (loss.py, savings/), the
micro-batches of a step (gradients.py), what happens after a step (callbacks.py), several processes
(distributed.py), half precision (precision.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from torch import Tensor, nn

from minipeft.attaching.in_training import chosen, names_in_training
from minipeft.contexts import modes_kept, seeded
from minipeft.training import callbacks
from minipeft.training.arguments import check_arguments, check_others
from minipeft.training.batches import explained
from minipeft.training.distributed import process_group
from minipeft.training.feed import Feed
from minipeft.training.gradients import Gradients
from minipeft.training.history import History
from minipeft.training.loss import loss_of, reaches
from minipeft.training.optimizer import adamw, set_rate, trainable
from minipeft.training.precision import Precision
from minipeft.training.savings.kept_trunk import trunk_of
from minipeft.training.schedule import learning_rate_at


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
    head_rate: float | None = None,
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
            as it is, and a warning says so. See minipeft.attaching.in_training.
        head_rate: the highest rate of the tuners' task heads; None for that of everything else. A
            head that starts from random numbers has further to go than what is added to the base.

    Raises:
        ValueError: nothing is trainable, an argument is impossible, the loss is not a number any
            more, or the checkpoint belongs to another run.
    """
    settings = dict(steps=steps, learning_rate=learning_rate, warmup=warmup, schedule=schedule)
    settings |= dict(weight_decay=weight_decay, betas=betas, clip=clip, accumulate=accumulate)
    settings |= dict(evaluate_every=evaluate_every, best=best)
    settings |= {} if head_rate is None else dict(head_rate=head_rate)
    check_arguments(**settings, checkpoint_every=checkpoint_every, seed=seed)
    check_others(
        model=model, tuners=tuners, evaluate=evaluate, watch=watch, checkpoint=checkpoint,
        resume=resume, progress=progress, keep_trunk=keep_trunk,
    )  # fmt: skip
    seed = int(seed)  # torch takes none of numpy's
    checkpoints = callbacks.Checkpoints(checkpoint, checkpoint_every, resume)
    chain = [
        callbacks.Tuners(),
        callbacks.Evaluation(evaluate, evaluate_every, best),
        callbacks.Stopwatch(),
        checkpoints,
        callbacks.Processes(),
        callbacks.Watch(watch),
        callbacks.ProgressBar(progress),
        callbacks.Interruption(checkpoints),
    ]

    def forward_backward(batch: dict, weight: float) -> Tensor:
        with explained(model, batch):
            loss = loss_of(model, batch)
        if reaches(model, batch, loss):
            (weight * loss).backward()
        return loss

    with chosen(model, tuners), seeded(seed), modes_kept(model):
        precision = Precision(model, trainable(model))
        head_factor = (head_rate or learning_rate) / learning_rate
        optimizer = adamw(model, precision, learning_rate, betas, weight_decay, head_factor)
        history = History(settings=settings | {"seed": seed, "betas": list(betas)})
        history.trained = names_in_training(model)
        processes = process_group(model, precision.parameters, seed)
        run = callbacks.Run(model, steps, history, optimizer, precision, processes)
        for callback in chain:
            callback.begin(run)
        feed = Feed(batches, seed, run.first * accumulate)
        trunk = trunk_of(model, batches, processes, progress) if keep_trunk else None
        gradients = Gradients(precision, feed, accumulate, clip, processes, trunk)
        checkpoints.restore_random_numbers()
        model.train()
        try:
            for step in range(run.first, steps):
                run.rate = learning_rate_at(step, steps, learning_rate, warmup, schedule)
                set_rate(optimizer, run.rate)
                loss, norm = gradients.of_step(run, step, forward_backward)
                optimizer.step()
                precision.write()
                history.add(loss, run.rate, norm)
                for callback in chain:
                    callback.after_step(run, step)
        finally:
            for callback in chain:
                callback.close()
            precision.clear()
        for callback in reversed(chain):
            callback.end(run)
    return history
