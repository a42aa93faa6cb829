"""A base by its name: one of the project's tiny models, a folder, or a name on the Hub.

Only what is named is fetched, only safetensors are read, and code that comes with a model runs
only when that is asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from torch import nn

import tiny_transformer as tt
from minipeft.commands import family_flag, runs
from minipeft.contexts import seeded
from minipeft.model.anatomy import Anatomy
from minipeft.model.family import Family
from minipeft.model.fingerprint import fingerprint, identity
from minipeft.model.kind import kind_in
from minipeft.tasks.encoding import TargetTokenizer
from minipeft.tasks.pronunciation import BRITISH, Alphabet
from tiny_transformer import checkpoints
from tiny_transformer.files import check_fetched, write_text

FETCHED = ("smollm2", "minilm")  # what `fetch` calls its models


@dataclass
class Base:
    """A model in eval mode with what is needed to talk to it.

    kind: "decoder", "encoder" or "encoder-decoder".  head: "language", "classification", "tagging".
    tiny: a tiny_transformer, else a transformers model.  notes: sentences worth a user's look.
    labels: of the head.  fresh: the head starts with random numbers.  family: as it was described.
    """

    name: str
    model: nn.Module
    tokenizer: object
    kind: str
    head: str
    tiny: bool
    notes: list[str] = field(default_factory=list)
    labels: tuple[str, ...] | None = None
    fresh: bool = False
    family: Family | None = None

    def anatomy(self) -> Anatomy:
        """The model's parts by name, by the family that was described."""
        return Anatomy(self.model, self.family)

    @property
    def chats(self) -> bool:
        """A decoder with a chat template?"""
        return self.kind == "decoder" and bool(getattr(self.tokenizer, "chat_template", None))

    def positions(self) -> int | None:
        """How many tokens the model can read, None when there is no limit."""
        return self.anatomy().limit

    def save(self, folder: str) -> None:
        """Write model and tokenizer as a plain Hugging Face folder."""
        if self.tiny:
            tt.save(self.model, self.tokenizer, folder)
            self.name_labels(Path(folder) / "config.json")
            return
        self.model.save_pretrained(folder)
        if not isinstance(self.tokenizer, Letters):
            self.tokenizer.save_pretrained(folder)

    def name_labels(self, path: Path) -> None:
        """Tell the labels of the head, which a tiny_transformer knows as numbers only."""
        if self.labels and self.head != "language":
            config = json.loads(path.read_text(encoding="utf-8"))
            config["id2label"] = {str(i): label for i, label in enumerate(self.labels)}
            config["label2id"] = {label: i for i, label in enumerate(self.labels)}
            write_text(path, json.dumps(config, indent=1, sort_keys=True))


class Letters(TargetTokenizer):
    """A model of pronunciation has no tokenizer: its letters and phonemes are in its config."""

    mask_token_id = sep_token_id = bos_token_id = None

    def __init__(self, alphabet: Alphabet) -> None:
        self.alphabet = alphabet
        self.pad_token_id, self.eos_token_id = alphabet.pad_token_id, alphabet.eos_token_id

    def __call__(self, text: str, add_special_tokens: bool = True, return_tensors=None) -> dict:
        ids = self.alphabet.letters(text.strip())
        return {"input_ids": ids if add_special_tokens else ids[1:-1]}

    def target(self, text: str) -> list[int]:
        """The ids that the decoder should write: phonemes, not letters."""
        return self.alphabet.sounds(text.strip())

    def decode(self, ids, skip_special_tokens: bool = True) -> str:
        return self.alphabet.text(ids)

    def borrow(self, targets: list[str]) -> None:
        """Let phonemes that the model lacks use free ids (see minipeft.tasks.pronunciation).

        Raises:
            ValueError: a phoneme that the model lacks and that is not British either.
        """
        known = set(self.alphabet.phonemes[4:])
        lacking = sorted(set("".join(target.strip() for target in targets)) - known)
        strange = [symbol for symbol in lacking if symbol not in BRITISH]
        if strange:
            raise ValueError(
                f"The targets use {strange[0]!r}, a symbol that this model of pronunciation has no "
                "id for: leave those rows out or write another symbol."
            )
        borrowed = {symbol: BRITISH[symbol] for symbol in lacking}
        self.alphabet = Alphabet(self.alphabet.graphemes, self.alphabet.phonemes, borrowed)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that every command with a base has."""
    group = parser.add_argument_group("how the base is opened")
    group.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda where there is one)")
    group.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="of the base; auto is what its config says (default %(default)s)",
    )
    group.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run Python code that comes with the base, as you would run any stranger's program",
    )
    family_flag.add_flag(group)


def is_tiny(name: str) -> bool:
    """One of the project's own models, unless a folder of that name is there."""
    return name.startswith("tiny-") and not Path(name).is_dir()


