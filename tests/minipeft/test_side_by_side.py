"""Side by side every run learns what it would learn alone: against `train`, weight for weight."""

import pytest
import torch
import zoo
from closeness import LOSS, close

import minipeft as mp
import tiny_transformer as tt
from minipeft.training.sweep import Run, exact_and_loss, together, train_side_by_side

QV, ALL = ("query", "value"), ("query", "key", "value", "output", "up", "down")


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = tt.TransformerConfig.gpt2(vocab_size=23, positions=16, width=8, layers=2, heads=2)
    model = tt.Decoder(config)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4)  # far from linear, so that mistakes show
    return model.eval()


def batch_of(seed, step):
    """Rows of another length for each seed, padded on the right; two tokens are not asked."""
    generator = torch.Generator().manual_seed(100 * seed + step)
    T = 6 + seed
    ids = torch.randint(1, 23, (4, T), generator=generator)
    mask = torch.ones(4, T, dtype=torch.long)
    mask[0, -2:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :2] = -100
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": labels}


RUNS = [
    Run(mp.LoRA(rank=2, alpha=4, targets=QV), 2e-2, seed=0),
    Run(mp.LoRA(rank=3, alpha=4, targets=QV, rank_stabilized=True), 5e-3, seed=1),
    Run(mp.LoRA(rank=1, alpha=8, targets=("up",)), 1e-2, seed=2),
    Run(mp.LoRA(rank=2, alpha=2, targets=ALL), 1e-2, seed=0),
]


def test_each_run_equals_training_it_alone(model):
    results = train_side_by_side(model, RUNS, batch_of, steps=12, progress=False)
    longest = []
    for run, result in zip(RUNS, results, strict=True):
        tuner = mp.attach(model, run.method, seed=run.seed)
        history = mp.train(
            model, lambda step, run=run: batch_of(run.seed, step), 12, run.learning_rate,
            progress=False,
        )  # fmt: skip
        close(result.losses, history.losses, dtype=torch.float32, roundings=LOSS)
        longest.append(max(history.gradient_norms))
        assert set(result.deltas) == {place.path for place, _ in tuner.patches}
        for place, patch in tuner.patches:
            assert patch.delta().abs().max() > 1e-2
            close(result.deltas[place.path], patch.delta(), label=place.path)
        tuner.detach()
    assert max(longest) > 1  # so that the clipping has been seen at work


def test_the_model_is_left_as_it_was(model):
    before, modules = mp.fingerprint(model), list(model.modules())
    train_side_by_side(model, RUNS, batch_of, steps=2, progress=False)
    assert mp.fingerprint(model) == before
    assert all(a is b for a, b in zip(model.modules(), modules, strict=True))


def test_a_run_that_explodes_does_not_disturb_the_others(model):
    wild = Run(mp.LoRA(rank=2, targets=QV), 1e30, seed=0)
    alone = train_side_by_side(model, RUNS[:1], batch_of, steps=6, progress=False)
    beside = train_side_by_side(model, [RUNS[0], wild], batch_of, steps=6, progress=False)
    close(beside[0].losses, alone[0].losses, dtype=torch.float32, roundings=LOSS)


def test_start_may_change_the_first_values(model):
    def nothing(patch):
        torch.nn.init.zeros_(patch.A)

    stuck = Run(mp.LoRA(rank=2, targets=QV), 1e-2, start=nothing)
    (result,) = train_side_by_side(model, [stuck], batch_of, steps=3, progress=False)
    assert all(delta.abs().max() == 0 for delta in result.deltas.values())


