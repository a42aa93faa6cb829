"""The memory door: pairs of key and value that belong to no token, before those of the tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from minipeft.checks.framework import OMIT, Case, Check, Draw, Trial, call, mistake


def inputs(case: Case, draw: Draw) -> dict:
    """memory (B or 1, H, P, D), key and value (B, H, S, D), a mask as the case says."""
    B, H, S, D = case.B, case.H, case.S, case.D
    rows = 1 if case.memory == "for all rows" else B
    memory = tuple(draw.normal(rows, H, case.P, D) for _ in range(2))
    key, value = draw.normal(B, H, S, D), draw.normal(B, H, S, D)
    mask = case.mask
    if mask not in (OMIT, None):
        shape = {"padding": (B, 1, 1, S), "per query": (B, 1, 3, S), "for all rows": (1, 1, 1, S)}
        closed = torch.rand(shape[mask], generator=draw.generator) < 0.5
        closed[..., 0], closed[..., -1] = True, False
        values = torch.zeros(closed.shape, dtype=draw.dtype)
        mask = draw.whole(values.masked_fill(closed, torch.finfo(draw.dtype).min))
    return {"memory": memory, "key": key, "value": value, "mask": mask}


def run(put_in_front, case: Case, given):
    """Its answer; a mask for all rows may also be given back once for each row."""
    answer = call(put_in_front, given.memory, given.key, given.value, mask=given.mask)
    mask = answer[2] if isinstance(answer, list | tuple) and len(answer) == 3 else None
    if isinstance(mask, Tensor) and mask.dim() == 4 and len(mask) == 1:
        return *answer[:2], mask.expand(case.B, -1, -1, -1)
    return answer


MEMORY = "more_keys, more_values = memory"
KEYS = "key = torch.cat([more_keys.expand(B, -1, -1, -1), key], dim=2)"
VALUES = "value = torch.cat([more_values.expand(B, -1, -1, -1), value], dim=2)"
PAD = "mask = F.pad(mask, (P, 0))"
LOW = "torch.finfo(mask.dtype).min"
FLAT = "torch.cat([{memory}.expand(B, -1, -1, -1).flatten(1), {tokens}.flatten(1)], dim=1)"
CUT = ".reshape(B, key.shape[1], -1, key.shape[3])"

MISTAKES = [
    mistake(
        "the memory stands behind the tokens: put it in front, in the past of every query",
        (KEYS, "key = torch.cat([key, more_keys.expand(B, -1, -1, -1)], dim=2)"),
        (VALUES, "value = torch.cat([value, more_values.expand(B, -1, -1, -1)], dim=2)"),
    ),
    mistake(
        "the memory stands behind the tokens: put it in front, in the past of every query",
        (KEYS, "key = torch.cat([key, more_keys.expand(B, -1, -1, -1)], dim=2)"),
        (VALUES, "value = torch.cat([value, more_values.expand(B, -1, -1, -1)], dim=2)"),
        (PAD, "mask = F.pad(mask, (0, P))"),
    ),
    mistake(
        "a memory that has B rows already is repeated: expand (or repeat) only where it has one",
        (KEYS, "key = torch.cat([more_keys.repeat(B, 1, 1, 1), key], dim=2)"),
        (VALUES, "value = torch.cat([more_values.repeat(B, 1, 1, 1), value], dim=2)"),
    ),
    mistake(
        "the mask is lengthened along the queries: there are P more keys, on its last axis",
        (PAD, "mask = F.pad(mask, (0, 0, P, 0))"),
    ),
    mistake(
        "the mask is lengthened at its end: the memory stands in front",
        (PAD, "mask = F.pad(mask, (0, P))"),
    ),
    mistake(
        "the mask closes the memory: 0 lets every query look at it",
        (PAD, f"mask = F.pad(mask, (P, 0), value={LOW})"),
    ),
    mistake(
        "the mask opens the memory with 1: it is added to the scores, so 0 means may look",
        (PAD, "mask = F.pad(mask, (P, 0), value=1.0)"),
    ),
    mistake(
        "the mask keeps its length: it needs P places more, for the memory", (PAD, "mask = mask")
    ),
    mistake(
        "the mask is thrown away: what it hides among the tokens stays hidden", (PAD, "mask = None")
    ),
    mistake(
        "the values of the memory are missing: each of its keys has a value", (VALUES, "pass")
    ),
    mistake("the keys of the memory are missing: each of its values has a key", (KEYS, "pass")),
    mistake(
        "the memory is ignored: put its keys and values before those of the tokens",
        (KEYS, "pass"),
        (VALUES, "pass"),
        (PAD, "pass"),
    ),
    mistake(
        "the tokens are gone: the memory stands before them, not in their place",
        (KEYS, "key = more_keys.expand(B, -1, -1, -1)"),
        (VALUES, "value = more_values.expand(B, -1, -1, -1)"),
    ),
    mistake(
        "keys and values of the memory have changed places: the keys come first",
        (MEMORY, "more_values, more_keys = memory"),
    ),
    mistake(
        "the values get the memory's keys: its second entry holds the values",
        (VALUES, "value = torch.cat([more_keys.expand(B, -1, -1, -1), value], dim=2)"),
    ),
    mistake(
        "every row gets the memory of the first: with B rows of memory, row b has its own",
        (MEMORY, "more_keys, more_values = (m[:1] for m in memory)"),
    ),
    mistake(
        "the memory is cut off from the graph: nothing could train it",
        (MEMORY, "more_keys, more_values = (m.detach() for m in memory)"),
    ),
    mistake(
        "the tokens are cut off from the graph: gradients must reach them too",
        (KEYS, KEYS.replace(", key]", ", key.detach()]")),
        (VALUES, VALUES.replace(", value]", ", value.detach()]")),
    ),
    mistake(
        "the keys have changed places with the values: return keys, values, mask",
        ("return key, value, mask", "return value, key, mask"),
    ),
    mistake(
        "numbers are joined and cut anew, which mixes the heads: join along dim 2, the tokens",
        (KEYS, f"key = {FLAT.format(memory='more_keys', tokens='key')}{CUT}"),
        (VALUES, f"value = {FLAT.format(memory='more_values', tokens='value')}{CUT}"),
    ),
    *(
        mistake(
            f"memory and tokens are joined along {axis}: join along dim 2, the tokens",
            (KEYS, KEYS.replace("dim=2", f"dim={dim}")),
            (VALUES, VALUES.replace("dim=2", f"dim={dim}")),
            (PAD, "pass"),
        )
        for dim, axis in ((1, "the heads (dim 1)"), (0, "the batch (dim 0)"))
    ),
    mistake(
        "without a mask one is made: None hides nothing, and stays None",
        ("if mask is not None:", "mask = key.new_zeros(1, 1, 1, key.shape[2] - P) if mask is None "
         "else mask\n    if mask is not None:"),
    ),
    mistake(
        "a memory of one row is for all rows of the batch: expand it to B rows",
        when=lambda view: (
            type(view.error) is RuntimeError
            and "Sizes of tensors must match" in str(view.error)
            and view.case.memory == "for all rows"
            and view.case.B > 1
        ),
    ),
]  # fmt: skip

put_in_front = Check(
    "put_in_front",
    "tiny_transformer.attention:put_in_front",
    "the memory before the tokens, one row or many, open to every query; None stays None",
    [
        Trial(
            "what is given back",
            inputs,
            run,
            axes={
                "memory": ("for all rows", "per row"),
                "mask": (OMIT, None, "padding", "per query", "for all rows"),
                "B": (2, 1, 3),
                "H": (2, 1),
                "P": (3, 1, 2),
                "S": (4, 2, 3),
                "D": (3, 1),
            },
            names={"[0]": "key", "[1]": "value", "[2]": "the mask"},
        )
    ],
    MISTAKES,
)
