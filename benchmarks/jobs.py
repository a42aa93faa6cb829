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
import csv
import io
import json
import os
import random
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from minipeft.__main__ import main as minipeft
from minipeft.commands.options import method_class
from minipeft.commands.writers import write_rows
from minipeft.course import real

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "jobs.csv"
PAGE = ROOT / "docs" / "jobs.md"
FIELDS = ("job", "method", "rate", "trained", "seconds", "dev", "scores", "device")
METHODS = (
    "FullFineTuning", "HeadOnly", "BitFit", "LoRA", "AdaLoRA", "VeRA", "Adapter", "IA3", "Prefix",
    "PromptTuning", "PTuning", "PTuningV2", "UniPELT",
)  # fmt: skip
SETTINGS = {"PTuning": ("--length", "20")}
STEP = 3.0  # between two rates of the grid
WIDEST = 2  # steps of the grid to each side, if the best is at its edge
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

    def train_words(self, method: str, rate: float | None, run: Path) -> list[str]:
        words = ["train", "--base", self.base, "--data", str(self.train), *self.columns]
        words += [*self.training, "--batch-size", str(BATCH), "--metric", self.metric]
        words += ["--validate-every", "100"]
        words += ["--method", method.lower(), *SETTINGS.get(method, ())]
        words += [] if rate is None else ["--learning-rate", f"{rate:g}"]
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
        """A .csv file of these rows, written if it is not there."""
        path = self.data / name
        if not path.is_file():
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


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


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


