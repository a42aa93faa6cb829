"""Cross-entropy that fills one tensor less on its way back is torch's cross-entropy."""

import pytest
import torch
from closeness import close
from torch.nn import functional as F

from minipeft.training.savings.cross_entropy import summed_cross_entropy

LABELS = {
    "all asked": [0, 3, 6, 2, 2],
    "some asked": [0, -100, 6, -100, 2],
    "none asked": [-100, -100, -100, -100, -100],
}


@pytest.mark.parametrize("scale", [1.0, 1e4])  # with 1e4 every p but one is zero
@pytest.mark.parametrize("labels", LABELS)
def test_values_and_gradients_are_torchs(labels, scale):
    logits = (scale * torch.randn(5, 7, dtype=torch.float64)).requires_grad_()
    targets, results = torch.tensor(LABELS[labels]), []
    for way in (summed_cross_entropy, lambda *pair: F.cross_entropy(*pair, reduction="sum")):
        loss = way(logits, targets)
        results.append((loss, *torch.autograd.grad(loss / 3, logits)))
    for ours, theirs in zip(*results, strict=True):
        close(ours, theirs)


def test_logits_are_left_as_they_are_and_a_second_way_back_gives_the_same():
    logits = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    before = logits.detach().clone()
    loss = summed_cross_entropy(logits, torch.tensor(LABELS["some asked"]))
    first, second = (torch.autograd.grad(loss, logits, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(logits, before) and torch.equal(first, second)


def test_one_tensor_less_is_filled_on_the_way_back():
    """Bytes of what is asked for on the way back, in tensors of the logits' size."""
    from torch.profiler import ProfilerActivity, profile

    n, V = 64, 1000
    targets, filled = torch.arange(n), []
    for way in (summed_cross_entropy, lambda *pair: F.cross_entropy(*pair, reduction="sum")):
        loss = way(torch.randn(n, V, requires_grad=True), targets)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            loss.backward()
        asked = (event.self_cpu_memory_usage for event in seen.events())
        filled.append(sum(size for size in asked if size > 0) // (4 * n * V))
    assert filled == [1, 2]
