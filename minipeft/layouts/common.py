"""What the layouts of several of PEFT's methods share: names, patterns, heads, task types."""

from __future__ import annotations

import math
import re

from torch import Tensor

from minipeft.anatomy import Anatomy

PREFIX = "base_model.model."


def short_names(anatomy: Anatomy, paths: list[str]) -> list[str]:
    """The last parts of the names when they mean these modules and no others, else the names."""
    ends = sorted({path.split(".")[-1] for path in paths})
    meant = {path for path in anatomy.modules if path.split(".")[-1] in ends}
    return ends if meant == set(paths) else list(paths)


def target_names(anatomy: Anatomy, paths: list[str]) -> tuple[str, ...]:
    """Short names if they find these modules here too, where "key" is a word of the field."""
    short = short_names(anatomy, paths)
    try:
        found = anatomy.find(short)
    except (TypeError, ValueError):
        found = []
    whole = {place.path for place in found if place.columns is None}
    return tuple(short if whole == set(paths) else paths)


def by_pattern(patterns: dict | None, path: str, default):
    """PEFT's rule: the first pattern that matches the end of the name, as a regular expression."""
    if patterns and not isinstance(patterns, dict):
        raise ValueError(f"adapter_config.json has patterns {patterns!r} that are no dict.")
    for pattern, value in (patterns or {}).items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", path):
                return value
        except re.error:
            raise ValueError(f"adapter_config.json has a broken pattern {pattern!r}.") from None
    return default


def value_of(table, place, default):
    keys = [k for k in table if k == place.target or f".{place.path}".endswith(f".{k}")]
    return table[max(keys, key=len)] if keys else default


def pick(named: dict[str, Tensor], end: str) -> dict[str, Tensor]:
    return {key.removesuffix(end): value for key, value in named.items() if key.endswith(end)}


def heads_to_save(tuner) -> list[str]:
    """PEFT's modules_to_save: task heads by their name, other copied layers one by one."""
    names = set()
    for path in tuner.copies:
        above = [h for h in tuner.anatomy.heads() if f"{path}.".startswith(f"{h}.")]
        names.add(above[0] if above else path)
    return sorted(names)


def task_type(tuner) -> str | None:
    """PEFT's task_type, from the class of a transformers model."""
    name = type(tuner.model).__name__
    heads = {
        "ForSequenceClassification": "SEQ_CLS",
        "ForTokenClassification": "TOKEN_CLS",
        "ForQuestionAnswering": "QUESTION_ANS",
    }
    if tuner.copies:
        return next((task for end, task in heads.items() if name.endswith(end)), None)
    if name.endswith(("ForCausalLM", "LMHeadModel")):
        return "CAUSAL_LM"
    return "SEQ_2_SEQ_LM" if name.endswith("ForConditionalGeneration") else None


def whole(number: float) -> float | int:
    """An alpha as people write it: 16, not 16.0."""
    near = round(number)
    return near if math.isclose(number, near, rel_tol=1e-12) else number
