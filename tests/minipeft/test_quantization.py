"""Four-bit weights: published levels, hand-made examples, error bounds, bytes, gradients."""

import gc
import math

import pytest
import torch
from closeness import close
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from torch.nn import functional as F

from minipeft.methods.parts.quantization import (
    KINDS,
    Quantized,
    compare,
    dequantize_blocks,
    dynamic_levels,
    levels,
    quantize_blocks,
)

# Dettmers et al. 2023, appendix E
PAPER = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453]
PAPER += [-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0]
PAPER += [0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224]
PAPER += [0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]

FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def test_nf4_is_the_published_table_to_the_last_bit():
    assert torch.equal(levels("nf4"), torch.tensor(PAPER))


def test_the_other_levels():
    # OCP Microscaling Formats 1.0, section 5.3.3: E2M1 has 0 .5 1 1.5 2 3 4 6 and their negatives
    above = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6]) / 6
    assert torch.equal(levels("fp4")[7:], above) and torch.equal(
        levels("fp4"), -levels("fp4").flip(0)
    )
    assert levels("fp4-e3m0")[8:].log2().tolist() == [-6, -5, -4, -3, -2, -1, 0]
    assert torch.equal(levels("int4") * 7, torch.arange(-7.0, 8.0))
    with pytest.raises(ValueError, match="must be one of nf4, fp4, fp4-e3m0, int4, not 'nf8'"):
        levels("nf8")


def test_nf4_levels_carry_even_shares_of_normal_weights():
    """No level is idle, as information theory wants it; of a uniform grid the outer ones are."""
    torch.manual_seed(0)
    weight = torch.randn(512, 512)
    shares = {}
    for kind in ("nf4", "int4"):
        codes, _ = quantize_blocks(weight.flatten(), levels(kind), 64)
        share = codes.int().bincount(minlength=16)[: len(levels(kind))] / codes.numel()
        shares[kind] = (-(share * share.log2()).sum()).item()  # bits
    assert shares["nf4"] > 3.8 > 3.7 > shares["int4"]


def test_dynamic_levels_by_hand():
    """Seven decades; in each, 2^i values amid even steps from 0.1 to 1, times 10^(i-6)."""
    table = dynamic_levels()
    assert table.shape == (256,) and table.unique().shape == (256,)
    assert table[-1] == 1 and table[0] == -(1 - 0.9 / 128)
    assert {0.0, 1.0} <= set(table.tolist())
    positive = table[table > 0]
    close(positive[:3], torch.tensor([0.55e-6, 0.325e-5, 0.775e-5]), size=1e-5, roundings=4)
    assert torch.equal(-positive[:-1].flip(0), table[table < 0])  # 1.0 alone has no negative


def test_two_blocks_by_hand():
    table = levels("int4")
    values = torch.tensor([7.0, -3.4, 0.6, 0.0, -14.0, 2.9])
    codes, absmax = quantize_blocks(values, table, 4)
    assert absmax.tolist() == [7.0, 14.0] and codes.tolist() == [14, 4, 8, 7, 0, 8]
    back = dequantize_blocks(codes, absmax, table, 4)
    close(back, torch.tensor([7.0, -3.0, 1.0, 0.0, -14.0, 2.0]))


def test_two_codes_share_a_byte_the_first_one_high():
    weight = torch.tensor([[1.0, -1.0, 0.0]])  # levels 15, 0, 7
    assert Quantized(weight, double=False).packed.tolist() == [0xF0, 0x70]


@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 40),
    block=st.sampled_from([1, 2, 3, 16, 64]),
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(FLOATS),
    scale=st.floats(1e-4, 1e3),
    seed=st.integers(0, 99),
)
def test_every_weight_goes_to_its_nearest_level(rows, columns, block, kind, dtype, scale, seed):
    torch.manual_seed(seed)
    weight = (torch.randn(rows, columns) * scale).to(dtype)
    quantized = Quantized(weight, kind, block, double=False)
    back = quantized.weight()
    assert back.shape == weight.shape and back.dtype == dtype
    for part, kept in zip(
        weight.double().flatten().split(block),
        quantized.weight(torch.float64).flatten().split(block),
        strict=True,
    ):
        choices = levels(kind).double() * part.abs().max()
        nearest = (choices - part.unsqueeze(1)).abs().amin(1)
        assert ((kept - part).abs() <= nearest + 1e-6 * part.abs().max()).all()
    assert quantized.packed.numel() == math.ceil(rows * columns / 2)
    assert quantized.absmax.numel() == math.ceil(rows * columns / block)


