"""Flags made from the dataclasses of the methods, so that the two cannot drift apart.

    LoRA.rank: int = 8            -> --rank INT
    LoRA.targets: tuple[str, ...] -> --targets query,value
    LoRA.ranks: Mapping[str, int] -> --ranks value=16,query=4
    Adapter.skip: bool            -> --skip / --no-skip

The help of a flag is what the class's docstring says about the field.
"""

from __future__ import annotations

import argparse
import collections.abc
import dataclasses
import os
import re
import types
import typing
from difflib import get_close_matches

from minipeft import methods
from minipeft.methods.method import Method
from minipeft.methods.parts import known_settings

DEST = "method_"  # argparse keeps --rank of LoRA as options.method_rank

SYNONYMS = {  # what other tools call these flags
    "--lr": "--learning-rate",
    "--model": "--base",
    "--model-name-or-path": "--base",
    "--model_name_or_path": "--base",
    "--dataset": "--data",
    "--train-file": "--data",
    "--output": "--out",
    "--output-dir": "--out",
    "--output_dir": "--out",
    "--bs": "--batch-size",
    "--text": "--input",
    "--label": "--target",
    "--max-steps": "--steps",
    "--max-seq-length": "--max-length",
    "--validation": "--dev",
    "--max-new-tokens": "--tokens",
    "--max-tokens": "--tokens",
    "--system-prompt": "--system",
}


class Versions(argparse.Action):
    """--version: of minipeft, Python and torch."""

    def __init__(self, option_strings, dest, **others) -> None:
        super().__init__(option_strings, dest, nargs=0, **others)

    def __call__(self, parser, *_) -> None:
        from minipeft.commands.runs import libraries

        versions = {"minipeft": "(not installed)"} | libraries()
        print(", ".join(map(" ".join, versions.items())))
        parser.exit()


PATHS = ("base", "data", "dev", "test", "out", "what", "resume", "start", "predictions", "plot")
PATHS += ("notebook", "csv", "folder")  # flags and arguments that are paths


OTHER_NAMES = {  # what papers and libraries call a method, or a setting of one
    "rslora": "LoRA with --rank-stabilized (in a grid lora:rank_stabilized=true)",
    "loraplus": "LoRA with --plus 16 (in a grid lora:plus=16)",
    "houlsby": "Adapter",
    "pfeiffer": "Adapter with --placement pfeiffer (in a grid adapter:placement=pfeiffer)",
    "prefixtuning": "Prefix",
    "prompt": "PromptTuning",
    "softprompt": "PromptTuning",
    "softprompts": "PromptTuning",
    "ptuningv1": "PTuning",
    "parallel": "Adapter with --placement parallel (in a grid adapter:placement=parallel)",
    "full": "FullFineTuning",
    "ft": "FullFineTuning",
    "finetune": "FullFineTuning",
    "finetuning": "FullFineTuning",
    "linearprobe": "HeadOnly",
}


class Once(argparse._StoreAction):
    """A flag with a text or with several values: argparse would heed the last one only. A number
    may be given once more, as scripts do that change a setting."""

    def __call__(self, parser, namespace, values, flag=None) -> None:
        before = vars(self).setdefault("before", values)
        if flag and (self.type is None or self.nargs) and before != values:
            all_of_them = ", with all its values behind it" if self.nargs else ""
            parser.error(f"{flag} is given twice, but only one would count: give it once"
                         f"{all_of_them}")  # fmt: skip
        super().__call__(parser, namespace, values, flag)


