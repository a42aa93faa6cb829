"""The bases that are measured, made of numbers and random weights: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Size:
    """Of the base and the batch: L layers, C width, V words, B rows of T tokens; where they are."""

    layers: int = 6
    width: int = 384
    heads: int = 6
    words: int = 8000
    rows: int = 8
    tokens: int = 128
    device: str = "cpu"

    @classmethod
    def of(cls, options) -> Size:
        """The size to measure: a tiny one under --quick, GPT-2's own on an accelerator."""
        if options.quick:
            return cls(2, 32, 2, 64, 3, 8, options.device)
        if options.device != "cpu":
            return cls(12, 768, 12, 50_257, 8, 512, options.device)
        return cls()

    def __str__(self) -> str:
        return (
            f"GPT-2 shape, {self.layers} layers, width {self.width}, {self.words} words, "
            f"batch {self.rows} x {self.tokens}, fp32"
        )


def gpt2(size: Size) -> nn.Module:
    """transformers' GPT-2 of this size, the same weights each time, no dropout."""
    import transformers

    config = transformers.GPT2Config(
        vocab_size=size.words,
        n_embd=size.width,
        n_layer=size.layers,
        n_head=size.heads,
        n_positions=1024,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        use_cache=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.GPT2LMHeadModel(config).to(size.device)


def batch_of(size: Size, rows: int | None = None, tokens: int | None = None) -> dict[str, Tensor]:
    """Random words without padding, a label on each."""
    generator = torch.Generator().manual_seed(0)
    shape = (rows or size.rows, tokens or size.tokens)
    ids = torch.randint(3, size.words, shape, generator=generator).to(size.device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that the optimizer gets."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def trained(model: nn.Module, backward: Callable[[], None]) -> Callable[[], None]:
    """A training step: `backward`, then AdamW on whatever has a gradient."""
    optimizer = torch.optim.AdamW(trainable(model), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        backward()
        optimizer.step()

    return step


def with_peft(model: nn.Module, config) -> nn.Module:
    """🤗 PEFT on a model, its warnings left out."""
    import warnings

    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.get_peft_model(model, config)
