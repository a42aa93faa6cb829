"""`python -m minipeft train`: fine-tune a base on a file and leave a folder with all about it."""

from __future__ import annotations

import argparse
import math
import os
import re
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path

import minipeft as mp
from minipeft.commands import (
    bases,
    cards,
    data,
    facts,
    find_rate,
    fitting,
    longer,
    options,
    pooling,
    run_config,
    runs,
    scoring,
)
from minipeft.commands.folder_lock import held
from minipeft.files.saving import method_class
from minipeft.methods.method import Method
from minipeft.model.kind import HEADS
from minipeft.tasks.encoding import PAIR, readable
from minipeft.tasks.heads import head_for
from minipeft.tasks.tasks import Task
from minipeft.training.arguments import check_arguments
from minipeft.training.schedule import SCHEDULES
from minipeft.tuner import Tuner

EXAMPLE = {"base": "tiny-decoder", "data": "reverse", "steps": 80, "learning_rate": 1e-2}

EXAMPLES = """train
train --base tiny-encoder --data capital --method prefix --length 8
train --base bert-base-uncased --data train.tsv --dev dev.tsv --kind classification \\
      --input sentence --target label --method lora --rank 8 --targets query,value --steps 500
train --base ./my-llama --data pairs.jsonl --kind text-to-text --out runs/pairs --epochs 2
train --base smollm2 --data chat.jsonl --out runs/chat --epochs 2
train --resume runs/pairs
train --resume runs/pairs --steps 1000
train --start runs/pairs --data more.jsonl
train --method adapter --help"""


def add(commands, arguments: list[str]) -> None:
    """The method in the command line decides which settings there are flags for."""
    parser = options.add_parser(
        commands,
        "train",
        "fine-tune a base on a file",
        "Fine-tune a base on your data. Without arguments an example is trained, in seconds.\n\n"
        "A file of conversations (messages: [{role, content}, ..], or ShareGPT's) is written with\n"
        "the base's chat template, and what the assistant says is learnt. Files with the columns\n"
        "prompt and completion, or instruction, input and output (Alpaca's), are plain texts;\n"
        "--chat makes conversations of them.\n\n"
        "The base stays as it is; what is learnt goes into RUN/adapter, beside the configuration,\n"
        "a log, curves and a model card. Ctrl-C, SIGTERM or a crash lose little: --resume goes\n"
        "on, and ends with the same bits as a run that was not stopped.",
        EXAMPLES,
        "Exit code: 0 trained, 2 what was given cannot be used (one sentence says why).",
    )
    parser.usage = "%(prog)s [--base BASE --data FILE --kind KIND] [--method METHOD] [options]"
    parser.add_argument("--base", help="tiny-decoder, ..., a folder, a name on the "
                        "Hub, or smollm2 or minilm once `fetch` has fetched it")  # fmt: skip
    parser.add_argument("--data", metavar="FILE", help=".jsonl, .json, .csv, .tsv, .conll or "
                        ".parquet, also .gz, .bz2 or .xz; a folder of 🤗 datasets; or a task of "
                        "the project (reverse, capital, ...)")  # fmt: skip
    parser.add_argument(
        "--out", metavar="RUN", help="folder to write (default: a new one in runs/)"
    )
    parser.add_argument(
        "--resume", metavar="RUN", help="go on with this run; everything else comes from its "
        "folder. With a larger --steps, a finished run is made longer; --base, --data, "
        "--dev and --start say where something of it is now that was moved"
    )  # fmt: skip
    parser.add_argument(
        "--start", metavar="RUN", help="begin with what this run, or this adapter, has learnt: "
        "base, method and columns are its own"
    )  # fmt: skip
    known = ", ".join(c.__name__ for c in options.names().values())
    parser.add_argument(
        "--method",
        default="LoRA",
        help=f"one of {known} (default %(default)s); "
        "`train --method NAME --help` shows the settings of that method",
    )
    data.add_flags(parser, dev=True)
    add_training_flags(parser)
    parser.add_argument(
        "--find-rate",
        action="store_true",
        help="first try a few learning rates for a few steps each, show the curve, take the best",
    )
    bases.add_flags(parser)
    kind = options.method_class(options.chosen(arguments, "LoRA"))
    options.add_flags(parser, kind)
    parser.set_defaults(run=run, parser=parser)


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    """The numbers of a run; `compare` has them too."""
    group = parser.add_argument_group("training")
    flag = group.add_argument
    flag("--steps", type=int, help="optimizer steps (default 500)")
    flag("--epochs", type=float, help="instead of --steps: times through the training examples")
    flag("--batch-size", type=int, default=16, help="examples of a batch (default %(default)s)")
    flag("--accumulate", type=int, default=1, help="batches of a step (default %(default)s)")
    flag("--learning-rate", type=float, help="the highest one (default: the method's)")
    flag("--head-rate", type=float, help="of the head (default: the same, but at least 0.01 for "
         "a head that starts from random numbers)")  # fmt: skip
    flag("--warmup", type=float, default=0.1, help="share of the steps, or number of steps, in "
         "which the rate rises (default %(default)s)")  # fmt: skip
    flag("--schedule", choices=SCHEDULES, default="linear", help="after that (default %(default)s)")
    flag("--weight-decay", type=float, default=0.0, help="AdamW's (default %(default)s)")
    flag("--clip", type=float, default=1.0, help="longest gradient (default %(default)s)")
    flag("--seed", type=int, default=0, help="of everything random (default %(default)s)")
    flag("--validate-every", type=int, metavar="N", help="steps between two validations (default: "
         "a fifth of the run)")  # fmt: skip
    flag("--checkpoint-every", type=int, default=100, metavar="N", help="steps between two "
         "checkpoints (default %(default)s)")  # fmt: skip
    scoring.add_flag(group, "scores to measure while training; the first one chooses the weights")
    flag("--head", choices=HEADS, help="default: tagging for tags, classification for "
         "classes on an encoder, language otherwise")  # fmt: skip
    flag("--pooling", choices=pooling.KINDS, help="what a classification head on an encoder "
         "reads: the first token (default), or the mean of all")  # fmt: skip


