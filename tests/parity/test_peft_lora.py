"""🤗 PEFT as the oracle: files go both ways, gradients and steps are the same numbers."""

import os
import warnings
from pathlib import Path

import pytest
import torch
import zoo
from closeness import close

import minipeft as mp

peft = pytest.importorskip("peft")

# what PEFT calls the maps, for a LoRA on query and value, or on all maps of a layer
ATTENTION = {
    "gpt2": ["c_attn"],
    "gpt_neox": ["query_key_value"],
    "bert": ["query", "value"],
    "bart": ["q_proj", "v_proj"],
    "t5": ["q", "v"],
    "t5-gated": ["q", "v"],
    "llama": ["q_proj", "v_proj"],
    "qwen2": ["q_proj", "v_proj"],
}
EVERY = {
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "bert": ["query", "key", "value", "dense"],
    "bart": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
    "t5": ["q", "k", "v", "o", "wi", "wo"],
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj"],
}
TASKS = {"classification": "SEQ_CLS", "tagging": "TOKEN_CLS"}
HEADS = [
    *(("gpt2", "classification"), ("gpt2", "tagging"), ("bert", "classification")),
    *(("bert", "tagging"), ("roberta", "classification"), ("distilbert", "classification")),
    *(("bart", "classification"), ("t5", "classification"), ("llama", "classification")),
]


