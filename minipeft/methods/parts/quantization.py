"""Weights in four bits: NF4, block-wise scales, double quantization (QLoRA's storage).

Dettmers et al. 2023 (arXiv 2305.14314), sections 2 and 3. A weight matrix W (out, in) is written
row by row as one list of n numbers and cut into blocks of 64:

    c = absmax(block)                    one scale per block
    k = nearest level to w / c           a number from 0 to 15, four bits, packed two per byte
    w ~ c q[k]                           q: the 16 levels, between -1 and 1

| kind     | levels q, before they are divided by the largest                              |
|----------|-------------------------------------------------------------------------------|
| nf4      | quantiles of the normal distribution, 8 above zero, 7 below, and zero         |
| fp4      | 1 sign, 2 exponent, 1 mantissa bit: 0 .5 1 1.5 2 3 4 6                        |
| fp4-e3m0 | 1 sign, 3 exponent bits: 0 and the powers of two from 1 to 64                 |
| int4     | -7 .. 7                                                                       |

Double quantization stores the scales in 8 bits: their mean is subtracted, and blocks of 256 scales
are rounded to 8-bit floats ("dynamic", Dettmers 2015, arXiv 1511.04561), one fp32 scale per block.
Bits per weight: 4 + 32/64 = 4.5 without, 4 + 8/64 + 32/(64 256) = 4.127 with it.

Departures. Scales and levels are fp32, also for half-precision weights, as in bitsandbytes. A scale
that 8 bits would make negative becomes 0. fp4, fp4-e3m0 and int4 have a level less than 16 bit
patterns, for 0 = -0 (or because -8 has no partner). The paper does not print its FP4: ours follows
the Open Compute (MX) definition of E2M1; in bitsandbytes the level next to 0 is 1/192, not 1/12.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minipeft.report import Table

KINDS = ("nf4", "fp4", "fp4-e3m0", "int4")
SCALES_PER_BLOCK = 256  # of the second quantization


@cache
def levels(kind: str) -> Tensor:
    """The levels of a kind, sorted, between -1 and 1: (16,) or (15,), fp32."""
    if kind not in KINDS:
        raise ValueError(
            f"The kind of quantization must be one of {', '.join(KINDS)}, not {kind!r}."
        )
    if kind == "nf4":
        return normal_levels()
    above = {
        "fp4": [0.5, 1, 1.5, 2, 3, 4, 6],
        "fp4-e3m0": [2.0**e for e in range(7)],
        "int4": range(1, 8),
    }[kind]
    values = torch.tensor([*(-v for v in above), 0, *above], dtype=torch.float32)
    return values.sort().values / values.max()


def normal_levels(offset: float = 0.9677083) -> Tensor:
    """NF4: 16 quantiles of N(0, 1), each with about the same share of normal weights: (16,).

    The quantile of 1 is infinite, so the outermost probability is `offset`, the mean of 1 - 1/30
    and 1 - 1/32. From there to 1/2 (the quantile 0) go eight even steps above zero and seven below,
    so that zero is a level: pruned and padded weights stay exact. The probabilities are rounded to
    fp32, as they were when the published table was made; it then comes out to the last bit.
    """
    up = torch.linspace(offset, 0.5, 9)[:-1]  # 8 probabilities
    down = torch.linspace(offset, 0.5, 8)[:-1]  # 7 probabilities
    above, below = (torch.special.ndtri(p.double()).float() for p in (up, down))  # Phi^-1
    values = torch.cat((-below, torch.zeros(1), above)).sort().values
    return values / values.max()


@cache
def dynamic_levels() -> Tensor:
    """256 levels of an 8-bit float: 7 powers of ten, the more fraction bits the larger: (256,)."""
    above = []
    for bits in range(7):  # 10^-6 with one value, ..., 10^0 with 64
        edges = torch.linspace(0.1, 1, 2**bits + 1)
        above.append(10.0 ** (bits - 6) * (edges[:-1] + edges[1:]) / 2)
    values = torch.cat(above)  # (127,)
    return torch.cat((-values, values, torch.tensor([0.0, 1.0]))).sort().values


def quantize_blocks(values: Tensor, table: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """(numbers of the nearest levels (n,) uint8, absmax of every block (ceil(n / block),)).

    values (n,) and table have one dtype, and so has absmax. A last block that is not full has its
    own absmax. A block of zeros: absmax 0.
    """
    padded = F.pad(values, (0, -len(values) % block)).view(-1, block)  # (blocks, block)
    absmax = padded.abs().amax(dim=1)  # (blocks,)
    scaled = padded / absmax.where(absmax > 0, 1).unsqueeze(1)  # within -1 .. 1
    middles = (table[1:] + table[:-1]) / 2  # between these two the level is the nearest one
    codes = torch.bucketize(scaled, middles.to(values.device), out_int32=True)
    return codes.flatten()[: len(values)].to(torch.uint8), absmax


def dequantize_blocks(codes: Tensor, absmax: Tensor, table: Tensor, block: int) -> Tensor:
    """The values again, level times absmax: (n,) fp32."""
    values = table.to(codes.device)[codes.int()]  # (n,)
    padded = F.pad(values, (0, -len(values) % block)).view(-1, block)  # (blocks, block)
    return (padded * absmax.unsqueeze(1)).flatten()[: len(values)]


class Quantized(nn.Module):
    """A linear map x -> x W^T whose W (out, in) is kept in four bits.

    Args:
        weight: W (out, in), in any floating dtype.
        kind: "nf4", "fp4", "fp4-e3m0" or "int4".
        block: weights that share a scale.
        double: scales in 8 bits.
        compute: "bfloat16", "float16" or "float32" to multiply in; None: the dtype of x.

    Raises:
        ValueError: W is empty, no matrix or not finite.
    """

    def __init__(
        self,
        weight: Tensor,
        kind: str = "nf4",
        block: int = 64,
        double: bool = True,
        compute: str | None = None,
    ) -> None:
        super().__init__()
        self.settings = (kind, block, double, compute)
        self.kind, self.block, self.double = kind, block, double
        self.compute = None if compute is None else getattr(torch, compute)
        self.keep(weight)

    def keep(self, weight: Tensor) -> None:
        """Remember W (out, in) in four bits, in the place of another one that was there.

        Raises:
            ValueError: W is empty, no matrix or not finite.
        """
        if weight.dim() != 2 or not weight.numel() or not weight.is_floating_point():
            raise ValueError(
                f"Only a matrix of floats can be quantized, not {tuple(weight.shape)} numbers of "
                f"{weight.dtype}."
            )
        if weight.is_meta:
            raise ValueError(
                "A weight on the meta device has no values that could be quantized: load the "
                "model's weights first."
            )
        values = weight.detach().reshape(-1).float()  # (n,)
        if not bool(torch.isfinite(values).all()):
            raise ValueError("A weight with values that are not finite cannot be quantized.")
        self.shape, self.dtype = weight.shape, weight.dtype
        codes, absmax = quantize_blocks(values, levels(self.kind), self.block)
        high, low = F.pad(codes, (0, len(codes) % 2)).view(-1, 2).unbind(1)  # pairs: (n / 2,) each
        self.register_buffer("packed", high << 4 | low)  # (ceil(n / 2),) uint8
        if self.double:
            mean = absmax.mean()
            small, scales = quantize_blocks(absmax - mean, dynamic_levels(), SCALES_PER_BLOCK)
            self.register_buffer("mean", mean)  # () fp32
            self.register_buffer("scales", scales)  # (ceil(blocks / 256),) fp32
            absmax = small  # (blocks,) uint8
        self.register_buffer("absmax", absmax)

    def _apply(self, function, recurse: bool = True) -> Quantized:
        """`model.to(device)` moves the bytes; `model.to(dtype)` must not round the scales."""
        return super()._apply(lambda t: t.to(function(t.new_empty(0)).device), recurse)

    def scale_of_blocks(self) -> Tensor:
        """The absmax of every block, as far as it is still known: (blocks,) fp32."""
        if not self.double:
            return self.absmax
        rest = dequantize_blocks(self.absmax, self.scales, dynamic_levels(), SCALES_PER_BLOCK)
        return (rest + self.mean).clamp(min=0)

    def weight(self, dtype: torch.dtype | None = None) -> Tensor:
        """W as it is remembered (out, in), in its first dtype or another."""
        codes = torch.stack((self.packed >> 4, self.packed & 15), dim=1).flatten()  # (n or n + 1,)
        codes = codes[: self.numel()]
        values = dequantize_blocks(codes, self.scale_of_blocks(), levels(self.kind), self.block)
        return values.view(self.shape).to(dtype or self.dtype)  # (out, in)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x (B, T, in) -> x W^T + bias (B, T, out), in the dtype of x, or autocast's inside it."""
        kind, dtype = x.device.type, x.dtype
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)  # as a linear map answers
        y = Multiply.apply(x.to(self.compute or x.dtype), self).to(dtype)
        return y if bias is None else y + bias.to(dtype)

    def numel(self) -> int:
        """How many weights the matrix has, in times out."""
        return math.prod(self.shape)

    def stored_bytes(self) -> int:
        """Bytes of everything that is kept."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self.buffers())

    def bits_per_weight(self) -> float:
        """All that is kept, scales included, divided by the number of weights."""
        return 8 * self.stored_bytes() / self.numel()


class Multiply(torch.autograd.Function):
    """x W^T with W dequantized for the moment of the multiplication, once forward, once backward.

    Between the two only the four bits are kept. W is frozen: x alone gets a gradient.
    """

    generate_vmap_rule = True  # for torch.func

    @staticmethod
    def forward(x: Tensor, quantized: Quantized) -> Tensor:
        return x @ quantized.weight(x.dtype).T  # (B, T, in) (in, out) -> (B, T, out)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.quantized = inputs[1]  # the module with its packed bytes, not W

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        weight = ctx.quantized.weight(gradient.dtype)
        return gradient @ weight, None  # dL/dx = dL/dy W: (B, T, out) (out, in) -> (B, T, in)


def compare(weight: Tensor, block: int = 64, double: bool = True) -> Table:
    """What each kind of quantization makes of a matrix: error, size."""
    rows = []
    power = weight.float().square().mean().item()
    for kind in KINDS:
        quantized = Quantized(weight, kind, block, double)
        error = (quantized.weight(torch.float32) - weight.float()).square().mean().item()
        rows.append((kind, error, error / power if power else 0.0, quantized.bits_per_weight()))
    header = ("kind", "mean squared error", "relative", "bits per weight")
    return Table(f"{tuple(weight.shape)} weights in blocks of {block}", header, rows)
