"""AdaLoRA: the equation, the scores and the budget re-computed with plain tensors, the ranks."""

import math

import pytest
import torch
import zoo
from closeness import close, tolerance
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import minipeft as mp
from minipeft.methods.adalora import AdaLoRAPatch

size = st.integers(1, 7)
QUICK = dict(learning_rate=3e-2, progress=False)


def batches(name: str = "tiny-decoder") -> list[dict]:
    return [zoo.batch(name, rows=2, seed=seed) for seed in range(3)]


def tuned(name: str = "tiny-decoder", **values):
    model = zoo.build(name)
    method = mp.AdaLoRA(**(dict(init_rank=4, target_rank=2) | values))
    return model, mp.attach(model, method, seed=0)


@settings(deadline=None, max_examples=30)
@given(
    n_in=size,
    n_out=size,
    rank=st.integers(0, 5),
    scale=st.floats(0.1, 8),
    rows=st.lists(st.integers(1, 3), min_size=0, max_size=3),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)
def test_equation_for_any_shape(n_in, n_out, rank, scale, rows, dtype):
    torch.manual_seed(0)
    patch = AdaLoRAPatch(n_in, n_out, rank, scale).to(torch.promote_types(dtype, torch.float32))
    x, y = torch.randn(*rows, n_in).to(dtype), torch.randn(*rows, n_out).to(dtype)
    assert sum(p.numel() for p in patch.parameters()) == rank * (n_in + n_out + 1)
    assert torch.equal(patch(x, y), y)  # Lambda = 0: the model starts as it was
    for parameter in patch.parameters():
        torch.nn.init.normal_(parameter)
    whole = patch.P.double() @ torch.diag(patch.Lambda.double()) @ patch.Q.double()  # (out, in)
    out = patch(x, y)
    assert out.dtype == dtype and out.shape == y.shape
    expected = y.double() + scale * x.double() @ whole.T
    # In the patch's own dtype the terms of two sums; y and what is added, once each in that of y.
    wide = patch.P.dtype
    terms = scale * (patch.P.abs() @ patch.Lambda.diag().abs() @ patch.Q.abs()).sum(1).max().item()
    added = y.abs().max().item() + (expected - y).abs().max().item()
    sums = dict(dtype=wide, roundings=n_in + rank + 2)
    error = tolerance(added, dtype, 2) + tolerance(terms * x.abs().max().item(), **sums)
    assert (out.double() - expected).abs().max() <= error
    close(patch.delta().double(), scale * whole, size=terms, **sums)


def test_gradients_in_double_precision():
    torch.manual_seed(1)
    patch = AdaLoRAPatch(3, 4, 2, 0.7).double()
    torch.nn.init.normal_(patch.Lambda)
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)

    def run(x, y, P, Lambda, Q):
        return torch.func.functional_call(patch, dict(P=P, Lambda=Lambda, Q=Q), (x, y))

    assert torch.autograd.gradcheck(run, (x, y, patch.P, patch.Lambda, patch.Q))


def test_penalty_measures_the_distance_to_orthogonality():
    _, tuner = tuned(targets=("query", "up"), orthogonality=0.25)
    total, count = 0.0, 0
    for _, patch in tuner.patches:
        for matrix in (patch.P, patch.Q.T):  # columns should be orthonormal
            gram = torch.einsum("ir,is->rs", matrix, matrix)
            total += (gram - torch.eye(4)).square().sum().sqrt().item()
            count += 1
    close(tuner.method.penalty(tuner).item(), 0.25 * total / count)
    with torch.no_grad():
        for _, patch in tuner.patches:
            for matrix in (patch.P, patch.Q.T):
                matrix.copy_(torch.linalg.qr(torch.randn(matrix.shape))[0])
    assert tuner.method.penalty(tuner).item() < 1e-5


def test_training_makes_the_matrices_more_orthogonal():
    """P and Q start with entries of 0.02: far from orthonormal, which costs 0.5 * 2 = 1."""
    model, tuner = tuned()
    before = tuner.method.penalty(tuner).item()
    mp.train(model, batches(), 30, **QUICK)
    assert tuner.method.penalty(tuner).item() < 0.7 * before


