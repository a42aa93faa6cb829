"""DoRA, PiSSA and LoRA+: their equations, their starts, their counts."""

import copy

import pytest
import torch
import zoo
from closeness import close
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import minipeft as mp
from minipeft.methods.pissa import principal

QUICK = dict(progress=False, warmup=0, schedule="constant", clip=None)
KINDS = (mp.DoRA, mp.PiSSA)


def on_linear(method, n_in: int, n_out: int, dtype=torch.float32, bias=True):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(n_in, n_out, bias=bias, dtype=dtype))
    tuner = mp.attach(model, method, seed=1)
    return model, tuner, tuner.patches[0][1]


@settings(deadline=None, max_examples=25)
@given(
    n_in=st.integers(1, 8),
    n_out=st.integers(1, 8),
    rank=st.integers(1, 4),
    alpha=st.floats(0.5, 16),
    bias=st.booleans(),
    stabilized=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)
def test_dora_is_equation_5(n_in, n_out, rank, alpha, bias, stabilized, dtype):
    """h = m (W + s B A) x / ||W + s B A||, row by row, with plain numbers."""
    method = mp.DoRA(rank, alpha, targets="0", rank_stabilized=stabilized)
    model, tuner, patch = on_linear(method, n_in, n_out, dtype, bias)
    x = torch.randn(2, 3, n_in).to(dtype)
    base = tuner.patches[0][0].module
    assert torch.equal(model(x), base(x))  # m = ||W||, B = 0
    assert tuner.report().trainable == rank * (n_in + n_out) + n_out
    assert sum(p.numel() for p in tuner.parameters()) == rank * (n_in + n_out) + n_out
    zoo.shake(tuner, 0.5)
    scale = alpha / (rank**0.5 if stabilized else rank)
    A, B, m = (t.detach().double() for t in (patch.A, patch.B, patch.m))
    V = base.weight.detach().double() + scale * torch.einsum("or,ri->oi", B, A)
    rows = [m[o] * V[o] / V[o].square().sum().sqrt() for o in range(n_out)]
    expected = x.double() @ torch.stack(rows).T
    expected = expected + (base.bias.double() if bias else 0)
    size = (x.abs().max() * (base.weight.abs() + V.abs()).sum(1).max()).item() + 1
    roundings = 4 if dtype == torch.bfloat16 else 2 * n_in  # bf16 sums are taken in fp32
    close(model(x).double(), expected, dtype=dtype, size=size, roundings=roundings)
    tuner.merge()
    close(model(x).double(), expected, dtype=dtype, size=size, roundings=roundings)


@settings(deadline=None, max_examples=25)
@given(
    n_in=st.integers(2, 8),
    n_out=st.integers(2, 8),
    rank=st.integers(1, 2),
    alpha=st.floats(0.5, 16),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)
def test_pissa_trains_the_principal_part(n_in, n_out, rank, alpha, dtype):
    """h = W_res x + s B A x with W_res + s B A = W, ||W_res|| = singular value r + 1."""
    model, tuner, patch = on_linear(mp.PiSSA(rank, alpha, targets="0"), n_in, n_out, dtype)
    base, scale = tuner.patches[0][0].module, alpha / rank
    x = torch.randn(2, 3, n_in).to(dtype)
    assert torch.equal(model(x), base(x))
    assert tuner.report().trainable == rank * (n_in + n_out)
    assert tuner.report().stored == 2 * rank * (n_in + n_out)
    W = base.weight.detach().double()
    values = torch.linalg.svdvals(W)
    residual = W - scale * (patch.B0 @ patch.A0).double()
    largest = values[rank].item() if rank < len(values) else 0.0  # Eckart & Young 1936
    close(torch.linalg.matrix_norm(residual, 2).item(), largest, dtype=patch.A.dtype)
    zoo.shake(tuner, 0.5)
    expected = x.double() @ (residual + scale * (patch.B @ patch.A).double()).T
    expected = (expected + base.bias.double()).detach()
    size = 1 + (x.abs().max() * (residual.abs() + 2 * W.abs()).sum(1).max()).item() * (1 + scale)
    roundings = 4 if dtype == torch.bfloat16 else 2 * n_in  # bf16 sums are taken in fp32
    close(model(x).double(), expected, dtype=dtype, size=size, roundings=roundings)
    tuner.merge()
    close(model(x).double(), expected, dtype=dtype, size=size, roundings=roundings)


