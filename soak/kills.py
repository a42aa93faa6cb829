"""kill -9 at random moments; full disks and folders that cannot be written.

A child is forked from this process, which has everything imported, works in a folder, and is
killed after a random time. Then the folder is looked at: what is there must be whole. The next
child goes on, and so forth until one comes to its end, which must be that of a run never killed.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

import minipeft as mp
import tiny_transformer as tt
from minipeft.files.saving import read_tensors
from soak import interrupted, small
from soak.ledger import Clock, Line, unclear
from tiny_transformer.files import write_text
from tiny_transformer.pretraining import pretrain

KILLS = 240
PARTS = ".part"  # how temporary names end


def bits(folder: Path) -> dict[str, bytes]:
    """The contents of all files of a folder, by name."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# ---- what is killed: work(folder) goes on from what is there; whole(folder) says what is broken


def train(folder: Path) -> None:
    """A run of 12 steps with a snapshot after each, and the tuner saved at its end."""
    model = small.base(dropout=0.1)
    tuner = mp.attach(model, mp.LoRA(rank=2, dropout=0.1), seed=0)
    batches = [small.batch(seed) for seed in range(5)]
    history = mp.train(
        *(model, batches, 12, 1e-2),
        evaluate=lambda model: -model(**batches[0]).loss.item(),
        evaluate_every=4,
        checkpoint=folder / "run",
        checkpoint_every=1,
        resume=True,
        progress=False,
    )
    tuner.save(folder / "tuner")
    write_text(folder / "losses.json", json.dumps(history.losses))


def train_whole(folder: Path) -> str | None:
    run = folder / "run"
    for step in sorted(run.glob("step-*"))[-1:]:  # older ones may be half deleted
        json.loads((step / "state.json").read_text())
        read_tensors(step / "state.safetensors")
    left = [path.name for path in run.glob(".*")]
    if len(left) > 1:
        return f"temporary folders pile up: {left}"
    return tuner_whole(folder)


def tuner_whole(folder: Path) -> str | None:
    if (folder / "tuner" / "adapter_config.json").exists():
        mp.load(small.base(dropout=0.1), folder / "tuner")
    return None


def tuner_whole_or_refused(folder: Path) -> str | None:
    """Two files are moved one after the other: a kill between the two moves must be seen."""
    try:
        return tuner_whole(folder)
    except ValueError as error:
        return None if "does not match its content hash" in str(error) else str(error)


def save(folder: Path) -> None:
    """The same tuner with other numbers, again and again over the same folder."""
    model = small.base(dropout=0.1)
    tuner = mp.attach(model, mp.LoRA(rank=2), seed=0)
    for number in range(20):
        small.shake(tuner, seed=number)
        tuner.save(folder / "tuner")


def change(folder: Path) -> None:
    """Tuners of another rank and another method over the same folder."""
    model = small.base(dropout=0.1)
    for number in range(16):
        method = (mp.LoRA(rank=2), mp.IA3(), mp.LoRA(rank=3), mp.PTuningV2(length=2))[number % 4]
        tuner = mp.attach(model, method, seed=number)
        small.shake(tuner, seed=number)
        tuner.save(folder / "tuner")
        tuner.detach()


def pretraining(folder: Path) -> None:
    """A pretraining of 8 steps with a snapshot after each, and the model saved at its end."""
    model = small.base(dropout=0.1)
    losses = pretrain(model, small.batch, 8, warmup=2, folder=folder, every=1, progress=False)
    write_text(folder / "losses.json", json.dumps(losses))
    tt.save(model, None, folder / "model")


def pretraining_whole(folder: Path) -> str | None:
    if (folder / "pretraining.safetensors").exists():
        read_tensors(folder / "pretraining.safetensors")
    if (folder / "model" / "config.json").exists():
        tt.load(folder / "model")
    return None


def plain(name: str, content: bytes) -> object:
    """What of a file is the same in every run: a run's seconds are its own."""
    if not name.endswith("state.json"):
        return content
    state = json.loads(content)
    return {**state, "history": {**state["history"], "seconds": 0}}


