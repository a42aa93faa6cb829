"""The exercises of lesson 13: right and wrong answers, and what each wrong one is told."""

from __future__ import annotations

import diagnoses
import numpy
import pytest
import torch
from torch.nn import functional as F

import minipeft as mp
import tiny_transformer as tt
from minipeft import checks
from minipeft.checks.exercises.memory_numbers import HINTS, RIGHT, C, H, R
from minipeft.course import memory
from minipeft.methods.parts import quantization


def refused(check, candidate, words):
    with pytest.raises(checks.CheckFailed) as caught:
        check(candidate)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# -- quantize_blocks -------------------------------------------------------------------------------


def nearest(block, scale, table):
    return (block[:, None] / (scale if scale > 0 else 1) - table).abs().argmin(dim=1)


def by_loop(values, table, block):
    numbers, scales = [], []
    for first in range(0, len(values), block):
        some = values[first : first + block]
        scales.append(some.abs().max())
        numbers.append(nearest(some, scales[-1], table))
    return torch.cat(numbers).to(torch.uint8), torch.stack(scales)


def by_split(values, table, block):
    parts = values.split(block)
    scales = torch.stack([part.norm(p=float("inf")) for part in parts])
    numbers = [nearest(part, scale, table) for part, scale in zip(parts, scales, strict=True)]
    return torch.cat(numbers).byte(), scales


def by_distance(values, table, block):
    """Without division: the distance in the size of the weights."""
    padded = F.pad(values, (0, -len(values) % block)).view(-1, block)
    scales = torch.maximum(padded.amax(dim=1), -padded.amin(dim=1))
    levels = scales[:, None, None] * table  # (blocks, 1, levels)
    distance = (padded[:, :, None] - levels).abs()
    distance[scales == 0] = table.abs()
    return distance.argmin(dim=2).flatten()[: len(values)].to(torch.uint8), scales


def by_numpy(values, table, block):
    array, q = values.numpy(), table.numpy()
    edges = range(0, len(array), block)
    scales = numpy.array([numpy.abs(array[i : i + block]).max() for i in edges], array.dtype)
    size = numpy.repeat(numpy.where(scales > 0, scales, 1), block)[: len(array)]
    numbers = numpy.abs(array[:, None] / size[:, None] - q).argmin(axis=1)
    return torch.from_numpy(numbers.astype("uint8")), torch.from_numpy(scales)


def by_square(values, table, block):
    """0 / 0 made 0, and the square of the distance."""
    padded = F.pad(values, (0, -len(values) % block)).view(-1, block)
    scales = padded.abs().amax(dim=1)
    scaled = (padded / scales[:, None]).nan_to_num()
    numbers = (scaled[..., None] - table).square().argmin(dim=-1)
    return numbers.flatten()[: len(values)].to(torch.uint8), scales


METHODS = {"full": mp.FullFineTuning(), "LoRA": mp.LoRA(rank=R), "frozen": mp.PromptTuning(1)}
RIGHT_WAYS = [quantization.quantize_blocks, by_loop, by_split, by_distance, by_numpy, by_square]


@pytest.mark.parametrize("right", RIGHT_WAYS)
def test_every_way_to_four_bits_passes(right, capsys):
    checks.quantize_blocks(right)
    assert "✓" in capsys.readouterr().out


def made(scale=lambda x: x.abs().amax(dim=1), number=None, guard=True, across=False):
    """The reference with one part exchanged; x (blocks, block)."""

    def default(scaled, table):
        return (scaled[..., None] - table).abs().argmin(dim=-1)

    def quantize_blocks(values, table, block):
        padded = F.pad(values, (0, -len(values) % block))
        padded = padded.view(block, -1).T if across else padded.view(-1, block)
        scales = scale(padded)
        divisor = scales.where(scales > 0, 1) if guard else scales
        numbers = (number or default)(padded / divisor[:, None], table)
        return numbers.flatten()[: len(values)].to(torch.uint8), scales

    return quantize_blocks


def changed(after):
    """The reference's result, changed."""
    return lambda values, table, block: after(*by_loop(values, table, block))


def in_place(values, table, block):
    numbers, scales = by_loop(values, table, block)
    values /= values.abs().max().clamp(min=1e-9)
    return numbers, scales


