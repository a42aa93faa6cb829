"""The training of a run of the command line, and what it leaves in the run's folder."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import minipeft as mp
from minipeft.commands import bases, cards, find_rate, longer, pooling, runs, scoring
from minipeft.tasks.tasks import Task
from minipeft.tuner import Tuner
from tiny_transformer.files import write_text


def fit(
    tuner: Tuner,
    task: Task,
    base: bases.Base,
    given,
    checkpoint: Path | None = None,
    watch: Callable[[mp.History], None] | None = None,
    always: list[str | None] | None = None,
    done: int = 0,
) -> mp.History:
    """Train with validation; the weights with the best first score are kept.

    always: at every validation the one answer to all inputs, if it is one, is appended.
    done: steps of a finished run that is made longer; the batches go on behind theirs.
    """
    letters = scoring.by_letters(base)
    inputs = [example.input for example in task.splits["dev"]]
    true = [example.target for example in task.splits["dev"]]
    names = scoring.named(given.metric, task)

    def evaluate(model) -> dict[str, float]:
        said = scoring.answers(
            task, base, inputs, progress=watch is not None and sys.stderr.isatty()
        )
        if always is not None:
            always.append(scoring.one_answer(task, said, true))
        return scoring.scores(task, said, true, letters, names, inputs)

    batches = task.batches(
        "train", base.tokenizer, base.kind, given.batch_size, given.seed, head=base.head
    )
    steps = given.steps - done
    return mp.train(
        tuner.model,
        lambda number: batches(number + done * given.accumulate),
        steps,
        given.learning_rate,
        warmup=given.warmup,
        schedule=given.schedule,
        weight_decay=given.weight_decay,
        clip=given.clip,
        accumulate=given.accumulate,
        seed=given.seed,
        evaluate=evaluate,
        evaluate_every=given.validate_every or max(1, steps // 5),
        best=scoring.direction(base, names),
        checkpoint=checkpoint,
        checkpoint_every=given.checkpoint_every,
        resume=checkpoint is not None,
        progress=sys.stderr.isatty(),
        watch=watch,
        head_rate=find_rate.of_head(base, tuner, given, given.learning_rate),
    )


def finish(folder: Path, config: dict, history, tuner: Tuner, report, done: int = 0) -> None:
    """Adapter, curves, card; then the result, and only then the checkpoint goes.

    done: where weights of the steps before these are the best, they are in the folder already.
    """
    best = history.best_step
    config["scores"] = kept_scores(history)
    if best is None or best > done:
        tuner.save(folder / runs.ADAPTER)
        runs.name_labels(folder / runs.ADAPTER, config["task"]["labels"])
        pooling.keep(folder / runs.ADAPTER, config["options"].get("pooling"))
    runs.picture(folder / "curves.png", history.plot)
    write_text(folder / "README.md", cards.card(config, history, report, folder))
    result = {
        "dev": config["scores"],
        "best_step": best,
        "seconds": history.seconds,
        "trainable": report.trainable,
        "head": report.head,
        "base": report.base,
    }
    write_text(folder / runs.RESULT, json.dumps(result, indent=1))
    shutil.rmtree(folder / runs.CHECKPOINT, ignore_errors=True)
    (folder / longer.EARLIER).unlink(missing_ok=True)


def kept_scores(history: mp.History) -> dict[str, float]:
    """The scores on dev of the weights that were kept: the best, else the last."""
    best = [entry for entry in history.evaluations if entry["step"] == history.best_step]
    entry = best[0] if best else history.evaluations[-1]
    return {name: value for name, value in entry.items() if name != "step"}


def kept(history) -> str:
    """Of which step the weights are, where it is not the last."""
    return f"   (weights of step {history.best_step})" if history.best_step else ""