class Parser(argparse.ArgumentParser):
    """argparse, with mistakes told in one sentence."""

    def __init__(self, **how) -> None:
        super().__init__(**how)
        for name in (None, "store"):
            self.register("action", name, Once)

    def parse_args(self, args=None, namespace=None):
        """As argparse, and of what is not known the flag that was probably meant."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flags = list(self._option_string_actions)
            for action in self._actions:
                if isinstance(action, argparse._SubParsersAction):
                    flags += action.choices[options.command]._option_string_actions
            wrong = [word.partition("=")[0] for word in unknown if word.startswith("--")]
            right = [(word, meant(word, flags)) for word in wrong]
            said = "; ".join(f"did you mean {flag} by {word}?" for word, flag in right if flag)
            if not wrong and vars(options).keys() & {"texts", "prompts"}:
                said = "a text that begins with - stands behind --"
            self.error(f"unrecognized arguments: {' '.join(unknown)}{said and '; '}{said}")
        for name in PATHS:  # ~ is the home folder, also where no shell has seen to it
            value = getattr(options, name, None)
            if value == "" and name not in ("base", "data"):  # which say themselves what is lacking
                self.error(f"the word for {name} is empty: is a variable of the shell not set?")
            if isinstance(value, str) and value.startswith("~"):
                setattr(options, name, os.path.expanduser(value))
        return options

    def error(self, message: str) -> typing.NoReturn:
        choice = re.match(r".*invalid choice: '([^']+)' \(choose from (.+)\)", message)
        if choice:
            names = re.findall(r"[\w-]+", choice[2])
            close = get_close_matches(choice[1], names, n=1)
            message += f"; did you mean {close[0]}?" if close else ""
        self.exit(2, f"minipeft: {message} (see {self.prog} --help).\n")


def meant(flag: str, flags: list[str]) -> str | None:
    """The flag that an unknown one was probably meant to be."""
    if SYNONYMS.get(flag) in flags:
        return SYNONYMS[flag]
    name = known_settings.meant(flag.strip("-").replace("-", "_"), [f.strip("-") for f in flags])
    return f"--{name}" if name else None


def add_parser(commands, name: str, help: str, description: str, examples: str = "", codes=""):
    """A sub-command whose help keeps its line breaks and ends in examples."""
    lines = (
        f"  {'' if x.startswith(' ') else 'python -m minipeft '}{x}" for x in examples.split("\n")
    )
    epilog = "examples:\n" + "\n".join(lines)
    codes = codes or "Exit code: 0 done, 2 what was given cannot be used (one sentence says why)."
    return commands.add_parser(
        name,
        help=help,
        description=description,
        epilog=f"{epilog}\n\n{codes}" if examples else codes,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def names() -> dict[str, type[Method]]:
    """What --method takes: the name in small letters -> the class."""
    every = (getattr(methods, name) for name in methods.__all__)
    classes = [c for c in every if issubclass(c, Method) and c not in (Method, methods.Combined)]
    return {c.__name__.lower(): c for c in sorted(classes, key=lambda c: c.__name__.lower())}


def method_class(name: str) -> type[Method]:
    """ "LoRA", "lora", "p-tuning-v2" -> the class.

    Raises:
        ValueError: no such method; the sentence lists them.
    """
    key, known = re.sub(r"[-_\s]", "", name.lower().replace("+", "plus")), names()
    if key not in known:
        listed = ", ".join(c.__name__ for c in known.values())
        near = [known[match].__name__ for match in get_close_matches(key, known, n=1, cutoff=0.75)]
        guess = OTHER_NAMES.get(key) or next(iter(near), None)
        guess = f": did you mean {guess}? There are" if guess else "; choose of"
        raise ValueError(f"There is no method {name!r}{guess} {listed}.")
    return known[key]


def chosen(arguments: list[str], default: str) -> str:
    """The value of --method in a command line that has not been parsed yet."""
    for place, word in enumerate(arguments):
        if word == "--method" and place + 1 < len(arguments):
            return arguments[place + 1]
        if word.startswith("--method="):
            return word.partition("=")[2]
    return default


def settable(kind: type[Method]) -> dict[str, dataclasses.Field]:
    """The fields that a user may set: what is not for reading is not for writing either."""
    return {field.name: field for field in dataclasses.fields(kind) if field.repr}


def add_flags(parser: argparse.ArgumentParser, kind: type[Method]) -> None:
    """A flag for every field of a method; one that is taken has the method's name in front."""
    title = f"settings of {kind.__name__}"
    about = f"{(kind.__doc__ or '').strip().splitlines()[0]} Other methods have other settings."
    group = parser.add_argument_group(title, about)
    hints, texts = typing.get_type_hints(kind), descriptions(kind)
    for name, field in settable(kind).items():
        flag = f"--{name.replace('_', '-')}"
        if flag in parser._option_string_actions:
            flag = f"--{kind.__name__.lower()}-{name.replace('_', '-')}"
        default = default_of(field)
        text = texts.get(name, f"see minipeft.{kind.__name__}")
        text = f"{text.rstrip('.')} (default {written(default)})".replace("%", "%%")
        argument = {"dest": DEST + name, "default": argparse.SUPPRESS, "help": text}
        if name == "template":  # words, which only the tokenizer of the base can read
            group.add_argument(flag, **argument | {"metavar": '"[P] {x} [P] {mask}"'})
        elif hints[name] is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, **argument)
        else:
            argument |= {"type": reader(hints[name]), "metavar": metavar(hints[name])}
            for old in (old for old, new in kind.renamed.items() if new == name):
                group.add_argument(f"--{old}", **argument | {"help": argparse.SUPPRESS})
            group.add_argument(flag, **argument)


def settings(options: argparse.Namespace) -> dict:
    """The settings of the method that were given as flags."""
    return {k.removeprefix(DEST): v for k, v in vars(options).items() if k.startswith(DEST)}