def test_exact_is_what_greedy_writing_gets_right():
    """A model that counts: the next token is the last one plus one. Greedy text against `exact`."""
    torch.manual_seed(0)
    model = tt.Decoder(
        tt.TransformerConfig.gpt2(vocab_size=23, positions=16, width=16, layers=1, heads=2)
    )
    starts = torch.arange(4, 16)
    ids = torch.stack([starts, starts + 1, starts + 2, torch.full((12,), 2)], dim=1)  # 2 ends it
    labels = ids.clone()
    labels[:, 0] = -100
    rows = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    few = {key: value[:7] for key, value in rows.items()}
    mp.train(model, [few], steps=60, learning_rate=1e-2, progress=False)
    written = tt.generate(model.eval(), ids[:, :1], max_new_tokens=3, eos_token_id=2)
    right = (written == ids).all(dim=1).float().mean().item()
    assert 0 < right < 1  # it has learnt some rows and not others
    assert exact_and_loss(model, rows)[0]["exact"] == pytest.approx(right)
    with torch.no_grad():
        assert exact_and_loss(model, few)[0]["loss"] == pytest.approx(
            model(**few).loss.item(), rel=1e-4
        )


def test_batches_of_different_length_lie_together():
    one, two = batch_of(0, 0), batch_of(2, 0)
    both = together([one, two])
    assert both["input_ids"].shape == (8, 8)
    assert (both["labels"][:4, 6:] == -100).all() and (both["attention_mask"][:4, 6:] == 0).all()
    assert torch.equal(both["input_ids"][4:], two["input_ids"])


def test_dropout_is_refused(model):
    with pytest.raises(ValueError, match="dropout"):
        train_side_by_side(model, [Run(mp.LoRA(dropout=0.1))], batch_of, steps=1)
    assert not mp.tuners(model)


# ---- every setting of a run, and every model, trains what it says, or is refused ----

SETTINGS = {
    "plus": mp.LoRA(rank=2, plus=16),
    "stabilized": mp.LoRA(rank=3, rank_stabilized=True),
    "ranks": mp.LoRA(rank=2, ranks={"value": 3}),
    "alphas": mp.LoRA(rank=3, alphas={"query": 5}),
    "layers": mp.LoRA(rank=2, layers=(1,)),
    "one part": mp.LoRA(rank=2, targets=("key",)),
    "all": mp.LoRA(rank=2, targets=ALL),
}


def hub_batch(seed, step):
    batch = zoo.batch("gpt2", seed=10 * seed + step)
    width = batch["input_ids"].shape[1]
    return {key: value[:, : width - seed] for key, value in batch.items()}


def alone(model, run, batch_of, steps, **options):
    """(losses, path -> delta of the whole map) of the run by itself."""
    tuner = mp.attach(model, run.method, seed=run.seed, head=False)
    feed = lambda step: batch_of(run.seed, step)  # noqa: E731
    history = mp.train(model, feed, steps, run.learning_rate, progress=False, **options)
    deltas = {}
    for place, patch in tuner.patches:
        weight = place.module.weight
        shape = weight.T.shape if type(place.module).__name__ == "Conv1D" else weight.shape
        whole = deltas.setdefault(place.path, weight.new_zeros(shape))
        whole[slice(None) if place.columns is None else place.columns] += patch.delta().detach()
    tuner.detach()
    return history.losses, deltas


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox"])  # fused, apart, fused by head
def test_runs_of_any_setting_equal_runs_alone(name):
    model = zoo.build(name).double()
    runs = [Run(method, 1e-2 / (1 + i), i % 3) for i, method in enumerate(SETTINGS.values())]
    options = dict(clip=0.5, warmup=2)
    results = train_side_by_side(model, runs, hub_batch, 5, progress=False, **options)
    for run, result in zip(runs, results, strict=True):
        losses, deltas = alone(model, run, hub_batch, 5, **options)
        close(result.losses, losses, dtype=torch.float32, roundings=LOSS)
        assert set(result.deltas) == set(deltas)
        for path, delta in deltas.items():
            assert delta.abs().max() > 0
            close(result.deltas[path], delta, dtype=torch.float32, label=path)


