"""Answers of lessons 03 to 18: wrong ones that were told too little, forms of right ones."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy
import sympy
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

TRAINED = 0.058  # lesson 05: the share of the numbers that adapters train
NUMBER_FORMS = [  # what is no single number, for an exercise that asks for one
    (None, "is a return missing"),
    ("", "should be a number"),
    ([], "should be a number, not a list"),
    (True, "not a bool"),
    (math.nan, "no number"),
    (math.inf, "infinite"),
    (0.5 + 1j, "not a complex"),
    (numpy.complex128(0.4), "not a complex128"),
    (torch.tensor(0.4 + 0j), "not a Tensor"),
    (torch.tensor([0.4, 0.4]), "not a Tensor"),
    ({"answer": 0.4}, "not a dict"),
    (lambda: 1 / 0, "stopped with ZeroDivisionError"),
    (lambda x: x, "stopped with TypeError"),
    (10**400, "infinite"),
]
DICT_FORMS = [  # what is no dict
    (None, "should be a dict"),
    ([0.4, 0.5, 0.6], "should be a dict"),
    ((1, 4), "should be a dict"),
    (0.4, "should be a dict"),
    (torch.tensor([0.4, 0.5]), "should be a dict"),
    ({}, "its keys are"),
    ("text", "should be a dict"),
]
WORK = [
    (0.333, "the way back is missing"),
    (0.33, "or what is saved"),
    (33.3, "the way back is missing: the gradient passes through the frozen maps; and a share"),
    (50, "adapters need two of them; and a share is asked, not per cent"),
    (66, "that is in per cent"),
    (67.0, "that is in per cent"),
    (5.8, "share of the numbers trained; all of the others still compute; and a share"),
    (0.942, "share of the frozen numbers"),
    ((1 + 2 * TRAINED) / 3, "not through the adapters alone"),
    ((1 + TRAINED) / 3, "the gradients of their inputs are missing"),
    ((2 + TRAINED) / 3, "the adapters themselves are not counted"),
    (0.7, "rounded too far"),
    (-2 / 3, "the sign is wrong"),
    ((2, 3), "not a tuple"),
    ("2 / 3", "that is text"),
]
CEILING = [
    (2 / 3, "one can be right, not two"),
    (0.67, "one can be right, not two"),
    (5, "with every task right"),
    (0.42, "mean over the two kinds"),
    (0.17, "five scores are averaged"),
    (20, "different inputs: one task of each kind can be right; and a share"),
    (33.3, "on rows alone; and a share"),
    (60.0, "a country's; and a share"),
    (100, "for three tasks that disagree; and a share"),
    (0.8, "at least two of three"),
    ([1, 0, 0, 1, 0], "not a list"),
    ("40 %", "that is text"),
    (-0.4, "sign"),
    (0.04, "too small, by a factor of 10"),
]
SHARE_OF_8 = [
    (every("prompt_share", lambda n: 100 * n), "every number is 100 times too large (per cent"),
    ({"flat": 57, "low": 91, "high": 6.2}, "every number is 100 times too large (per cent"),
    ({"flat": 57.1, "low": 90.8, "high": 6.23}, "every number is 100 times too large (per"),
    (but("prompt_share", low=90.8), "low is not 90.8: it is 100 times too large (per cent"),
    (but("prompt_share", low=0.0623, high=0.9079), "low and high are exchanged"),
    (but("prompt_share", low=0.5714, high=0.5714), "low: the words' score is not 0"),
    (but("prompt_share", low=8 / (8 + 6 / 4)), "low: a weight is e to the power of the score, not"),
    (but("prompt_share", high=8 / (8 + 6 * 8)), "high: a weight is e to the power of the score, n"),
    (but("prompt_share", low=-2.0), "never below 0"),
    (but("prompt_share", low=0.847), "8 and the words 6, not the other way"),
    (but("prompt_share", high=0.036), "8 and the words 6, not the other way"),
    (but("prompt_share", flat=8 / 22), "the 8 rows are not among them"),
    (but("prompt_share", high=8 / (8 + 14 * math.e**3)), "the 8 rows are not among them"),
    (but("prompt_share", high=0.06), "high is not 0.06: it is rounded too far"),
    (but("prompt_share", flat=0.6), "flat is not 0.6: it is rounded too far"),
    (but("prompt_share", flat=57.14, low=9.2), "low: that is the share of the words, asked"),
    (but("prompt_share", flat=(8, 14)), "not a tuple"),
    (but("prompt_share", flat="4/7"), "that is text"),
    (but("prompt_share", low=None), "not None"),
    (but("prompt_share", high=math.nan), "no number"),
    ({"Flat": 0.5714, "Low": 0.9079, "High": 0.0623}, "and it has Flat, Low, High instead"),
    ({0: 0.5714, -2: 0.9079, 3: 0.0623}, "its keys are flat, low, high"),
]
NINE = [
    (but("nine_intervals", one=1 - 0.95**3), "one: that is for three"),
    (but("nine_intervals", one=1 - 0.95**8), "one: that is for eight"),
    (but("nine_intervals", one=1 - 0.95**10), "one: that is for ten"),
    (but("nine_intervals", one=0.95), "a single interval holds 0"),
    (but("nine_intervals", one=37), "one: a number from 0 to 1 is asked"),
    (but("nine_intervals", one=45), "such chances cannot be added: how likely is it that none d"),
    (but("nine_intervals", one=63.0), "none of them does; and a share is asked, not per cent"),
    (but("nine_intervals", one=0.4), "one is not 0.4: it is rounded too far"),
    (but("nine_intervals", level=99.5), "level: that is for ten"),
    (but("nine_intervals", level=99.49), "level: that is for ten"),
    (but("nine_intervals", level=99.36), "level: that is for eight"),
    (but("nine_intervals", level=98.3), "level: that is for three"),
    (but("nine_intervals", level=95 ** (1 / 9)), "level: take the root of 0.95"),
    (but("nine_intervals", level=5), "in a whole table"),
    (but("nine_intervals", level=0.9944), "level: percent are asked"),
    (but("nine_intervals", level=1 - 0.95 ** (1 / 9)), "level: that is what may lie outside"),
    (but("nine_intervals", level="99.4 %"), "that is text"),
    ({"one": 99.43, "level": 0.3698}, "one and level are exchanged"),
    ({"one": 0.37, "level": None}, "not None"),
]
LUCK = [
    (every("first_by_luck", lambda n: n / 2), "not of 1"),
    (every("first_by_luck", lambda n: -n), "the sign is wrong"),
    (every("first_by_luck", lambda n: n / 100), "100 times too small"),
    ({"thirteen": 1.128, "two": 3.336}, "two: that is the best of thirteen"),
    (but("first_by_luck", thirteen=3.92), "the edge of an interval for one mean"),
    (but("first_by_luck", thirteen=3.984), "not the one farthest away"),
    (but("first_by_luck", thirteen=2 * math.sqrt(2 * math.log(13))), "sqrt(2 ln n) is a bound"),
    (but("first_by_luck", two=2 * math.sqrt(2 * math.log(2))), "sqrt(2 ln n) is a bound"),
    (but("first_by_luck", thirteen=2 * 1.426), "one of 13 lies above that"),
    (but("first_by_luck", thirteen=2 * 13 / 14), "torch.randn, not torch.rand"),
    (but("first_by_luck", two=4 / 3), "torch.randn, not torch.rand"),
    (but("first_by_luck", two=2 / math.sqrt(2)), "the mean of both"),
    (but("first_by_luck", two=2 * math.sqrt(2)), "their difference"),
    *((but("first_by_luck", thirteen=n), "the best of many contests") for n in (7.7, 8.8, 9.7)),
    (but("first_by_luck", thirteen=3.6), "too large, by a factor of 1.08"),
    (but("first_by_luck", thirteen=torch.zeros(5)), "not a Tensor"),
    (but("first_by_luck", two=torch.zeros(9, 2).max(dim=1)), "should be a number"),
    ({13: 3.336, 2: 1.128}, "its keys are thirteen, two"),
]
PRICE = [
    (but("prefix_price", request=7200), "each head keeps 64"),
    (but("prefix_price", request=57_600), "of keys alone"),
    (but("prefix_price", request=1_843_200), "that is the LoRA"),
    (but("prefix_price", request=460.8), "1000 times too small (thousands?)"),
    (but("prefix_price", request=450), "1024 times too small (kilobytes?)"),
    (but("prefix_price", request=8 * 460_800), "8 times too large (bits and bytes?)"),
    (but("prefix_price", request=506_880), "too large, by a factor of 1.1"),
    (but("prefix_price", request=460_801), "off by one"),
    (but("prefix_price", request="460,800"), "that is text"),
    (but("prefix_price", request=230_400, requests=8), "two tensors, a number has 4 bytes"),
    (but("prefix_price", requests=3), "off by one"),
    (but("prefix_price", requests=4.5), "should be a whole number"),
    (but("prefix_price", requests=1_382_400), "too large"),
    (but("prefix_price", requests=math.inf), "divided by 0"),
    ({"request": 4, "requests": 460_800}, "request and requests are exchanged"),
    ({"prefix": 460_800, "requests": 4}, "and it has prefix instead"),
]
PAIRS = [
    *(("a)", "on the left the model"), ("B", "on the right the model"), ("[d]", "nothing prompts")),
    *((wrong, "one of a, b, c, d") for wrong in ("ac", "c and d", "both", "", "C1", "f")),
    *((wrong, "one of a, b, c, d") for wrong in (None, 3, 2, True, ["c"], ("c",), {"c"}, math.nan)),
    *((wrong, "one of a, b, c, d") for wrong in ({"": "c"}, torch.tensor(3), lambda: None)),
]
WRONG += [
    *(("adapter_work", *case) for case in (*WORK, *NUMBER_FORMS)),
    *(("one_prompt", *case) for case in (*CEILING, *NUMBER_FORMS)),
    *(("prompt_share", *case) for case in (*SHARE_OF_8, *DICT_FORMS)),
    *(("nine_intervals", *case) for case in (*NINE, *DICT_FORMS)),
    *(("first_by_luck", *case) for case in (*LUCK, *DICT_FORMS)),
    *(("prefix_price", *case) for case in (*PRICE, *DICT_FORMS)),
    *(("fair_pair", *case) for case in PAIRS),
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
    *(
        (name, every(name, form))
        for name in ("adapter_work", "one_prompt", "prompt_share", "nine_intervals")
        for form in (Fraction, Decimal, numpy.float32, torch.tensor, numpy.array, sympy.Float)
    ),
    *(
        (name, every(name, form))
        for name in ("first_by_luck", "prefix_price")
        for form in (Fraction, Decimal, numpy.float64, torch.tensor, numpy.array, sympy.Rational)
    ),
    ("adapter_work", sympy.Rational(2, 3)),
    ("adapter_work", lambda: (1 + 1) / (1 + 1 + 1)),
    ("adapter_work", torch.tensor([2 / 3])),
    ("adapter_work", 1 - 1 / 3),
    ("adapter_work", numpy.float16(0.667)),
    ("one_prompt", sum([1 / 3] * 3 + [1 / 2] * 2) / 5),
    ("one_prompt", torch.tensor([1.0, 0, 0, 1, 0]).mean()),
    ("one_prompt", numpy.mean([1, 0, 0, 0.5, 0.5])),
    ("one_prompt", sympy.Rational(2, 5)),
    (
        "prompt_share",
        {
            name: torch.softmax(torch.tensor([0.0] * 8 + [score] * 6), dim=0)[:8].sum()
            for name, score in (("flat", 0.0), ("low", -2.0), ("high", 3.0))
        },
    ),
    ("prompt_share", {"flat": 0.57, "low": 0.91, "high": 0.062}),
    (
        "prompt_share",
        {"flat": 4 / 7, "low": 1 / (1 + 0.75 * math.exp(-2)), "high": 1 / (1 + 0.75 * math.e**3)},
    ),
    ("nine_intervals", {"one": 0.3698, "level": 99.43, "note": "beside the two"}),
    ("nine_intervals", {"one": 1 - sympy.Rational(95, 100) ** 9, "level": 99.4}),
    ("nine_intervals", {"one": 0.37, "level": 100 * math.exp(math.log(0.95) / 9)}),
    ("nine_intervals", {"one": -math.expm1(9 * math.log(0.95)), "level": 100 - 5 / 9}),
    ("first_by_luck", {"thirteen": 2 * 1.66799, "two": 2 / math.sqrt(math.pi)}),
    ("first_by_luck", {"thirteen": 3.3, "two": 1.12}),
    ("first_by_luck", lambda: {"two": numpy.float32(1.13), "thirteen": sympy.Float(3.34)}),
    ("prefix_price", {"request": 460.8e3, "requests": 4.0}),
    ("prefix_price", {"request": 2 * 10 * 3 * 64 * 30 * 32 // 8, "requests": sympy.Integer(4)}),
    *(("fair_pair", form) for form in ("c", "C)", "**c**", "[c]", "c:", "`c`", lambda: "c", "c\n")),
    ("fair_pair", numpy.str_("c")),
]
