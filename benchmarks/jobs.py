"""Six real jobs on the command line, each method at its default rate: docs/jobs.md.

    python -m benchmarks.jobs --corpora FOLDER         # every job, each method at its default rate
    python -m benchmarks.jobs --grid --only sst2 cola  # and at thirds and triples of that rate
    python -m benchmarks.jobs --page                   # write docs/jobs.md from what has been run

A job is one `minipeft train` and one `minipeft evaluate` on a file that nothing was chosen by. Each
gives a line of benchmarks/results/jobs.csv; what stands there is not run again. A corpus that is
not at hand leaves its job out, with a sentence.

| job       | files of --corpora                    | asked                                     |
|-----------|---------------------------------------|-------------------------------------------|
| sst2      | sst2/train_full.tsv, dev.tsv          | is a phrase of a review good or bad?      |
| banking77 | banking77/train.csv, test.csv         | which of 77 things does a customer want?  |
| pairs     | the same                              | do two customers want the same thing?     |
| wnut17    | wnut17/wnut17train.conll, ..annotated | names in messages                         |
| cola      | cola/train.tsv, dev.tsv; without them | is it a sentence? / is a word of the      |
|           | the words of VADER stand in           | lexicon positive?                         |
| e2e       | e2e/devset.csv, testset_w_refs.csv    | fields -> a text about a restaurant       |
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmarks.jobs_results import METHODS, Results, default_rate, page, rows_of
from minipeft.commands.writers import write_rows
from minipeft.course import real

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "jobs.md"
SETTINGS = {"PTuning": ("--length", "20")}
BATCH = 8


@dataclass(frozen=True)
class Job:
    """What `train` and `evaluate` are told."""

    name: str
    asked: str
    base: str
    train: Path
    test: Path
    columns: tuple[str, ...]  # told to both
    training: tuple[str, ...]  # told to train only
    testing: tuple[str, ...]  # told to evaluate only
    metric: str  # the first one decides
    methods: tuple[str, ...] = METHODS

    def train_words(self, method: str, rate: float | None, run: Path, seed: int = 0) -> list[str]:
        words = ["train", "--base", self.base, "--data", str(self.train), *self.columns]
        words += [*self.training, "--batch-size", str(BATCH), "--metric", self.metric]
        words += ["--validate-every", "100"]
        words += ["--method", method.lower(), *SETTINGS.get(method, ())]
        words += [] if rate is None else ["--learning-rate", f"{rate:g}"]
        words += ["--seed", str(seed)] if seed else []
        return [*words, "--out", str(run)]

    def evaluate_words(self, run: Path) -> list[str]:
        words = ["evaluate", str(run), "--data", str(self.test), *self.columns, *self.testing]
        return [*words, "--metric", self.metric]


class Places(NamedTuple):
    """Folders: of the corpora, of the bases, and of the files that are made of the corpora."""

    corpora: Path
    bases: Path
    data: Path

    @property
    def minilm(self) -> str:
        return str(self.bases / "all-minilm-l6-v2")

    def corpus(self, name: str) -> Path | None:
        """The folder, if it is there."""
        return folder if (folder := self.corpora / name).is_dir() else None

    def made(self, name: str, header: tuple[str, ...], rows: Iterable) -> Path:
        """A .csv file of these rows, written anew each time: an older one may hold others."""
        path = self.data / name
        write_rows(path, header, rows)
        return path


CLASSES = ("--kind", "classification")
SHORT = ("--max-length", "32")


def sst2(places: Places) -> Job | None:
    if (corpus := places.corpus("sst2")) is None:
        return None
    asked = "Is a phrase of a review good or bad?"
    columns = (*CLASSES, "--input", "sentence", "--target", "label", *SHORT)
    files = corpus / "train_full.tsv", corpus / "dev.tsv"
    training = ("--limit", "6000", "--steps", "200", "--dev-limit", "200")
    return Job("sst2", asked, places.minilm, *files, columns, training, (), "accuracy")


def banking77(places: Places) -> Job | None:
    if (corpus := places.corpus("banking77")) is None:
        return None
    asked = "Which of 77 things does a customer of a bank want?"
    columns = (*CLASSES, "--input", "text", "--target", "category", *SHORT)
    files = corpus / "train.csv", corpus / "test.csv"
    training, testing = ("--steps", "400", "--dev-limit", "200"), ("--limit", "1000")
    metrics = "macro_f1,accuracy"
    return Job("banking77", asked, places.minilm, *files, columns, training, testing, metrics)


def pairs(places: Places) -> Job | None:
    if (corpus := places.corpus("banking77")) is None:
        return None
    asked = "Do two customers of a bank want the same thing?"
    header = ("question", "other", "label")
    columns = (*CLASSES, "--input", "question,other", "--target", "label", "--max-length", "64")
    files = (
        places.made("pairs_train.csv", header, same_or_not(corpus / "train.csv", 4000, seed=0)),
        places.made("pairs_test.csv", header, same_or_not(corpus / "test.csv", 600, seed=1)),
    )
    training = ("--steps", "200", "--dev-limit", "200")
    return Job("pairs", asked, places.minilm, *files, columns, training, (), "accuracy")


def wnut17(places: Places) -> Job | None:
    if (corpus := places.corpus("wnut17")) is None:
        return None
    test = places.data / "wnut17_test.conll"  # the ending says what it is
    test.write_bytes((corpus / "emerging.test.annotated").read_bytes())
    files, columns = (corpus / "wnut17train.conll", test), ("--kind", "tagging", *SHORT)
    training, testing = ("--steps", "200", "--dev-limit", "200"), ("--limit", "600")
    asked = "Names in messages"
    return Job("wnut17", asked, places.minilm, *files, columns, training, testing, "entity_f1")


def cola(places: Places) -> Job | None:
    if corpus := places.corpus("cola"):
        asked, column = "Is it a sentence?", "sentence"
        files = corpus / "train.tsv", corpus / "dev.tsv"
    elif (words := quiet(real.vader)) is not None:
        asked, column = "Is a word positive? (VADER's lexicon; CoLA was not at hand)", "word"
        header = ("word", "label")
        files = (
            places.made("words_train.csv", header, words.examples("train")),
            places.made("words_test.csv", header, words.examples("test")),
        )
    else:
        return None
    columns = (*CLASSES, "--input", column, "--target", "label", *SHORT)
    training = ("--steps", "200", "--dev-limit", "200")
    return Job("cola", asked, places.minilm, *files, columns, training, (), "matthews,accuracy")


def e2e(places: Places) -> Job | None:
    corpus, smollm2 = places.corpus("e2e"), real.find("smollm2")
    if corpus is None or smollm2 is None:
        return None
    asked, header = "Fields of a restaurant -> a text about it", ("fields", "text")
    files = (
        places.made("e2e_train.csv", header, restaurants(corpus / "devset.csv")),
        places.made("e2e_test.csv", header, restaurants(corpus / "testset_w_refs.csv", 24)),
    )
    columns = ("--kind", "text-to-text", "--input", "fields", "--target", "text")
    columns += ("--max-length", "120")
    training = ("--steps", "60", "--dev-limit", "16")
    few = tuple(method for method in METHODS if method not in ("HeadOnly", "BitFit"))  # no head
    return Job("e2e", asked, str(smollm2), *files, columns, training, (), "bleu,rougeL", few)


JOBS = (sst2, banking77, pairs, wnut17, cola, e2e)


def quiet(call: Callable):
    """The call's result; what it prints is dropped."""
    with contextlib.redirect_stdout(io.StringIO()):
        return call()


