"""🤗 PEFT's AdaLoRA as the oracle: its files, and its RankAllocator step by step."""

import warnings

import pytest
import torch
import zoo
from closeness import MODEL, close

import minipeft as mp

peft = pytest.importorskip("peft")

ATTENTION = {
    "gpt2": ["c_attn"],
    "bert": ["query", "value"],
    "t5": ["q", "v"],
    "bart": ["q_proj", "v_proj"],
    "llama": ["q_proj", "v_proj"],
    "qwen2": ["q_proj", "v_proj"],
}
STEPS = 12
SCHEDULE = dict(init_r=4, target_r=2, tinit=2, tfinal=3, total_step=STEPS, beta1=0.7, beta2=0.9)


def with_peft(name: str, **settings):
    """A PEFT model in training mode; the models of the zoo have no dropout.

    In float64 PEFT would train its rank, too, by which the scale is divided.
    """
    config = peft.AdaLoraConfig(
        target_modules=ATTENTION[name], lora_alpha=6, **(SCHEDULE | settings)
    )
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(3)
        model = peft.get_peft_model(zoo.build(name), config).train()
    for key, parameter in model.named_parameters():
        if "ranknum" in key:
            parameter.requires_grad_(False)
    return model


def opened_by_peft(name: str, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # opened for inference only, it fails there as soon as a batch has labels
        model = peft.PeftModel.from_pretrained(zoo.build(name), folder, is_trainable=True)
        return model.eval()


def data(name: str) -> list[dict]:
    return [zoo.batch(name, rows=2, seed=seed) for seed in range(3)]


def their_steps(model, name: str, after=None) -> None:
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=3e-2, weight_decay=0.01)
    for step in range(STEPS):
        optimizer.zero_grad()
        # base_model, because a PeftModel without a task type forgets the penalty
        model.base_model(**data(name)[step % 3]).loss.backward()
        optimizer.step()
        model.base_model.update_and_allocate(step)
        if after:
            after(step)


@pytest.mark.filterwarnings("ignore:Adapter 'default'")  # maps of rank 0, which are right here
@pytest.mark.parametrize("name", ATTENTION)
def test_files_go_both_ways(tmp_path, name):
    batch = zoo.batch(name)
    theirs = with_peft(name)
    their_steps(theirs, name)
    expected = zoo.logits(theirs.eval(), batch)
    theirs.save_pretrained(tmp_path / "theirs")
    model = zoo.build(name)
    base = zoo.logits(model, batch)
    assert (expected - base).abs().max() > 1e-2, "training did something"
    tuner = mp.load(model, tmp_path / "theirs")
    close(zoo.logits(model, batch), expected)
    assert sum(tuner.method.left(tuner).values()) == 2 * len(tuner.patches), "pruned there"
    assert (tuner.method.init_rank, tuner.method.target_rank) == (4, 2)
    tuner.save(tmp_path / "ours")
    close(zoo.logits(opened_by_peft(name, tmp_path / "ours"), batch), expected)
    tuner.merge()
    close(zoo.logits(model, batch), expected)


@pytest.mark.parametrize("name", ["gpt2", "t5", "llama"])
@pytest.mark.parametrize("steps", [0, 8])
def test_our_files_open_there(tmp_path, name, steps):
    """Parts of GPT-2's c_attn become one AdaLoRA of PEFT's; before pruning and after."""
    method = mp.AdaLoRA(init_rank=3, target_rank=2, alpha=9, targets=("query", "value", "output"))
    model = zoo.build(name)
    tuner = mp.attach(model, method, seed=0)
    if steps:
        mp.train(model, data(name), steps, 3e-2, progress=False)
    zoo.shake(tuner, 0.2)
    expected = zoo.logits(model, zoo.batch(name))
    tuner.save(tmp_path)
    close(zoo.logits(opened_by_peft(name, tmp_path), zoo.batch(name)), expected)


def test_a_file_that_was_never_pruned_opens_here(tmp_path):
    theirs = with_peft("bert", lora_dropout=0.1, orth_reg_weight=0.25, deltaT=2).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_E" in name:
                parameter.normal_()
    theirs.save_pretrained(tmp_path)
    model = zoo.build("bert")
    tuner = mp.load(model, tmp_path)
    close(zoo.logits(model, zoo.batch("bert")), zoo.logits(theirs, zoo.batch("bert")))
    method = tuner.method
    assert (method.warmup, method.final, method.every, method.orthogonality) == (2, 3, 2, 0.25)
    assert method.betas == (0.7, 0.9)
    layer = theirs.base_model.model.get_submodule(tuner.patches[0][0].path)
    scale = layer.scaling["default"] / (layer.ranknum["default"] + 1e-5)
    assert tuner.patches[0][1].scale == pytest.approx(scale.item(), rel=1e-7)
    assert set(tuner.method.left(tuner).values()) == {4}


