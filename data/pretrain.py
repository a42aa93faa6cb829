"""Pretrain the models that the project ships: `python data/pretrain.py tiny-decoder`, or `all`.

A run that was killed goes on where it stopped, to the same bits. The finished model is written to
data/checkpoints/<name>/ with its loss curve (losses.csv); the snapshot of the run stays in
build/pretraining/<name>/ and is deleted at the end.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import torch

import tiny_transformer as tt
from tiny_transformer.files import write_text
from tiny_transformer.pretraining import Stream, pretrain

HERE = Path(__file__).resolve().parent
LENGTH = 96  # tokens in a row, and positions of every model

# name: (layout, numbers, training)
RECIPES = {
    "tiny-decoder-0.1m": (
        "gpt2",
        {"width": 32, "layers": 4, "heads": 2},
        {"peak": 4e-3, "steps": 6000},
    ),
    "tiny-decoder-0.4m": (
        "gpt2",
        {"width": 80, "layers": 4, "heads": 4},
        {"peak": 3e-3, "steps": 4500},
    ),
    "tiny-decoder": (
        "gpt2",
        {"width": 128, "layers": 4, "heads": 4},
        {"peak": 2e-3, "steps": 4500},
    ),
    "tiny-decoder-3m": (
        "gpt2",
        {"width": 192, "layers": 6, "heads": 6},
        {"peak": 1.5e-3, "steps": 2500},
    ),
    "tiny-encoder": (
        "bert",
        {"width": 128, "layers": 4, "heads": 4},
        {"peak": 1e-3, "steps": 4500},
    ),
    "tiny-encoder-decoder": (
        "bart",
        {"width": 128, "layers": 3, "heads": 4},
        {"peak": 1e-3, "steps": 4500},
    ),
}


def documents() -> list[str]:
    """Every document of the corpus."""
    files = sorted((HERE / "corpus").glob("*.txt"))
    return [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def build(name: str, seed: int = 0) -> tuple:
    """A fresh (model, tokenizer, training numbers) by the recipe of that name."""
    layout, numbers, training = RECIPES[name]
    words = (HERE / "vocabulary.txt").read_text(encoding="utf-8").split()
    tokenizer = tt.WordTokenizer(words, ends=layout != "gpt2")
    config = getattr(tt.TransformerConfig, layout)(
        vocab_size=len(tokenizer), positions=LENGTH, **numbers
    )
    torch.manual_seed(seed)
    kind = {"gpt2": tt.Decoder, "bert": tt.Encoder, "bart": tt.EncoderDecoder}[layout]
    return kind(config), tokenizer, training


def run(name: str, steps: int | None, seed: int, build_folder: Path, out: Path) -> None:
    """Pretrain one model and write its checkpoint."""
    model, tokenizer, training = build(name, seed)
    training = training | ({"steps": steps} if steps else {})
    share = {"decoder": 0.0, "encoder": 0.3, "encoder-decoder": 0.25}[model.config.kind]
    stream = Stream(documents(), tokenizer, model.config.kind, 16, LENGTH, seed, share)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{name}: {count:,} parameters, {training['steps']} steps")
    began = time.time()
    snapshots = build_folder / name
    losses = pretrain(model, stream, seed=seed, folder=snapshots, **training)
    tt.save(model, tokenizer, out / name)
    means = [sum(losses[i : i + 50]) / len(losses[i : i + 50]) for i in range(0, len(losses), 50)]
    curve = [f"{50 * i + 25},{mean:.5f}" for i, mean in enumerate(means)]
    write_text(out / name / "losses.csv", "step,loss_nats_per_token\n" + "\n".join(curve))
    shutil.rmtree(snapshots)
    print(
        f"{name}: loss {means[-1]:.4f} after {(time.time() - began) / 60:.1f} minutes of this run"
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("name", choices=[*RECIPES, "all"])
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE / "checkpoints")
    parser.add_argument("--snapshots", type=Path, default=HERE.parent / "build" / "pretraining")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in RECIPES if options.name == "all" else [options.name]:
        run(name, options.steps, options.seed, options.snapshots, options.out)


if __name__ == "__main__":
    main()
