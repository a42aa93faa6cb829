"""`python -m minipeft generate`: write with a run, an adapter or a base, word by word."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

import minipeft as mp
from minipeft.commands import asking, forms, opened, options, runs
from minipeft.commands.writers import WRITTEN, check_file, keeping
from minipeft.model.devices import on_device_of
from minipeft.tasks import chat
from minipeft.tasks.encoding import Encoding, readable
from minipeft.tasks.tasks import Task

EXAMPLES = """generate runs/example "tree drum door =>"
generate tiny-decoder "the cat" --tokens 20 --sample --temperature 0.8 --top-k 20 --seed 3
generate smollm2 "Who are you?" --chat --system "You are a pirate." --sample --top-p 0.9
generate gpt2 --data prompts.jsonl --input prompt --adapter a=runs/a --adapter b=runs/b \\
      --adapter-column task --out answers.jsonl"""


TOKENS = 40  # at most, where neither --tokens nor a training says it


def add(commands, arguments: list[str]) -> None:
    parser = options.add_parser(
        commands,
        "generate",
        "write with a run, an adapter or a base",
        "Continue prompts (decoders) or answer them (encoder-decoders). One prompt is written\n"
        "word by word; of several, each is printed as soon as it ends. With --adapter and\n"
        "--adapter-column every row of a file has its own adapter, all in one batch: the column\n"
        "holds the name of an adapter, or nothing for the plain base.",
        EXAMPLES,
    )
    opened.add_flags(parser)
    parser.add_argument("prompts", nargs="*", help="texts to continue or to answer")
    parser.add_argument("--data", metavar="FILE", help="prompts of a file instead")
    parser.add_argument("--input", help="its column of prompts (default: as in training, or input)")
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="an adapter or a run that rows may name; WHAT is then the base",
    )
    parser.add_argument("--adapter-column", metavar="COLUMN", help="the column that names it")
    parser.add_argument("--out", metavar="FILE", help="write the answers to .jsonl, .csv or .tsv")
    forms.add_flags(parser)
    group = parser.add_argument_group("writing")
    group.add_argument(
        "--tokens",
        type=int,
        help=f"at most (default {TOKENS}, or what the longest answer of the training had)",
    )
    group.add_argument(
        "--sample", action="store_true", help="draw words, do not take the likeliest"
    )
    group.add_argument("--temperature", type=float, help="of the draws (default 1)")
    group.add_argument("--top-k", type=int, help="draw from the k likeliest words only")
    group.add_argument(
        "--top-p", type=float, help="draw from the likeliest words that have this probability"
    )
    group.add_argument("--seed", type=int, help="of the draws (default 0)")
    group.add_argument("--batch-size", type=int, default=16, help="(default %(default)s)")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    check(given)
    folders = adapters(given)
    rows = rows_of(given)
    loaded = opened.open_model(given, head="language" if given.adapter else None)
    base = loaded.base
    if base.kind == "encoder" or base.head != "language":
        raise ValueError(
            f"{given.what} has an encoder or another head, so that it cannot write: let it label "
            "texts with predict."
        )
    for name, folder in folders.items():
        mp.load(base.model, runs.adapter_of(folder), name, given.any_base, base.family)
    for number, (_, name) in enumerate(rows, start=1):
        if name and name not in folders:
            known = ", ".join(folders) or "none"
            raise ValueError(
                f"Row {number} names the adapter {name!r}; those given by --adapter: {known}."
            )
    rows = wrapped(rows, given, folders)
    is_answer = folders or runs.run_of(given.what) or any(chat.is_chat(t) for t, _ in rows)
    if not is_answer and base.chats:
        print("note: the base has a chat template; --chat asks with it.", file=sys.stderr)
    given.tokens = given.tokens or longest_of([*folders.values()] or [given.what])
    cut = 0
    asked = [(readable(text), name or "") for text, name in rows]
    with keeping(given.out, WRITTEN, *zip(*asked, strict=True)) as known:
        for start in range(0, len(rows), given.batch_size):
            some = rows[start : start + given.batch_size]
            loud = write_batch(base, some, given, bool(folders), given.seed + start)
            cut += loud.finish()
            known.update(enumerate(loud.texts(), start))
    if cut and is_answer:
        print(
            f"note: {cut} of {len(rows)} answers did not end within {given.tokens} tokens: "
            "--tokens gives them room.",
            file=sys.stderr,
        )
    if given.out:
        print(f"The answers are in {given.out}")
    return 0


def check(given: argparse.Namespace) -> None:
    if bool(given.prompts) == bool(given.data):
        raise ValueError('Give prompts, generate WHAT "a prompt", or a file of them, --data FILE.')
    if bool(given.adapter) != bool(given.adapter_column) or (given.adapter and not given.data):
        raise ValueError("--adapter, --adapter-column and --data belong together.")
    if given.adapter and opened.is_adapter(given.what):
        raise ValueError("With --adapter the first argument is the base, not an adapter.")
    if (given.tokens is not None and given.tokens < 1) or given.batch_size < 1:
        raise ValueError("--tokens and --batch-size must be at least 1.")
    drawing = {"--temperature": given.temperature, "--top-k": given.top_k}
    drawing |= {"--top-p": given.top_p, "--seed": given.seed}
    given_flags = [flag for flag, value in drawing.items() if value is not None]
    if given_flags and not given.sample:
        raise ValueError(f"{given_flags[0]} is about words that are drawn: give --sample as well.")
    given.temperature = 1.0 if given.temperature is None else given.temperature
    given.seed = given.seed or 0
    if not given.temperature > 0 or (given.top_k is not None and given.top_k < 1):
        raise ValueError("--temperature must be above 0 and --top-k at least 1.")
    if given.top_p is not None and not 0 < given.top_p <= 1:
        raise ValueError(f"--top-p must be above 0 and at most 1, not {given.top_p}.")
    check_file(given.out, "--out", given.data)


def rows_of(given: argparse.Namespace) -> list[tuple[str, str | None]]:
    """(prompt, adapter's name or None) of every row.

    Raises:
        ValueError: a prompt is empty.
    """
    if given.data:
        table = asking.questions(given)
        rows = [(text, row.get(given.adapter_column) or None) for text, row in table]
        if given.adapter_column and not any(given.adapter_column in row for _, row in table):
            raise ValueError(f"{given.data} has no column {given.adapter_column!r}.")
    else:
        rows = [(asking.pair(prompt, given), None) for prompt in given.prompts]
    empty = next((n for n, (text, _) in enumerate(rows, start=1) if not text.strip()), None)
    if empty:
        raise ValueError(f"Prompt {empty} is empty: write at least one word.")
    return rows


def wrapped(
    rows, given: argparse.Namespace, folders: dict[str, Path]
) -> list[tuple[str, str | None]]:
    """The rows with their prompts as the run of each has read its texts."""
    plain = None if folders else given.what
    wrappings = {
        name: forms.wrapping(given, folders.get(name, plain)) for name in {name for _, name in rows}
    }
    return [(wrappings[name].around([text])[0], name) for text, name in rows]


def adapters(given: argparse.Namespace) -> dict[str, Path]:
    """Name -> folder of every --adapter.

    Raises:
        ValueError: one has no name or no folder, or two have one name.
    """
    folders: dict[str, Path] = {}
    for text in given.adapter:
        name, sign, folder = text.partition("=")
        if not sign or not name or not folder:
            raise ValueError(f"--adapter needs such as sentiment=runs/sentiment, not {text!r}.")
        if name in folders:
            raise ValueError(f"--adapter gives the name {name!r} twice: give each its own.")
        folders[name] = Path(folder).expanduser()
    return folders


def longest_of(folders: Sequence[str | Path]) -> int:
    """Tokens that an answer of these runs may have where --tokens does not say it."""
    trained = filter(None, map(runs.run_of, folders))
    longest = [config["task"].get("longest") or (TOKENS, 0) for _, config in trained]
    return max([TOKENS, *(tokens for tokens, _ in longest)])


def write_batch(base, rows, given: argparse.Namespace, routed: bool, seed: int) -> Aloud:
    """Answers to a few prompts, in one batch, as they were said."""
    encoding = Encoding(Task("prompts", "generate", {}), base.tokenizer, base.kind)
    side = "left" if base.kind == "decoder" else "right"
    batch = encoding.inputs([encoding.prompt(text) for text, _ in rows], side)
    ends = encoding.ends(base.model, [text for text, _ in rows])
    loud = Aloud(base.tokenizer, rows, ends)
    with mp.route(base.model, [name for _, name in rows]) if routed else nullcontext():
        mp.generate(
            base.model,
            **on_device_of(base.model, batch),
            max_new_tokens=given.tokens,
            sample=given.sample,
            temperature=given.temperature,
            top_k=given.top_k,
            top_p=given.top_p,
            seed=seed,
            eos_token_id=ends,
            stream=loud,
        )
    return loud


class Aloud:
    """Says what comes: a single row word by word, each of several rows once it has ended."""

    def __init__(self, tokenizer, rows, ends: list[int]) -> None:
        self.tokenizer, self.rows, self.ends = tokenizer, rows, ends
        self.ids: list[list[int]] = [[] for _ in rows]
        self.ended = [False] * len(rows)
        self.printed = ""

    def __call__(self, words: Tensor) -> None:
        for number, word in enumerate(torch.atleast_1d(words).tolist()):
            if self.ended[number]:
                continue
            if word in self.ends:
                self.end(number)
                continue
            self.ids[number].append(word)
            if len(self.rows) == 1:
                self.say()

    def text(self, number: int) -> str:
        return self.tokenizer.decode(self.ids[number], skip_special_tokens=True)

    def say(self) -> None:
        """The part that is new; an unfinished character waits for its last byte."""
        text = self.text(0)
        if text.startswith(self.printed) and not text.endswith("\ufffd"):
            sys.stdout.write(text[len(self.printed) :])
            sys.stdout.flush()
            self.printed = text

    def end(self, number: int) -> None:
        self.ended[number] = True
        if len(self.rows) == 1:
            print(self.text(0)[len(self.printed) :])
        else:
            prompt, name = self.rows[number]
            print(f"{f'[{name}] ' if name else ''}{readable(prompt)} | {self.text(number).strip()}")
            sys.stdout.flush()

    def finish(self) -> int:
        """End every row; how many had not ended by themselves."""
        cut = [number for number, ended in enumerate(self.ended) if not ended]
        for number in cut:
            self.end(number)
        return len(cut)

    def texts(self) -> list[str]:
        return [self.text(number).strip() for number in range(len(self.rows))]
