"""A word-level tokenizer over a closed vocabulary, called like a Hugging Face tokenizer.

A word is `\\w+` or one other visible character, in lower case; special tokens are cut out before.
Words outside the vocabulary become <unk>. The file it writes, `tokenizer.json`, opens in
transformers with the same ids.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .files import write_text

SENTINELS = tuple(f"<gap{number}>" for number in range(8))
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", "<mask>", "<sep>", *SENTINELS)
WORD = r"\w+|[^\w\s]"
# The same in the regular expressions of tokenizer.json, where \w and \s hold other characters.
RUST_WORD = r"[\p{L}\p{N}_]+|[^\p{L}\p{N}_\s\x{1C}-\x{1F}]"


def padded(rows: Sequence[Sequence[int]], value: int, side: str = "right") -> Tensor:
    """Rows of whole numbers, of any length -> (B, T), filled up with `value` on that side."""
    T = max((len(row) for row in rows), default=0)
    fill = [[value] * (T - len(row)) for row in rows]
    first, second = (fill, rows) if side == "left" else (rows, fill)
    whole = [[*a, *b] for a, b in zip(first, second, strict=True)]
    return torch.tensor(whole, dtype=torch.long).view(len(rows), T)  # (B, T)


class WordTokenizer:
    """Text <-> ids.

    Args:
        words: the vocabulary without special tokens, in the order of their ids.
        ends: put <eos> at the end of every text (encoders); <bos> always stands in front.
        padding_side: "right", or "left" for prompts of a decoder.

    Raises:
        ValueError: when a word occurs twice or is not one word by the pattern above.
    """

    def __init__(self, words: list[str], ends: bool = False, padding_side: str = "right"):
        odd = [word for word in words if re.findall(WORD, word.lower()) != [word]]
        if odd:
            raise ValueError(f"{odd[0]!r} is not one lower-case word; write it as one token.")
        if len(set(words)) < len(words):
            raise ValueError("The vocabulary holds a word twice; every word needs one id.")
        self.words = list(words)
        self.ends = ends
        self.padding_side = padding_side
        self.vocab = {word: number for number, word in enumerate([*SPECIAL, *words])}
        self.names = list(self.vocab)
        self.pad_token_id, self.bos_token_id, self.eos_token_id = 0, 1, 2
        self.unk_token_id, self.mask_token_id, self.sep_token_id = 3, 4, 5
        self.pad_token, self.bos_token, self.eos_token = SPECIAL[:3]
        self.unk_token, self.mask_token, self.sep_token = SPECIAL[3:6]

    def __len__(self) -> int:
        return len(self.vocab)

    @property
    def vocab_size(self) -> int:
        """V, special tokens included."""
        return len(self.vocab)

    def tokenize(self, text: str) -> list[str]:
        """Text -> words, special tokens kept whole."""
        tokens = []
        for part in re.split("(" + "|".join(SPECIAL) + ")", text):
            tokens += [part] if part in SPECIAL else re.findall(WORD, lower(part))
        return tokens

    def convert_tokens_to_ids(self, tokens: str | list[str]) -> int | list[int]:
        """Words -> ids; a word outside the vocabulary becomes <unk>."""
        if isinstance(tokens, str):
            return self.vocab.get(tokens, self.unk_token_id)
        return [self.vocab.get(token, self.unk_token_id) for token in tokens]

    def convert_ids_to_tokens(self, ids: int | list[int]) -> str | list[str]:
        """Ids -> words."""
        return self.names[ids] if isinstance(ids, int) else [self.names[int(i)] for i in ids]

    def encode(
        self, text: str, text_pair: str | None = None, add_special_tokens: bool = True
    ) -> list[int]:
        """One text, or two with <sep> between them -> ids."""
        ids = self.convert_tokens_to_ids(self.tokenize(text))
        if text_pair is not None:
            second = self.convert_tokens_to_ids(self.tokenize(text_pair))
            ids += [self.sep_token_id, *second] if add_special_tokens else second
        if not add_special_tokens:
            return ids
        return [self.bos_token_id, *ids, *([self.eos_token_id] if self.ends else [])]

    def decode(self, ids, skip_special_tokens: bool = True) -> str:
        """Ids -> text, words joined by spaces."""
        skip = len(SPECIAL) if skip_special_tokens else 0
        return " ".join(self.names[int(i)] for i in ids if int(i) >= skip)

    def batch_decode(self, rows, skip_special_tokens: bool = True) -> list[str]:
        """Rows of ids -> texts."""
        return [self.decode(row, skip_special_tokens) for row in rows]

    def __call__(
        self,
        text: str | list[str],
        text_pair: str | list[str] | None = None,
        padding: bool = True,
        padding_side: str | None = None,
        truncation: bool = False,
        max_length: int | None = None,
        add_special_tokens: bool = True,
        return_tensors: str | None = "pt",
    ) -> dict:
        """Texts -> {"input_ids": (B, T), "attention_mask": (B, T)}.

        Args:
            text: one string (one row) or a list of them.
            text_pair: second texts, as many; a row is then `text <sep> text_pair`.
            padding: fill short rows with <pad>. Tensors need it unless all rows are equally long.
            padding_side: "left" or "right"; the tokenizer's own when None.
            truncation: cut rows to `max_length` tokens at their end; <eos> stays.
            return_tensors: "pt", or None for lists, each row of its own length.
        """
        texts = [text] if isinstance(text, str) else list(text)
        seconds = [text_pair] if isinstance(text_pair, str) else text_pair or [None] * len(texts)
        rows = [
            self.encode(one, two, add_special_tokens)
            for one, two in zip(texts, seconds, strict=True)
        ]
        if truncation and max_length is not None:
            last = [self.eos_token_id] if self.ends and add_special_tokens else []
            rows = [
                row if len(row) <= max_length else row[: max_length - len(last)] + last
                for row in rows
            ]
        if return_tensors not in ("pt", None):
            raise ValueError(f'return_tensors must be "pt" or None, not {return_tensors!r}.')
        if return_tensors and not padding and len({len(row) for row in rows}) > 1:
            raise ValueError("Rows of unequal length make no tensor; use padding=True.")
        if return_tensors is None:
            masks = [[1] * len(row) for row in rows]
            if isinstance(text, str):
                return {"input_ids": rows[0], "attention_mask": masks[0]}
            return {"input_ids": rows, "attention_mask": masks}
        return self.pad(rows, padding_side)

    def pad(self, rows: list[list[int]], padding_side: str | None = None) -> dict:
        """Rows of ids of any length -> tensors (B, T) with their mask."""
        side = padding_side or self.padding_side
        return {
            "input_ids": padded(rows, self.pad_token_id, side),
            "attention_mask": padded([[1] * len(row) for row in rows], 0, side),
        }

    def save(self, folder: str | Path, positions: int = 128) -> None:
        """Write tokenizer.json and tokenizer_config.json, which AutoTokenizer opens."""
        folder = Path(folder)
        one, two = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
        bos, eos, sep = (
            {"SpecialToken": {"id": name, "type_id": 0}} for name in ("<bos>", "<eos>", "<sep>")
        )
        end = [eos] if self.ends else []
        added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        content = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                {"id": number, "content": token, "special": True} | added
                for number, token in enumerate(SPECIAL)
            ],
            "normalizer": {"type": "Lowercase"},
            "pre_tokenizer": {
                "type": "Split",
                "pattern": {"Regex": RUST_WORD},
                "behavior": "Removed",
                "invert": True,
            },
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [bos, one, *end],
                "pair": [bos, one, sep, two, *end],
                "special_tokens": {
                    name: {"id": name, "ids": [self.vocab[name]], "tokens": [name]}
                    for name in ("<bos>", "<eos>", "<sep>")
                },
            },
            "decoder": None,
            "model": {"type": "WordLevel", "vocab": self.vocab, "unk_token": "<unk>"},
        }
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": "<pad>",
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "unk_token": "<unk>",
            "mask_token": "<mask>",
            "sep_token": "<sep>",
            "padding_side": self.padding_side,
            "model_max_length": positions,
            "model_input_names": ["input_ids", "attention_mask"],
        }
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "tokenizer.json", json.dumps(content, indent=1, ensure_ascii=False))
        write_text(folder / "tokenizer_config.json", json.dumps(config, indent=1))

    @classmethod
    def load(cls, folder: str | Path) -> WordTokenizer:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: no tokenizer.json there.
            TypeError: a tokenizer of another kind.
            ValueError: a damaged file.
        """
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; give a folder with a tokenizer.json.")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as problem:
            raise ValueError(f"{path} is damaged ({problem}); fetch or write it again.") from None
        vocab = content.get("model", {}).get("vocab")
        words = sorted(vocab, key=vocab.get) if isinstance(vocab, dict) else []
        if tuple(words[: len(SPECIAL)]) != SPECIAL:
            raise TypeError(
                f"{path} is not a word-level tokenizer of this package; open it with transformers."
            )
        steps = content["post_processor"]["single"]
        ends = any(step.get("SpecialToken", {}).get("id") == "<eos>" for step in steps)
        extra = Path(folder) / "tokenizer_config.json"
        config = json.loads(extra.read_text(encoding="utf-8")) if extra.is_file() else {}
        return cls(words[len(SPECIAL) :], ends, config.get("padding_side", "right"))


def lower(text: str) -> str:
    """Lower case, character by character as in tokenizer.json (str.lower knows a final sigma)."""
    return text.lower() if text.isascii() else "".join(map(str.lower, text))
