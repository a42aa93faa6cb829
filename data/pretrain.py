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
from tiny_transformer import recipes
from tiny_transformer.files import write_text

HERE = Path(__file__).resolve().parent


def run(name: str, steps: int | None, seed: int, build_folder: Path, out: Path) -> None:
    """Pretrain one model and write its checkpoint."""
    recipe = recipes.find(name)
    model, tokenizer = recipes.fresh(name, seed)
    documents = [text for kind in recipes.corpus().values() for text in kind]
    stream = recipes.stream(name, documents, tokenizer, seed)
    count = sum(parameter.numel() for parameter in model.parameters())
    steps = steps or recipe.steps
    print(f"{name}: {count:,} parameters, {steps} steps")
    began = time.time()
    snapshots = build_folder / name
    losses = tt.pretrain(model, stream, steps, recipe.peak, seed=seed, folder=snapshots)
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
    parser.add_argument("name", choices=[*recipes.RECIPES, "all"])
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE / "checkpoints")
    parser.add_argument("--snapshots", type=Path, default=HERE.parent / "build" / "pretraining")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in recipes.RECIPES if options.name == "all" else [options.name]:
        run(name, options.steps, options.seed, options.snapshots, options.out)


if __name__ == "__main__":
    main()