def is_path(name: str) -> bool:
    """Can this only be a folder? A name on the Hub is NAME or OWNER/NAME."""
    first, *others = Path(name).parts or ("",)
    marked = name.startswith((".", "~", "/")) or first == "runs"
    return marked or len(others) > 1 or Path(first).is_dir()


def absolute(name: str) -> str:
    """A folder as an absolute path, anything else as it is."""
    return str(Path(name).resolve()) if Path(name).is_dir() else fetched(name)


def fetched(name: str) -> str:
    """The folder of a model that `fetch` fetches, by the name that it has there; else the name.

    Raises:
        ValueError: it has not been fetched.
    """
    if name not in FETCHED or Path(name).is_dir():
        return name
    from minipeft.course import real

    place = real.find(name)
    if place is None:
        raise ValueError(
            f"The base {name} has not been fetched: python -m minipeft fetch {name} does it."
        )
    return str(place.resolve())


def kind_of(name: str, options: argparse.Namespace) -> str:
    """ "decoder", "encoder" or "encoder-decoder", without loading any weights."""
    if is_tiny(name):
        return checkpoints.read_config(checkpoints.find(name))[1].kind
    family = family_flag.family_of(options)
    return (family and family.kind) or kind_in(_config(name, options)[1])


def labels_in(name: str, options: argparse.Namespace, head: str) -> tuple[str, ...] | None:
    """The labels of the classification or tagging head that a folder holds, None without one."""
    if is_tiny(name) or head == "language":
        return None
    _, config = _config(name, options)
    part = "Sequence" if head == "classification" else "Token"
    if not any(f"For{part}Classification" in each for each in config.architectures or ()):
        return None
    return tuple(str(config.id2label[number]) for number in sorted(config.id2label))


def open_base(
    name: str,
    options: argparse.Namespace,
    head: str = "language",
    labels: tuple[str, ...] | None = None,
    seed: int = 0,
) -> Base:
    """Load a base with a head; a head that the folder does not hold starts from `seed`.

    Raises:
        FileNotFoundError, ValueError: no such base, or none that can be used; one sentence.
    """
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise ValueError(f"There is no device {device!r} here; try --device cpu.") from None
    dtype = None if options.dtype == "auto" else getattr(torch, options.dtype)
    opener = _open_tiny if is_tiny(name) else _open_hub
    base = opener(name, options, head, labels, seed)
    base.labels = tuple(labels) if labels else None
    base.family = family_flag.family_of(options)
    base.model.to(device=device, dtype=dtype) if dtype else base.model.to(device)
    base.model.eval()
    return base


def _open_tiny(name, options, head, labels, seed) -> Base:
    model, tokenizer = tt.load(name, head, len(labels) if labels else None, seed)
    return Base(
        name, model, tokenizer, model.config.kind, head, tiny=True, fresh=head != "language"
    )


def _open_hub(name, options, head, labels, seed) -> Base:
    kind = kind_of(name, options)
    hf, config = _config(name, options)
    tokenizer, notes = _tokenizer(hf, name, config, options), []
    settings = {**_allowed(options), "use_safetensors": True}
    if options.dtype != "auto":
        settings["dtype"] = options.dtype
    if head == "language":
        classes = {"decoder": "CausalLM", "encoder": "MaskedLM", "encoder-decoder": "Seq2SeqLM"}
        auto = getattr(hf, f"AutoModelFor{classes[kind]}")
    else:
        part = "Sequence" if head == "classification" else "Token"
        auto = getattr(hf, f"AutoModelFor{part}Classification")
        config.id2label = dict(enumerate(labels or ("0", "1")))
        config.label2id = {label: number for number, label in config.id2label.items()}
    if getattr(config, "pad_token_id", None) is None:
        pad = getattr(tokenizer, "pad_token_id", None)
        config.pad_token_id = getattr(tokenizer, "eos_token_id", None) if pad is None else pad
    try:
        with seeded(seed):
            model, info = auto.from_pretrained(
                name,
                config=config,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **settings,
            )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        for path in sorted(Path(name).glob("*.safetensors")):
            check_fetched(path)
        raise ValueError(f"{name} cannot be opened as a base: {_first(error)}") from None
    words = f"{model.base_model_prefix}.embed_tokens.weight"
    if words in info["missing_keys"] and head != "language" and config.tie_word_embeddings:
        _fill_words(model, hf.AutoModelForCausalLM, name, settings)
        info["missing_keys"] = [key for key in info["missing_keys"] if key != words]
    fresh = _check_loaded(name, model, info, head, notes)
    return Base(name, model, tokenizer, kind, head, tiny=False, notes=notes, fresh=fresh)


def _fill_words(model, auto, name: str, settings: dict) -> None:
    """Fill the words of a model with another head from a folder that holds them as lm_head only."""
    whole = auto.from_pretrained(name, **settings)
    model.get_input_embeddings().weight.data.copy_(whole.get_input_embeddings().weight.data)