def whole_blocks_only(values, table, block):
    return by_loop(values[: len(values) // block * block], table, block)


def without_padding(values, table, block):
    padded = values.view(-1, block)
    return by_loop(padded.flatten(), table, block)


def filled(values, table, block):
    padded = F.pad(values, (0, -len(values) % block))
    return by_loop(padded, table, block)


def zero_is_seven(values, table, block):
    """Right for NF4 only."""
    numbers, scales = by_loop(values, table, block)
    return numbers.where(values != 0, 7), scales


def fixed_table(values, table, block):
    return by_loop(values, quantization.levels("nf4").to(values.dtype), block)


def of_largest(values, table, block):
    """The scale is the largest weight with its sign."""
    padded = F.pad(values, (0, -len(values) % block)).view(-1, block)
    scales = padded.gather(1, padded.abs().argmax(dim=1, keepdim=True)).squeeze(1)
    scaled = padded / scales.where(scales != 0, 1)[:, None]
    numbers = (scaled[..., None] - table).abs().argmin(dim=-1).flatten()[: len(values)]
    return numbers.to(torch.uint8), scales


def held(divisor):
    """Blocks divided by divisor(scale)."""

    def quantize_blocks(values, table, block):
        padded = F.pad(values, (0, -len(values) % block)).view(-1, block)
        scales = padded.abs().amax(dim=1)
        scaled = padded / divisor(scales)[:, None]
        numbers = (scaled[..., None] - table).abs().argmin(dim=-1).flatten()[: len(values)]
        return numbers.to(torch.uint8), scales

    return quantize_blocks


def with_the_first_again(values, table, block):
    """The last block is filled up with the first weight, which may be the largest in it."""
    filled = torch.cat([values, values[:1].expand(-len(values) % block)])
    numbers, scales = by_loop(filled, table, block)
    return numbers[: len(values)], scales


def sixteen_levels(s, q):
    return (s[..., None].expand(*s.shape, 16) - q.view(1, 1, 16)).abs().argmin(dim=-1)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (of_largest, "that of the largest weight"),
        (held(lambda c: c + 1e-5), "tiny weights are wrong"),
        (held(lambda c: c.clamp(min=1)), "held at 1 or above"),
        (with_the_first_again, "the list of"),
        (made(number=sixteen_levels), "a table may have fewer"),
        (made(number=lambda s, q: (s.abs()[..., None] - q).abs().argmin(-1)), "lose their sign"),
        (changed(lambda k, c: (k, c.half().to(c.dtype))), "rounded to float16"),
        (made(lambda x: x.amax(dim=1)), "a scale has a sign"),
        (made(lambda x: x.abs().max().expand(len(x))), "all blocks have one scale"),
        (made(lambda x: x.abs().mean(dim=1)), "the mean size"),
        (made(lambda x: x.norm(dim=1)), "the length of the block"),
        (made(lambda x: x.amax(dim=1) - x.amin(dim=1)), "lowest to the highest"),
        (made(guard=False), "divide by 1 there"),
        (made(across=True), "the blocks run across"),
        (made(number=lambda s, q: (s[..., None] - q).abs().argmax(dim=-1)), "argmin, not argmax"),
        (made(number=lambda s, q: (s[..., None] - q).argmin(dim=-1)), "difference has a sign"),
        (
            made(number=lambda s, q: ((s + 1) / 2 * (len(q) - 1)).round().long()),
            "taken for even steps",
        ),
        (
            made(number=lambda s, q: (torch.searchsorted(q, s, right=True) - 1).clamp(min=0)),
            "the level below",
        ),
        (changed(lambda k, c: (k.long(), c)), "uint8"),
        (changed(lambda k, c: (c, k)), "exchanged"),
        (changed(lambda k, c: (k, c[:, None])), "two axes"),
        (changed(lambda k, c: (k, c.where(c > 0, 1))), "of a block of zeros is 0"),
        (changed(lambda k, c: k), "tuple"),
        (changed(lambda k, c: None), "is a return missing"),
        (changed(lambda k, c: (k.tolist(), c.tolist())), "tensor"),
        (in_place, "changed"),
        (made(lambda x: x.square().amax(dim=1)), "no power"),
        (lambda values, table, block: by_loop(values, table, 64), "have 64 weights"),
        (changed(lambda k, c: (k.to(torch.int8), c)), "int8"),
        (lambda values, table, block: by_loop(values.float(), table.float(), block), "float32"),
        (whole_blocks_only, "do not fill a block"),
        (without_padding, "do not fill a block"),
        (filled, "as many numbers as weights"),
        (zero_is_seven, "only blocks of zeros"),
        (fixed_table, "levels of NF4 only"),
    ],
)
def test_a_wrong_way_to_four_bits_is_told_its_mistake(wrong, words):
    refused(checks.quantize_blocks, wrong, words)


