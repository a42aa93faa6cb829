"""Letters in, phonemes out: words of a pronouncing dictionary as batches for an encoder-decoder.

    alphabet = Alphabet.of(model.config, borrowed=BRITISH)
    train, test = split(differences := pairs(read_lexicon("us.json"), read_lexicon("gb.json")))
    alphabet.batch(train[:32])                        # input_ids, attention_mask, labels
    alphabet.pronounce(model, ["tomato"])             # ["təmˈɑːtQ"]

The model's own alphabet is part of its config: `grapheme_chars` and `phoneme_chars` are strings in
which the place of a character is its id (the first four places, shown as "_", are special). Letters
and phonemes use the same ids: 29 is "'" to the encoder's reader and "ɑ" to the decoder's.

A dialect may need symbols that the model's alphabet has no id for. It can *borrow* the ids of
symbols that it never uses itself. American English writes five phonemes that British English does
not, British English four that American English does not; so the four fit in:

| British | example | borrowed from | why                                                       |
|---------|---------|---------------|-----------------------------------------------------------|
| a       | cat     | æ             | the same vowel, written with another letter               |
| Q       | goat    | O             | the same diphthong, said differently                      |
| ɒ       | lot     | ᵻ             | no counterpart: the id is free, its meaning must be learnt |
| ː       | palm    | ʔ             | no counterpart: length is not written in American         |

Symbols are those of the Misaki lexicons (Apache-2.0): A I W Y are the diphthongs of face, price,
mouth, choice; ʤ and ʧ are single symbols; ˈ and ˌ stress the vowel that follows.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from minipeft.contexts import evaluating
from minipeft.methods.parts.validation import check_count
from minipeft.tasks.encoding import write
from tiny_transformer.tokenizer import padded

PAD, BOS, EOS, UNKNOWN = 0, 1, 2, 3
BRITISH = {"a": "æ", "Q": "O", "ɒ": "ᵻ", "ː": "ʔ"}


class Word(NamedTuple):
    """A word, how the new dialect says it, and how the old one does."""

    spelling: str
    phonemes: str
    before: str


@dataclass(frozen=True)
class Alphabet:
    """Which id a letter and a phoneme have.

    graphemes, phonemes: the place of a character is its id; four special places come first.
    borrowed: new phoneme -> phoneme of the model whose id it uses.

    Raises:
        ValueError: a borrowed id that does not exist or that two phonemes would share.
    """

    graphemes: str
    phonemes: str
    borrowed: Mapping[str, str] = field(default_factory=dict)

    pad_token_id = PAD
    eos_token_id = EOS

    def __post_init__(self) -> None:
        for new, old in self.borrowed.items():
            if old not in self.phonemes[4:]:
                raise ValueError(
                    f"{new!r} cannot borrow from {old!r}: the model has no such phoneme."
                )
            if new in self.phonemes[4:]:
                raise ValueError(f"{new!r} need not borrow an id: the model has that phoneme.")
        if len(set(self.borrowed.values())) < len(self.borrowed):
            raise ValueError("Two phonemes borrow the same id: give each one its own.")

    @classmethod
    def of(cls, config, borrowed: Mapping[str, str] | None = None) -> Alphabet:
        """The alphabet in a model's config (`grapheme_chars`, `phoneme_chars`)."""
        try:
            return cls(config.grapheme_chars, config.phoneme_chars, dict(borrowed or {}))
        except AttributeError:
            raise ValueError(
                "This config has no grapheme_chars and phoneme_chars: it is not a model of "
                "pronunciation, or give Alphabet(graphemes, phonemes)."
            ) from None

    # -- text to ids

    def letters(self, word: str) -> list[int]:
        """A spelling -> <bos> its letters <eos>."""
        return [BOS, *(_id(self.graphemes, letter) for letter in word), EOS]

    def sounds(self, phonemes: str) -> list[int]:
        """A pronunciation -> <bos> its phonemes <eos>: this model writes <bos> before it speaks."""
        known = [self.borrowed.get(phoneme, phoneme) for phoneme in phonemes]
        return [BOS, *(_id(self.phonemes, phoneme) for phoneme in known), EOS]

    def text(self, ids: Sequence[int]) -> str:
        """Ids -> a pronunciation in the new dialect's symbols, special ids left out."""
        loud = {old: new for new, old in self.borrowed.items()}
        known = [self.phonemes[i] for i in ids if UNKNOWN < i < len(self.phonemes)]
        return "".join(loud.get(phoneme, phoneme) for phoneme in known)

    def inputs(self, spellings: Sequence[str]) -> dict[str, Tensor]:
        """B spellings -> input_ids and attention_mask (B, T), padded on the right."""
        ids = padded([self.letters(word) for word in spellings], PAD)
        return {"input_ids": ids, "attention_mask": (ids != PAD).long()}

    def batch(self, words: Sequence[Word]) -> dict[str, Tensor]:
        """B words -> inputs, and labels (B, T') of their phonemes with -100 after the end."""
        labels = padded([self.sounds(word.phonemes) for word in words], -100)
        return self.inputs([word.spelling for word in words]) | {"labels": labels}

    def batches(self, words: Sequence[Word], size: int = 32, seed: int = 0):
        """step -> a batch, for `train`. Each holds words of about one length, so little is padded.

        Words are drawn without repetition until all have been seen, in an order made by `seed`.
        """

        check_count("size", size)
        if not words:
            raise ValueError("There are no words to make batches of: give at least one.")

        @functools.lru_cache(maxsize=1)
        def epoch(number: int) -> list[list[Word]]:
            order = random.Random(f"{seed}/{number}")
            mixed = order.sample(list(words), len(words))
            cut = []
            for start in range(0, len(mixed), 8 * size):  # sort 8 batches at a time, not all
                pool = sorted(mixed[start : start + 8 * size], key=lambda word: len(word.spelling))
                cut += [pool[i : i + size] for i in range(0, len(pool), size)]
            order.shuffle(cut)
            return cut

        per_epoch = len(epoch(0))
        return lambda step: self.batch(epoch(step // per_epoch)[step % per_epoch])

    # -- model to text

    @torch.no_grad()
    def pronounce(
        self, model, spellings: Sequence[str], batch_size: int = 200, longest: int = 40
    ) -> list[str]:
        """What the model says for each spelling: greedy, in eval mode, at most `longest` phonemes.

        Words are taken in order of length, so that little is padded; answers keep your order.
        """
        check_count("batch_size", batch_size)
        order = sorted(range(len(spellings)), key=lambda i: len(spellings[i]))
        said = [""] * len(spellings)
        with evaluating(model):
            for start in range(0, len(order), batch_size):
                chosen = order[start : start + batch_size]
                batch = self.inputs([spellings[i] for i in chosen])
                written = write(model, batch, longest, [self.eos_token_id])
                for i, ids in zip(chosen, written, strict=True):
                    said[i] = self.text(ids)
        return said


def read_lexicon(path: str | Path) -> dict[str, str]:
    """A pronouncing dictionary {word: phonemes} from JSON; words said in several ways are left out.

    Raises:
        FileNotFoundError, ValueError: no such file; no dictionary of words in it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no lexicon {path}: give a JSON file of words.")
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}.") from None
    if not isinstance(read, dict):
        raise ValueError(f"{path} must hold one JSON object, word to phonemes.")
    return {word: said for word, said in read.items() if isinstance(said, str) and said}


def pairs(before: Mapping[str, str], after: Mapping[str, str], longest: int = 20) -> list[Word]:
    """Words of both lexicons, in alphabetical order: small letters only, 3 to `longest` of them."""
    both = sorted(word for word in after if word in before)
    plain = [w for w in both if w.isascii() and w.isalpha() and w.islower()]
    return [Word(w, after[w], before[w]) for w in plain if 3 <= len(w) <= longest]


def split(
    words: Sequence[Word], share: float = 0.1, seed: int = 0, stem: int = 5
) -> tuple[list[Word], list[Word]]:
    """(train, test), shuffled, so that no test word has a relative in train.

    Words with the same first `stem` letters ("clubby", "clubbiest") go to the same side, and a hash
    of the stem and the seed says which. So the split depends neither on the order of the words nor
    on which others are in the list.
    """
    train, test = [], []
    for word in sorted(words, key=lambda word: _hash(seed, "order", word.spelling)):
        held_out = _hash(seed, "side", word.spelling[:stem]) < share
        (test if held_out else train).append(word)
    return train, test


def _hash(seed: int, purpose: str, text: str) -> float:
    """A number from 0 to 1 that is always the same for the same arguments."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _id(chars: str, char: str) -> int:
    return max(chars.find(char, 4), UNKNOWN)  # not there: -1, so unknown