def test_dora_gradients_take_the_length_for_a_constant():
    """Section 4.3, against autograd of equation 5 with the length detached."""
    model, tuner, patch = on_linear(mp.DoRA(2, 6, targets="0"), 5, 4, torch.float64, bias=False)
    zoo.shake(tuner, 0.5)
    x, target = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    (model(x) - target).square().sum().backward()
    A, B, m = (t.detach().clone().requires_grad_() for t in (patch.A, patch.B, patch.m))
    V = tuner.patches[0][0].module.weight.detach() + 3 * B @ A
    W = (m / V.norm(dim=1).detach())[:, None] * V
    (x @ W.T - target).square().sum().backward()
    for ours, other in zip((patch.A, patch.B, patch.m), (A, B, m), strict=True):
        close(ours.grad, other.grad)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_in_double_precision(kind):
    _, tuner, patch = on_linear(kind(2, 6, targets="0"), 4, 3, torch.float64)
    zoo.shake(tuner, 0.3)
    if kind is mp.DoRA:  # the length is a constant of the gradient, so it must not move here
        length = torch.linalg.vector_norm(patch.weight() + 3 * patch.B @ patch.A, dim=1).detach()
        patch.lengthen = lambda W: patch.m / length
    x = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    tensors = dict(patch.named_parameters())

    def run(x, y, *values):
        return torch.func.functional_call(patch, dict(zip(tensors, values, strict=True)), (x, y))

    assert torch.autograd.gradcheck(run, (x, y, *tensors.values()))


def test_a_row_of_zeros_stays_finite():
    model = nn.Sequential(nn.Linear(3, 2, bias=False))
    nn.init.zeros_(model[0].weight[0])
    tuner = mp.attach(model, mp.DoRA(1, 1, targets="0"))
    model(torch.ones(1, 3)).sum().backward()
    assert all(p.grad.isfinite().all() for p in tuner.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["tiny-decoder", "gpt2", "t5", "gpt_neox"])
def test_life_of_a_tuner(tmp_path, kind, name):
    """Identity, gradients, five steps, save, route, merge, detach; parts of fused maps too."""
    model, data = zoo.build(name), [zoo.batch(name, seed=seed) for seed in range(2)]
    base, bits = zoo.logits(model, data[0]), mp.fingerprint(model)
    tuner = mp.attach(model, kind(rank=2, targets=("query", "value", "up")), seed=0)
    assert torch.equal(zoo.logits(model, data[0]), base)
    for _ in range(2):
        model(**data[0]).loss.backward()
        with torch.no_grad():
            for parameter in tuner.parameters():
                parameter -= 0.1 * parameter.grad
    assert all(p.grad.abs().max() > 0 for p in tuner.parameters())
    trained = set(tuner.parameters())
    assert all(p.grad is None for p in model.parameters() if p not in trained)
    mp.train(model, data, 5, 1e-2, progress=False)
    out = zoo.logits(model, data[0])
    with mp.route(model, ["default", None, "default"]):
        mixed = zoo.logits(model, data[0])
    expected = torch.stack([out[0], base[1], out[2]])
    close(mixed, expected)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in tuner.parameters():
            parameter.zero_()
    assert torch.equal(zoo.logits(twin, data[0]), out)  # the copy looks at its own door
    tuner = mp.tuners(twin)["default"]
    tuner.save(tmp_path)
    tuner.merge()
    close(zoo.logits(twin, data[0]), out)
    tuner.unmerge()
    assert torch.equal(zoo.logits(twin, data[0]), out)
    twin = tuner.detach()
    assert mp.fingerprint(twin) == bits and torch.equal(zoo.logits(twin, data[0]), base)
    mp.load(twin, tmp_path)
    close(zoo.logits(twin, data[0]), out)


def test_dora_looks_at_the_weight_without_what_is_merged_into_it():
    """Merged LoRA beside it, before it, or nobody: the same DoRA."""
    model, batch = zoo.build("tiny-decoder"), zoo.batch("tiny-decoder")
    first = mp.attach(model, mp.LoRA(rank=2), name="first", seed=0)
    zoo.shake(first)
    second = mp.attach(model, mp.DoRA(rank=2), name="second", seed=1)
    zoo.shake(second)
    both = zoo.logits(model, batch)
    first.merge()
    close(zoo.logits(model, batch), both)
    second.merge()
    close(zoo.logits(model, batch), both)
    first.unmerge()
    close(zoo.logits(model, batch), both)
    second.unmerge()
    assert torch.equal(zoo.logits(model, batch), both)


def test_pissa_refuses_a_rank_that_the_weight_has_not():
    model = nn.Sequential(nn.Linear(3, 5))
    with pytest.raises(ValueError, match="rank 4 is more than the 3 singular values"):
        mp.attach(model, mp.PiSSA(rank=4, targets="0"))
    assert type(model[0]) is nn.Linear and not mp.tuners(model)


