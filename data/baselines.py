"""Measure what the datasheet tells: skills of the checkpoints and baselines of every task.

    python data/baselines.py                      everything (about an hour on two cores)
    python data/baselines.py --task reverse       one task, all its columns
    python data/baselines.py --skills             the checkpoints' skills and the entropy floors

Numbers go to data/measured.json, one entry at a time; what is there already and was measured on the
same corpus, task and checkpoint is not measured again. `python data/datasheet.py` prints them.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import bag  # noqa: E402
import evaluate  # noqa: E402
import generate  # noqa: E402
from tinyland import floor  # noqa: E402

import minipeft as mp  # noqa: E402
import tiny_transformer as tt  # noqa: E402

MEASURED = HERE / "measured.json"
CHECKPOINTS = [
    "tiny-decoder-0.1m",
    "tiny-decoder-0.4m",
    "tiny-decoder",
    "tiny-decoder-3m",
    "tiny-encoder",
    "tiny-encoder-decoder",
]
SEEDS, STEPS, RATE = 3, 400, 1e-3  # of full fine-tuning: the same for every task
EVERY = 40  # steps between two looks at dev, whose best weights are kept
SPLITS = ("test", "ood")
MODEL_OF = {"tag": "tiny-encoder"}  # tags need both sides; everything else is the decoder's


def sum_of(folder: Path) -> str:
    """A short checksum of the files in a folder, to know what a number was measured on."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def stored() -> dict:
    return json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.is_file() else {}


def store(section: str, name: str, on: str, measure) -> None:
    """Measure and write at once, unless the same was measured before."""
    if stored().get(section, {}).get(name, {}).get("on") == on:
        return
    print(f"measuring {section}: {name}", flush=True)
    entry = {"on": on, "values": measure()}
    measured = stored()  # again: another run may have written meanwhile
    measured.setdefault(section, {})[name] = entry
    generate.write(MEASURED, json.dumps(measured, indent=1, sort_keys=True) + "\n")


def base_of(task: mp.tasks.Task):
    """The pretrained model for a task, with the head that the task needs."""
    head = "tagging" if task.kind == "tag" else "language"
    labels = len(task.labels) if task.kind == "tag" else None
    return tt.load(MODEL_OF.get(task.kind, "tiny-decoder"), head=head, labels=labels)


def unadapted(task: mp.tasks.Task) -> dict[str, dict[str, float]]:
    """Scores of the base as it is, untrained on the task."""
    model, tokenizer = base_of(task)
    return {split: task.score(model, tokenizer, split) for split in SPLITS}


def full_fine_tuning(task: mp.tasks.Task, seeds: int = SEEDS) -> dict[str, list[dict[str, float]]]:
    """All weights trained, the weights that are best on dev kept, one score per seed."""
    by_split = {split: [] for split in SPLITS}
    for seed in range(seeds):
        model, tokenizer = base_of(task)
        mp.attach(model, mp.FullFineTuning(), name="full")
        batches = task.batches("train", tokenizer, model.config.kind, seed=seed)
        mp.train(
            *(model, batches, STEPS, RATE),
            seed=seed,
            evaluate=lambda model, tokenizer=tokenizer: task.score(model, tokenizer, "dev"),
            evaluate_every=EVERY,
            progress=False,
        )
        for split, scores in by_split.items():
            scores.append(task.score(model, tokenizer, split))
    return by_split


def skills(names: list[str]) -> None:
    """Entropy floors, and what every checkpoint has learned."""
    corpus = sum_of(HERE / "corpus")
    store("floor", "nats per token", corpus, lambda: floor.floors(generate.MIXTURE))
    for name in names:
        folder = HERE / "checkpoints" / name
        if folder.is_dir():
            on = corpus + " " + sum_of(folder)
            store("skills", name, on, lambda name=name: evaluate.skills(*tt.load(name)))


def baselines(names: list[str], columns: list[str], seeds: int = SEEDS) -> None:
    """The four columns of the datasheet for each task."""
    for name in names:
        task = mp.tasks.load(name)
        on = sum_of(HERE / "tasks" / name)
        base = on + " " + sum_of(HERE / "checkpoints" / MODEL_OF.get(task.kind, "tiny-decoder"))
        measures = {
            "majority": (on, lambda t=task: {s: bag.majority(t, s) for s in SPLITS}),
            "bag of words": (on, lambda t=task: {s: bag.bag_of_words(t, s) for s in SPLITS}),
            "unadapted": (base, lambda t=task: unadapted(t)),
            "full fine-tuning": (
                f"{base} {seeds} best of dev {STEPS}",
                lambda t=task: full_fine_tuning(t, seeds),
            ),
        }
        for column in columns:
            key, measure = measures[column]
            store(column, name, key, measure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    columns = ["majority", "bag of words", "unadapted", "full fine-tuning"]
    parser.add_argument("--task", action="append", choices=mp.tasks.names(), help="may be repeated")
    parser.add_argument("--column", action="append", choices=columns, help="may be repeated")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="of full fine-tuning")
    parser.add_argument("--skills", action="store_true", help="only skills and floors")
    chosen = parser.parse_args()
    if not chosen.task:
        skills(CHECKPOINTS)
    if not chosen.skills:
        baselines(chosen.task or mp.tasks.names(), chosen.column or columns, chosen.seeds)
