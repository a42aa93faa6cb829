"""The smallest models with everything in them, batches for them, and one tuner of every method."""

from __future__ import annotations

import torch

import minipeft as mp
import tiny_transformer as tt

WORDS = 40
LAYOUTS = {"gpt2": tt.Decoder, "bert": tt.Encoder, "bart": tt.EncoderDecoder}
METHODS = {
    "LoRA": mp.LoRA(rank=2, dropout=0.1),
    "DoRA": mp.DoRA(rank=2),
    "PiSSA": mp.PiSSA(rank=2),
    "QLoRA": mp.QLoRA(rank=2, block=16),
    "AdaLoRA": mp.AdaLoRA(init_rank=3, target_rank=2),
    "Adapter": mp.Adapter(bottleneck=3),
    "IA3": mp.IA3(),
    "VeRA": mp.VeRA(rank=4),
    "BitFit": mp.BitFit(),
    "Prefix": mp.Prefix(length=3, hidden=4),
    "PTuningV2": mp.PTuningV2(length=3),
    "PromptTuning": mp.PromptTuning(length=3),
    "PTuning": mp.PTuning(length=3, encoder="mlp"),
    "UniPELT": mp.UniPELT(bottleneck=3, length=2, rank=2),
    "Combined": mp.Combined((mp.Prefix(length=2, hidden=None), mp.Adapter(bottleneck=3))),
    "TopLayers": mp.TopLayers(1),
    "FullFineTuning": mp.FullFineTuning(),
}
OWN_WEIGHTS = ("TopLayers", "FullFineTuning")  # these train the base's own, which route refuses


def base(layout: str = "gpt2", seed: int = 0, dropout: float = 0.0):
    """A random model in eval mode."""
    numbers = dict(vocab_size=WORDS, width=16, layers=2, heads=2, positions=24, dropout=dropout)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LAYOUTS[layout](getattr(tt.TransformerConfig, layout)(**numbers))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


def batch(seed: int = 0, rows: int = 3, tokens: int = 6) -> dict[str, torch.Tensor]:
    """Ids, mask and labels, the last row padded."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, WORDS, (rows, tokens), generator=generator)
    mask = torch.ones_like(ids)
    mask[-1, -1:] = 0
    ids = ids * mask
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def shake(tuner, seed: int = 0) -> None:
    """Random numbers into all that a tuner trains, so that it does something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in tuner.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)


@torch.no_grad()
def logits(model, inputs: dict) -> torch.Tensor:
    return model(**inputs).logits