def device() -> str:
    """Where `train` runs if nobody says where: "cpu", or the name of the accelerator."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def default_rate(method: str) -> float:
    return method_class(method.lower()).default_rate


def measure(job: Job, method: str, rate: float, out: Path) -> dict[str, str]:
    """Train and evaluate: a line of the results."""
    run = out / job.name / f"{method}-{rate:g}"
    given = None if rate == default_rate(method) else rate
    begun = (run / "config.json").is_file()
    words = ["train", "--resume", str(run)] if begun else job.train_words(method, given, run)
    for command in (words, job.evaluate_words(run)):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            code = minipeft(command)
        if code:
            raise RuntimeError(f"{shlex.join(command)} ended with {code}: {said.getvalue()}")
    scores = dict(re.findall(r"^(\w+) +(-?\d+(?:\.\d+)?)$", said.getvalue(), re.MULTILINE))
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    first, *others = job.metric.split(",")
    return {
        "job": job.name,
        "method": method,
        "rate": f"{rate:g}",
        "trained": str(result["trainable"] + result["head"]),
        "seconds": f"{result['seconds']:.0f}",
        "dev": f"{result['dev'][first]:.4f}",
        "scores": " ".join(f"{name}={scores[name]}" for name in (first, *others)),
        "device": device(),
    }


class Results:
    """The lines of jobs.csv: (job, method, rate as text, device) -> line."""

    def __init__(self, path: Path = RESULTS):
        self.path = path
        lines = rows_of(path) if path.is_file() else []
        names = ("job", "method", "rate", "device")
        self.lines = {tuple(line[name] for name in names): line for line in lines}

    def get(self, job: Job, method: str, rate: float, out: Path) -> dict[str, str]:
        """The line of this device; measured and written if it is not there."""
        key = (job.name, method, f"{rate:g}", device())
        if key not in self.lines:
            self.lines[key] = line = measure(job, method, rate, out)
            new = not self.path.is_file()
            with self.path.open("a", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
                if new:
                    writer.writeheader()
                writer.writerow(line)
            print(*line.values(), flush=True)
        return self.lines[key]

    def rates(self, job: str, method: str) -> dict[str, dict[float, dict[str, str]]]:
        """Device -> rate -> line, of all that has been run; the cpu first."""
        devices: dict[str, dict] = {"cpu": {}}
        for line in sorted(self.lines.values(), key=lambda line: float(line["rate"])):
            if (line["job"], line["method"]) == (job, method):
                devices.setdefault(line["device"], {})[float(line["rate"])] = line
        return devices

    def grid(self, job: Job, method: str, out: Path) -> None:
        """A third and three times the default rate; on, while the best on dev is at the edge."""
        rate = default_rate(method)
        low, high = -1, 1
        while True:
            tried = {n: rate * STEP**n for n in range(low, high + 1)}
            dev = {n: float(self.get(job, method, r, out)["dev"]) for n, r in tried.items()}
            best = max(dev, key=dev.get)
            if best == low and low > -WIDEST:
                low -= 1
            elif best == high and high < WIDEST:
                high += 1
            else:
                return


def scores_of(line: dict[str, str]) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"(\w+)=(\S+)", line["scores"])}


def page(results: Results, texts: dict[str, tuple[str, str]]) -> str:
    """docs/jobs.md; texts: job -> (what is asked, command)."""
    devices = sorted({line["device"] for line in results.lines.values()} - {"cpu"})
    where = f"The grid ran on: {', '.join(devices)}." if devices else ""
    lines = [
        "# Jobs from the command line",
        "",
        "Written by `python -m benchmarks.jobs --page` from benchmarks/results/jobs.csv, which "
        "`python -m benchmarks.jobs --grid --corpora FOLDER` measures. Each row is one run of the "
        "command above its table with another `--method`, at that method's default learning rate, "
        "and its scores on the test file; a head that starts from random numbers learns at 0.01 or "
        "more. One seed, one core: worked examples, not a contest (that is lesson 15). Seconds are "
        "of a machine with other work. All numbers that are trained count, the head's included.",
        "",
        "The last three columns are another run, the grid: the default rate, its third and its "
        "triple, one step further where the best on dev was at the edge. They give the test score "
        f"at the default, the rate that was best on dev, and the test score at that rate. {where} "
        "A row that stays at chance did not learn within "
        "these steps at any rate that was tried.",
        "",
    ]
    gaps = []
    for name, (asked, command) in texts.items():
        first = next((line for key, line in results.lines.items() if key[0] == name), None)
        if first is None:
            continue  # not run yet
        names = list(scores_of(first))
        lines += [f"## {name}: {asked}", "", f"    {command}", ""]
        head = ["method", "numbers trained", "default rate", *names, "seconds"]
        head += [f"{names[0]} in the grid", "best rate of the grid", f"{names[0]} with it"]
        lines.append(f"| {' | '.join(head)} |")
        lines.append("|---" * len(head) + "|")
        for method in METHODS:
            devices, default = results.rates(name, method), float(f"{default_rate(method):g}")
            grid = max((d for d in devices.values() if default in d), key=len, default={})
            line = devices["cpu"].get(default)
            if line is None:
                continue
            scores = " | ".join(f"{value:.3f}" for value in scores_of(line).values())
            cells = (f"{int(line['trained']):,}", line["rate"], scores, line["seconds"])
            row = f"| {method} | {' | '.join(cells)}"
            if len(grid) > 1:
                best = max(grid.values(), key=lambda tried: float(tried["dev"]))
                at_default, score = (scores_of(one)[names[0]] for one in (grid[default], best))
                gaps.append((score - at_default, method, name))
                row += f" | {at_default:.3f} | {best['rate']} | {score:.3f} |"
            else:
                row += " | - | - | - |"
            lines.append(row)
        lines.append("")
    if gaps:
        far = [f"{m} on {j} ({100 * gap:.0f})" for gap, m, j in sorted(gaps)[::-1] if gap > 0.1]
        lines += [
            "## Do the default rates work?",
            "",
            f"{len(gaps) - len(far)} of {len(gaps)} rows are within ten points of the best rate of "
            f"their grid{'.' if not far else '; further away: ' + ', '.join(far) + '.'}",
            "",
        ]
    return "\n".join(lines)


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
