"""What lesson 16 measures: every method on models that others trained, and files for others.

models = opened(real=True)                    # "decoder" and "encoder", real ones where they are
table = every_method(models["decoder"], METHODS, batch, steps=2)
memory = pack_prefix(keys, values)            # (L, H, P, D) each -> 🤗 PEFT's (P, 2 L H D)
"""

from __future__ import annotations

import copy
import json
import re
import statistics
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

import tiny_transformer as tt
from minipeft.analysis import plots
from minipeft.contexts import evaluating, seeded
from minipeft.course import real as real_models
from minipeft.course.experiments import percent
from minipeft.course.passport_facts import answers, largest_difference, shake
from minipeft.course.runs import attached
from minipeft.doors.memory import MemoryDoor
from minipeft.files.saving import load as load_tuner
from minipeft.methods.lora import LoRA
from minipeft.methods.method import Method
from minipeft.report import Table
from minipeft.routing import route
from minipeft.training.loop import train
from minipeft.tuner import Tuner


def pack_prefix(keys: Tensor, values: Tensor) -> Tensor:
    """A prefix as 🤗 PEFT stores it: one row for each place, all layers side by side.

    Row t holds layer after layer: of each layer its key, then its value; of each of these head
    after head, D numbers for a head.

    Args:
        keys, values: (L, H, P, D): of L layers, H key-value heads, P places.

    Returns:
        (P, 2 L H D)
    """
    both = torch.stack([keys, values], dim=1)  # (L, 2, H, P, D)
    rows = both.permute(3, 0, 1, 2, 4)  # (P, L, 2, H, D)
    return rows.flatten(1)  # (P, 2 L H D)


# ---- models ----


@dataclass
class Opened:
    """A model of this lesson. real: was it trained by others?"""

    title: str
    model: nn.Module
    tokenizer: object
    real: bool


def opened(real: bool = True) -> dict[str, Opened]:
    """A decoder and an encoder with two classes: SmolLM2 and MiniLM, else the project's own."""
    wanted = {
        "decoder": ("smollm2", "SmolLM2", {}, "tiny-decoder"),
        "encoder": ("minilm", "MiniLM", dict(head="classification", labels=2), "tiny-encoder"),
    }
    models = {}
    for kind, (name, title, head, otherwise) in wanted.items():
        loaded = real_models.load(name, **head) if real else None
        settings = {**head, "seed": 0} if head else {}
        model, tokenizer = loaded or tt.load(otherwise, **settings)
        models[kind] = Opened(title if loaded else otherwise, model, tokenizer, loaded is not None)
    return models


def strangers() -> dict[str, nn.Module]:
    """A GPT-2 and a BART as transformers builds them, small and with random weights."""
    try:
        import transformers as hf
    except ImportError:
        print("Left out: GPT-2 and BART, because transformers is not installed.")
        return {}
    gpt2 = hf.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64,
                         bos_token_id=0, eos_token_id=1)  # fmt: skip
    layers = dict(encoder_layers=2, decoder_layers=2, encoder_ffn_dim=64, decoder_ffn_dim=64)
    heads = dict(encoder_attention_heads=4, decoder_attention_heads=4)
    bart = hf.BartConfig(vocab_size=64, d_model=32, max_position_embeddings=64, **layers, **heads)
    with seeded(0):
        return {
            "GPT-2": hf.GPT2LMHeadModel(gpt2).eval(),
            "BART": hf.BartForConditionalGeneration(bart).eval(),
        }


def names_table(models: Mapping[str, nn.Module], words: Sequence[str]) -> Table:
    """What each word of the field is called in the first block of each model.

    The first row is the block, "model.layers.0"; the others are what stands behind its name.
    """
    columns = []
    for model in models.values():
        blocks, names = set(), {}
        for word in words:
            try:
                with attached(model, LoRA(rank=1, targets=(word,)), head=False) as tuner:
                    places = [place for place, _ in tuner.patches]
            except ValueError:
                continue
            place = min(places, key=lambda place: place.layer)
            block, name = re.fullmatch(r"(.*?\.\d+)\.(.*)", place.path).groups()
            part = "" if place.columns is None else f", {len(place.columns)} columns"
            blocks.add(block)
            names[word] = f"{name}{part}"
        columns.append([" and ".join(sorted(blocks)), *(names.get(word, "-") for word in words)])
    rows = list(zip(("block", *words), *columns, strict=True))
    return Table("The first of each kind", ("", *models), rows)