def _check_loaded(name, model, info, head, notes) -> bool:
    """Is the head fresh? What the folder did not hold may be the head, and no more than that."""
    anatomy = Anatomy(model)
    paths = anatomy.language_head() if head == "language" else anatomy.heads()
    heads = tuple(f"{path}." for path in paths)
    odd = [entry[0] for entry in info["mismatched_keys"]]
    fresh = [*info["missing_keys"], *odd]
    lost = [k for k in fresh if not k.startswith(heads) and ".pooler." not in k]
    lost = [k for k in lost if k.startswith(f"{model.base_model_prefix}.") or k in odd]
    if lost:
        raise ValueError(f"{name} does not hold {lost[0]}: it is no whole model of its config.")
    if fresh and head == "language":
        notes.append(f"{name} holds no language head ({fresh[0]}): it starts with random numbers.")
    return any(key.startswith(heads) for key in fresh)


def fingerprint_of(base: Base) -> str:
    """A hash of the base's weights; without a task's head, which is fresh for a fresh task.

    Take it before anything is attached that may change the weights.
    """
    if base.head == "language":
        return fingerprint(base.model)
    return identity(base.model, tuple(Anatomy(base.model).heads()))["exact"]


def _transformers():
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")  # asks nobody to convert pickles
    try:
        import transformers as hf
    except ImportError:
        raise ValueError(
            "A base that is not tiny-* needs transformers: pip install 'minipeft[hub]'."
        ) from None
    hf.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        hf.logging.disable_progress_bar()
    return hf


def _allowed(options: argparse.Namespace) -> dict:
    """What may be run, and what fetched: not a base that only the folder of a run names."""
    local_only = getattr(options, "local_only", False)
    return {"trust_remote_code": options.trust_remote_code, "local_files_only": local_only}


def _config(name: str, options: argparse.Namespace):
    local_only = getattr(options, "local_only", False)  # the folder of a run names it
    if is_path(name) and not Path(name).expanduser().is_dir():
        if local_only:
            raise FileNotFoundError(
                f"The run was trained on the base in {name}, which is not there: put it back, or "
                "name the folder where it is now, --base FOLDER."
            )
        if Path(name).is_file():
            raise ValueError(f"{name} is a file: name the folder that it is in.")
        raise FileNotFoundError(f"There is no folder {name}: check its name.")
    if Path(name).is_dir() and runs.read_config(Path(name)):
        raise ValueError(
            f"{name} is a run and no base: --start {name} begins with what it has learnt, and "
            "merge writes a base."
        )
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise ValueError(f"{name} holds no base, which has a config.json{runs.inner(name)}.")
    if not Path(name).is_dir() and "huggingface_hub" not in sys.modules and not is_reachable():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # it would try for half a minute
    hf = _transformers()
    try:
        return hf, hf.AutoConfig.from_pretrained(name, **_allowed(options))
    except Exception as error:  # a config is anybody's JSON: the reader stumbles in many ways
        if local_only and not Path(name).is_dir():
            raise ValueError(
                f"The run was trained on the base {name}, which is not on this machine: fetch it "
                f"by naming it, --base {name}."
            ) from None
        near = _folder_like(name)
        hint = f" Did you mean the folder {near}?" if near else ""
        place = "" if Path(name).is_dir() else "is no folder, and "
        said = f"{name} {place}cannot be opened as a base: {_first(error)}{hint}"
        raise ValueError(said) from None


def is_reachable() -> bool:
    """Is there a way to the Hub, or a proxy that may know one?"""
    host = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co").hostname
    try:
        return bool(getproxies() or socket.getaddrinfo(host, 443))
    except OSError:
        return False


def _folder_like(name: str) -> str | None:
    """A folder of runs or bases whose name is nearly this one; None for a folder that is there."""
    if Path(name).is_dir():
        return None
    places = [path for top in (Path(), Path("runs")) if top.is_dir() for path in top.iterdir()]
    folders = {str(path): path for path in places if (path / "config.json").is_file()}
    by_name = {path.name: text for text, path in folders.items()} | {t: t for t in folders}
    close = get_close_matches(name, by_name, n=1, cutoff=0.75)
    return by_name[close[0]] if close else None


def _tokenizer(hf, name: str, config, options: argparse.Namespace):
    if hasattr(config, "grapheme_chars"):
        return Letters(Alphabet.of(config))
    try:
        return hf.AutoTokenizer.from_pretrained(name, **_allowed(options))
    except Exception as error:  # as above
        raise ValueError(f"{name} has no tokenizer that can be read: {_first(error)}") from None


def _first(error: Exception) -> str:
    """The first sentence of a long message of another library."""
    text = " ".join(str(error).split()) or type(error).__name__
    first = text.partition(". ")[0].rstrip(".")
    return f"{first[:300]}."
