"""Weights to four bits, block by block: Dettmers et al. 2023, section 2."""

from __future__ import annotations

import torch
from torch import Tensor

from minipeft.checks.framework import Case, Check, Draw, Trial, expect, mistake
from minipeft.methods.parts.quantization import levels

PADDED = "padded = F.pad(values, (0, -len(values) % block)).view(-1, block)"
ABSMAX = "absmax = padded.abs().amax(dim=1)"
SCALED = "scaled = padded / absmax.where(absmax > 0, 1).unsqueeze(1)"
CODES = "codes = torch.bucketize(scaled, middles.to(values.device), out_int32=True)"
RESULT = "return codes.flatten()[: len(values)].to(torch.uint8), absmax"


SIZES = {"usual": 1.0, "tiny": 1e-5, "near the middle": 1.0, "tiny, near the middle": 1e-5}
NEAR = 2e-5  # from the middle between two levels, as a part of the scale


def inputs(case: Case, draw: Draw) -> dict:
    """Weights, of which some blocks are zero, and the levels of a kind (or three uneven ones)."""
    values = draw.normal(case.n, scale=SIZES[case.weights])
    if "near" in case.weights:  # only what is divided by the scale itself gets the right level
        q = table_of(case).double()
        middles = (q[1:] + q[:-1]) / 2
        picked = middles[draw.integers(0, len(middles), case.n)]
        picked = picked + NEAR * (2 * draw.integers(0, 2, case.n) - 1)
        picked[:: case.block] = 1.0  # the scale of each block
        values = draw.tensor(picked * SIZES[case.weights])
    if case.zeros == "the first block":
        values = values * (torch.arange(case.n) >= case.block)
    elif case.zeros == "all":
        values = values * 0
    return {"values": values, "table": table_of(case).to(values.dtype), "block": case.block}


def table_of(case: Case) -> Tensor:
    return torch.tensor([-1.0, 0.25, 1.0]) if case.table == "uneven" else levels(case.table)


def run(quantize_blocks, case: Case, given) -> tuple[Tensor, Tensor]:
    answer = quantize_blocks(given.values, given.table, given.block)
    empty = case.zeros == "all" and isinstance(answer, tuple | list) and len(answer) == 2
    expect(
        not empty or not isinstance(answer[1], Tensor) or not 0 < answer[1].abs().sum() < 0.5,
        "the scale of a block of zeros is a small number: it is 0 itself, only the division needs "
        "another number",
    )
    return answer


def codes(sentence: str, wrong: str):
    """A mistake in how the level is chosen."""
    return mistake(sentence, (CODES, wrong))


def scale(sentence: str, wrong: str):
    """A mistake in the scale of a block."""
    return mistake(sentence, (ABSMAX, f"absmax = {wrong}"))


def at_zeros(view) -> bool:
    """Is the level of a weight wrong only where a block is zero?"""
    return view.case.zeros != "none" and view.difference.where == "[0]"


