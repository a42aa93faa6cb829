"""A prefix in 🤗 PEFT's layout: one row for each place, layers and heads side by side."""

from __future__ import annotations

from torch import Tensor

from minipeft.checks.framework import Case, Check, Draw, Trial, mistake

BOTH = "both = torch.stack([keys, values], dim=1)"
ROWS = "rows = both.permute(3, 0, 1, 2, 4)"
RESULT = "return rows.flatten(1)"


def inputs(case: Case, draw: Draw) -> dict:
    """Keys and values, (L, H, P, D) each."""
    shape = (case.L, case.H, case.P, case.D)
    return {"keys": draw.normal(*shape), "values": draw.normal(*shape)}


def run(pack_prefix, case: Case, given) -> Tensor:
    return pack_prefix(given.keys, given.values)


MISTAKES = [
    mistake(
        "the numbers are read off as they lie: bring the axis of the places to the front first",
        (ROWS, "rows = both.reshape(keys.shape[2], -1)"),
    ),
    mistake(
        "the numbers are read off as they lie: bring the axis of the places to the front first",
        (BOTH, "both = torch.stack([keys, values])"),
        (ROWS, "rows = both.reshape(keys.shape[2], -1)"),
    ),
    mistake(
        "values stand before keys: the key comes first",
        (BOTH, "both = torch.stack([values, keys], dim=1)"),
    ),
    mistake(
        "all keys stand before all values: each layer has its key, then its value",
        (ROWS, "rows = both.permute(3, 1, 0, 2, 4)"),
    ),
    mistake(
        "the heads stand before key and value: of each layer first the whole key",
        (ROWS, "rows = both.permute(3, 0, 2, 1, 4)"),
    ),
    mistake(
        "the heads stand before the layers: layer after layer",
        (ROWS, "rows = both.permute(3, 2, 0, 1, 4)"),
    ),
    mistake(
        "layers and places change seats, so that the layers stand last: bring the places to the "
        "front, and leave the others in their order",
        (ROWS, "rows = both.transpose(0, 3)"),
    ),
    mistake(
        "of each place all keys and values of one head stand before the next head: layer after "
        "layer, its key, then its value",
        (ROWS, "rows = both.permute(3, 2, 1, 0, 4)"),
    ),
    mistake(
        "keys and values are each read off as they lie: bring the axis of the places to the front "
        "of each first",
        (ROWS, "P = keys.shape[2]"),
        (RESULT, "return torch.cat([keys.reshape(P, -1), values.reshape(P, -1)], dim=1)"),
    ),
    mistake(
        "places and numbers of a head are mixed up before the axes are ordered: a reshape moves no "
        "axis",
        (
            BOTH,
            "both = torch.stack([x.transpose(2, 3).reshape(x.shape) for x in (keys, values)], 1)",
        ),
    ),
    mistake(
        "key and value take turns number by number: the whole key first",
        (ROWS, "rows = both.permute(3, 0, 2, 4, 1)"),
    ),
    mistake(
        "the D numbers of a head lie apart: they stay side by side, head after head",
        (ROWS, "rows = both.permute(3, 0, 1, 4, 2)"),
    ),
    mistake(
        "the table is turned: a row for each place, (P, 2 L H D)",
        (RESULT, "return rows.flatten(1).T"),
    ),
    mistake(
        "the axes are still there: lay everything behind the places side by side",
        (RESULT, "return rows"),
    ),
    mistake(
        "all is one long row: keep the axis of the places",
        (RESULT, "return rows.flatten()"),
    ),
    mistake(
        "the values are missing: each place has a key and a value",
        (ROWS, "rows = keys.permute(2, 0, 1, 3)"),
    ),
    mistake(
        "the keys are missing: each place has a key and a value",
        (ROWS, "rows = values.permute(2, 0, 1, 3)"),
    ),
    mistake(
        "the keys stand where the values should",
        (BOTH, "both = torch.stack([keys, keys], dim=1)"),
    ),
    mistake(
        "a row for each layer: the rows are the places",
        (ROWS, "rows = both.permute(0, 3, 1, 2, 4)"),
    ),
    mistake(
        "a row for each head: the rows are the places",
        (ROWS, "rows = both.permute(2, 0, 1, 3, 4)"),
    ),
    mistake(
        "the layers come in reverse order: the lowest first",
        (BOTH, "both = torch.stack([keys, values], dim=1).flip(0)"),
    ),
    mistake(
        "the places come in reverse order",
        (ROWS, "rows = both.permute(3, 0, 1, 2, 4).flip(0)"),
    ),
    mistake(
        "the table is cut off from the graph: gradients must reach keys and values",
        (RESULT, "return rows.flatten(1).detach()"),
    ),
    mistake(
        "the keys are cut off from the graph",
        (BOTH, "both = torch.stack([keys.detach(), values], dim=1)"),
    ),
    mistake(
        "the values are cut off from the graph",
        (BOTH, "both = torch.stack([keys, values.detach()], dim=1)"),
    ),
]

pack_prefix = Check(
    "pack_prefix",
    "minipeft.course.checkpoints:pack_prefix",
    "a row for each place: layer after layer, its key, then its value, head after head",
    [
        Trial(
            "the table",
            inputs,
            run,
            axes={"L": (3, 1, 2), "H": (2, 1, 3), "P": (7, 1, 3), "D": (5, 1, 2)},
        )
    ],
    MISTAKES,
)
