"""Examples of a task -> tensors for one kind of model; a model's output -> answers.

This is the one place that knows what a decoder, an encoder and an encoder-decoder are shown:

    decoder            <bos> cat sun => sun cat . <eos>      labels: -100 on the prompt
    encoder-decoder    <bos> cat sun => <eos>                labels: sun cat . <eos>
    encoder            <bos> france <mask> <eos>             labels: -100 but at the mask
    a head             <bos> the soup was cold <eos>         labels: a class, or a tag per word,
                                                             or a number
    a decoder, of a conversation (`minipeft.tasks.chat`): what its tokenizer's chat template writes

Two texts of one example (`PAIR` between them, as `join` puts it) are encoded as the tokenizer
encodes a pair, with segments where the model has them; a decoder reads them one below the other.

Shapes: B examples, T tokens, V words.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import takewhile
from typing import NamedTuple

import torch
from torch import Tensor

from minipeft.attached import kind_of
from minipeft.generation import ends_of, generate
from minipeft.methods.parts.validation import shorten
from minipeft.model.devices import on_device_of
from minipeft.routing import wrap
from minipeft.tasks import chat, metrics
from minipeft.tasks.conll import INSIDE
from minipeft.tasks.heads import head_for
from tiny_transformer.tokenizer import WordTokenizer, padded

PAIR = "\x1f"  # the ASCII sign that separates fields: between the two texts of an example


def join(*texts: str) -> str:
    """Several texts as the input of one example."""
    return PAIR.join(texts)


def readable(text: str) -> str:
    """The input of an example as people read it: a bar between its texts."""
    return chat.readable(text) if chat.is_chat(text) else text.replace(PAIR, " | ")


class Example(NamedTuple):
    """A text and what should come of it."""

    input: str
    target: str


class TargetTokenizer:
    """A tokenizer whose targets have an alphabet of their own: phonemes for letters, say."""

    def target(self, text: str) -> list[int]:
        """The ids that the model should write for this target."""
        raise NotImplementedError(f"{type(self).__name__} does not say what is to be written.")


class Encoding:
    """Turns examples of one task into tensors for one kind of model, and outputs into answers."""

    def __init__(self, task, tokenizer, model_kind: str, head: str | None = None):
        self.head = head_for(task, model_kind, head)
        self.task, self.tokenizer, self.model_kind = task, tokenizer, model_kind
        if task.kind == "classify" and self.head == "language":
            self.warn_of_equal_labels()

    def warn_of_equal_labels(self) -> None:
        """A language head can only choose among labels that the tokenizer writes differently.

        Say so where two of them have the same tokens; for an encoder, the same first one.
        """
        count = 1 if self.model_kind == "encoder" else None
        label_of: dict[tuple[int, ...], str] = {}
        for label in self.task.labels:
            first = label_of.setdefault(tuple(self.target_ids(label)[:count]), label)
            if first != label:
                same = "begin with the same token" if count else "are the same tokens"
                warnings.warn(
                    f"The labels {first!r} and {label!r} of task {self.task.name!r} {same}, so "
                    "that a language head cannot tell them apart: rename one of them, or take a "
                    "classification head.",
                    UserWarning,
                    stacklevel=4,
                )
                return

    # -- text to ids

    def ids(self, text: str, special: bool = True) -> list[int]:
        """One text -> ids; the same call for both libraries' tokenizers."""
        return list(self.call(text, special)["input_ids"])

    def call(self, text: str, special: bool = True) -> Mapping[str, list[int]]:
        """What the tokenizer makes of a text, of a pair of texts or of a conversation."""
        if chat.is_chat(text):
            if self.task.kind != "generate" or self.model_kind != "decoder":
                raise ValueError(
                    "Conversations are for text-to-text with a decoder, and this is a task of kind "
                    f"{self.task.kind!r} for a model of kind {self.model_kind!r}."
                )
            return {"input_ids": chat.prompt_ids(self.tokenizer, text)}
        texts = (text.replace(INSIDE, " ") if self.task.kind == "tag" else text).split(PAIR)
        if len(texts) != 2 or not special or not self.reads_pairs:
            texts = ["\n".join(texts)]
        return self.tokenizer(*texts, add_special_tokens=special, return_tensors=None)

    @property
    def reads_pairs(self) -> bool:
        """Does the tokenizer put a separator between two texts?"""
        if isinstance(self.tokenizer, (WordTokenizer, TargetTokenizer)):
            return False
        return getattr(self.tokenizer, "sep_token_id", None) is not None

    def texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Texts -> input_ids and attention_mask (B, T), and the segments of pairs."""
        calls = [self.call(text) for text in texts]
        batch = self.inputs([list(call["input_ids"]) for call in calls])
        if any(PAIR in text for text in texts) and all("token_type_ids" in call for call in calls):
            rows = [list(call["token_type_ids"]) for call in calls]
            batch["token_type_ids"] = padded(rows, 0)
        return batch

    def target_ids(self, target: str) -> list[int]:
        """A target as the model should write it: with <eos> when it writes whole texts."""
        if isinstance(self.tokenizer, TargetTokenizer):
            return self.tokenizer.target(target)
        ends = [self.tokenizer.eos_token_id] if self.task.kind == "generate" else []
        if None in ends:
            raise ValueError("The tokenizer has no end token: without one, no text would end.")
        if self.model_kind == "encoder-decoder":
            # transformers' models expect what their tokenizer puts around a text (BART <s> x </s>)
            ours = isinstance(self.tokenizer, WordTokenizer)
            return self.ids(target, special=False) + ends if ours else self.ids(target)
        return self.ids(" " + target, special=False) + ends

    def inputs(self, rows: list[list[int]], side: str = "right") -> dict[str, Tensor]:
        """Rows of ids -> input_ids and attention_mask (B, T), padded on that side."""
        pad = self.tokenizer.pad_token_id
        pad = self.tokenizer.eos_token_id if pad is None else pad
        return {
            "input_ids": padded(rows, pad, side),
            "attention_mask": padded([[1] * len(row) for row in rows], 0, side),
        }

    def batch(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Examples -> a batch with labels."""
        if self.head == "classification":
            if self.task.kind == "regress":
                labels = torch.tensor(metrics.numbers([example.target for example in examples]))
            else:
                labels = torch.tensor([self.label(example.target) for example in examples])
            return self.texts([example.input for example in examples]) | {"labels": labels}
        if self.head == "tagging":
            rows, labels = zip(*[self.tagged(e.input, e.target) for e in examples], strict=True)
            return self.inputs(list(rows)) | {"labels": padded(list(labels), -100)}
        if self.model_kind == "encoder":
            rows = [self.masked(example.input) for example in examples]
            answers = [self.ids(" " + example.target, special=False)[0] for example in examples]
            labels = [
                [answer if token == self.mask else -100 for token in row]
                for row, answer in zip(rows, answers, strict=True)
            ]
            return self.inputs(rows) | {"labels": padded(labels, -100)}
        if self.model_kind == "encoder-decoder":
            targets = [self.target_ids(example.target) for example in examples]
            prompts = [self.ids(example.input) for example in examples]
            return self.inputs(prompts) | {"labels": padded(targets, -100)}
        rows, labels = zip(*map(self.row, examples), strict=True)
        return self.inputs(list(rows)) | {"labels": padded(list(labels), -100)}

    def row(self, example: Example) -> tuple[list[int], list[int]]:
        """Ids and labels that a decoder learns from: the prompt with its target behind it."""
        if chat.is_chat(example.input):
            return chat.encode(self.tokenizer, *example)
        prompt, target = self.prompt(example.input), self.target_ids(example.target)
        return prompt + target, [-100] * len(prompt) + target

    def prompt(self, text: str) -> list[int]:
        """The ids before an answer: a decoder's without the tokens that end a text."""
        ids = self.ids(text)
        if self.model_kind != "decoder" or chat.is_chat(text):
            return ids
        return ids[: len(ids) - len(self.around[1])]

    def written_ids(self, example: Example) -> list[int]:
        """What the model has to write."""
        if chat.is_chat(example.input):
            return chat.answer_ids(self.tokenizer, *example)
        return self.target_ids(example.target)

    def label(self, target: str) -> int:
        """The number of a label; ValueError where the task has no such label."""
        if target not in self.task.labels:
            raise ValueError(
                f"{target!r} is no label of task {self.task.name!r}: {', '.join(self.task.labels)}."
            )
        return self.task.labels.index(target)

    def count(self, example: Example) -> int:
        """How many tokens a model has to read, or to write where those are more.

        A target that is not known is empty.
        """
        if self.head == "tagging":
            return len(self.tagged(example.input, None)[0])
        if self.head == "language" and self.model_kind == "encoder":
            return len(self.masked(example.input))
        if self.head != "language":
            return len(self.ids(example.input))
        read = len(self.prompt(example.input))
        if chat.is_chat(example.input) and not example.target:
            return read + 1
        chosen = self.task.kind == "classify"  # every label is tried
        written = self.longest_label if chosen else len(self.written_ids(example))
        return read + written if self.model_kind == "decoder" else max(read, written)

    @cached_property
    def longest_label(self) -> int:
        """Tokens of the longest label."""
        return max(len(self.target_ids(label)) for label in self.task.labels)

    @property
    def mask(self) -> int:
        """The id of the mask token; ValueError where the tokenizer has none."""
        if self.tokenizer.mask_token_id is None:
            raise ValueError("This tokenizer has no mask token; load a classification head.")
        return self.tokenizer.mask_token_id

    def masked(self, text: str) -> list[int]:
        """The text with one <mask>: its own, or else one behind it, before the tokens of its end.

        Raises:
            ValueError: the text has several, or the tokenizer has none.
        """
        ids = self.ids(text)
        count = ids.count(self.mask)
        if count > 1:
            raise ValueError(
                f"{shorten(text)} has {count} mask tokens: leave the one where the answer belongs."
            )
        return ids if count else self.ids(f"{text} {self.tokenizer.mask_token}")

    @cached_property
    def around(self) -> tuple[list[int], list[int]]:
        """The special tokens before a text, and those behind it."""
        around_nothing, around_a_word = self.ids(""), self.ids("a")
        count = 0  # of those before it: where both begin alike
        while count < len(around_nothing) and around_nothing[count] == around_a_word[count]:
            count += 1
        return around_nothing[:count], around_nothing[count:]

    def tagged(self, text: str, tags: str | None) -> tuple[list[int], list[int]]:
        """Ids and labels of the words (0 without tags); later pieces of a word have none."""
        words = text.split()
        kinds = [0] * len(words) if tags is None else [self.label(tag) for tag in tags.split()]
        if len(kinds) != len(words):
            raise ValueError(
                f"{text!r} has {len(words)} words but {len(kinds)} tags; give one tag per word."
            )
        start, end = self.around
        ids, labels = list(start), [-100] * len(start)
        for word, kind in zip(words, kinds, strict=True):
            pieces = self.ids(word if len(ids) == len(start) else " " + word, special=False)
            pieces = pieces or [self.tokenizer.unk_token_id]  # of a sign that is dropped
            ids += pieces
            labels += [kind] + [-100] * (len(pieces) - 1)
        return ids + end, labels + [-100] * len(end)

    # -- model to answers

    def answers(self, model, inputs: list[str]) -> list[str]:
        """What the model answers to every input, in the words of the task's targets."""
        if self.head == "classification":
            logits = run(model, self.texts(inputs)).logits  # (B, labels)
            if self.task.kind == "regress":
                return [f"{number:.6g}" for number in logits[:, 0].tolist()]
            classes = logits.argmax(dim=-1).tolist()  # (B,)
            return [self.task.labels[i] for i in classes]
        if self.head == "tagging":
            rows, places = zip(*[self.tagged(text, None) for text in inputs], strict=True)
            batch = self.inputs(list(rows)) | {"labels": padded(list(places), -100)}
            batch, logits = run(model, batch, both=True)  # labels of 0 where a word begins
            kinds, where = logits.argmax(dim=-1).tolist(), batch["labels"].tolist()  # (B, T)
            return [
                " ".join(self.task.labels[k] for k, at in zip(row, starts, strict=True) if at == 0)
                for row, starts in zip(kinds, where, strict=True)
            ]
        if self.task.kind == "classify":
            return self.likelier(model, inputs)
        if self.model_kind == "encoder":
            batch = self.inputs([self.masked(text) for text in inputs])
            batch, logits = run(model, batch, both=True)
            at_mask = logits[batch["input_ids"] == self.mask]  # (B, V)
            return [self.tokenizer.decode([i]).strip() for i in at_mask.argmax(dim=-1).tolist()]
        return self.written(model, inputs)

    def likelier(self, model, inputs: list[str]) -> list[str]:
        """The label with the largest log p(label | input), summed over its tokens."""
        scores = []
        for label in self.task.labels:
            batch = self.batch([Example(text, label) for text in inputs])
            batch, logits = run(model, batch, both=True)  # (B, T, V)
            labels = batch["labels"]
            if self.model_kind == "decoder":  # the logits at t answer for the word at t + 1
                logits, labels = logits[:, :-1], labels[:, 1:]
            spoken = logits.log_softmax(dim=-1).gather(2, labels.clamp(min=0)[:, :, None])
            scores.append((spoken[:, :, 0] * (labels >= 0)).sum(dim=1))  # (B,)
        return [self.task.labels[i] for i in torch.stack(scores).argmax(dim=0).tolist()]

    def written(self, model, inputs: list[str]) -> list[str]:
        """Greedy text, cut at <eos>; cloze tasks write as many tokens as their longest target."""
        side = "left" if self.model_kind == "decoder" else "right"
        batch = self.inputs([self.prompt(text) for text in inputs], side)
        tokens, words = self.longest
        new = write(model, batch, tokens, self.ends(model, inputs))
        texts = [self.tokenizer.decode(row, skip_special_tokens=True) for row in new]
        if self.task.kind == "cloze" and tokens > 1:  # more tokens than this answer needs
            texts = [" ".join(metrics.normal(t).split()[:words]) for t in texts]
        return texts

    def ends(self, model, inputs: Sequence[str]) -> list[int]:
        """The tokens that end an answer, of conversations also the one that their template has."""
        ends = ends_of(model, self.tokenizer)
        if any(map(chat.is_chat, inputs)):
            ends = list(dict.fromkeys([*ends, chat.end_of(self.tokenizer)]))
        return ends

    @cached_property
    def longest(self) -> tuple[int, int]:
        """The longest target of all splits, in tokens and in words.

        Where no target is known, as of texts that are to be answered: `details["longest"]`.
        """
        splits = self.task.splits.values()
        known = [example for split in splits for example in split if example.target]
        if not known and self.task.details.get("longest"):
            tokens, words = self.task.details["longest"]
            return tokens, words
        answers = {e.target: e for e in known or [Example("", "one word")]}  # each answer once
        tokens = max(len(self.written_ids(example)) for example in answers.values())
        return tokens, max(len(metrics.normal(target).split()) for target in answers)


# -- models of both libraries


def wrapped(model, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch on the model's device, with the prompts of each row's own tuners."""
    return wrap(model, on_device_of(model, batch))


def run(model, batch: dict[str, Tensor], both: bool = False):
    """The model's output for a batch; with `both` the batch it really saw, and the logits."""
    batch = wrapped(model, batch)
    output = model(**batch)
    return (batch, output.logits) if both else output


def write(model, batch: dict[str, Tensor], longest: int, ends: Sequence[int]) -> list[list[int]]:
    """Greedy continuation: only the new ids, each row cut before the first token that ends it."""
    ids = generate(model, **batch, max_new_tokens=longest, eos_token_id=ends)  # wraps by itself
    start = batch["input_ids"].shape[1] if kind_of(model) == "decoder" else 1
    rows = ids[:, start:].tolist()
    return [list(takewhile(lambda token: token not in ends, row)) for row in rows]