quantize_blocks = Check(
    "quantize_blocks",
    "minipeft.methods.parts.quantization:quantize_blocks",
    "the nearest level of every weight, one scale a block; short and empty blocks too",
    [
        Trial(
            "what quantize_blocks gives",
            inputs,
            run,
            axes={
                "table": ("nf4", "int4", "fp4", "uneven"),
                "n": (12, 10, 3, 1),
                "block": (4, 1, 5, 16),
                "zeros": ("none", "the first block", "all"),
                "weights": tuple(SIZES),
            },
            dtypes=("float32", "float64"),
            layouts=("plain",),
            gradients=("frozen", "off"),
            names={"[0]": "the list of level numbers", "[1]": "the list of scales"},
        )
    ],
    [
        mistake(
            "only blocks of zeros are wrong: divide by 1 there, so that their weights stay 0 and "
            "get the level nearest to it",
            when=at_zeros,
        ),
        scale(
            "a scale has a sign: take the largest absolute value of a block, abs() first",
            "padded.amax(dim=1)",
        ),
        mistake(
            "a scale has a sign, that of the largest weight: take its absolute value",
            (
                ABSMAX,
                "absmax = padded.gather(1, padded.abs().argmax(dim=1, keepdim=True)).squeeze(1)",
            ),
            (SCALED, SCALED.replace("> 0", "!= 0")),
        ),
        mistake(
            "the scale is held at 1 or above: divide by the scale itself, and by 1 only where it "
            "is 0",
            (SCALED, "scaled = padded / absmax.clamp(min=1).unsqueeze(1)"),
        ),
        mistake(
            "tiny weights are wrong: something is added to their scale, or it is held above a "
            "number; divide by the scale itself, and by 1 where it is 0",
            (SCALED, "scaled = padded / (absmax + 1e-5).unsqueeze(1)"),
        ),
        *(
            mistake(
                "tiny weights are wrong: something is added to their scale, or it is held above a "
                "number; divide by the scale itself, and by 1 where it is 0",
                (SCALED, f"scaled = padded / {held}.unsqueeze(1)"),
            )
            for held in (
                *("(absmax + 1e-8)", "(absmax + 1e-6)", "absmax.clamp(min=1e-3)"),
                *("absmax.clamp(min=1e-4)", "(absmax + 1e-9)", "(absmax + 1e-7)"),
            )
        ),
        mistake(
            "all weights are divided by the largest of all, and yet each block has its scale: "
            "divide each block by its own",
            (SCALED, "scaled = padded / absmax.max().where(absmax.max() > 0, 1)"),
        ),
        mistake(
            "the weights lose their sign: look for the level nearest to w / c, not |w| / c",
            (SCALED, SCALED.replace("padded /", "padded.abs() /")),
        ),
        mistake(
            "the levels are taken for 16: a table may have fewer, len(table)",
            when=lambda view: view.error is not None and "16" in str(view.error),
        ),
        scale(
            "all blocks have one scale: each block has its own largest value",
            "padded.abs().max().expand(len(padded))",
        ),
        scale("the scale is the mean size: the largest is asked for", "padded.abs().mean(dim=1)"),
        scale("the scale is a square: no power is asked for", "padded.square().amax(dim=1)"),
        mistake(
            "the blocks have 64 weights: `block` says how many they have",
            (PADDED, f"block = 64\n    {PADDED}"),
        ),
        scale(
            "the scale is the standard deviation: the largest is asked for",
            "padded.std(dim=1, correction=0)",
        ),  # fmt: skip
        scale(
            "the scale is the standard deviation: the largest is asked for",
            "padded.std(dim=1)",
        ),  # fmt: skip
        scale(
            "the scale is the length of the block: the largest value is asked for",
            "padded.norm(dim=1)",
        ),  # fmt: skip
        scale(
            "the scale is the distance from the lowest to the highest: the largest absolute value "
            "is asked for",
            "padded.amax(dim=1) - padded.amin(dim=1)",
        ),
        mistake(
            "the scales have two axes: one number a block, (blocks,)",
            (RESULT, RESULT.replace("absmax", "absmax.unsqueeze(1)")),
        ),
        mistake(
            "the scale of a block of zeros is 0: only the division needs another number",
            (SCALED, f"absmax = absmax.where(absmax > 0, 1)\n    {SCALED}"),
        ),
        mistake(
            "the weights are not divided by their scale",
            (SCALED, "scaled = padded"),
        ),
        mistake(
            "the weights are multiplied by their scale: divide",
            (SCALED, "scaled = padded * absmax.unsqueeze(1)"),
        ),
        mistake(
            "the blocks run across: a block is so many weights that stand side by side",
            (PADDED, PADDED.replace("view(-1, block)", "view(block, -1).T")),
        ),
        mistake(
            "the blocks run across: a block is so many weights that stand side by side",
            (PADDED, PADDED.replace("view(-1, block)", "view(block, -1)")),
            (ABSMAX, "absmax = padded.abs().amax(dim=0)"),
            (SCALED, SCALED.replace(".unsqueeze(1)", "")),
        ),
        codes(
            "that is the level below: the nearest one is asked for",
            "codes = (torch.bucketize(scaled, table, right=True, out_int32=True) - 1).clamp(min=0)",
        ),
        codes(
            "that is the level above: the nearest one is asked for",
            "codes = torch.bucketize(scaled, table, out_int32=True).clamp(max=len(table) - 1)",
        ),
        codes(
            "the levels are taken for even steps: look for the nearest one in the table",
            "codes = ((scaled + 1) / 2 * (len(table) - 1)).round().int()",
        ),
        codes(
            "the levels are taken for even steps: look for the nearest one in the table",
            "codes = (scaled * 7 + 7).round().clamp(0, len(table) - 1).int()",
        ),
        codes(
            "that is right for the levels of NF4 only: look for the nearest one in `table`",
            "q = levels('nf4').to(table.dtype)\n"
            "    codes = torch.bucketize(scaled, (q[1:] + q[:-1]) / 2)",
        ),
        codes(
            "the numbers run backwards: 0 is the lowest level",
            "codes = len(table) - 1 - torch.bucketize(scaled, middles, out_int32=True)",
        ),
        codes(
            "the numbers are counted from the middle: 0 is the lowest level",
            "codes = torch.bucketize(scaled, middles, out_int32=True) - len(table) // 2",
        ),
        codes(
            "the numbers begin with 1: 0 is the lowest level",
            "codes = torch.bucketize(scaled, middles, out_int32=True) + 1",
        ),
        codes(
            "that is the farthest level: argmin, not argmax",
            "codes = (scaled.unsqueeze(-1) - table).abs().argmax(dim=-1)",
        ),
        codes(
            "the difference has a sign: its absolute value is the distance",
            "codes = (scaled.unsqueeze(-1) - table).argmin(dim=-1)",
        ),
        codes(
            "those are the levels themselves: their numbers are asked for",
            "codes = table[torch.bucketize(scaled, middles)]",
        ),
        mistake(
            "those are the levels themselves: their numbers are asked for",
            (CODES, "codes = table[torch.bucketize(scaled, middles)]"),
            (RESULT, RESULT.replace(".to(torch.uint8)", "")),
        ),
        mistake(
            "those are the weights again, level times scale: the levels' numbers are asked for",
            (CODES, "codes = table[torch.bucketize(scaled, middles)] * absmax.unsqueeze(1)"),
            (RESULT, RESULT.replace(".to(torch.uint8)", "")),
        ),
        codes(
            "those are the weights again, level times scale: the levels' numbers are asked for",
            "codes = table[torch.bucketize(scaled, middles)] * absmax.unsqueeze(1)",
        ),
        mistake(
            "what the last block was filled up with is still there: as many numbers as weights",
            (RESULT, "return codes.flatten().to(torch.uint8), absmax"),
        ),
        mistake(
            "the numbers stand in a table of blocks: one list, (n,)",
            (RESULT, "return codes.to(torch.uint8), absmax"),
        ),
        mistake(
            "the numbers of the levels need 8 bits at most: .to(torch.uint8)",
            (RESULT, RESULT.replace(".to(torch.uint8)", "")),
        ),
        mistake(
            "the numbers of the levels are uint8, not int64",
            (RESULT, RESULT.replace("uint8", "int64")),
        ),
        mistake(
            "the two results are exchanged: first the numbers, then the scales",
            (RESULT, "return absmax, codes.flatten()[: len(values)].to(torch.uint8)"),
        ),
        mistake(
            "the last block is filled up with ones, which may be its largest: fill it with zeros",
            (PADDED, PADDED.replace("% block)", "% block), value=1.0")),
        ),
        mistake(
            "weights near the middle between two levels get the wrong one: something is rounded on "
            "the way (to float16?), or a small number is added",
            when=lambda view: "near" in view.case.weights and view.difference.kind == "value",
        ),
        mistake(
            "weights that do not fill a block fail: fill the last block with zeros, as F.pad does",
            when=lambda view: view.error is not None and view.case.n % view.case.block != 0,
        ),
    ],
)