def with_peft(name: str, head: str = "language", targets=None, **settings):
    """A PEFT model whose LoRA does something."""
    model = zoo.build(name, head)
    targets = targets or ATTENTION.get(name)
    config = peft.LoraConfig(target_modules=targets, task_type=TASKS.get(head), **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model.eval()


def opened_by_peft(name: str, head: str, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error", peft.helpers.PeftWarning) if hasattr(
            peft.helpers, "PeftWarning"
        ) else None
        warnings.filterwarnings("ignore", message="fan_in_fan_out")
        return peft.PeftModel.from_pretrained(zoo.build(name, head), folder).eval()


SETTINGS = {
    "plain": dict(r=3, lora_alpha=6),
    "rslora": dict(r=4, lora_alpha=5, use_rslora=True),
    "dropout": dict(r=2, lora_alpha=8, lora_dropout=0.1),
}


@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize("settings", SETTINGS)
def test_their_file_opens_here(tmp_path, name, settings):
    theirs, batch = with_peft(name, **SETTINGS[settings]), zoo.batch(name)
    theirs.save_pretrained(tmp_path)
    model = zoo.build(name)
    base = zoo.logits(model, batch)
    tuner = mp.load(model, tmp_path)
    ours, expected = zoo.logits(model, batch), zoo.logits(theirs, batch)
    close(ours, expected)
    assert (expected - base).abs().max() > 1e-2, "the LoRA does something"
    assert tuner.method.targets == tuple(sorted(ATTENTION[name]))
    tuner.merge()
    close(zoo.logits(model, batch), expected)


@pytest.mark.parametrize("name", EVERY)
def test_their_file_with_patterns_opens_here(tmp_path, name):
    every = EVERY[name]
    patterns = dict(rank_pattern={every[0]: 2, every[-1]: 5}, alpha_pattern={every[1]: 3})
    layers = dict(layers_to_transform=[1]) if name not in ("t5", "bart") else {}
    theirs = with_peft(name, targets=every, r=4, lora_alpha=7, **patterns, **layers)
    theirs.save_pretrained(tmp_path)
    model, batch = zoo.build(name), zoo.batch(name)
    mp.load(model, tmp_path)
    close(zoo.logits(model, batch), zoo.logits(theirs, batch))


@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize(
    "method",
    [
        mp.LoRA(rank=3, alpha=6),
        mp.LoRA(rank=4, alpha=5, rank_stabilized=True, targets=("qkv", "output")),
        mp.LoRA(rank=2, alpha=8, targets=("query", "key", "up"), ranks={"key": 3, "up": 1}),
        mp.LoRA(rank=2, alpha=8, targets=("output", "down"), alphas={"down": 3}, layers=(1,)),
    ],
    ids=["parts", "whole", "ranks", "layers"],
)
def test_our_file_opens_there(tmp_path, name, method):
    model, batch = zoo.build(name), zoo.batch(name)
    base = zoo.logits(model, batch)
    tuner = mp.attach(model, method, seed=0)
    zoo.shake(tuner)
    tuner.save(tmp_path)
    ours = zoo.logits(model, batch)
    assert (ours - base).abs().max() > 1e-2
    close(zoo.logits(opened_by_peft(name, "language", tmp_path), batch), ours)


@pytest.mark.parametrize("name, head", HEADS)
def test_heads_go_both_ways(tmp_path, name, head):
    targets = ATTENTION.get(name) or {"distilbert": ["q_lin", "v_lin"]}.get(name)
    targets = targets or ["query", "value"]
    head_modules = ["classification_head"] if name in ("bart", "t5") else None
    theirs = with_peft(name, head, targets=targets, r=2, modules_to_save=head_modules)
    zoo.head_goes_both_ways(theirs, name, head, tmp_path, opened_by_peft)


@pytest.mark.parametrize("name", ["gpt2", "bert", "t5", "llama"])
def test_twenty_steps_are_the_same_numbers(name):
    """Same start, 20 steps of AdamW: every weight equal to 1e-6, every first gradient too."""
    model = zoo.build(name)
    tuner = mp.attach(model, mp.LoRA(rank=3, alpha=6, targets=tuple(ATTENTION[name])), seed=0)
    theirs = zoo.build(name)
    config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=ATTENTION[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(theirs, config).eval()
    pairs = []
    with torch.no_grad():
        for place, patch in tuner.patches:
            layer = theirs.base_model.model.get_submodule(place.path)
            for ours, matrix in ((patch.A, layer.lora_A), (patch.B, layer.lora_B)):
                other = matrix["default"].weight
                other.copy_(ours)
                pairs.append((f"{place.path} {tuple(ours.shape)}", ours, other))
    data = [zoo.batch(name, seed=seed) for seed in range(4)]
    start = [ours.detach().clone() for _, ours, _ in pairs]

    model(**data[0]).loss.backward()
    theirs(**data[0]).loss.backward()
    for label, ours, other in pairs:
        close(ours.grad, other.grad, label=label)
        ours.grad = other.grad = None

    options = dict(warmup=0, schedule="constant", clip=None, weight_decay=0.01, progress=False)
    mp.train(model, lambda step: data[step % 4], 20, 1e-2, **options)
    optimizer = torch.optim.AdamW([other for _, _, other in pairs], lr=1e-2, weight_decay=0.01)
    theirs.train()
    for step in range(20):
        optimizer.zero_grad()
        theirs(**data[step % 4]).loss.backward()
        optimizer.step()
    for (label, ours, other), first in zip(pairs, start, strict=True):
        assert (ours - first).abs().max() > 1e-3, f"{label} has moved"
        difference = (ours - other).abs().max().item()
        assert difference <= 1e-6, f"{label} differs by {difference}"


def test_a_is_drawn_from_the_same_distribution():
    """Two thousand numbers of each; kaiming_uniform(a = sqrt 5) has bound 1 / sqrt in."""
    torch.manual_seed(0)
    base = torch.nn.Sequential(torch.nn.Linear(64, 32))
    config = peft.LoraConfig(r=32, target_modules=["0"])
    A = peft.get_peft_model(base, config).base_model.model[0].lora_A["default"].weight
    ours = mp.LoRAPatch(64, 32, 32, 1.0).A
    assert ours.abs().max().item() == pytest.approx(A.abs().max().item(), rel=0.01)
    assert ours.std().item() == pytest.approx(A.std().item(), rel=0.05)


@pytest.mark.assets
def test_an_adapter_from_the_hub(tmp_path):
    """A real PEFT file (GPT-2 small, c_attn, r 8, a head of 6 classes) on a GPT-2 of its shape."""
    assets = os.environ.get("MINIPEFT_ASSETS")
    if not assets:
        pytest.skip("MINIPEFT_ASSETS is not set, so there is no real adapter to open")
    folder = Path(assets) / "adapters" / "peft-lora-gpt2"
    assert folder.is_dir(), f"{folder} is missing"
    import transformers

    config = transformers.GPT2Config(
        vocab_size=100, n_positions=16, num_labels=6, pad_token_id=0, bos_token_id=1, eos_token_id=2
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.GPT2ForSequenceClassification(config).eval()
    batch = {"input_ids": torch.arange(3, 13).view(2, 5)}
    base = zoo.logits(model, batch)
    tuner = mp.load(model, folder, name="six")
    report = tuner.report()
    assert (report.trainable, report.head) == (12 * 8 * (768 + 3 * 768), 6 * 768)
    ours = zoo.logits(model, batch)
    tuner.save(tmp_path / "ours")
    tuner.detach()
    assert torch.equal(zoo.logits(model, batch), base)
    theirs = peft.PeftModel.from_pretrained(model, folder).eval()
    expected = zoo.logits(theirs, batch)
    close(ours, expected)
    assert (ours - base).abs().max() > 0.1
    model = theirs.unload()
    theirs = peft.PeftModel.from_pretrained(model, tmp_path / "ours").eval()
    close(zoo.logits(theirs, batch), expected)