# ---- every method ----


def every_method(
    one: Opened,
    methods: Mapping[str, Method],
    batch: dict[str, Tensor],
    steps: int,
    rates: Mapping[str, float],
) -> tuple[Table, dict[str, dict]]:
    """Attach, take some steps on one batch, detach: (a table, what was measured).

    Measured are "trained" and "stored" numbers, the loss "before" the first step and "after" the
    last; "refused", a sentence, where a method does not fit the model.
    """
    base = sum(parameter.numel() for parameter in one.model.parameters())
    rows, measured = [], {}
    for name, method in methods.items():
        try:
            with attached(one.model, method, seed=0) as tuner:
                trained = sum(parameter.numel() for parameter in tuner.parameters())
                before = loss(one.model, batch)
                train(one.model, [batch], steps, rates.get(name, 1e-3), progress=False)
                measured[name] = {
                    "trained": trained, "stored": tuner.report().stored,
                    "before": before, "after": loss(one.model, batch),
                }  # fmt: skip
        except ValueError as error:
            measured[name] = {"refused": str(error).partition(":")[0].rstrip(".")}
            rows.append((name, "-", "-", "-", measured[name]["refused"]))
            continue
        seen = measured[name]
        share = percent(seen["trained"] / base, 3)
        falls = f"{seen['before']:.3f} -> {seen['after']:.3f}"
        rows.append((name, f"{seen['trained']:,}", share, f"{seen['stored']:,}", falls))
    header = (
        "method",
        "trained",
        "of the model",
        "stored",
        f"loss, before and after {steps} steps",
    )
    return Table(f"Every method on {one.title}", header, rows), measured


def shares_chart(measured: Mapping[str, Mapping[str, dict]], models: Mapping[str, Opened]):
    """Numbers that each method trains, as a share of the model: a mark for each model."""
    kinds = list(models)
    names = [n for n in measured[kinds[0]] if any("trained" in measured[k][n] for k in kinds)]
    figure, axes = plots.figure(width=8.0, height=4.6)
    for kind, marker, offset in zip(kinds, ("o", "s"), (-0.12, 0.12), strict=True):
        sizes = sum(parameter.numel() for parameter in models[kind].model.parameters())
        for place, name in enumerate(names):
            if "trained" in measured[kind][name]:
                share = measured[kind][name]["trained"] / sizes
                colour = (plots.look(name) or (plots.NEUTRAL,))[0]
                axes.plot(share, place + offset, marker, color=colour, markersize=9)
        axes.plot([], [], marker, color=plots.NEUTRAL, label=models[kind].title)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    ticks = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1]
    axes.set_xticks(ticks, ["0.001 %", "0.01 %", "0.1 %", "1 %", "10 %", "100 %"])
    axes.grid(axis="x", alpha=0.3)
    plots.finish(axes, "numbers trained / numbers of the model", "", "Every method, two models")
    return figure


@torch.no_grad()
def loss(model: nn.Module, batch: dict[str, Tensor]) -> float:
    """Of one batch, in eval mode."""
    with evaluating(model):
        return model(**batch).loss.item()


@torch.no_grad()
def right(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, float]:
    """Of a decoder that writes: "loss"; share of right "words" among those asked; "sentences"."""
    with evaluating(model):
        output = model(**batch)
    labels, predicted = batch["labels"][:, 1:], output.logits[:, :-1].argmax(dim=-1)
    asked = labels != -100  # position t answers for t + 1
    hits = (predicted == labels) & asked
    return {
        "loss": output.loss.item(),
        "words": (hits.sum() / asked.sum()).item(),
        "sentences": (hits == asked).all(dim=1).float().mean().item(),
    }


