"""What lesson 10b measures: against definitions, and where the answer is known."""

import pytest
import torch

import minipeft as mp
import tiny_transformer as tt
from minipeft import tasks
from minipeft.analysis import spectra
from minipeft.course import inside_lora as inside


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_full_changes_are_what_training_added_and_the_model_is_the_old_one():
    model, tokenizer = tt.load("tiny-decoder-0.1m")
    bits, maps = mp.fingerprint(model), ["blocks.0.attention.value", "blocks.2.attention.query"]
    task = tasks.load("reverse")
    changes = inside.full_changes(model, tokenizer, task, 1e-3, 3, 0, maps, batch_size=4)
    assert mp.fingerprint(model) == bits and list(changes) == maps
    before = {path: model.get_submodule(path).weight.detach().clone() for path in maps}
    tuner = mp.attach(model, mp.FullFineTuning(), seed=0)
    batches = task.batches("train", tokenizer, batch_size=4, seed=0)
    mp.train(model, batches, 3, 1e-3, seed=0, progress=False)
    for path in maps:
        assert torch.equal(changes[path], model.get_submodule(path).weight - before[path])
    tuner.detach()


@pytest.mark.parametrize("side", ["in", "out"])
def test_similarities_are_equation_4(side):
    one = {"a": normal(7, 6, seed=1), "b": normal(7, 6, seed=2)}
    other = {"a": normal(7, 6, seed=3), "b": normal(7, 6, seed=4)}
    table = inside.similarities(one, other, 4, side)
    for i in range(1, 5):
        for j in range(1, 5):
            each = [spectra.similarity(one[p], other[p], i, j, side) for p in one]
            assert table[i - 1, j - 1].item() == pytest.approx(sum(each) / 2, abs=1e-10)


def test_energies_are_means_over_maps():
    changes = {"a": torch.diag(torch.tensor([2.0, 1.0])), "b": torch.diag(torch.tensor([1.0, 1.0]))}
    assert inside.energies(changes).tolist() == pytest.approx([(0.8 + 0.5) / 2, 1.0])


def test_amplification_of_known_matrices():
    W = torch.diag(torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=torch.float64))
    D = torch.zeros(4, 4, dtype=torch.float64)
    D[3, 3] = 5.0  # acts where the base is faintest
    seen = inside.amplification({"a": D}, {"a": W}, 1)
    assert seen["update"] == pytest.approx(5) and seen["by update"] == pytest.approx(1)
    assert seen["by base"] == pytest.approx(8) and seen["factor"] == pytest.approx(5)
    assert 0 < seen["by noise"] < 8


def test_a_rotation_is_told_from_noise():
    W = normal(6, 6)
    R = torch.linalg.qr(normal(6, 6, seed=1))[0]
    turned = inside.rotation({"a": R @ W - W}, {"a": W}, 2)
    assert turned["left"] == pytest.approx(0, abs=1e-10) and turned["left of noise"] > 0.2
    u, s, vt = torch.linalg.svd(W)
    along = u[:, :2] @ vt[:2]
    assert inside.rotation({"a": along}, {"a": W}, 2)["along"] == pytest.approx(1)


def test_a_conclusion_is_shown_in_lines_that_a_page_shows_whole(capsys):
    inside.conclude("it is " + "very " * 40 + "long.", "And short.")
    said = capsys.readouterr().out
    assert said.startswith("Conclusion: it is very") and "long. And short." in said
    assert max(map(len, said.splitlines())) <= 92