def test_principal_of_a_known_matrix():
    A, B = principal(torch.diag(torch.tensor([1.0, 4.0, 9.0])), rank=2, scale=0.25)
    close(0.25 * B @ A, torch.diag(torch.tensor([0.0, 4.0, 9.0])))


def test_lora_plus_moves_b_faster():
    """AdamW's first step is the learning rate long, whatever the gradient: B's is 16 times A's."""
    model = zoo.build("tiny-decoder")
    tuner = mp.attach(model, mp.LoRA(rank=2, plus=16), seed=0)
    with torch.no_grad():
        for _, patch in tuner.patches:
            patch.B.normal_()
    before = [p.detach().clone() for p in tuner.parameters()]
    history = mp.train(model, [zoo.batch("tiny-decoder")], 1, 1e-3, **QUICK)
    for (name, now), old in zip(tuner.named_tensors().items(), before, strict=True):
        step = (now - old).abs().median().item()
        assert step == pytest.approx(1e-3 if name.endswith("A") else 16e-3, rel=0.02), name
    assert history.learning_rates == [1e-3]


@pytest.mark.parametrize("kind", [mp.LoRA, *KINDS])
def test_lora_plus_equals_a_plain_loop_and_survives_a_resume(tmp_path, kind):
    data = [zoo.batch("tiny-decoder", seed=seed) for seed in range(2)]

    def attached():
        model = zoo.build("tiny-decoder")
        return model, mp.attach(model, kind(rank=2, plus=4), seed=0)

    def run(stop=None, **options):
        model, tuner = attached()

        def batches(step):
            if step == stop:
                raise KeyboardInterrupt
            return data[step % 2]

        mp.train(model, batches, 6, 1e-2, **QUICK, **options)
        return tuner.named_tensors()

    model, tuner = attached()
    fast = [patch.B for _, patch in tuner.patches]
    slow = [p for p in tuner.parameters() if not any(p is b for b in fast)]
    groups = [{"params": slow, "lr": 1e-2}, {"params": fast, "lr": 4e-2}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    for step in range(6):
        optimizer.zero_grad()
        model(**data[step % 2]).loss.backward()
        optimizer.step()
    expected = run()
    for key, tensor in tuner.named_tensors().items():
        close(expected[key], tensor)
    with pytest.raises(KeyboardInterrupt):
        run(4, checkpoint=tmp_path, checkpoint_every=2)
    again = run(checkpoint=tmp_path, checkpoint_every=2, resume=True)
    assert all(torch.equal(again[key], expected[key]) for key in expected)


def test_a_resume_with_another_factor_is_refused(tmp_path):
    for plus, ok in ((4, True), (None, False), (8, False)):
        model = zoo.build("tiny-decoder")
        mp.attach(model, mp.LoRA(rank=2, plus=plus), seed=0)
        options = dict(checkpoint=tmp_path, resume=True, **QUICK)
        if ok:
            mp.train(model, [zoo.batch("tiny-decoder")], 2, **options)
            continue
        with pytest.raises(ValueError, match="belongs to another run: factors is"):
            mp.train(model, [zoo.batch("tiny-decoder")], 2, **options)


@pytest.mark.parametrize("plus", [0, -1, True, "16", float("nan")])
def test_impossible_factors_are_refused(plus):
    with pytest.raises(ValueError, match="plus must be a number above 0"):
        mp.LoRA(plus=plus)


def test_dora_reads_the_frozen_answer_off_y_only_where_it_is_that():
    """Alone it needs no second product with W0; behind another tuner it does, and is as right."""
    from torch.utils.flop_counter import FlopCounterMode

    model = torch.nn.Sequential(torch.nn.Linear(6, 5))
    x, counts = torch.randn(2, 3, 6), []
    first = mp.attach(model, mp.IA3(targets="0", feedforward=()), name="first", head=False)
    dora = mp.attach(model, mp.DoRA(rank=2, targets="0"), name="dora", seed=0, head=False)
    for tuner in (first, dora):
        for parameter in tuner.parameters():
            torch.nn.init.normal_(parameter)
    patch, scale = dora.patches[0][1], first.patches[0][1].l
    W, bias = model[0].base.weight, model[0].base.bias
    for on in (True, False):
        first.enable() if on else first.disable()
        with FlopCounterMode(display=False) as counter:
            y = model(x)
        counts.append(counter.get_total_flops())
        frozen = x @ W.T + bias
        expected = (scale * frozen if on else frozen) + x @ patch.delta().T
        close(y, expected)
    assert counts[0] - counts[1] == 2 * x.numel() * 5  # W0 x