def same_or_not(path: Path, count: int, seed: int) -> Iterator[tuple[str, str, str]]:
    """Pairs of questions to a bank; every second pair asks for the same thing."""
    draw, questions = random.Random(seed), {}
    for row in rows_of(path):
        questions.setdefault(row["category"], []).append(row["text"])
    for number in range(count):
        first, second = draw.sample(sorted(questions), 2)
        if number % 2:
            yield *draw.sample(questions[first], 2), "same"
        else:
            yield draw.choice(questions[first]), draw.choice(questions[second]), "other"


def restaurants(path: Path, inputs: int | None = None) -> Iterator[tuple[str, str]]:
    """(fields, text) of E2E; only those of the first so many different fields."""
    seen: set[str] = set()
    for row in rows_of(path):
        seen.add(row["mr"])
        if inputs and len(seen) > inputs:
            return
        yield row["mr"] + " =>", row["ref"]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    assets = Path(os.environ.get("MINIPEFT_ASSETS", ROOT.parent / "shared"))
    parser.add_argument("--corpora", type=Path, default=assets / "corpora")
    parser.add_argument("--checkpoints", type=Path, default=assets / "checkpoints")
    parser.add_argument("--only", nargs="+", metavar="JOB")
    parser.add_argument("--methods", nargs="+", default=METHODS, metavar="METHOD")
    parser.add_argument("--grid", action="store_true", help="and the rates around each default")
    parser.add_argument("--page", action="store_true", help="run nothing, write docs/jobs.md")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "jobs")
    given = parser.parse_args()
    (given.out / "data").mkdir(parents=True, exist_ok=True)
    places = Places(given.corpora, given.checkpoints, given.out / "data")
    every = [made for job in JOBS if (made := job(places)) is not None]
    if len(every) < len(JOBS):
        print(f"{len(every)} of {len(JOBS)} jobs: the other corpora are not in {given.corpora}.")
    results = Results()
    for job in () if given.page else every:
        for method in job.methods:
            if method in given.methods and (not given.only or job.name in given.only):
                if given.grid:
                    results.grid(job, method, given.out)
                else:
                    results.get(job, method, default_rate(method), given.out)
    if given.page:
        texts = {}
        for job in every:
            words = shlex.join(["minipeft", *job.train_words("LoRA", None, Path("runs/job"))])
            for folder, name in ((job.train.parent, "DATA"), (Path(job.base).parent, "BASES")):
                words = words.replace(str(folder), name)
            texts[job.name] = (job.asked, words)
        PAGE.write_text(page(results, texts), encoding="utf-8")


if __name__ == "__main__":
    main()
