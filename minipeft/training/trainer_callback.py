"""What transformers' Trainer needs for methods that have work to do after every step (AdaLoRA).

    Trainer(model=model, ..., callbacks=[minipeft.trainer_callback()])

It tells them how long the run is, and when it is over; the optimizer's hooks do the rest (see
minipeft.methods.parts.own_steps). With methods that need nothing it does nothing.
"""

from __future__ import annotations

import warnings

from torch import nn

from minipeft.attaching.in_training import in_training


def trainer_callback():
    """A TrainerCallback, new for every Trainer."""
    from transformers import TrainerCallback

    class Steps(TrainerCallback):
        """Begins and ends the run of every tuner that counts steps."""

        def on_train_begin(self, args, state, control, model=None, **_) -> None:
            for tuner in counting(model):
                steps = tuner.own_steps
                steps.total, steps.made, steps.keep = state.max_steps, state.global_step, True

        def on_train_end(self, args, state, control, model=None, **_) -> None:
            for tuner in counting(model):
                best = getattr(state, "best_global_step", None)
                if args.load_best_model_at_end and best:
                    if not tuner.method.settled(tuner, best - 1, state.max_steps):
                        warnings.warn(
                            f"The best weights of {tuner.name!r} are those of step {best}, before "
                            "it had its last ranks, and are pruned now: evaluate again, or let "
                            "the pruning end earlier by a larger final=.",
                            UserWarning,
                            stacklevel=2,
                        )
                tuner.method.finish(tuner)

    return Steps()


def counting(model: nn.Module) -> list:
    """The tuners in training whose methods count steps; DataParallel and DDP hold a `module`."""
    model = getattr(model, "module", model)
    return [t for t in in_training(model) if t.method.counts_steps(t)]
