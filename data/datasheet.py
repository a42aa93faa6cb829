"""Print the datasheet of Tinyland from what was measured: `python data/datasheet.py`.

Writes data/DATASHEET.md. The text stands here, the numbers come from the files themselves and from
data/measured.json, which `python data/baselines.py` writes.
"""

import csv
import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import generate  # noqa: E402
from tinyland import facts  # noqa: E402

ABOUT = {
    "facts": "150 countries with five relations, 59 people with three, six wordings each",
    "strings": "eight functions on rows of 2 to 6 nouns",
    "reviews": "restaurants, films and hotels; negation, contrast, intensity; what came of it",
    "entailment": "a premise, a claim: yes, no or maybe",
    "records": "slots of a restaurant and a sentence in one of four styles",
    "tags": "a sentence and the kind of each word; many words have two kinds",
    "stories": "three sentences and a headline, or one word of it",
}
COLUMNS = ["majority", "bag of words", "unadapted", "full fine-tuning"]


def measured() -> dict:
    path = HERE / "measured.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def table(head: list[str], rows: list[list]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}"


def corpus_table(numbers: dict) -> str:
    floors = numbers.get("floor", {}).get("nats per token", {}).get("values", {})
    rows, total, size = [], 0, 0
    counted = {}
    for path in sorted((HERE / "corpus").glob("*.txt")):
        text = path.read_text(encoding="utf-8")
        documents = text.splitlines()
        counted[path.stem] = (documents, len(re.findall(r"\w+|[^\w\s]", text)) + len(documents))
        size += len(text)
    total = sum(tokens for _, tokens in counted.values())
    for kind, (documents, tokens) in counted.items():
        floor = f"{floors[kind]:.3f}" if kind in floors else "-"
        row = [kind, ABOUT[kind], f"{len(documents):,}", f"{tokens:,}", percent(tokens / total)]
        rows.append([*row, floor])
    every = sum(len(documents) for documents, _ in counted.values())
    floor = f"{floors['corpus']:.3f}" if floors else "-"
    rows.append(["**all**", f"{size / 1e6:.1f} MB", f"{every:,}", f"{total:,}", "100", floor])
    head = ["kind", "what it is", "documents", "tokens", "% of tokens", "floor, nats/token"]
    return table(head, rows)


def value(entry: dict | None, split: str) -> str:
    """One cell of the table of tasks: a share, or the mean and the range over seeds."""
    if entry is None:
        return "-"
    measured = entry["values"][split]
    if isinstance(measured, list):
        scores = [first(score) for score in measured]
        if len(scores) == 1:
            return percent(scores[0])
        low, high, mean = min(scores), max(scores), sum(scores) / len(scores)
        return f"{percent(mean)} ({percent(low)}-{percent(high)})"
    return percent(first(measured))


def first(scores: dict | float) -> float:
    """The score that counts: exact, accuracy, or the entity F1 of tags."""
    if isinstance(scores, dict):
        return next(scores[name] for name in ("f1", "exact", "accuracy") if name in scores)
    return scores


def task_table(numbers: dict, split: str) -> str:
    rows = []
    for folder in sorted((HERE / "tasks").iterdir()):
        task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
        question = task["description"] if split == "test" else task["ood_description"]
        cells = [value(numbers.get(column, {}).get(task["name"]), split) for column in COLUMNS]
        rows.append([task["family"], f"`{task['name']}`", task["kind"], question, *cells])
    rows.sort(key=lambda row: row[0])
    return table(["family", "task", "kind", "what is asked", *COLUMNS], rows)


def skill_tables(numbers: dict) -> str:
    skills = {name: entry["values"] for name, entry in numbers.get("skills", {}).items()}
    if not skills:
        return "Not measured yet: run `python data/baselines.py --skills`."
    parts = []
    for title in ("facts by wording", "capital, unused wordings", "string functions", "other"):
        rows: dict[str, list[str]] = {}
        for name in skills:
            for row in skills[name].get(title, {}):
                rows.setdefault(row, [])
        body = [
            [f"`{row}`" if "{" in row else row]
            + [percent(skills[name].get(title, {}).get(row)) for name in skills]
            for row in rows
        ]
        parts.append(f"**{title}**\n\n{table(['', *skills], body)}")
    return "\n\n".join(parts)


def curves() -> str:
    curve_of = {}
    for path in sorted((HERE / "checkpoints").glob("*/losses.csv")):
        with path.open(encoding="utf-8") as file:
            curve_of[path.parent.name] = [(int(a), float(b)) for a, b in list(csv.reader(file))[1:]]
    if not curve_of:
        return "No checkpoint here yet: run `python data/pretrain.py all`."
    marks = [0, 500, 1000, 2000, 4000, 6000, 8000, 12000]
    rows = []
    for name, curve in curve_of.items():
        near = [min(curve, key=lambda point, m=mark: abs(point[0] - m)) for mark in marks]
        cells = [
            f"{b:.2f}" if abs(a - m) < 60 else "" for m, (a, b) in zip(marks, near, strict=True)
        ]
        rows.append([name, *cells, f"{curve[-1][1]:.4f}"])
    return table(["checkpoint", *(f"step {mark}" for mark in marks), "last"], rows)