@pytest.mark.filterwarnings("ignore:Adapter 'default'")
def test_heads_go_both_ways(tmp_path):
    batch = zoo.batch("bert", "classification")
    model = zoo.build("bert", "classification")
    method = mp.AdaLoRA(init_rank=3, target_rank=2, targets=("query", "up"))
    tuner = mp.attach(model, method, seed=0)
    mp.train(model, [batch], 6, 3e-2, progress=False)
    expected = zoo.logits(model, batch)
    tuner.save(tmp_path / "ours")
    theirs = zoo.build("bert", "classification")
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "ours", is_trainable=True).eval()
    close(zoo.logits(theirs, batch), expected)
    theirs.save_pretrained(tmp_path / "theirs")
    tuner.detach()
    tuner = mp.load(model, tmp_path / "theirs")
    close(zoo.logits(model, batch), expected)
    assert tuner.report().head > 0


class Watched(mp.AdaLoRA):
    def after_step(self, tuner, step, steps):
        record = super().after_step(tuner, step, steps)
        self.observe(tuner, step)
        return record


@pytest.mark.parametrize("name, every", [("gpt2", 1), ("bert", 3), ("t5", 1), ("llama", 2)])
def test_the_allocator_step_by_step(name, every):
    """Same start and batches: moving averages, scores, masks and weights equal after each step."""
    theirs = with_peft(name, deltaT=every)
    layers, seen = {}, []
    ranks = dict(init_rank=4, target_rank=2, warmup=2, final=3, every=every)
    targets = tuple(ATTENTION[name])
    method = Watched(**ranks, alpha=6, targets=targets, betas=(0.7, 0.9))
    model = zoo.build(name)
    tuner = mp.attach(model, method, seed=0)
    pairs = dict(Q="lora_A", Lambda="lora_E", P="lora_B")
    with torch.no_grad():
        for place, patch in tuner.patches:
            layers[place.path] = layer = theirs.base_model.model.get_submodule(place.path)
            for ours, other in pairs.items():
                getattr(patch, ours).copy_(
                    getattr(layer, other)["default"].view_as(getattr(patch, ours))
                )

    def observe(tuner, step):
        state = {}
        for place, patch in tuner.patches:
            for ours, other in pairs.items():
                key = f"{place.path}.{other}.default"
                means = getattr(patch, f"{ours}_mean"), getattr(patch, f"{ours}_uncertainty")
                state[key] = [t.detach().clone() for t in (getattr(patch, ours), *means)]
        seen.append(state)

    object.__setattr__(method, "observe", observe)
    options = dict(warmup=0, schedule="constant", clip=None, weight_decay=0.01, progress=False)
    history = mp.train(model, lambda step: data(name)[step % 3], STEPS, 3e-2, **options)
    masks = []
    rounded = dict(dtype=torch.float32, roundings=MODEL * STEPS)  # losses in fp32, each step more

    def compare(step):
        allocator = theirs.base_model.rankallocator
        weights = dict(theirs.base_model.model.named_parameters())
        for key, (weight, mean, uncertainty) in seen[step].items():
            other = weights[key].view_as(weight)
            close(weight, other, **rounded)
            if "lora_E" in key:
                assert torch.equal(weight == 0, other == 0), f"masks after step {step}"
            if step < STEPS - 3:
                scale = allocator.exp_avg_ipt[key].abs().max().item()
                for ours, averages in (
                    (mean, allocator.exp_avg_ipt),
                    (uncertainty, allocator.exp_avg_unc),
                ):
                    expected = averages[key].view_as(ours)
                    close(ours, expected, size=scale, **rounded)
        pattern = theirs.peft_config["default"].rank_pattern
        if pattern:
            masks.append(sum(map(sum, pattern.values())))

    their_steps(theirs, name, compare)
    budgets = [record["budget"] for record in history.records["default"]]
    assert budgets == sorted(budgets, reverse=True) and budgets[-1] == 2 * len(layers)
    assert masks[-1] == budgets[-1] and set(masks) == set(budgets)
    left = tuner.method.left(tuner)
    pattern = theirs.peft_config["default"].rank_pattern
    for place, _ in tuner.patches:
        expected = sum(pattern[f"{place.path}.lora_E.default"])
        assert left[f"{place.path}.{place.target}"] == expected