def run(given: argparse.Namespace) -> int:
    with ExitStack() as stack:  # holds the run's folder
        return train_run(*(resumed_run if given.resume else new_run)(given, stack))


def train_run(folder: Path, config: dict, method: Method | None, given: argparse.Namespace) -> int:
    """Train a run in its folder; returns the exit code.

    config: what is known of it, for its config.json.  method: None where the base must be open to
    make it, or where the adapter that the run begins with has it.
    """
    before = config.pop("before", None)  # the history of a finished run that is made longer
    if (folder / runs.RESULT).is_file() and not before:
        print(
            f"{folder} is finished: {(folder / 'README.md')} has its numbers. To make it longer, "
            f"say how many steps it should have in all, such as --steps {2 * given.steps}."
        )
        return 0
    before = before or longer.earlier(folder)
    task = labelled_task(given, config)
    base = open_for(task, given)
    fingerprint = bases.fingerprint_of(base)
    run_config.check_base(config, given, fingerprint)
    if not given.start:
        method = with_template(method, given, base)
    scoring.named(given.metric, task)
    task, shorter = data.shortened(task, base, given.max_length)
    given.steps = steps_of(given, task)
    begin = str(folder / runs.ADAPTER) if before else given.start

    def attached() -> Tuner:
        """The tuner as the run begins with it."""
        if begin:
            return mp.load(base.model, begin, "task", family=base.family)
        return mp.attach(base.model, method, "task", family=base.family, seed=given.seed)

    tuner = attached()
    if begin and not before:
        longer.check_start(config, begin, task, tuner.method)
    data.check_fits(task, base, extra=tuner.taken)
    report = tuner.report()
    say_what_is_trained(report, base, task, shorter, folder)
    curve: dict[float, float] = {}
    if given.find_rate:
        tuner.detach()
        curve = find_rate.find(base, attached, task, given)
        given.learning_rate = find_rate.best_of(curve)
        given.find_rate = False  # a run that goes on has its rate
        tuner = attached()
    config = run_config.describe(given, config, base, fingerprint, tuner.method, task)
    longer.write_config(folder, config, before)
    try:
        return train_and_finish(folder, config, tuner, task, base, given, curve, report)
    except KeyboardInterrupt:
        print(f"minipeft: stopped; go on with --resume {shlex.quote(str(folder))}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except OSError as error:
        text = f"{str(error).rstrip('.')}; then go on with --resume {shlex.quote(str(folder))}."
        raise OSError(text) from error


def labelled_task(given: argparse.Namespace, config: dict) -> Task:
    """The task of --data, its labels in the order of the head that the run begins with."""
    task = data.training_task(given)
    if given.start:
        return longer.with_labels_of(task, given.start)
    return longer.with_labels_of_base(task, given, config)


def say_what_is_trained(report, base: bases.Base, task: Task, shorter: int, folder: Path) -> None:
    """Print what a run begins with. shorter: how many inputs were cut."""
    print(report)
    for note in base.notes:
        print(f"note: {note}")
    train, dev = (len(task.splits[split]) for split in ("train", "dev"))
    print(f"{train:,} examples to train on, {dev:,} to validate on; the run is in {folder}")
    for fact in (*facts.of(task, base), *data.note_of(shorter)):
        print(fact)


def train_and_finish(folder, config, tuner, task, base, given, curve, report) -> int:
    """What comes after the run's config.json: from then on, it can be gone on with."""
    if curve:
        find_rate.picture(folder, curve)
    before, log, always = longer.earlier(folder), runs.Log(folder / runs.LOG), []
    best = scoring.direction(base, scoring.named(given.metric, task))
    done = len(before.losses) if before else 0
    if before:
        print(f"steps {done + 1} to {given.steps}, from the weights of step {before.best_step}")
    watch = lambda history: log.watch(longer.joined(before, history, best))  # noqa: E731
    try:
        history = fitting.fit(
            tuner, task, base, given, folder / runs.CHECKPOINT, watch, always, done
        )
    finally:
        log.close()
    history = longer.joined(before, history, best)
    fitting.finish(folder, config, history, tuner, report, done)
    print(f"\ndev: {scoring.written(config['scores'])}" + fitting.kept(history))
    default, decides = tuner.method.rate(), next(iter(config["scores"].items()))
    for note in find_rate.advice(history.losses, always, given.learning_rate, default, decides):
        print(note)
    print(f"In {folder}: adapter/, README.md (the model card), curves.png, log.jsonl")
    print(next_steps(folder, given, base, task))
    return 0


def new_run(
    given: argparse.Namespace, stack: ExitStack
) -> tuple[Path, dict, Method | None, argparse.Namespace]:
    """A new run: (folder, what is known of it, method, options). The stack holds the folder."""
    if given.start:
        longer.begin_with(given)
    settings = options.settings(given)
    kind = options.method_class(longer.method_of(given.start) if given.start else given.method)
    given.base, given.data = given.base or None, given.data or None  # an empty word is none
    example = given.base is None and given.data is None
    if example:
        for key, value in EXAMPLE.items():
            if getattr(given, key) is None and not (key == "steps" and given.epochs):
                setattr(given, key, value)
        print("No --base and --data: this trains the example, a small decoder that learns to "
              "turn a row of words round.\n")  # fmt: skip
    if given.base is None or given.data is None:
        lacking, example = ("base", "tiny-encoder") if given.base is None else ("data", "my.jsonl")
        raise ValueError(f"Say which {lacking} too: --{lacking} {example}.")
    data.check_flags(given)
    template = isinstance(settings.get("template"), str)  # which only the tokenizer can read
    method = None if template or given.start else options.make(kind, settings)
    given.base = bases.absolute(given.base)
    if given.learning_rate is None:
        given.learning_rate = method.rate() if method else kind.default_rate
    check_numbers(given)
    wished = "example" if example is True else run_name(given.base, kind.__name__, given.data)
    folder = runs.fresh_folder(given.out, wished, stack)
    for name in ("data", "dev"):
        path = getattr(given, name)
        if path and Path(path).exists():
            setattr(given, name, os.path.abspath(path))  # of a link its name, which tells the kind
    start = {"start": longer.hash_of_adapter(given.start)} if given.start else {}
    return folder, {"command": cards.again(given, folder)} | start, method, given


def check_numbers(given: argparse.Namespace) -> None:
    """Refuse impossible numbers before anything is read; `train` of the library says which."""
    for name in ("batch_size", "accumulate", "checkpoint_every", "validate_every", "steps"):
        value = getattr(given, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, not {value}.")
    if given.epochs is not None and given.steps is not None:
        raise ValueError("--epochs is given instead of --steps: leave one of them away.")
    if given.epochs is not None and not 0 < given.epochs < math.inf:
        raise ValueError(f"--epochs must be a number above 0, not {given.epochs}.")
    if not given.clip > 0:
        raise ValueError(f"--clip must be above 0, not {given.clip}.")
    warmup = 0 if given.epochs else given.warmup  # of how many steps, only the data know
    check_arguments(
        steps=given.steps or 500,
        learning_rate=given.learning_rate,
        head_rate=given.head_rate,
        warmup=warmup,
        schedule=given.schedule,
        accumulate=given.accumulate,
        weight_decay=given.weight_decay,
        seed=given.seed,
    )


def run_name(base: str, method: str, file: str) -> str:
    """A folder's name that tells what is in it."""
    words = (Path(base).name, method.lower(), Path(file).stem)
    return re.sub(r"[^\w.-]+", "-", "-".join(words))


def resumed_run(
    given: argparse.Namespace, stack: ExitStack
) -> tuple[Path, dict, Method, argparse.Namespace]:
    """The run in a folder, with the options it was begun with. The stack holds the folder.

    Raises:
        FileNotFoundError, ValueError: no run is there, or its data have changed, or more was given.
    """
    plain = given.parser.parse_args([])
    free = ("resume", "trust_remote_code")  # a folder may be a stranger's: it cannot allow this
    free += longer.MOVABLE
    ours = {k: v for k, v in vars(given).items() if k not in free}
    kept_free = ("command", "arguments", "steps")
    extra = [k for k, v in ours.items() if vars(plain).get(k) != v and k not in kept_free]
    if extra:
        flag = extra[0].removeprefix(options.DEST).replace("_", "-")
        raise ValueError(f"--resume takes everything from the run's folder: leave --{flag} away.")
    folder = Path(given.resume)
    config = runs.read_config(folder)
    if config is None:
        raise FileNotFoundError(f"{folder} holds no run: it has no config.json of one.")
    stack.enter_context(held(folder))
    before = argparse.Namespace(**{**vars(plain), **config["options"]})
    if "head_rate" not in config["options"]:  # a run of before there was one
        before.head_rate = before.learning_rate
    before.trust_remote_code, before.local_only = given.trust_remote_code, given.base is None
    longer.find_moved(given, before, config)
    method = method_class(config["method"]["name"]).from_settings(
        config["method"]["settings"], method_class
    )
    if given.steps is not None:
        config["before"] = longer.lengthened(folder, config, given.steps)
        before.steps = given.steps
    return folder, config, method, before


def open_for(task: Task, given: argparse.Namespace) -> bases.Base:
    """The base with the head that the task needs."""
    kind = bases.kind_of(given.base, given)
    head = head_for(task, kind, given.head)
    labels = task.labels if head != "language" else None
    base = bases.open_base(given.base, given, head, labels, given.seed)
    pooling.apply(base, given.pooling)
    if isinstance(base.tokenizer, bases.Letters):
        base.tokenizer.borrow([e.target for split in task.splits.values() for e in split])
    if base.tokenizer is None:
        raise ValueError(f"{given.base} has no tokenizer that can be read.")
    return base


def with_template(method: Method | None, given: argparse.Namespace, base: bases.Base) -> Method:
    """P-tuning's --template is written in words, which only the base's tokenizer knows."""
    if method is not None:
        return method
    settings = options.settings(given)
    template = mp.Template.read(settings.pop("template"), base.tokenizer)
    settings |= {"template": template.pieces, "mask": template.mask, "frame": template.frame}
    return options.make(options.method_class(given.method), settings)


def steps_of(given: argparse.Namespace, task: Task) -> int:
    """--steps, or as many as --epochs need: the last batch of an epoch may be a smaller one."""
    if given.epochs is None:
        return given.steps or 500
    batches = given.epochs * math.ceil(len(task.splits["train"]) / given.batch_size)
    return max(1, math.ceil(round(batches / given.accumulate, 6)))


def next_steps(folder: Path, given, base: bases.Base, task: Task) -> str:
    """The commands to try next, one a line."""
    shipped, place = data.is_shipped(given.data), shlex.quote(str(folder))
    lines = [f"evaluate {place} --data {given.data if shipped else 'OTHER_FILE'}"]
    first, writes = task.splits["dev"][0].input, task.kind in ("generate", "cloze")
    texts = [" ".join(text.split()) for text in readable(first).split(" | ")]
    if writes and base.kind != "encoder":
        verb, text = "generate", texts[-1].removeprefix("user: ")[:60]
    else:
        verb, text = "predict", " | ".join(texts) if PAIR in first else texts[0][:60]
    dashes = "-- " * text.startswith("-")  # what follows is no flag
    lines.append(f"{verb} {place} {dashes}{shlex.quote(text)}")
    lines += [f"inspect {place} --plot {shlex.quote(f'{folder}/spectra.png')}"]
    if shipped:
        lines.append(f"train --base {given.base} --data {given.data} --method prefix")
    return "Try next:\n" + "\n".join(f"  python -m minipeft {line}" for line in lines)