@given(
    rows=st.integers(1, 30),
    columns=st.integers(1, 70),
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(FLOATS),
    seed=st.integers(0, 99),
)
def test_double_quantization_moves_a_scale_by_less_than_one_percent_of_their_range(
    rows, columns, kind, dtype, seed
):
    torch.manual_seed(seed)
    weight = torch.randn(rows, columns).to(dtype)
    exact = Quantized(weight, kind, double=False).absmax
    double = Quantized(weight, kind)
    assert double.absmax.dtype == torch.uint8
    # half the widest step of the dynamic levels, 0.9/64 of the farthest scale from the mean
    bound = 0.5 * 0.9 / 64 * (exact - exact.mean()).abs().max() + 1e-6 * exact.max()
    assert (double.scale_of_blocks() - exact).abs().max() <= bound
    changed = (
        double.weight(torch.float32) - Quantized(weight, kind, 64, False).weight(torch.float32)
    ).abs()
    assert changed.max() <= bound * 1.001


def test_what_is_exact():
    """Zeros, a block that is constant up to the sign, and what was quantized once already."""
    zero = Quantized(torch.zeros(3, 50))
    assert torch.equal(zero.weight(), torch.zeros(3, 50))
    signs = torch.tensor([1.0, -1.0, 0.0]).repeat(64).view(3, 64) * 0.3
    assert torch.equal(Quantized(signs, double=False).weight(), signs)
    close(Quantized(signs).weight(), signs)  # one scale, its own mean
    weight = torch.randn(8, 64)
    once = Quantized(weight, double=False).weight()
    assert torch.equal(Quantized(once, double=False).weight(), once)
    mixed = torch.cat((torch.zeros(1, 64), torch.full((1, 64), 5.0)))
    assert torch.equal(Quantized(mixed).weight()[0], torch.zeros(64))


def test_an_outlier_hurts_its_own_block_only():
    torch.manual_seed(0)
    weight = torch.randn(4, 64) * 0.02
    spoilt = weight.clone()
    spoilt[1, 5] = 10.0
    before, after = (
        Quantized(weight, double=False).weight(),
        Quantized(spoilt, double=False).weight(),
    )
    assert torch.equal(before[[0, 2, 3]], after[[0, 2, 3]])
    assert after[1, 5] == 10 and after[1].count_nonzero() == 1  # the rest of its block is lost


def test_eight_bits_never_turn_a_weight_around():
    """A small scale far from the mean of the scales may be rounded to less than nothing: 0 then."""
    weight = torch.randn(16, 64) * 1e-5
    weight[7, 3] = 1.0
    double = Quantized(weight)
    rest = dequantize_blocks(double.absmax, double.scales, dynamic_levels(), 256)
    assert (rest + double.mean).min() < 0, "the case is one"
    assert (double.scale_of_blocks() >= 0).all() and (double.weight() * weight >= 0).all()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("magnitude", [1e-6, 1.0, 6e4])
def test_extreme_magnitudes_stay_finite(dtype, magnitude):
    torch.manual_seed(0)
    weight = (torch.rand(5, 33) * 2 - 1).to(dtype) * magnitude
    back = Quantized(weight).weight()
    assert torch.isfinite(back).all() and back.dtype == dtype
    assert (back.float() - weight.float()).abs().max() <= 0.17 * magnitude


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_error_on_normal_weights_nf4_below_fp4_below_int4(seed):
    torch.manual_seed(seed)
    table = compare(torch.randn(256, 256) * 0.02)
    error = {kind: mse for kind, mse, *_ in table.rows}
    assert error["nf4"] < 0.8 * error["fp4"] and error["fp4"] < 0.98 * error["int4"]
    assert error["fp4-e3m0"] > 2 * error["int4"]  # good at tiny weights, coarse at all others
    assert "bits per weight" in str(table)


