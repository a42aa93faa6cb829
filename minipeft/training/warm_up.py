"""Multi-task learning of P-tuning v2 (arXiv 2110.07602, section 3.3): first one prompt for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from minipeft.methods.p_tuning_v2 import PTuningV2
from minipeft.training.loop import train
from minipeft.tuner import attach


def warm_up(
    model: nn.Module,
    method: PTuningV2,
    tasks: Mapping[str, Sequence[dict]],
    steps: int,
    learning_rate: float = 5e-3,
    head: bool | str = "auto",
    seed: int = 0,
    **options,
) -> dict[str, object]:
    """Train one prompt on all tasks in turn, then give each task a tuner that starts from it.

    Args:
        tasks: name of a task -> its batches; each step takes the next batch of the next task.
        steps: optimizer steps in all.  options: what `minipeft.train` takes besides.
        head: as for `attach`; the tasks share it while they warm up, so their labels must fit.

    Returns:
        name -> tuner, attached and disabled: enable one at a time to train it on its own task.

    Raises:
        ValueError: there are no tasks, or one without batches.
    """
    names = list(tasks)
    if not names or not all(len(batches) for batches in tasks.values()):
        raise ValueError("warm_up needs one or more tasks, each with at least one batch.")

    def feed(step: int) -> dict:
        number, which = divmod(step, len(names))
        batches = tasks[names[which]]
        return batches[number % len(batches)]

    shared = attach(model, method, "-".join(["warm", *names]), head, seed=seed)
    made = {}
    try:
        train(model, feed, steps, learning_rate, seed=seed, **options)
        for name in names:
            made[name] = attach(model, method, name, head).disable()
        for name in names:  # after all have come, so that none counts as finished before another
            for (_, patch), (_, source) in zip(made[name].patches, shared.patches, strict=True):
                patch.load_state_dict(source.state_dict())
            for path, twin in made[name].copies.items():
                twin.load_state_dict(shared.copies[path].state_dict())
    except BaseException:
        for tuner in made.values():
            tuner.detach()
        raise
    finally:
        shared.detach()
    return made
