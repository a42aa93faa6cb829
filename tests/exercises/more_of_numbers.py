"""Answers of lessons 03 to 18: wrong ones that were told too little, forms of right ones."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy
import torch

from minipeft import checks


def every(name, change):
    """All numbers of a check's right answer, changed alike."""
    right = getattr(checks, name).right
    if not isinstance(right, dict):
        return change(right)
    return {
        key: tuple(map(change, n)) if isinstance(n, tuple) else change(n)
        for key, n in right.items()
    }


def but(name, **parts):
    """The right answer with other parts; a blank in a name is written _."""
    right = getattr(checks, name).right
    return right | {key if key in right else key.replace("_", " "): n for key, n in parts.items()}


DICTS = ("adam_bytes", "deep_numbers", "kept_numbers", "small_numbers", "union_numbers")
ONES = ("adapter_parameters", "lora_parameters", "smallest_step")
SHAPES = checks.checkpoint_shapes.right
CHOICES = ("transfer_patients", "adapter_faults", "room_two", "vera_patients")

WRONG = [
    *(
        (name, every(name, str), "that is text, so leave out the quotes")
        for name in (*DICTS, *ONES)
    ),
    *((name, every(name, lambda n: f"{n} bytes"), "that is text") for name in DICTS),
    ("lora_parameters", "10,240", "that is text"),
    ("adam_bytes", every("adam_bytes", lambda n: 8 * n), "every number is 8 times too large (bits"),
    ("adam_bytes", every("adam_bytes", lambda n: n / 4), "every number is 4 times too small (byte"),
    ("adam_bytes", every("adam_bytes", lambda n: n / 2**20), "too small (megabytes, or bytes?)"),
    ("adam_bytes", every("adam_bytes", lambda n: n / 1000), "1000 times too small (thousands?)"),
    *(
        (name, every(name, lambda n: 4 * n), "every number is 4 times too large (bytes of a float")
        for name in ("deep_numbers", "vera_numbers", "kept_numbers", "prefix_numbers")
    ),
    (
        "overlaps",
        every("overlaps", lambda n: 100 * n),
        "every number is 100 times too large (per c",
    ),
    ("adapter_parameters", 8 * 22688, "it is 8 times too large"),
    (
        "adam_bytes",
        but("adam_bytes", full=20 * 390_000),
        "Adam keeps two means of each number, and",
    ),
    (
        "adam_bytes",
        but("adam_bytes", head_only=4 * 460_800 + 24 * 70_800),
        "the matrix itself stays",
    ),
    ("adapter_parameters", 21408, "that is one layer norm"),
    ("adapter_parameters", 22848, "that is ten layer norms"),
    ("adapter_parameters", 5632, "that is one layer"),
    (
        "prefix_numbers",
        but("prefix_numbers", trained=25_701_888),
        "a number for each output of its",
    ),
    (
        "deep_numbers",
        but("deep_numbers", head=1024 * 1024 + 1024 + 2050),
        "there is none from C to",
    ),
    ("deep_numbers", but("deep_numbers", words=980), "none at the input"),
    (
        "deep_numbers",
        but("deep_numbers", prompts=983_040 + 20 * 1024),
        "nothing stands at the input",
    ),
    ("lora_parameters", 15360, "that is three maps"),
    ("lora_parameters", 10880, "A and B have no bias"),
    ("lora_parameters", 10248, "alpha is no trained number"),
    ("overlaps", but("overlaps", chance=0.9), "that is what lies outside of the eight"),
    ("union_numbers", but("union_numbers", lora=442_368), "two maps and not three"),
    (
        "closed_gate",
        but("closed_gate", share=10 / (10 + 30 * math.e)),
        "and the weight e^0 = 1, too",
    ),
    ("small_numbers", but("small_numbers", bert_bitfit=12 * 3 * 768), "query, key and value alone"),
    ("kept_numbers", but("kept_numbers", full=1048), "attention keeps q, k, v and the mix"),
    (
        "kept_numbers",
        but("kept_numbers", frozen=484),
        "attention has no weights that could be froze",
    ),
    ("kept_numbers", but("kept_numbers", LoRA=968), "and B reads A x"),
    ("smallest_step", 2 ^ -12, "in Python ^ is no power"),
    ("smallest_step", -12, "that is the exponent"),
    ("vera_numbers", but("vera_numbers", LoRA=262_144), "that is one layer, and there are 32"),
    ("vera_numbers", but("vera_numbers", frozen=7_000_000_000), "not the model"),
    ("checkpoint_shapes", every("checkpoint_shapes", str), "not with a str in it, '1'"),
    ("checkpoint_shapes", but("checkpoint_shapes", A=torch.zeros(8, 576)), "give its .shape"),
    *(
        (name, {k.lower(): v for k, v in getattr(checks, name).right.items()}, "and it has a, b, c")
        for name in CHOICES
        if name != "room_two"
    ),
    (
        "room_two",
        dict(enumerate(checks.room_two.right.values())),
        "and it has 0, 1, 2, 3, 4 instead",
    ),
]

UNFINISHED = [
    ("checkpoint_shapes", but("checkpoint_shapes", keys=(1, ..., 10, 64)), "keys is still ..."),
    ("same_budget", but("same_budget", adapter=...), "adapter is still ..."),
]

RIGHT = [
    *(
        (name, every(name, form))
        for name in (*DICTS, *ONES)
        for form in (float, Fraction, Decimal, numpy.float64, torch.tensor)
    ),
    *(
        ("checkpoint_shapes", {key: form(shape) for key, shape in SHAPES.items()})
        for form in (list, torch.Size, lambda shape: torch.zeros(shape).shape, torch.tensor)
    ),
    *(
        (name, {who: f" {cause.upper()}." for who, cause in getattr(checks, name).right.items()})
        for name in CHOICES
    ),
]
