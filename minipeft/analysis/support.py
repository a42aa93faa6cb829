"""Which method works on which architecture: `python -m minipeft support` prints this table.

A cell says "tested" when tests/parity/test_support.py runs its evidence on a small model of that
architecture with that head, and the reason when there is no such pair. The tests go through `cells`
and nothing else, so a cell cannot say "tested" without a test. (`make test` takes a third of the
pairs with another head than that for words; continuous integration takes all, with WHOLE=1.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from minipeft import methods
from minipeft.methods.combined import mam
from minipeft.methods.method import Method
from minipeft.report import Table

HEADS = ("language", "classification", "tagging")
ALL, NO_TAGS = HEADS, HEADS[:2]

# architecture -> the heads that it has
ARCHITECTURES = {
    "tiny-decoder": ALL,
    "tiny-encoder": ALL,
    "tiny-encoder-decoder": NO_TAGS,
    "gpt2": ALL,
    "bert": ALL,
    "roberta": ALL,
    "distilbert": ALL,
    "electra": ALL,
    "t5": ALL,
    "mt5": ALL,
    "bart": NO_TAGS,
    "mbart": NO_TAGS,
    "llama": ALL,
    "qwen2": ALL,
    "qwen3": ALL,
    "mistral": ALL,
    "opt": NO_TAGS,
    "gpt_neox": ALL,
    "phi": ALL,
    "glm": ALL,
    "glm4": ALL,
    "bloom": ALL,
    "gpt_neo": ALL,
    "deberta-v2": ALL,
    # one head each, so that the tests stay quick
    **dict.fromkeys(
        (
            *("gemma", "gemma2", "gemma3_text", "phi3", "olmo2", "granite", "cohere", "starcoder2"),
            *("stablelm", "smollm3", "qwen2_moe", "mixtral", "falcon", "gpt_bigcode", "gptj"),
            *("codegen", "xlm-roberta", "camembert", "xlm-roberta-xl", "roberta-prelayernorm"),
            *("data2vec-text", "albert", "modernbert", "marian", "pegasus"),
            *("m2m_100", "umt5", "longt5"),
        ),
        ("language",),
    ),
}

# method -> the settings that it is tested with on every architecture
METHODS: dict[str, Method] = {
    "FullFineTuning": methods.FullFineTuning(),
    "TopLayers": methods.TopLayers(1),
    "HeadOnly": methods.HeadOnly(),
    "BitFit": methods.BitFit(),
    "LoRA": methods.LoRA(rank=2),
    "DoRA": methods.DoRA(rank=2, targets=("output", "down")),
    "PiSSA": methods.PiSSA(rank=2, targets=("output", "down")),
    "LoRABias": methods.LoRABias(rank=2, targets=("output", "down"), bias="detour"),
    "LoRAEmbedding": methods.LoRAEmbedding(rank=2),
    "TokenRows": methods.TokenRows(ids=tuple(range(3, 12))),
    "AdaLoRA": methods.AdaLoRA(target_rank=2, targets=("output", "down")),
    "QLoRA": methods.QLoRA(rank=2, targets=("output", "down")),
    "IA3": methods.IA3(),
    "VeRA": methods.VeRA(rank=8, targets=("output", "down")),
    "Adapter": methods.Adapter(bottleneck=4),
    "Prefix": methods.Prefix(length=3, hidden=4),
    "PTuningV2": methods.PTuningV2(length=3),
    "PromptTuning": methods.PromptTuning(length=3),
    "PTuning": methods.PTuning(length=3),
    "UniPELT": methods.UniPELT(bottleneck=4, length=3, rank=2),
    "MAM": mam(length=3, bottleneck=4),
}

NEED_MEMORY = ("Prefix", "PTuningV2", "UniPELT", "MAM")
NO_MEMORY = (  # attention cannot be extended from outside
    *("bloom", "gpt_neo", "deberta-v2", "falcon", "gptj", "codegen", "longt5"),
)
NO_BIAS = (
    *("t5", "mt5", "llama", "qwen3", "mistral", "gemma", "gemma2", "gemma3_text", "phi3"),
    *("olmo2", "granite", "cohere", "smollm3", "mixtral", "umt5", "longt5"),
)
NEED_FEED_FORWARD = ("IA3", "Adapter", "UniPELT", "MAM")
EXPERTS = ("qwen2_moe", "mixtral")  # feed-forward layers that are no linear maps


@dataclass(frozen=True)
class Cell:
    """One pair. why_not: None when it is tested."""

    method: str
    architecture: str
    head: str
    why_not: str | None


def cells() -> list[Cell]:
    """All pairs of method, architecture and head, in the order of the table."""
    return [
        Cell(method, architecture, head, why_not(method, architecture))
        for architecture, heads in ARCHITECTURES.items()
        for head in heads
        for method in METHODS
    ]


def why_not(method: str, architecture: str) -> str | None:
    """Why there is no such pair, None where there is."""
    if method in NEED_MEMORY and architecture in NO_MEMORY:
        return "no memory door"
    if method == "BitFit" and architecture in NO_BIAS:
        return "no biases"
    if method in NEED_FEED_FORWARD and architecture in EXPERTS:
        return "experts are no linear maps"
    return None


def settings(method: str, architecture: str) -> Method:
    """The settings that a method is tested with there."""
    usual = METHODS[method]
    fits = architecture not in EXPERTS or method in NEED_FEED_FORWARD
    if fits or "down" not in (getattr(usual, "targets", None) or ()):
        return usual
    return replace(usual, targets=("output",))


def table() -> Table:
    """Architectures down, methods across; a cell has a letter for every head that is tested."""
    by_architecture: dict[str, dict[str, list[Cell]]] = {}
    for cell in cells():
        by_architecture.setdefault(cell.architecture, {}).setdefault(cell.method, []).append(cell)
    reasons = list(dict.fromkeys(cell.why_not for cell in cells() if cell.why_not))

    def short(pairs: list[Cell]) -> str:
        if pairs[0].why_not:
            return f"({1 + reasons.index(pairs[0].why_not)})"
        return " ".join(pair.head[0].upper() for pair in pairs)

    tested = sum(cell.why_not is None for cell in cells())
    return Table(
        title=f"method x architecture x head: {tested} pairs tested",
        header=("", *METHODS),
        rows=[(name, *map(short, methods.values())) for name, methods in by_architecture.items()],
        notes=[
            "tested with the head for L language (causal, masked or sequence-to-sequence, as the",
            "family has it), C classification, T tagging; no letter: the family has no such head.",
            *(f"({n}) not applicable: {reason}" for n, reason in enumerate(reasons, 1)),
            "The evidence for every pair: pytest tests/parity/test_support.py; as a list: --list.",
        ],
    )


def listed() -> str:
    """One line for every pair: method, architecture, head, "tested" or why not."""
    lines = [
        f"{c.method}\t{c.architecture}\t{c.head}\t"
        + ("tested" if c.why_not is None else f"not applicable: {c.why_not}")
        for c in cells()
    ]
    return "\n".join(lines)