# -- kept_numbers ----------------------------------------------------------------------------------


def test_the_numbers_are_what_autograd_keeps():
    """Of the models themselves: two blocks minus one, counted by hooks on what is saved."""
    rows, tokens = 2, 6
    for way, right in RIGHT.items():
        counts = []
        for layers in (2, 3):
            numbers = dict(vocab_size=30, width=C, heads=H, layers=layers, positions=32)
            model = tt.Decoder(tt.TransformerConfig.gpt2(**numbers, dropout=0.0))
            batch = memory.random_batch(model.config, rows, tokens)
            with memory.attached(model, METHODS[way], seed=0) as tuner:
                batch = tuner.wrap(batch)  # a soft word in front of the others
                model.train()
                counts.append(memory.kept(model, lambda m=model, b=batch: m(**b).loss))
        tokens_seen = batch["input_ids"].shape[1]
        assert counts[1] - counts[0] == 4 * rows * tokens_seen * right


@pytest.mark.parametrize(
    "answer",
    [
        {"full": 1288, "frozen": 808, "LoRA": 904},
        {"LoRA": 904.0, "frozen": torch.tensor(808), "full": numpy.int64(1288), "note": "done"},
        lambda: {"full": 16 * 80 + 8, "frozen": 10 * 80 + 8, "LoRA": 11 * 80 + 8 + 16},
    ],
)
def test_the_right_numbers_in_any_form(answer):
    checks.kept_numbers(answer)


def but(**changes):
    return RIGHT | changes


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (but(full=808), "that is the frozen block"),
        (but(full=1288 + 160), "read one tensor, kept once"),
        (but(full=1288 + 80), "the output map reads the mix"),
        (but(full=1288 - 320), "what the activation gives"),
        (but(full=4 * 1288), "those are bytes"),
        (but(full=1284), "mean and deviation"),
        (but(frozen=0), "dL/dx must pass"),
        (but(frozen=1288), "a frozen map needs no x"),
        (but(frozen=808 - 320), "the activation needs its input"),
        (but(frozen=888), "for dL/dW alone"),
        (but(full=1124), "the LayerNorms keep something too"),
        (but(LoRA=1064), "what B gives is added"),
        (but(LoRA=976), "x is kept once for both"),
        (but(LoRA=3616), "those are bytes"),
        (but(LoRA=808), "A needs x"),
        (but(LoRA=888), "B, too, is a map that trains"),
        (but(LoRA=896), "two LoRAs"),
        (but(LoRA=984), "read one tensor"),
        (but(LoRA=816), "each of two B"),
        (but(LoRA=824), "it reads x"),
        ({"full": 1288, "frozen": 808}, "has no LoRA"),
        (1288, "should be a dict"),
        (None, "is a return missing"),
    ],
)
def test_wrong_numbers_are_told_where_they_come_from(answer, words):
    refused(checks.kept_numbers, answer, words)


# -- again_patients --------------------------------------------------------------------------------


def test_right_causes_in_any_form():
    for answer in diagnoses.forms(memory.CHECKPOINTED):
        checks.again_patients(answer)


def test_a_wrong_cause_is_told_what_speaks_against_it():
    right = memory.CHECKPOINTED
    diagnoses.assert_complete(right, HINTS, set(right.values()))
    for answer, words in diagnoses.wrong(right, HINTS):
        refused(checks.again_patients, answer, words)


def test_what_is_no_diagnosis():
    refused(checks.again_patients, {}, "")
    refused(checks.again_patients, list(memory.CHECKPOINTED.values()), "")
    with pytest.raises(checks.NotFinished):
        checks.again_patients({who: ... for who in memory.CHECKPOINTED})
