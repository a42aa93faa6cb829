"""How the models that the project ships were made: their sizes, what they read, for how long.

| name                 | layout | C   | L     | H | steps |
|----------------------|--------|-----|-------|---|-------|
| tiny-decoder-0.1m    | GPT-2  | 32  | 4     | 2 | 12000 |
| tiny-decoder-0.4m    | GPT-2  | 80  | 4     | 4 | 4500  |
| tiny-decoder         | GPT-2  | 128 | 4     | 4 | 4500  |
| tiny-decoder-3m      | GPT-2  | 192 | 6     | 6 | 5000  |
| tiny-encoder         | BERT   | 128 | 4     | 4 | 15000 |
| tiny-encoder-decoder | BART   | 128 | 3 + 3 | 4 | 20000 |

A step reads 16 rows of 96 tokens. `data/pretrain.py` follows a recipe to its end; lesson 02 follows
one for two minutes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .checkpoints import data_folder
from .config import TransformerConfig
from .models import Decoder, Encoder, EncoderDecoder
from .pretraining import Stream
from .tokenizer import WordTokenizer

LENGTH = 96  # tokens in a row, and positions of every model
BATCH = 16  # rows of packed text; four times as many short documents
MODELS = {"gpt2": Decoder, "bert": Encoder, "bart": EncoderDecoder}


@dataclass(frozen=True)
class Recipe:
    """One model's numbers.

    Attributes:
        layout: "gpt2", "bert" or "bart".
        width, layers, heads: C, L (of each stack), H.
        peak: the highest learning rate.
        steps: optimizer steps.
        corruption_rate: of the words that are hidden (masked words, span corruption).
    """

    layout: str
    width: int
    layers: int
    heads: int
    peak: float
    steps: int = 4500
    corruption_rate: float = 0.0


RECIPES = {
    "tiny-decoder-0.1m": Recipe("gpt2", 32, 4, 2, peak=4e-3, steps=12000),
    "tiny-decoder-0.4m": Recipe("gpt2", 80, 4, 4, peak=3e-3),
    "tiny-decoder": Recipe("gpt2", 128, 4, 4, peak=2e-3),
    "tiny-decoder-3m": Recipe("gpt2", 192, 6, 6, peak=2e-3, steps=5000),
    "tiny-encoder": Recipe("bert", 128, 4, 4, peak=2e-3, steps=15000, corruption_rate=0.3),
    "tiny-encoder-decoder": Recipe("bart", 128, 3, 4, peak=1e-3, steps=20000, corruption_rate=0.25),
}


def corpus() -> dict[str, list[str]]:
    """Kind of text -> its documents, in the order of the files in data/corpus.

    Raises:
        FileNotFoundError: when the corpus is not there.
    """
    folder = data_folder() / "corpus"
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no texts; run `python data/generate.py`.")
    return {file.stem: file.read_text(encoding="utf-8").splitlines() for file in files}


def fresh(name: str, seed: int = 0) -> tuple:
    """(untrained model, tokenizer) by the recipe of that name."""
    recipe = find(name)
    words = (data_folder() / "vocabulary.txt").read_text(encoding="utf-8").split()
    tokenizer = WordTokenizer(words, ends=recipe.layout != "gpt2")
    config = getattr(TransformerConfig, recipe.layout)(
        vocab_size=len(tokenizer),
        positions=LENGTH,
        width=recipe.width,
        layers=recipe.layers,
        heads=recipe.heads,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[recipe.layout](config), tokenizer


def stream(name: str, documents: list[str], tokenizer: WordTokenizer, seed: int = 0) -> Stream:
    """What the model of that name reads: `stream(step)` is the batch of a step."""
    recipe = find(name)
    kind = {"gpt2": "decoder", "bert": "encoder", "bart": "encoder-decoder"}[recipe.layout]
    return Stream(documents, tokenizer, kind, BATCH, LENGTH, seed, recipe.corruption_rate)


def find(name: str) -> Recipe:
    """The recipe of that name."""
    if name not in RECIPES:
        raise ValueError(f"There is no recipe {name!r}; there are {', '.join(RECIPES)}.")
    return RECIPES[name]