def from_text(text: str) -> Method:
    """ "lora", "lora:rank=4" or "prefix:length=8;hidden=none" -> a method.

    Raises:
        ValueError: no such method or setting, or a value that does not fit.
    """
    name, _, rest = text.partition(":")
    kind = method_class(name)
    hints, given = typing.get_type_hints(kind), {}
    for part in filter(None, rest.split(";")):
        key, _, value = part.partition("=")
        key = key.strip().replace("-", "_")
        key = kind.renamed.get(key, key)
        if key not in settable(kind):
            known = ", ".join(settable(kind)) or "none"
            raise ValueError(f"{kind.__name__} has no setting {key!r}; it has {known}.")
        if key in given:
            raise ValueError(f"{text} gives {key} twice: leave one of them away.")
        try:
            given[key] = convert(hints[key], value)
        except ValueError as error:
            raise ValueError(f"{kind.__name__}'s {key}: {error}.") from None
    return make(kind, given)


def make(kind: type[Method], given: dict) -> Method:
    """The method with these settings.

    Raises:
        ValueError: one that has no default is not among them.
    """
    for name, field in settable(kind).items():
        if name not in given and is_required(field):
            raise ValueError(f"{kind.__name__} needs its {name}: {descriptions(kind)[name]}")
    return kind(**given)


def is_required(field: dataclasses.Field) -> bool:
    """Has a setting no default, so that it must be given?"""
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def default_of(field: dataclasses.Field):
    if field.default is not dataclasses.MISSING:
        return field.default
    return None if field.default_factory is dataclasses.MISSING else field.default_factory()


def written(value) -> str:
    """A default as it would be typed."""
    if isinstance(value, tuple):
        return ",".join(map(written, value)) or "none"
    if value is None or value == {}:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def reader(hint) -> typing.Callable[[str], object]:
    """argparse's `type` for a type hint."""

    def read(text: str):
        try:
            return convert(hint, text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def metavar(hint) -> str:
    """What the help shows where a value of this type hint belongs."""
    if hint in (int, float, str):
        return {int: "INT", float: "NUMBER", str: "WORD"}[hint]
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return f"{metavar(parts[0])},.."
    if origin is collections.abc.Mapping:
        return f"NAME={metavar(parts[1])},.."
    if origin in (typing.Union, types.UnionType):
        return metavar(next(part for part in parts if part is not type(None)))
    return "true|false" if hint is bool else "VALUE"


def convert(hint, text: str):
    """A text as a value of a type hint.

    Raises:
        ValueError: it is none; the words say what it should be.
    """
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if type(None) in parts and text.lower() == "none":
            return None
        # whole numbers before words: "3,4" are ids, "words" is a word
        rank = {int: 0, float: 1, bool: 2, str: 9}
        mistakes = []
        for part in sorted(parts, key=lambda part: rank.get(part, 5)):
            if part is not type(None):
                try:
                    return convert(part, text)
                except ValueError as error:
                    mistakes.append(str(error))
        raise ValueError(mistakes[0])
    if origin is tuple:
        pieces = [piece for piece in re.split(r"[,\s]+", text) if piece]
        kinds = [parts[0]] * len(pieces) if parts[-1] is Ellipsis else list(parts)
        if len(kinds) != len(pieces):
            raise ValueError(f"{text!r} must be {len(kinds)} values with commas between them")
        return tuple(convert(kind, piece) for kind, piece in zip(kinds, pieces, strict=True))
    if origin is collections.abc.Mapping:
        pairs = [piece.partition("=") for piece in re.split(r"[,\s]+", text) if piece]
        if not pairs or not all(key and sign for key, sign, _ in pairs):
            raise ValueError(f"{text!r} must be such as value=16,query=4")
        return {convert(parts[0], key): convert(parts[1], value) for key, _, value in pairs}
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{text!r} must be true or false")
        return text.lower() == "true"
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            kind = "a whole number" if hint is int else "a number"
            raise ValueError(f"{text!r} is not {kind}") from None
    return text


def descriptions(kind: type) -> dict[str, str]:
    """Field -> what the "Args:" of the docstrings say about it, the class's own before its base's.

    One line may tell of several: "length: P.  hidden: k of the MLP."
    """
    texts: dict[str, str] = {}
    for cls in kind.__mro__:
        if not dataclasses.is_dataclass(cls):
            continue
        fields = {field.name for field in dataclasses.fields(cls)}
        block = re.search(r"Args:\n(.*?)(?:\n\n|\n    Raises:|\Z)", cls.__doc__ or "", re.S)
        lines = [line.strip() for line in (block[1] if block else "").splitlines()]
        pieces: list[str] = []
        for part in (part for line in lines for part in re.split(r"\s{2,}", line)):
            names = re.match(r"(\w+(?:, \w+)*): ", part)
            if names and set(names[1].split(", ")) <= fields:
                pieces.append(part)
            elif pieces:
                pieces[-1] += f" {part}"
        for piece in pieces:
            names, _, text = piece.partition(": ")
            for name in names.split(", "):
                texts.setdefault(name, text.strip())
    return texts