def test_nf4s_error_is_what_integration_gives():
    """E over blocks of 64 normal weights, by drawing them; 0.85 % of the weights' power."""
    torch.manual_seed(3)
    blocks = torch.randn(4000, 64, dtype=torch.float64)
    absmax = blocks.abs().amax(1, keepdim=True)
    distance = (blocks.unsqueeze(-1) / absmax.unsqueeze(-1) - levels("nf4").double()).abs()
    expected = ((distance.amin(-1) * absmax) ** 2).mean().item()
    torch.manual_seed(4)
    weight = torch.randn(500, 512)
    error = (Quantized(weight, double=False).weight() - weight).square().mean().item()
    assert error == pytest.approx(expected, rel=0.02) == pytest.approx(0.0085, rel=0.03)


def test_bits_per_weight_in_bytes_on_disk():
    """4 + 8/64 + 32/(64 256) = 4.127; 4.5 without double quantization (section 3)."""
    weight = torch.randn(512, 512)
    for double, bits in ((True, 4 + 8 / 64 + 32 / (64 * 256)), (False, 4 + 32 / 64)):
        quantized = Quantized(weight, double=double)
        disk = save(quantized.state_dict())
        size = len(disk) - 8 - int.from_bytes(disk[:8], "little")  # without the header
        mean = 4 if double else 0  # one fp32 number per matrix
        assert size == quantized.stored_bytes() == bits / 8 * weight.numel() + mean
        assert quantized.bits_per_weight() == pytest.approx(bits, abs=2e-4)
    assert round(Quantized(weight).bits_per_weight(), 3) == 4.127


def test_a_state_dict_brings_it_back():
    first, second = Quantized(torch.randn(7, 33)), Quantized(torch.zeros(7, 33))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.weight(), second.weight())


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_map_is_x_times_w_transposed(dtype):
    torch.manual_seed(0)
    quantized = Quantized(torch.randn(6, 10).to(dtype))
    x, bias = torch.randn(2, 3, 10).to(dtype), torch.randn(6).to(dtype)
    close(quantized(x, bias), F.linear(x, quantized.weight(), bias))
    half = Quantized(quantized.weight(), double=False, compute="bfloat16")(x)
    assert half.dtype == dtype
    exact = Quantized(quantized.weight(), double=False).weight(torch.bfloat16)
    assert torch.equal(half, F.linear(x.bfloat16(), exact).to(dtype))


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_of_the_input_in_double_precision(kind):
    torch.manual_seed(0)
    quantized = Quantized(torch.randn(5, 7, dtype=torch.float64), kind, block=4)
    x = torch.randn(2, 3, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(quantized, (x,))
    assert torch.autograd.gradgradcheck(quantized, (x,))


def test_between_forward_and_backward_only_four_bits_are_kept():
    quantized = Quantized(torch.randn(96, 80))
    x = torch.randn(2, 80, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = quantized(x)
    size = 96 * 80
    alive = [t for t in gc.get_objects() if type(t) is torch.Tensor and t.numel() == size]
    assert not [t for t in [*kept, *alive] if t.numel() >= size and t.is_floating_point()]
    y.sum().backward()
    close(x.grad, quantized.weight().sum(0).expand(2, 80))


@pytest.mark.parametrize(
    "weight, sentence",
    [
        (torch.randn(4), "Only a matrix of floats"),
        (torch.zeros(0, 4), "Only a matrix of floats"),
        (torch.ones(2, 2, dtype=torch.int64), "Only a matrix of floats"),
        (torch.tensor([[1.0, float("inf")]]), "not finite"),
        (torch.tensor([[1.0, float("nan")]]), "not finite"),
    ],
)
def test_what_cannot_be_quantized(weight, sentence):
    with pytest.raises(ValueError, match=sentence):
        Quantized(weight)