@dataclass(frozen=True)
class Work:
    """run(folder) goes on from what is there; whole(folder) says what is broken; plain: see above.

    ready: imports what children need.  slow: gets a twentieth of the kills.
    """

    run: Callable[[Path], None]
    whole: Callable[[Path], str | None]
    plain: Callable[[str, bytes], object] = plain
    ready: Callable[[], object] | None = None
    slow: bool = False


WORK = {
    "train, with checkpoints": Work(train, train_whole),
    "save over the same tuner": Work(save, tuner_whole),
    "save over another method": Work(change, tuner_whole_or_refused),
    "pretraining, and tt.save": Work(pretraining, pretraining_whole),
    "compare, a grid of runs": Work(
        interrupted.grid, interrupted.grid_whole, interrupted.grid_plain
    ),
    "a build of the course": Work(
        interrupted.course,
        interrupted.course_whole,
        interrupted.course_plain,
        ready=interrupted.builder,
        slow=True,
    ),
}


def forked(action: Callable[[], None], kill_after: float | None = None) -> int:
    """Run in a child; its exit status, negative for the signal that ended it."""
    child = os.fork()
    if not child:
        status = 1
        try:
            action()
            status = 0
        except BaseException as error:  # whatever it is: this process ends here
            os.write(2, f"soak: {type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(status)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed(name: str, kills: int, clock: Clock, seed: int = 0) -> Line:
    """Kill one kind of work that many times; a trial is a kill, or a run that came to its end."""
    work = WORK[name]
    line = Line(f"killed: {name}")
    rng = random.Random(seed)
    begun = time.monotonic()
    done = runs = 0
    with tempfile.TemporaryDirectory() as place:
        # What is imported on the way is imported here, not in children.
        work.ready() if work.ready else work.run(Path(place) / "warm")
        wanted = Path(place) / "wanted"
        started = time.monotonic()
        if forked(lambda: work.run(wanted)):
            line.fail("the run that nobody kills", "it ended with an error")
            return line
        length = time.monotonic() - started
        folder = Path(place) / "folder"
        while done < kills and not clock.over():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for _ in range(8):
                status = forked(lambda: work.run(folder), rng.uniform(0, 1.05) * length)
                if status > 0:
                    line.fail(f"kill {done}", "the run did not go on from what was left")
                    break
                done += status == -signal.SIGKILL
                wrong = broken(work, folder)
                if wrong:
                    line.fail(f"kill {done}", wrong)
                else:
                    line.worked += status == -signal.SIGKILL
                parts = [path for path in folder.rglob(f"*{PARTS}")]
                if len(parts) > 2:
                    line.fail(f"kill {done}", f"temporary files pile up: {parts}")
                if status == 0 or done == kills or clock.over():
                    break
            if forked(lambda: work.run(folder)):
                line.fail(f"after kill {done}", "the run did not go on from what was left")
            elif name == "save over another method":
                mp.load(small.base(dropout=0.1), folder / "tuner")
            elif wrong := broken(work, folder):
                line.fail(f"after kill {done}", wrong)
            elif differ := differing(bits(wanted), bits(folder), work.plain):
                line.fail(f"after kill {done}", f"differs: {differ}")
            runs += 1
    line.note = f"{runs} runs ended bit for bit like one that nobody killed"
    line.seconds = time.monotonic() - begun
    return line


def broken(work: Work, folder: Path) -> str | None:
    """What is wrong with what a killed process left."""
    try:
        return work.whole(folder)
    except Exception as error:
        return f"half-written: {error}"


def differing(wanted: dict[str, bytes], present: dict[str, bytes], plain: Callable) -> list[str]:
    """Names of files that are not equal."""
    one, other = ({name: plain(name, files[name]) for name in files} for files in (wanted, present))
    return [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]


# ---- full disks, folders that cannot be written


def faults(count: int, clock: Clock, seed: int = 0) -> list[Line]:
    """Writes that fail: a limit on the size of files, a path below a file, a move that fails."""
    rng = random.Random(seed)
    full = Line("disk full, at a random byte")
    closed = Line("folder that cannot be written")
    moved = Line("move into place fails")
    with tempfile.TemporaryDirectory() as place:
        for number in range(count):
            if clock.over() and number:
                break
            for line, fault in ((full, fill), (closed, below), (moved, unmoved)):
                begun = time.monotonic()
                for what, write in WRITES.items():
                    folder = Path(place) / "folder"
                    shutil.rmtree(folder, ignore_errors=True)
                    folder.mkdir()
                    write(folder, number)
                    fault(line, f"{what} {number}", write, folder, number + 1, rng)
                line.seconds += time.monotonic() - begun
    return [full, closed, moved]


def write_tuner(folder: Path, number: int) -> None:
    tuner = mp.attach(small.base(), mp.LoRA(rank=2), seed=number)
    small.shake(tuner, seed=number)
    tuner.save(folder)


def write_model(folder: Path, number: int) -> None:
    tt.save(small.base(seed=number), None, folder)


def write_history(folder: Path, number: int) -> None:
    mp.History(losses=[float(number)] * 300).save(folder / "history.json")


def write_run(folder: Path, number: int) -> None:
    model = small.base()
    mp.attach(model, mp.LoRA(rank=2), seed=0)
    steps = {"steps": 6, "learning_rate": 1e-2, "checkpoint_every": 2, "progress": False}
    stop = len(list(folder.glob("step-*"))) == 0

    def batches(step: int) -> dict:
        if step == 3 and stop:
            raise KeyboardInterrupt
        return small.batch(step)

    with suppress(KeyboardInterrupt):
        mp.train(model, batches, checkpoint=folder, resume=True, **steps)


WRITES = {"tuner": write_tuner, "model": write_model, "history": write_history, "run": write_run}


def kept(line: Line, trial: str, folder: Path, before: dict[str, bytes], error) -> None:
    """A failed write: one sentence, and the old files are there, and nothing else."""
    if error is None:
        line.worked += 1
    elif unclear(error):
        line.fail(trial, unclear(error))
    elif bits(folder) != before:
        line.fail(trial, "the old files are not as they were")
    else:
        line.refused += 1


def attempted(write, folder: Path, number: int) -> Exception | None:
    try:
        write(folder, number)
    except Exception as error:
        return error
    return None


def fill(line: Line, trial: str, write, folder: Path, number: int, rng) -> None:
    """No file may grow beyond a random size, as on a disk that has so much room left."""
    before = bits(folder)
    largest = max(map(len, before.values()))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an error instead of a signal
    resource.setrlimit(resource.RLIMIT_FSIZE, (rng.randrange(largest), limit[1]))
    try:
        error = attempted(write, folder, number)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    kept(line, trial, folder, before, error)


def below(line: Line, trial: str, write, folder: Path, number: int, rng) -> None:
    """A folder that cannot be made, because a file has its name or that of one above."""
    before = bits(folder)
    file = folder / next(iter(before))
    kept(line, trial, folder, before, attempted(write, file / ("x" * rng.randrange(2)), number))


def unmoved(line: Line, trial: str, write, folder: Path, number: int, rng) -> None:
    """The last step of a write is refused by the file system."""
    before, replace = bits(folder), os.replace

    def refuse(source, target):
        raise OSError(30, "Read-only file system", str(source))

    os.replace = refuse
    try:
        error = attempted(write, folder, number)
    finally:
        os.replace = replace
    kept(line, trial, folder, before, error)


def soak(count: int | None, clock: Clock) -> list[Line]:
    """All of the above. count: kills, spread over the kinds of work."""
    torch.set_num_threads(1)  # before the first fork: a child has no pool of threads
    kills = KILLS if count is None else count
    slow = -(-kills // 20)
    each = -(-(kills - slow) // sum(not work.slow for work in WORK.values()))
    lines = [
        killed(name, slow if work.slow else each, clock, number)
        for number, (name, work) in enumerate(WORK.items())
    ]
    return lines + faults(max(2, kills // 4), clock)
