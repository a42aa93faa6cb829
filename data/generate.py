"""Write Tinyland: the corpus, the vocabulary and the tasks. The same bytes every time.

python data/generate.py                 into the folder of this file
python data/generate.py --output FOLDER
"""

import argparse
import json
import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from tinyland import entailment, facts, records, reviews, stories, strings, tags, tasks  # noqa: E402  # noqa: E402

# How many documents of each kind: this is the mixture that the models are pretrained on.
MIXTURE = {
    facts: 24_000,
    strings: 27_000,
    reviews: 16_000,
    entailment: 14_000,
    records: 7_000,
    tags: 4_000,
    stories: 4_000,
}
LONGEST = 43  # tokens of the longest document, without <eos>
PIECE = re.compile(r"\w+|[^\w\s]")


def write(path: Path, text: str) -> None:
    """Write under another name, then move into place: a file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(text, encoding="utf-8", newline="\n")
    os.replace(unfinished, path)


def lines(rows: list) -> str:
    return "".join(f"{row}\n" for row in rows)


def generate(output: Path) -> None:
    """Write corpus/<kind>.txt, tasks/<name>/{train,dev,test,ood}.jsonl and vocabulary.txt."""
    seen: set[str] = set()
    for kind, count in MIXTURE.items():
        documents = kind.documents(count)
        longest = max(len(PIECE.findall(document)) for document in documents)
        if longest > LONGEST:
            raise ValueError(f"{kind.__name__} has a document of {longest} > {LONGEST} tokens")
        seen.update(word for document in documents for word in PIECE.findall(document))
        write(output / "corpus" / f"{kind.__name__.rsplit('.')[-1]}.txt", lines(documents))

    for name, task in tasks.all_tasks():
        folder = output / "tasks" / name
        splits = task.pop("splits")
        for split, rows in splits.items():
            write(folder / f"{split}.jsonl", lines([json.dumps(row) for row in rows]))
            for row in rows:
                seen.update(PIECE.findall(f"{row['input']} {row['target']}"))
        seen.update(task["labels"] or [])
        write(folder / "task.json", json.dumps({"name": name, **task}, indent=2) + "\n")

    write(output / "vocabulary.txt", lines(sorted(seen)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent)
    generate(parser.parse_args().output)
