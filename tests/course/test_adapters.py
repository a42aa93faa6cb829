"""What lesson 05 measures with: adapters left out, the start, the cost of a step."""

import math

import pytest
import torch
from closeness import close

import minipeft as mp
import tiny_transformer as tt
from minipeft import tasks
from minipeft.course import adapters


@pytest.fixture
def model():
    torch.manual_seed(0)
    base, _ = tt.load("tiny-decoder-0.1m")
    return base.double()


@pytest.fixture
def batch():
    _, tokenizer = tt.load("tiny-decoder-0.1m")
    return tasks.load("reverse-rotate").batches("train", tokenizer, batch_size=4)(0)


def shaken(model, **settings):
    """Adapters that change the answers."""
    tuner = mp.attach(model, mp.Adapter(bottleneck=4, norms=False, **settings), seed=1)
    with torch.no_grad():
        for parameter in tuner.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, dtype=parameter.dtype)
    return tuner


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def test_without_all_layers_the_model_is_the_base(model, batch):
    bare = logits(model, batch)
    tuner = shaken(model)
    with_them = logits(model, batch)
    with adapters.without(tuner, range(4)):
        assert torch.equal(logits(model, batch), bare)
    assert torch.equal(logits(model, batch), with_them)
    with adapters.without(tuner, []):
        assert torch.equal(logits(model, batch), with_them)


def test_without_one_layer_is_a_model_that_never_had_adapters_there(model, batch):
    tuner = shaken(model)
    state = {
        f"{place.path}.{name}": p.detach().clone()
        for place, patch in tuner.patches
        for name, p in patch.named_parameters()
    }
    with adapters.without(tuner, [1]):
        left_out = logits(model, batch)
    tuner.detach()
    rest = mp.attach(model, mp.Adapter(bottleneck=4, norms=False, layers=(0, 2, 3)), seed=1)
    with torch.no_grad():
        for place, patch in rest.patches:
            for name, p in patch.named_parameters():
                p.copy_(state[f"{place.path}.{name}"])
    close(logits(model, batch), left_out)


def test_an_error_inside_puts_the_adapters_back(model, batch):
    tuner = shaken(model)
    with pytest.raises(KeyError), adapters.without(tuner, [0]):
        raise KeyError
    assert all(patch.scale == 1 for _, patch in tuner.patches)


def test_adapters_without_a_skip_cannot_be_left_out(model):
    tuner = shaken(model, skip=False)
    with pytest.raises(ValueError, match="would give back zeros"), adapters.without(tuner, [0]):
        pass


def test_spans_cover_every_stretch_of_layers_once(model):
    tuner, seen = shaken(model), []

    def score():
        off = [place.layer for place, patch in tuner.patches if patch.scale == 0]
        seen.append(sorted(set(off)))
        return float(len(seen))

    table = adapters.spans(tuner, 4, score)
    assert len(seen) == 10 and seen[0] == [0] and seen[3] == [0, 1, 2, 3] and [1, 2] in seen
    assert all(math.isnan(table[a][b]) == (b < a) for a in range(4) for b in range(4))


def test_at_the_start_a_zero_adapter_moves_nothing_and_none_is_left_behind(model, batch):
    before = mp.fingerprint(model)
    zero = adapters.at_the_start(model, mp.Adapter(4, sigma=0), batch)
    assert zero["moved"] == 0 and zero["gradient"] > 0
    near = adapters.at_the_start(model, mp.Adapter(4), batch)
    bare = adapters.at_the_start(model, mp.Adapter(4, skip=False), batch)
    assert 0 < near["moved"] < bare["moved"]
    assert zero["passed"] == 1 and abs(near["passed"] - 1) < 0.01 and bare["passed"] < 0.01
    assert mp.fingerprint(model) == before
    assert all(p.grad is None for p in model.parameters())


def test_norms_only_trains_the_layer_norms(model):
    tuner = mp.attach(model, adapters.NormsOnly())
    assert sum(p.numel() for p in tuner.parameters()) == 9 * 2 * model.config.width


def test_cost_counts_what_a_step_computes(model, batch):
    methods = [mp.FullFineTuning(), mp.Adapter(4), mp.TopLayers(1)]
    full, small, top = adapters.costs(model, methods, batch, repeats=1)
    products = "products of a step, forward and backward"
    assert full["numbers trained"] == sum(p.numel() for p in model.parameters())
    assert top[products] < small[products] < full[products]
    # forward F, gradients of inputs about F, gradients of weights about F
    assert 2 / 3 - 0.05 < small[products] / full[products] < 0.85
    assert all(p.grad is None for p in model.parameters())