class Recorder(mp.AdaLoRA):
    """Writes down weights after the optimizer's step, the gradients before it, and the masks."""

    def after_step(self, tuner, step, steps):
        self.seen.append([(k, p.detach().clone(), p.grad.clone()) for k, p in named(tuner)])
        record = super().after_step(tuner, step, steps)
        self.lambdas.append({k: p.detach().clone() for k, p in named(tuner) if "Lambda" in k})
        return record


def named(tuner):
    for number, (_, patch) in enumerate(tuner.patches):
        for key, parameter in patch.named_parameters():
            yield f"{number}.{key}", parameter


@pytest.mark.parametrize("every", [1, 3])
def test_pruned_triplets_are_those_of_least_importance(every):
    """The whole schedule re-computed number by number, from weights and gradients alone."""
    steps, init, target, places = 20, 3, 2, 4
    ranks = dict(init_rank=init, target_rank=target)
    method = Recorder(**ranks, warmup=4, final=6, every=every, betas=(0.7, 0.9))
    object.__setattr__(method, "seen", [])
    object.__setattr__(method, "lambdas", [])
    model = zoo.build("tiny-decoder")
    tuner = mp.attach(model, method, seed=0)
    history = mp.train(model, batches(), steps, **QUICK)
    assert len(method.seen) == steps

    mean, uncertainty = {}, {}
    records = iter(history.records["default"])
    kept = set(range(init * places))
    for step in range(steps):
        for key, weight, gradient in method.seen[step]:
            sensitivity = (weight * gradient).abs()
            if step < steps - 6:
                old = mean.get(key, torch.zeros_like(weight))
                mean[key] = 0.7 * old + 0.3 * sensitivity
                old = uncertainty.get(key, torch.zeros_like(weight))
                uncertainty[key] = 0.9 * old + 0.1 * (sensitivity - mean[key]).abs()
        b0, bT = init * places, target * places
        left = 1 - (step - 4) / (14 - 4)
        budget = b0 if step <= 4 else bT if step >= 14 else int((b0 - bT) * left**3 + bT)
        if step == 14 or (4 < step < 14 and step % every == 0):
            scores = []
            for place in range(places):
                for i in range(init):
                    s = {k: mean[f"{place}.{k}"] * uncertainty[f"{place}.{k}"] for k in "PQ"}
                    lambda_score = mean[f"{place}.Lambda"][i] * uncertainty[f"{place}.Lambda"][i]
                    score = lambda_score + s["P"][:, i].sum() / 16 + s["Q"][i].sum() / 16
                    scores.append(score.item())
            best = sorted(range(b0), key=lambda n: scores[n], reverse=True)[:budget]
            kept = set(best)
            ranks = [sum(n // init == place for n in best) for place in range(places)]
            assert next(records) == {"step": step, "budget": budget, "ranks": ranks}
        zero = {
            place * init + i
            for place in range(places)
            for i in range(init)
            if method.lambdas[step][f"{place}.Lambda"][i] == 0
        }
        if step >= 14 or (step > 4 and step % every == 0):
            assert zero == set(range(b0)) - kept, step
    assert next(records, None) is None
    assert len(kept) == bT == sum(tuner.method.left(tuner).values())


@pytest.mark.parametrize(
    "warmup, final, steps", [(0.1, 0.3, 10), (0, 0, 2), (2, 3, 9), (0.5, 0.4, 2)]
)
def test_the_final_budget_is_the_target(tmp_path, warmup, final, steps):
    model, tuner = tuned(warmup=warmup, final=final, targets=("query", "key", "down"))
    count = tuner.report().trainable
    assert count == 2 * (4 * 33 + 4 * 33 + 4 * 81)
    optimizer_sees = [id(p) for p in tuner.parameters()]
    mp.train(model, batches(), steps, **QUICK)
    left = tuner.method.left(tuner)
    assert sum(left.values()) == 2 * 6 and len(left) == 6
    assert [id(p) for p in tuner.parameters()] != optimizer_sees
    report = tuner.report()
    expected = sum(r * (81 if "down" in name else 33) for name, r in left.items())
    assert report.trainable == report.stored == expected < count
    assert report.trainable == sum(p.numel() for p in tuner.parameters())
    assert "Lambda" in str(report)
    assert not any("mean" in name or "kept" in name for name, _ in model.named_buffers())


def test_the_budget_falls_as_a_cubic():
    _, tuner = tuned(init_rank=12, target_rank=2, warmup=10, final=30)
    budget = tuner.method.schedule(tuner, steps=100)
    curve = [budget(step) for step in range(100)]
    assert curve[:11] == [48] * 11 and curve[70:] == [8] * 30
    assert curve[40] == int(40 * 0.5**3 + 8) and curve[25] == int(40 * 0.75**3 + 8)
    assert all(a >= b for a, b in zip(curve, curve[1:], strict=False))


def test_every_tensor_gets_a_gradient_by_the_second_step_and_the_base_none():
    model, tuner = tuned(targets=("query", "value", "up"))
    base = {n: p for n, p in model.named_parameters() if p not in set(tuner.parameters())}
    optimizer = torch.optim.SGD(tuner.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(**batches()[0]).loss.backward()
        optimizer.step()
    assert all(p.grad.abs().max() > 0 for p in tuner.parameters())
    assert all(p.grad is None for p in base.values())


def test_a_run_that_was_interrupted_ends_with_the_same_bits(tmp_path):
    def run(stop=None, **options):
        model, tuner = tuned(every=2)

        def data(step):
            if step == stop:
                raise KeyboardInterrupt
            return batches()[step % 3]

        history = mp.train(model, data, 16, checkpoint_every=3, **QUICK, **options)
        return history, tuner.named_tensors()

    whole, expected = run()
    for stop, older in ((7, False), (14, False), (7, True)):  # while the budget falls, and after
        folder = tmp_path / f"{stop} {older}"
        with pytest.raises(KeyboardInterrupt):
            run(stop, checkpoint=folder)
        if older:  # a snapshot of version 0.1
            (path,) = folder.glob("*/state.safetensors")
            tensors = load_file(path)
            assert any(key.endswith("P_uncertainty") for key in tensors)
            save_file({k.replace("_uncertainty", "_unsure"): t for k, t in tensors.items()}, path)
        again, tensors = run(checkpoint=folder, resume=True)
        assert again.losses == whole.losses and again.records == whole.records
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[k], expected[k]) for k in expected)


def test_the_best_weights_are_taken_after_the_ranks_have_fallen():
    scores = iter([9.0, 8.0, 1.0, 2.0, 1.5])
    model, tuner = tuned()
    history = mp.train(
        model, batches(), 10, evaluate=lambda m: next(scores), evaluate_every=2, **QUICK
    )
    assert (history.best_step, history.best_score) == (8, 2.0)  # steps 2 and 4 had higher ranks
    assert sum(tuner.method.left(tuner).values()) == 2 * len(tuner.patches)


def test_a_pruned_tuner_is_trained_on_and_keeps_its_ranks(tmp_path):
    model, tuner = tuned()
    mp.train(model, batches(), 8, **QUICK)
    left, count = tuner.method.left(tuner), tuner.report().trainable
    tuner.save(tmp_path)
    out = zoo.logits(model, batches()[0])
    history = mp.train(model, batches(), 8, **QUICK)
    assert tuner.method.left(tuner) == left and history.records == {}
    tuner.detach()
    tuner = mp.load(model, tmp_path)
    assert torch.equal(zoo.logits(model, batches()[0]), out)
    assert tuner.method.left(tuner) == left and tuner.report().stored == count
    again = mp.train(model, batches(), 8, **QUICK)
    assert tuner.method.left(tuner) == left
    assert again.losses == history.losses
    tuner.save(tmp_path / "again")


@pytest.mark.parametrize("name", ["gpt2", "tiny-encoder-decoder", "gpt_neox"])
def test_merge_save_route_and_unplug(tmp_path, name):
    model, tuner = tuned(name, targets=("query", "value", "down"))
    data = batches(name)
    fresh = zoo.build(name)
    base = zoo.logits(fresh, data[0])
    assert torch.equal(zoo.logits(model, data[0]), base)
    mp.train(model, data, 6, **QUICK)
    zoo.shake(tuner, 0.3)
    out = zoo.logits(model, data[0])
    assert (out - base).abs().max() > 1e-3
    with mp.route(model, ["default", None]):
        mixed = zoo.logits(model, data[0])
    close(mixed, torch.stack([out[0], base[1]]))
    tuner.save(tmp_path)
    tuner.merge()
    close(zoo.logits(model, data[0]), out)
    tuner.unmerge()
    tuner.detach()
    assert torch.equal(zoo.logits(model, data[0]), base)
    left = mp.load(model, tmp_path).method.left
    assert torch.equal(zoo.logits(model, data[0]), out)
    assert left(mp.tuners(model)["default"]) == {
        f"{place.path}.{place.target}": len(patch.Lambda) for place, patch in tuner.patches
    }


def test_an_interrupted_tuner_is_saved_as_it_acts(tmp_path):
    model, tuner = tuned()

    def data(step):
        if step == 5:
            raise KeyboardInterrupt
        return batches()[0]

    with pytest.raises(KeyboardInterrupt):
        mp.train(model, data, 8, **QUICK)
    out = zoo.logits(model, batches()[0])
    tuner.save(tmp_path)
    tuner.detach()
    mp.load(model, tmp_path)
    assert torch.equal(zoo.logits(model, batches()[0]), out)


def test_as_one_of_several_methods(tmp_path):
    model, data = zoo.build("tiny-decoder"), batches()
    parts = mp.AdaLoRA(init_rank=3, target_rank=2), mp.Adapter(bottleneck=2)
    tuner = mp.attach(model, mp.Combined(parts), seed=0)
    history = mp.train(model, data, 6, **QUICK)
    ranks = [len(patch.Lambda) for _, patch in tuner.patches if hasattr(patch, "Lambda")]
    assert sum(ranks) == 2 * 4 and history.records["default"][-1]["ranks"] == ranks
    out = zoo.logits(model, data[0])
    tuner.save(tmp_path)
    tuner.detach()
    tuner = mp.load(model, tmp_path)
    assert torch.equal(zoo.logits(model, data[0]), out)
    mp.train(model, data, 6, **QUICK)
    assert ranks == [len(patch.Lambda) for _, patch in tuner.patches if hasattr(patch, "Lambda")]


def test_phases_that_leave_no_step_are_refused_before_anything_changes():
    model, tuner = tuned(warmup=10, final=10)
    before = {k: t.clone() for k, t in tuner.named_tensors().items()}
    with pytest.raises(ValueError, match="leave none of the 20 steps for pruning"):
        mp.train(model, batches(), 20, **QUICK)
    assert all(torch.equal(t, before[k]) for k, t in tuner.named_tensors().items())


@pytest.mark.parametrize(
    "values, sentence",
    [
        (dict(init_rank=0), "init_rank must be a whole number from 1"),
        (dict(init_rank=True), "init_rank must be a whole number"),
        (dict(init_rank="4"), "init_rank must be a whole number"),
        (dict(target_rank=13), "target_rank must be a whole number from 1 to init_rank, 12"),
        (dict(alpha=0), "alpha must be a number above 0"),
        (dict(alpha=math.nan), "alpha must be a number above 0"),
        (dict(dropout=1), "dropout must be a number from 0 and below 1"),
        (dict(warmup=-1), "warmup must be a number that is a share below 1 or counts steps"),
        (dict(final=1.5), "final must be a number that is a share"),
        (dict(every=0), "every must be a whole number from 1"),
        (dict(betas=(0.85,)), "betas must be two numbers"),
        (dict(betas=(0.85, 1.0)), "betas must be two numbers"),
        (dict(betas=0.85), "betas must be two numbers"),
        (dict(orthogonality=-0.5), "orthogonality must be a number from 0"),
        (dict(targets=()), "targets must be one or more names"),
        (dict(layers=(-1,)), "layers must be None or layer numbers"),
    ],
)
def test_impossible_settings_are_refused(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        mp.AdaLoRA(**values)