@torch.no_grad()
def three_at_once(one: Opened, methods: Mapping[str, Method], batch: dict[str, Tensor]) -> float:
    """A row for a tuner of each method in one batch, against each row alone: largest difference.

    The tuners hold random numbers; logits as a share of the largest.
    """
    names = list(methods)
    with ExitStack() as stack:
        for number, (name, method) in enumerate(methods.items()):
            tuner = stack.enter_context(attached(one.model, method, name=name, seed=number))
            shake(tuner, number)
        part = {key: value[: len(names)] for key, value in batch.items()}
        with route(one.model, names):
            mixed = answers(one.model, part)
        alone = []
        for row, name in enumerate(names):
            with route(one.model, [name]):
                alone += answers(one.model, {k: v[row : row + 1] for k, v in part.items()})
    return largest_difference(alone, mixed) / max(row.abs().max().item() for row in alone)


def step_ratios(
    model: nn.Module,
    arms: Mapping[str, tuple[Method, bool]],
    batches: Sequence[dict],
    repeats: int,
) -> dict[str, list[float]]:
    """Time of a step of each arm (method, trunk kept?) over that of the first arm, in turns.

    A run goes through the batches three times; the first, in which a trunk is computed, does not
    count.
    """
    ratios: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(repeats):
        seconds = {}
        for name, (method, keep_trunk) in arms.items():
            times: list[float] = []
            with attached(model, method, seed=0), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                train(
                    *(model, list(batches), 3 * len(batches), 1e-3),
                    progress=False,
                    keep_trunk=keep_trunk,
                    watch=lambda history, times=times: times.append(history.seconds),
                )
            seconds[name] = times[-1] - times[len(batches) - 1]
        first = seconds[next(iter(arms))]
        for name, each in seconds.items():
            ratios[name].append(each / first)
    return ratios


def middle(ratios: Sequence[float]) -> str:
    """Median and range as text."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


# ---- files ----


def contents(folder: str | Path) -> tuple[dict, dict[str, tuple[int, ...]]]:
    """(adapter_config.json, name of each tensor -> its shape) of an adapter's folder."""
    settings = json.loads((Path(folder) / "adapter_config.json").read_text(encoding="utf-8"))
    with safe_open(Path(folder) / "adapter_model.safetensors", "pt") as file:
        return settings, {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}


def memory_of(tuner: Tuner, width: int) -> tuple[Tensor, Tensor]:
    """Keys and values of a prefix, (L, H, P, D) each."""
    doors = [door for door in tuner.doors() if isinstance(door, MemoryDoor)]
    with torch.no_grad():
        gathered = [door.gather(torch.zeros(1, 1, width)) for door in doors]
    keys, values = zip(*((each[0][0], each[1][0]) for each in gathered), strict=True)
    return torch.stack(keys), torch.stack(values)


def opened_by_peft(
    one: Opened, methods: Mapping[str, Method], words: Mapping[str, Tensor]
) -> Table | None:
    """Shaken tuners saved here, opened in 🤗 PEFT, and saved there and opened here again.

    None, after one sentence, where PEFT is not installed.
    """
    try:
        from peft import PeftModel
    except ImportError:
        print("PEFT is not installed, so it was not asked to open the files.")
        return None
    rows = []
    for name, method in methods.items():
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bare = logits(one.model, words)
            with attached(one.model, method, seed=0) as tuner:
                shake(tuner, seed=0)
                tuner.save(f"{folder}/ours")
                ours = logits(one.model, words)
            theirs = PeftModel.from_pretrained(copy.deepcopy(one.model), f"{folder}/ours").eval()
            opened_in_peft = logits(theirs, words)
            theirs.save_pretrained(f"{folder}/theirs")
            back = load_tuner(one.model, f"{folder}/theirs", name="back")
            opened_again = logits(one.model, words)
            back.detach()
        size = ours.abs().max().item()
        others = (bare, opened_in_peft, opened_again)
        shares = [(ours - other).abs().max().item() / size for other in others]
        rows.append((name, *(percent(share, 1) for share in shares)))
    header = ("method", "from the bare base", "saved here, opened in PEFT",
              "saved there, opened here")  # fmt: skip
    notes = ["Largest difference between the logits, as a share of the largest of them."]
    return Table(f"{one.title}: the same adapter in two libraries", header, rows, notes)


@torch.no_grad()
def logits(model: nn.Module, words: Mapping[str, Tensor]) -> Tensor:
    """Of the words themselves: a prompt's places are left out."""
    with evaluating(model):
        given = model(**words).logits
    return given[:, -words["input_ids"].shape[1] :] if given.dim() == 3 else given
