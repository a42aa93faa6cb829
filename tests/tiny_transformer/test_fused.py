"""What the models compute by a shorter way is what the plain objects say, in float64."""

from __future__ import annotations

import pytest
import torch
from closeness import close
from tiny_models import fresh

import tiny_transformer as tt
from tiny_transformer.fused_attention import FusedAttention
from tiny_transformer.labelled_loss import labelled_cross_entropy

B, T, S, H, D, P = 2, 5, 3, 2, 4, 3
C = H * D
MEMORIES = {"none": None, "for all": 1, "per row": B, "closed to some": B}


@pytest.fixture(autouse=True)
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def both(dropout: float = 0.0) -> tuple[tt.Attention, FusedAttention]:
    """The plain layer and the fused one, with the same weights."""
    plain, fused = tt.Attention(C, H, dropout), FusedAttention(C, H, dropout)
    fused.load_state_dict(plain.state_dict())
    return plain.eval(), fused.eval()


def mask(keys: int) -> torch.Tensor:
    """(B, 1, 1, keys): the first key of row 1 is closed."""
    closed = torch.zeros(B, 1, 1, keys)
    closed[1, ..., 0] = torch.finfo(closed.dtype).min
    return closed


def memory(kind: str):
    """Keys and values (1 or B, H, P, D), and for one kind which of it a row may see (B, P)."""
    rows = MEMORIES[kind]
    if rows is None:
        return None
    keys_values = torch.randn(2, rows, H, P, D).unbind()
    open_to = (torch.tensor([[True] * P, [False, True, True]]),)
    return (*keys_values, *(open_to if kind == "closed to some" else ()))


def answer_and_gradients(layer, *inputs, **options) -> list[torch.Tensor]:
    layer.zero_grad()
    y = layer(*inputs, **options)
    y.square().sum().backward()
    return [y, *(p.grad for p in layer.parameters())]


@pytest.mark.parametrize("kind", MEMORIES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_a_text_alone(kind, masked, causal):
    plain, fused = both()
    plain.memory = fused.memory = memory(kind)
    x, options = torch.randn(B, T, C), {"mask": mask(T) if masked else None, "causal": causal}
    if masked and causal:  # the first query of row 1 may look nowhere, of which nothing is claimed
        options["mask"] = mask(T).roll(2, -1)
    for one, other in zip(
        answer_and_gradients(plain, x, **options),
        answer_and_gradients(fused, x, **options),
        strict=True,
    ):
        close(one, other)


@pytest.mark.parametrize("kind", MEMORIES)
def test_cross_attention(kind):
    plain, fused = both()
    plain.memory = fused.memory = memory(kind)
    x, context = torch.randn(B, T, C), torch.randn(B, S, C)
    for one, other in zip(
        answer_and_gradients(plain, x, context, mask=mask(S)),
        answer_and_gradients(fused, x, context, mask=mask(S)),
        strict=True,
    ):
        close(one, other)


@pytest.mark.parametrize("kind", MEMORIES)
@pytest.mark.parametrize("lengths", [(3, 1, 1), (2, 3), (1, 1, 3)])
def test_steps_with_a_cache(kind, lengths):
    plain, fused = both()
    plain.memory = fused.memory = memory(kind)
    caches = {}, {}
    for x in torch.randn(B, T, C).split(lengths, dim=1):
        close(plain(x, causal=True, cache=caches[0]), fused(x, causal=True, cache=caches[1]))
    close(caches[0]["key"], caches[1]["key"])


def test_wanted_weights_are_those_of_the_plain_layer():
    plain, fused = both()
    plain.keep_weights = fused.keep_weights = True
    x = torch.randn(B, T, C)
    close(plain(x, causal=True), fused(x, causal=True))
    close(plain.weights, fused.weights)


@pytest.mark.parametrize("layout", ["gpt2", "bert", "bart"])
def test_the_models_use_the_kernel(layout):
    """Every layer of a model is the fused one, which keeps no weights (B, H, T, S)."""
    layers = [m for m in fresh(layout).modules() if isinstance(m, tt.Attention)]
    assert layers and all(type(layer) is FusedAttention for layer in layers)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_the_loss_of_what_is_asked(share):
    """float32 inside, as both say: the logits are, too."""
    logits = torch.randn(B, 20, 11, dtype=torch.float32)
    labels = torch.randint(11, (B, 20)).masked_fill(torch.rand(B, 20) < share, -100)
    if share == 1:
        assert tt.cross_entropy(logits, labels).isnan()
        assert labelled_cross_entropy(logits, labels).isnan()
        return
    one, other = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    first, second = tt.cross_entropy(one, labels), labelled_cross_entropy(other, labels)
    first.backward()
    second.backward()
    close(first, second)
    close(one.grad, other.grad)


def test_without_labels_there_is_no_loss():
    assert labelled_cross_entropy(torch.randn(2, 3), None) is None