def test_without_clipping(model):
    runs = [Run(mp.LoRA(rank=2, plus=4), 2e-2), Run(mp.LoRA(rank=1), 5e-3, seed=1)]
    results = train_side_by_side(model, runs, batch_of, 4, clip=None, progress=False)
    for run, result in zip(runs, results, strict=True):
        losses, _ = alone(model, run, batch_of, 4, clip=None)
        close(result.losses, losses, dtype=torch.float32, roundings=LOSS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_on_a_half_precision_base(dtype):
    model = zoo.build("gpt2").to(dtype)
    run = Run(mp.LoRA(rank=2), 1e-2)
    (result,) = train_side_by_side(model, [run], hub_batch, 4, progress=False)
    losses, _ = alone(model, run, hub_batch, 4)
    assert result.losses == pytest.approx(losses, rel=4 * torch.finfo(dtype).eps)


def test_labels_of_padding_count_as_they_do_alone(model):
    def asked_everywhere(seed, step):
        batch = batch_of(seed, step)
        return batch | {"labels": batch["input_ids"].clone()}

    run = Run(mp.LoRA(rank=2), 1e-2)
    (result,) = train_side_by_side(model, [run], asked_everywhere, 2, progress=False)
    close(
        result.losses,
        alone(model, run, asked_everywhere, 2)[0],
        dtype=torch.float32,
        roundings=LOSS,
    )


def test_other_tuners_of_the_model_are_left_alone():
    model = zoo.build("gpt2")
    other = mp.attach(model, mp.LoRA(rank=2), "other", seed=3)
    zoo.shake(other)
    before = [p.detach().clone() for p in other.parameters()]
    train_side_by_side(model, [Run(mp.LoRA(rank=2))], hub_batch, 2, progress=False)
    assert all(map(torch.equal, other.parameters(), before))
    assert all(p.grad is None and p.requires_grad for p in other.parameters())


QV_RUN = [Run(mp.LoRA(rank=2))]


@pytest.mark.parametrize(
    "runs, sentence",
    [
        ([], "one or more runs"),
        ([Run(mp.DoRA(rank=2))], "Only LoRA is trained side by side, not DoRA"),
        ([Run(mp.PiSSA(rank=2))], "not PiSSA"),
        ([Run(mp.QLoRA(rank=2))], "not QLoRA"),
        ([Run(mp.AdaLoRA())], "not AdaLoRA"),
        ([Run(mp.Prefix(length=2))], "not Prefix"),
        ([Run(mp.LoRA(), learning_rate=0.0)], "learning_rate must be positive"),
        ([Run(mp.LoRA(targets=("qkv",))), *QV_RUN], "as a whole and another a part of it"),
    ],
)
def test_runs_that_would_train_otherwise_are_refused(runs, sentence):
    model = zoo.build("gpt2")
    with pytest.raises(ValueError, match=sentence):
        train_side_by_side(model, runs, hub_batch, 2, progress=False)
    assert not mp.tuners(model)


@pytest.mark.parametrize(
    "name, head",
    [("bert", "language"), ("t5", "language"), ("gpt2", "classification"), ("tiny-encoder",) * 2],
)
def test_models_that_would_train_otherwise_are_refused(name, head):
    model = zoo.build(name, "language" if head == name else head)
    with pytest.raises(ValueError, match="only causal language models"):
        train_side_by_side(model, QV_RUN, hub_batch, 1, progress=False)


def test_dropout_of_the_model_is_refused():
    model = zoo.build("tiny-decoder", dropout=0.1)
    with pytest.raises(ValueError, match="this model has some in training"):
        train_side_by_side(model, QV_RUN, batch_of, 1, progress=False)


def test_batches_that_do_not_lie_together_are_refused(model):
    def uneven(seed, step):
        return {key: value[: 4 - seed] for key, value in batch_of(seed, step).items()}

    runs = [Run(mp.LoRA(rank=2), seed=0), Run(mp.LoRA(rank=2), seed=1)]
    with pytest.raises(ValueError, match="the same number of rows"):
        train_side_by_side(model, runs, uneven, 1, progress=False)
    with_positions = lambda *which: batch_of(*which) | {"position_ids": torch.zeros(4, 6)}  # noqa: E731
    with pytest.raises(ValueError, match="and nothing else, not .*position_ids"):
        train_side_by_side(model, runs, with_positions, 1, progress=False)
    assert not mp.tuners(model)
