"""How near minipeft's LoRA and 🤗 PEFT's are: `PYTHONPATH=tests python tests/parity/table.py`.

For each architecture, on tiny random models, the largest difference of a logit when PEFT's file is
opened here, when our file is opened by PEFT, and the largest difference of a weight after 20 steps
of AdamW from the same start.
"""

import tempfile
import warnings

import peft
import torch
import zoo

import minipeft as mp
from minipeft.report import Table

TARGETS = {
    "gpt2": ["c_attn", "c_proj"],
    "bert": ["query", "value"],
    "bart": ["q_proj", "v_proj"],
    "t5": ["q", "v"],
    "llama": ["q_proj", "v_proj"],
}


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


def pair(name: str):
    """Our model and PEFT's with the same LoRA, and their pairs of weights."""
    targets = TARGETS[name]
    tuner = mp.attach(zoo.build(name), mp.LoRA(rank=3, alpha=6, targets=tuple(targets)), seed=0)
    config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=targets)
    theirs = peft.get_peft_model(zoo.build(name), config).eval()
    pairs = []
    for place, patch in tuner.patches:
        layer = theirs.base_model.model.get_submodule(place.path)
        pairs += [
            (patch.A, layer.lora_A["default"].weight),
            (patch.B, layer.lora_B["default"].weight),
        ]
    with torch.no_grad():
        for ours, other in pairs:
            other.copy_(ours)
    return tuner, theirs, pairs


def row(name: str) -> tuple:
    batch = zoo.batch(name)
    tuner, theirs, pairs = pair(name)
    options = dict(warmup=0, schedule="constant", clip=None, weight_decay=0.01, progress=False)
    mp.train(tuner.model, [batch], 20, 1e-2, **options)
    optimizer = torch.optim.AdamW([other for _, other in pairs], lr=1e-2, weight_decay=0.01)
    theirs.train()
    for _ in range(20):
        optimizer.zero_grad()
        theirs(**batch).loss.backward()
        optimizer.step()
    theirs.eval()
    steps = max(difference(ours, other) for ours, other in pairs)
    moved = max(other.abs().max().item() for _, other in pairs[1::2])  # B began at 0

    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(f"{folder}/theirs")
        tuner.save(f"{folder}/ours")
        loaded = zoo.build(name)
        mp.load(loaded, f"{folder}/theirs")
        reopened = peft.PeftModel.from_pretrained(zoo.build(name), f"{folder}/ours").eval()
        expected = zoo.logits(theirs, batch)
        opened = difference(zoo.logits(loaded, batch), expected)
        given = difference(zoo.logits(reopened, batch), zoo.logits(tuner.model, batch))
        effect = difference(expected, zoo.logits(zoo.build(name), batch))
    return name, opened, given, steps, effect, moved


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(
        Table(
            title=f"LoRA: minipeft and PEFT {peft.__version__}, largest differences",
            header=("model", "theirs here", "ours there", "20 steps", "effect", "largest B"),
            rows=[row(name) for name in TARGETS],
            notes=["effect: how far the LoRA moves the logits, for scale."],
        )
    )