def wordings() -> str:
    used = [[f"{weight} %", f"`{wording}`"] for weight, wording in facts.WORDINGS["capital"]]
    return table(["share", "wording of the capital relation"], used)


def datasheet() -> str:
    numbers = measured()
    vocabulary = len((HERE / "vocabulary.txt").read_text(encoding="utf-8").split())
    return f"""# Tinyland: datasheet

A small English world, made by `python data/generate.py`: the same bytes every time. No text was
taken from anywhere; the facts about countries are real, everything else is invented. {vocabulary}
words, all lower case, names of several words joined by an underscore, plus 14 special tokens.

This file is printed by `python data/datasheet.py` from `data/measured.json`, which
`python data/baselines.py` measures. A dash means: not measured or not applicable.

## Corpus

One document per line, at most {generate.LONGEST} tokens. The mixture that models are pretrained on
is the number of documents per kind. Questions have one form, `trigger : source => target .`, so
that the first word must be read.

{corpus_table(numbers)}

The *floor* is the entropy of the generator: what a model that knew all rules and facts by heart
would still pay per token, <eos> included. It is computed from the probabilities of the choices
that the generator makes, `data/tinyland/floor.py`. "all" includes the choice of the kind.

Facts are told in wordings of unequal frequency:

{wordings()}

## Honest limits of the facts

- One main language is told for each country, though most have several. Official or most widely
  spoken: for example dari for afghanistan, zulu for south_africa, bambara for mali, moore for
  burkina_faso, hausa for niger, creole for haiti and seychelles, spanish for paraguay.
- One capital is told: pretoria for south_africa (which has three), sucre for bolivia (the
  government sits in la_paz), jakarta for indonesia (a new capital is being built).
- Currencies are told by their short name: the dollar of australia and of canada are both "dollar".
  bulgaria and croatia pay with the euro.
- turkey, georgia, armenia and azerbaijan are told to be in asia, russia in europe.
- Countries with a capital of the same name, and places whose capital or status is disputed, are
  left out. Islands have no neighbour; united_kingdom and ireland are each other's.
- First names stand for nobody. The people, their homes, work and taste are drawn from the seed.

## Tasks

*latent*: the base can do it, but the word that asks for it is missing; a prompt can bring it back.
*novel*: a composition, a style or label words that the base never saw. Splits are by construction:
one row of nouns, review, pair, record, story or sentence in ten, chosen by a checksum of its text,
is in no document of the corpus and in no train or dev split; 50 of the 150 countries are in the
corpus but in no train or dev split. `unadapted` and `full fine-tuning` are of `tiny-decoder`
(tags: `tiny-encoder` with a fresh head); full fine-tuning is the mean (least-most) over three
seeds: 400 steps of 32 examples, learning rate 1e-3, the same for every task, the weights kept that
were best on dev, looked at every 40 steps. Numbers are per cent: exact answers (generate), accuracy
(cloze: among all words; classify: among the labels), F1 of entities (tag). The *bag of words* is a
linear layer on counts of words, in the whole input and between its
semicolons, which answers each position of the target on its own (`data/bag.py`).

`agreement` is the pair task: the same words make a yes and a no. The corpus kind `entailment` is
one too, but models of this size did not learn to answer it (see the skills below), and full
fine-tuning did not either, so no task rests on it.

### Test

{task_table(numbers, "test")}

### Out of domain

{task_table(numbers, "ood")}

## What the checkpoints have learned

Exact answers in per cent, asked with the trigger words and wordings of the corpus, on rows,
reviews, pairs, records and stories that the corpus does not hold: `python data/evaluate.py NAME`.

{skill_tables(numbers)}

### Loss while pretraining, nats per token

{curves()}

Encoders and encoder-decoders are asked for hidden words only; their losses compare with nothing
else in this table.

## What was chosen after looking

- The 14 unused wordings of the capital relation were picked from about 58 sensible ones by their
  score on this very `tiny-decoder`, so that they spread and none is perfect. The spread is a
  property of the selection, not of all wordings; other checkpoints were not looked at.
- The pair task `agreement` is the fifth that was tried. With the corpus kind `entailment`, and
  with pairs of facts, no base of this size and no full fine-tuning came off chance. With reviews
  of two clauses ("..., but ...") and negation one of three seeds found the rule, after 400 steps
  and after 1,600 (99, 48 and 46 on test); with one clause and negation two of three (98, 100, 55).
- Steps and learning rate of full fine-tuning were not tuned per task. Without keeping the weights
  that were best on dev, `capital` came to 79 (78-80): the longer it is trained on 80 countries, the
  more it forgets of the others. `currency` still loses one in six of the countries held out.

## Licence

MIT, like the project.
"""


if __name__ == "__main__":
    generate.write(HERE / "DATASHEET.md", datasheet())
    print(f"wrote {HERE / 'DATASHEET.md'}")
