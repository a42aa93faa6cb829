"""What lesson 02 measures: what a text must cost, and what a model learns on its way there."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

import tiny_transformer as tt
from minipeft.course.tinyland import FUNCTIONS, Asked, capitals, exact, puzzles
from minipeft.tasks import load
from tiny_transformer import objectives, recipes

Corpus = Mapping[str, list[str]]  # kind of text -> its documents

# -- section 2: batches ----------------------------------------------------------------------------


def line_up(tokenizer, **rows: Tensor) -> None:
    """Print rows of ids (T,) as words in columns; · where nothing is asked (-100).

    Columns stand closer together where they would not fit on a page otherwise.
    """
    lines = [
        [name, *("·" if i == -100 else tokenizer.names[i] for i in ids.tolist())]
        for name, ids in rows.items()
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    gap = "  " if sum(widths) + 2 * len(widths) <= 94 else " "
    for line in lines:
        print(gap.join(word.ljust(width) for word, width in zip(line, widths, strict=True)))


PATIENTS = {
    "A": "nothing hidden",
    "B": "shifted",
    "C": "padding",
    "D": "healthy",
    "E": "all asked",
}
AIMS = dict(zip(PATIENTS, ("masked", "causal", "causal", "masked", "masked"), strict=True))


def patients(tokenizer) -> dict[str, dict[str, Tensor]]:
    """Five batches of one row, of which four are ill: name -> input_ids and labels, each (T,)."""
    text = tokenizer.encode("the capital of france is paris .") + [tokenizer.eos_token_id]
    ids = torch.tensor([text + 2 * [tokenizer.pad_token_id]])  # (1, T)
    right = objectives.causal(ids, tokenizer)["labels"]  # (1, T)
    generator = torch.Generator().manual_seed(3)
    hidden = objectives.masked(ids, tokenizer, generator, corruption_rate=0.4)
    labels = hidden["labels"]
    later = torch.cat([right[:, 1:], right.new_full((1, 1), -100)], dim=1)  # (1, T)
    batches = {
        "nothing hidden": (ids, labels),
        "shifted": (ids, later),
        "padding": (ids, ids),
        "healthy": (hidden["input_ids"], labels),
        "all asked": (hidden["input_ids"], right),
    }
    return {
        name: {"input_ids": batches[cause][0][0], "labels": batches[cause][1][0]}
        for name, cause in PATIENTS.items()
    }


# -- section 3: prices and floors ------------------------------------------------------------------


@torch.no_grad()
def prices(model: nn.Module, tokenizer, texts: Sequence[str]) -> list[list[float]]:
    """Per text: what the model pays for each token, <eos> included, in nats."""
    rows = [_framed(tokenizer, text) for text in texts]
    batch = tokenizer.pad(rows)
    logits = model(**batch).logits[:, :-1]  # (B, T, V)
    target = batch["input_ids"][:, 1:]  # (B, T)
    paid = -logits.log_softmax(-1).gather(2, target[:, :, None])[:, :, 0]  # (B, T)
    return [row[: len(ids) - 1].tolist() for row, ids in zip(paid, rows, strict=True)]


def mean_price(model: nn.Module, tokenizer, texts: Sequence[str]) -> float:
    """Nats per token."""
    parts = (texts[at : at + 200] for at in range(0, len(texts), 200))
    return mean([row for part in parts for row in prices(model, tokenizer, part)])


def mean(rows: Sequence[Sequence[float]]) -> float:
    """Mean over all tokens of all texts."""
    return sum(map(sum, rows)) / sum(map(len, rows))


def _framed(tokenizer, text: str) -> list[int]:
    ids = tokenizer.encode(text, add_special_tokens=False)
    return [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]


def first_words(texts: Sequence[str]) -> dict[str, float]:
    """First word -> share of the texts that begin with it."""
    counts = Counter(text.split(" ", 1)[0] for text in texts)
    return {word: count / counts.total() for word, count in counts.items()}


class PuzzleFloor:
    """The least price of every token of a puzzle, for a reader who knows how puzzles are made.

    `reverse : cat sun tree => tree sun cat .` The dice are: which first word, how many nouns (it
    shows at each one, and at the `=`), and which nouns, none twice. All else follows.
    """

    def __init__(self, corpus: Corpus, tokenizer) -> None:
        self.tokenizer = tokenizer
        rows = [tokenizer.tokenize(text) for text in corpus["strings"]]
        self.lengths = Counter(words.index("=") - 2 for words in rows)
        self.nouns = {word for words in rows for word in words[2 : words.index("=")]}

    def __call__(self, puzzle: str, shares: Mapping[str, float]) -> list[float]:
        """In nats, <eos> included. shares: of the texts that begin with a word (`first_words`)."""
        words = self.tokenizer.tokenize(puzzle)
        n = words.index("=") - 2
        result = [-math.log(shares[words[0]]), 0.0]
        for k in range(1, n + 1):
            goes_on = self._at_least(k) / self._at_least(k - 1)
            result.append(-math.log(goes_on) + math.log(len(self.nouns) - k + 1))
        result.append(-math.log(self.lengths[n] / self._at_least(n)))
        return result + [0.0] * (len(words) - len(result) + 1)

    def _at_least(self, k: int) -> int:
        return sum(count for length, count in self.lengths.items() if length >= k)


def unseen_puzzles(rows: int) -> list[str]:
    """Puzzles of all six functions on rows of nouns that no text has."""
    asked = [zip(*puzzles(name, rows), strict=True) for name in FUNCTIONS]
    return [f"{question} {answer}" for pairs in asked for question, answer in pairs]


def kind_floor(corpus: Corpus, kind: str, kinds: Sequence[str]) -> float:
    """Nats per token of a kind of text, for a reader of `kinds` who is not told which one begins.

    The floor of a kind that is known was measured when the corpus was made (data/measured.json).
    """
    known = known_floors()[kind]
    which = math.log(sum(len(corpus[other]) for other in kinds) / len(corpus[kind]))  # per text
    return known + which * len(corpus[kind]) / tokens_of(corpus[kind])


def known_floors() -> dict[str, float]:
    """Kind of text -> nats per token; "corpus": all of them, kind not told."""
    text = (tt.data_folder() / "measured.json").read_text(encoding="utf-8")
    return json.loads(text)["floor"]["nats per token"]["values"]


def tokens_of(texts: Sequence[str]) -> int:
    """About how many tokens, <eos> included."""
    return sum(len(text.split()) + 1 for text in texts)


# -- section 4: a model on its way -----------------------------------------------------------------


def abilities(
    model: nn.Module, tokenizer, kept_away: Corpus, rows: int, countries: int
) -> dict[str, object]:
    """What a model can do now: its loss on unread texts, capitals, puzzles, a text it makes up."""
    start = torch.tensor([[tokenizer.bos_token_id]])
    generator = torch.Generator().manual_seed(1)
    made_up = tt.generate(model, start, max_new_tokens=24, sample=True, generator=generator)
    return {
        "loss": {
            kind: mean_price(model, tokenizer, texts[: 2 * rows])
            for kind, texts in kept_away.items()
        },
        "capitals": exact(model, tokenizer, *capitals(countries=countries)),
        "puzzles": {name: exact(model, tokenizer, *puzzles(name, rows)) for name in FUNCTIONS},
        "made up": tokenizer.decode(made_up[0]),
    }


class Counts:
    """How often words and pairs of neighbours occur: a language model without a network."""

    def __init__(self, corpus: Corpus, tokenizer, every: int = 1) -> None:
        self.tokenizer = tokenizer
        self.singles, self.pairs, self.starts = Counter(), Counter(), Counter()
        for texts in corpus.values():
            for text in texts[::every]:
                ids = _framed(tokenizer, text)
                self.singles.update(ids[1:])
                self.pairs.update(zip(ids, ids[1:], strict=False))
        for (first, _), count in self.pairs.items():
            self.starts[first] += count

    def word(self, a: int, b: int) -> float:
        """Probability of b, whatever stands before it."""
        return (self.singles[b] + 1) / (self.singles.total() + len(self.tokenizer))

    def pair(self, a: int, b: int) -> float:
        """Probability of b after a, mixed with `word` as if that had been seen five times."""
        return (self.pairs[a, b] + 5 * self.word(a, b)) / (self.starts[a] + 5)

    def price(self, probability, texts: Sequence[str]) -> float:
        """Nats per token of `word` or `pair`."""
        rows = [_framed(self.tokenizer, text) for text in texts]
        return mean(
            [[-math.log(probability(a, b)) for a, b in zip(r, r[1:], strict=False)] for r in rows]
        )


# -- section 5: larger models ----------------------------------------------------------------------


def questions(corpus: Corpus, rows: int, countries: int) -> dict[str, Asked]:
    """What the finished models are asked: name -> questions and answers."""
    neighbours = sorted(set(re.findall(r"\w+ is next to \w+ \.", " ".join(corpus["facts"]))))
    follows = [text for text in corpus["entailment"] if text.startswith("follows")]
    unused = [w for w in load("capital").details["unused_wordings"] if "{x}" in w.split("{y}")[0]]
    return {
        "capitals": capitals(countries=countries),
        "neighbours": _cut(neighbours[:countries], " next to "),
        "capitals, wordings never read": _together(capitals(w, countries) for w in unused),
        "puzzles": _together(puzzles(name, rows) for name in FUNCTIONS),
        "tags": _asked("tags", rows),
        "headlines": _asked("headline", rows),
        "follows (read)": _cut(follows[:rows], " => "),
    }


def _together(several) -> Asked:
    asked, answers = zip(*several, strict=True)
    return sum(asked, []), sum(answers, [])


def _asked(name: str, rows: int) -> Asked:
    """Unread questions of a task, with the word that asks."""
    examples = load(name).test[:rows]
    inputs = [e.input.removesuffix(" =>") for e in examples]
    return [f"{name} : {text} =>" for text in inputs], [e.target for e in examples]


def _cut(texts: Sequence[str], at: str) -> Asked:
    """Texts -> questions up to and with `at`, and the answers behind it."""
    parts = [text.partition(at) for text in texts]
    return [a + b.rstrip() for a, b, _ in parts], [c for _, _, c in parts]


def finished(name: str, asked: Mapping[str, Asked]) -> dict:
    """A shipped model: parameters, steps, its training loss on the way, share right of each."""
    model, tokenizer = tt.load(name)
    path = tt.data_folder() / "checkpoints" / name / "losses.csv"
    lines = [line.split(",") for line in path.read_text(encoding="utf-8").split()[1:]]
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": recipes.find(name).steps,
        "losses": {int(step): float(loss) for step, loss in lines},
        "right": {what: exact(model, tokenizer, *pair) for what, pair in asked.items()},
    }


def wilson(share: float, n: int) -> tuple[float, float]:
    """95 % interval of a share of n independent questions (Wilson): its two ends."""
    z = 1.96
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)
