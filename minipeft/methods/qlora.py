"""QLoRA: LoRA on a base in four bits (Dettmers et al. 2023, arXiv 2305.14314), weights door.

Path: attach(model, QLoRA(...)) -> QLoRA.install -> LoRA.install, which makes A and B ->
QLoRA.four_bits_of, which makes a `Quantized` (parts/quantization.py) of W0 -> tuner.surround, which
puts the two into a QLoRAPatch. In a pass: WeightDoor.forward asks the patch's `base_replacement`,
calls it in the place of the base's map, then calls QLoRAPatch.forward(x, y). A door stands where
the frozen map stood and calls the patches of every tuner.

Section 3. The frozen W0 is kept in NF4 with doubly quantized scales, and is made a matrix of floats
only for the moment of a multiplication:

    h = x dequantize(W0)^T + b + (alpha / r) x A^T B^T                                  (eq. 5)

    W0 (out, in) in 4 bits, b (out,) frozen    A (r, in), B (out, r) trained
    N rows of T tokens: x (N, T, in) -> x dequantize(W0)^T (N, T, out);  x A^T (N, T, r)

    The whole forward. y = F.linear(x, dequantize(W0), b), by the door (in the dtype of `compute`,
    then back in that of x); y + (scale * F.linear(F.linear(dropout(x32), A), B)).to(y.dtype) by
    lora.py's patch: scale = alpha / r, x32 is x in the dtype of A and B: fp32 on a half base, too.
    Quantize: W0, row behind row, is n = out * in numbers, cut into blocks of 64; absmax = max |w|
    of a block; codes (n,) = numbers of the levels nearest to w / absmax, two in a byte. NF4's 16
    levels lie in [-1, 1] so that about as many normal weights fall on each. The last block may be
    short.
    Dequantize: w = levels[codes] * absmax of the block, as (out, in) again. The absmaxes
    (ceil(n / 64),) are kept in the same way, less their mean, which is added again: 256 levels,
    blocks of 256.
    For out = 12, in = 8: 96 codes in 48 bytes, 2 absmaxes in 2 bytes, 1 absmax of absmaxes and 1
    mean, 4 bytes each. Many weights: 4 + 8 / 64 + 32 / (64 * 256) = 4.127 bits per weight.

Start: B = 0, so that h is the quantized base's answer, not the base's. Gradients go through
dequantize(W0) to x, and into A and B (dL/dA = 0 at the first step); W0 and its scales get none.

Merge: dequantize(W0) + (alpha / r) B A in the base's dtype: a full-precision model of full size.
Quantizing that again would lose most of B A, so we do not. A saved tuner is a plain LoRA for other
programs; on the full-precision base it gives other logits than the ones it was trained for.
`minipeft.merge_drift` measures how far the logits move, merged and on the full-precision base.

Parameters: r (in + out) for every linear map that is adapted, trained and written to the file (4
bytes each in fp32; the file has no four bits, they are made again from the base); by default all
linear maps of all blocks, which the paper found to matter more than the rank (section 4). Bytes:
4.127 bits per weight, for *all* linear maps of the blocks, adapted or not, in the memory, beside
the original's 16 or 32, which stay. Words, norms, biases and heads stay as they are. In a model of
unknown anatomy only the maps that the targets name are quantized.

What belongs to whom. The four bits belong to the tuner's name, as A and B do. `disable`, `detach`
and a row that is routed elsewhere give the base as it was before, bit for bit. So the original
weights stay in memory, and no memory is saved: `report()` counts both. Two tuners that quantize
alike share their four bits. If another LoRA acts on the same rows, both add to the quantized base;
of two QLoRAs that quantize otherwise the last one attached answers for the base.

Departures.
(1) Precision. Paper: multiplies in bf16. PEFT: in bnb_4bit_compute_dtype. Here: in the dtype of
    x unless `compute` names one. Shown by test_qlora.py::test_computing_in_bf16_on_an_fp32_base
(2) Optimizer. Paper: pages its state between GPU and CPU. PEFT: leaves it to bitsandbytes. Here: no
    paging. Shown by test_qlora.py::test_the_report_counts_bytes_of_both
(3) What is quantized. Paper: its code takes every linear map but the language head, so a pooler or
    an embedding's projection too. PEFT: likewise. Here: the maps of the blocks.
    Shown by test_qlora.py::test_maps_without_lora_are_quantized_too
(4) Scales in 8 bits. Paper: FP8, their mean taken off first. PEFT: bitsandbytes' 8-bit table,
    likewise. Here: that table.
    Shown by test_quantization.py::test_dynamic_levels_by_hand
(5) Memory. Paper: only the four bits stay. PEFT: likewise. Here: W0 stays beside them, so memory
    grows by 4.127 bits a weight; what is taught is the arithmetic.
    Shown by test_qlora.py::test_the_report_counts_bytes_of_both
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from minipeft.doors.layers import check_plain, is_map, is_transposed
from minipeft.doors.patch import Patch, as_patch
from minipeft.methods.lora import LoRA
from minipeft.methods.parts.quantization import KINDS, Quantized
from minipeft.methods.parts.validation import check_choice, check_flag, check_number

COMPUTE = ("float32", "bfloat16", "float16")


class QLoRAPatch(Patch):
    """Four bits that answer in place of the base, and the LoRA on top of them (None: no LoRA)."""

    def __init__(self, quantized: Quantized, lora: nn.Module | None) -> None:
        super().__init__()
        self.replacement = quantized  # the door calls it instead of its base
        self.lora = lora

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (N, T, in), y = x dequantize(W0)^T + b (N, T, out) -> h (N, T, out)."""
        return y if self.lora is None else self.lora(x, y)  # eq. 5: h, (N, T, out)

    def base_replacement(self) -> Quantized:
        return self.replacement

    def base_loaded(self, module: nn.Module) -> None:
        """`load_state_dict` gave the frozen map other weights: they are quantized."""
        self.replacement.keep(weight_of(module))

    def trained_on(self, weight: Tensor) -> Tensor:
        """The weights that A and B were trained on: dequantize(W0) (out, in)."""
        return self.replacement.weight(weight.dtype)

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The map that does the same: (dequantize(W0) + scale B A (out, in), b (out,))."""
        weight = self.replacement.weight(weight.dtype)
        return (weight, bias) if self.lora is None else as_patch(self.lora).fold(weight, bias)


@dataclass(frozen=True)
class QLoRA(LoRA):
    """LoRA on a quantized base.

    Args:
        targets: as in LoRA; "all-linear" stands for every linear map of every block.
        quantize: which 16 levels: "nf4", "fp4", "fp4-e3m0" or "int4".
        double: keep the absmaxes in 8 bits; False: in 32, which makes 4.5 bits per weight.
        block: weights that share an absmax.
        compute: "bfloat16", "float16" or "float32", in which x is multiplied by dequantize(W0) (not
            by A and B); None takes the dtype of x.
        The others are LoRA's.

    Raises:
        ValueError: when a value is impossible.
    """

    targets: tuple[str, ...] = ("all-linear",)
    quantize: str = "nf4"
    double: bool = True
    block: int = 64
    compute: str | None = None

    identity_at_start = False  # it starts at the quantized base

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "quantize", KINDS)
        check_flag(self, "double")
        check_number(self, "block", "of at least 1", lambda n: n >= 1, whole=True)
        if self.compute is not None:
            check_choice(self, "compute", COMPUTE)

    def install(self, tuner) -> None:
        for other in tuner.model.minipeft.tuners.values():
            if other.merged or other.base_values:
                what = "merged into" if other.merged else "training"
                raise ValueError(
                    f"{other.name!r} is {what} the base's own weights, which are about to be "
                    f"quantized: {'unmerge' if other.merged else 'detach'} it first."
                )
        already = len(tuner.patches)  # another method may stand under the same name
        super().install(tuner)  # A and B
        adapted = dict.fromkeys(place.path for place, _ in tuner.patches[already:])
        paths = dict(adapted)
        if tuner.anatomy.family is not None:
            inside = tuple(f"{path}." for path, _ in tuner.anatomy.blocks())
            modules = tuner.anatomy.modules.items()
            paths |= {p: None for p, m in modules if p.startswith(inside) and is_map(m)}
        for path in paths:
            check_plain(path, tuner.anatomy.modules[path])
            four_bits = self.four_bits_of(tuner.model, tuner.anatomy.modules[path])

            def around(lora: nn.Module | None, path=path, four_bits=four_bits) -> QLoRAPatch:
                if lora is not None and path not in adapted:
                    raise ValueError(
                        f"Another method under this name sits at {path}, which QLoRA quantizes: "
                        "attach the two under two names."
                    )
                return QLoRAPatch(four_bits, lora)

            tuner.surround(path, around)

    def four_bits_of(self, model: nn.Module, linear: nn.Module) -> Quantized:
        """The weight of a linear map in four bits; the ones that are there, if there are any."""
        settings = (self.quantize, self.block, self.double, self.compute)
        for door in model.minipeft.doors_of(linear):
            for patch in door.patches.values():
                if isinstance(patch, QLoRAPatch) and patch.replacement.settings == settings:
                    return patch.replacement
        return Quantized(weight_of(linear), *settings)

    def notes(self, tuner) -> list[str]:
        """Bytes of the quantized weights, and of the originals that stay."""
        patches = quantized_patches(tuner)
        small = sum(patch.replacement.stored_bytes() for patch in patches)
        numbers = sum(patch.replacement.numel() for patch in patches)
        whole = sum(
            patch.replacement.numel() * patch.replacement.dtype.itemsize for patch in patches
        )
        return [
            f"{self.quantize} base: {numbers:,} weights of {len(patches)} linear maps in "
            f"{small:,} bytes, {8 * small / numbers:.4g} bits each; the originals, {whole:,} "
            "bytes, are kept beside them for disable, detach and the rows of others"
        ]


def weight_of(linear: nn.Module) -> Tensor:
    """W (out, in) of a linear map."""
    return linear.weight.T if is_transposed(linear) else linear.weight


def quantized_patches(tuner) -> list[QLoRAPatch]:
    """The tuner's patches that answer from four bits."""
    every = tuner.model.minipeft.doors
    patches = (door.patches[tuner.name] for door in every if tuner.name in door.patches)
    return [patch for patch in patches if isinstance(patch, QLoRAPatch)]
