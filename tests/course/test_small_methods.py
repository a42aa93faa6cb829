"""Lesson 12: counts, the bias that nothing reaches, budgets that fail, verdicts in words."""

from __future__ import annotations

import pytest
import torch
from matplotlib import pyplot as plt

import minipeft as mp
import tiny_transformer as tt
from minipeft.course import small_methods as lesson
from minipeft.course import small_methods_pictures as pictures
from minipeft.course.experiments import difference
from minipeft.training.history import History


@pytest.fixture(scope="module")
def small():
    return tt.load("tiny-decoder-0.1m")


@pytest.fixture(scope="module")
def batch(small):
    return mp.tasks.load("reverse").batches("train", small[1], batch_size=4)(0)


def test_only_the_bias_of_the_keys_gets_no_gradient(small, batch):
    before = mp.fingerprint(small[0])
    gradients = lesson.first_gradients(small[0], batch)
    assert {"query", "key", "value", "output", "up", "down", "last norm"} <= set(gradients)
    assert lesson.silent(gradients) == ["key"]
    assert mp.fingerprint(small[0]) == before


def test_counts_say_why_a_method_cannot():
    bare = tt.Decoder(tt.TransformerConfig(vocab_size=20, width=8, layers=1, heads=2))
    C, I = 8, 32  # noqa: E741
    table = lesson.counts({"bare": bare}, {"BitFit": mp.BitFit(), "IA3": mp.IA3()})
    biases = sum(p.numel() for n, p in bare.named_parameters() if n.endswith("bias"))
    assert table.rows[0][2].startswith(f"{biases} ") and biases == 7 * C + I + C
    assert table.rows[0][3].startswith(f"{2 * C + I} ")
    hf = pytest.importorskip("transformers")
    sizes = dict(vocab_size=20, hidden_size=C, intermediate_size=I, num_hidden_layers=1)
    llama = hf.LlamaForCausalLM(
        hf.LlamaConfig(num_attention_heads=2, num_key_value_heads=1, **sizes)
    )
    table = lesson.counts({"llama": llama}, {"BitFit": mp.BitFit(), "IA3": mp.IA3()})
    assert table.rows[0][2] == "-" and table.rows[0][3].startswith(f"{C + I} ")
    (note,) = table.notes
    assert note.startswith("BitFit on llama: This model (llama) has no biases")


def test_every_fault_shows_in_its_column(small, batch):
    before = mp.fingerprint(small[0])
    runs = {fault: lesson.watched_run(small[0], batch, fault, 12) for fault in lesson.CAUSES}
    assert mp.fingerprint(small[0]) == before
    places = len(runs["healthy"].ranks)
    for fault, run in runs.items():
        assert run.losses[-1] < run.losses[0]
        assert run.budgets[0] == 4 * places
        assert (run.budgets[-1] == 2 * places) == (fault in ("healthy", "cleared"))
        assert run.target == (4 if fault == "equal" else 2) * places
    scores = {fault: run.score for fault, run in runs.items()}
    assert scores["not called"] is None and scores["cleared"] == scores["equal"] == 0
    assert scores["healthy"] > 0 and scores["total"] > 0
    assert runs["cleared"].ranks == [0] * (places // 2) + [4] * (places // 2)


def test_the_faults_are_the_causes(small, batch):
    assert sorted(lesson.FAULTS.values()) == sorted(lesson.CAUSES)
    table = lesson.faults_table(small[0], batch, 12)
    assert [row[0] for row in table.rows] == list(lesson.FAULTS)
    assert len(table.header) == len(table.rows[0])


def test_a_coin_meets_the_budget_and_ignores_what_is_learnt(small, batch):
    model, _ = tt.load("tiny-decoder-0.1m")
    kept = {}
    for rate in (1e-2, 3e-2):
        method = lesson.Coin(4, 2, targets=lesson.MAPS)
        with lesson.attached(model, method, seed=0) as tuner:
            history = mp.train(model, [batch], 12, rate, progress=False)
            kept[rate] = method.left(tuner)
            places = len(tuner.patches)
        ranks = lesson.ranks_by_step(history, places, 4, 12)
        assert ranks.shape == (12, places) and ranks[0].sum() == 4 * places
        assert ranks[-1].tolist() == list(kept[rate].values()) and ranks[-1].sum() == 2 * places
    assert kept[1e-2] == kept[3e-2]


def test_ranks_stay_until_the_next_record():
    records = [{"step": 2, "ranks": [1, 3]}, {"step": 4, "ranks": [1, 1]}]
    ranks = lesson.ranks_by_step(History(records={"default": records}), 2, 3, 5)
    assert ranks.tolist() == [[3, 3], [3, 3], [1, 3], [1, 3], [1, 1]]
    assert lesson.budget_met([ranks], [6, 6, 4, 4, 2])
    assert not lesson.budget_met([ranks, ranks], [6, 6, 4, 4, 3])


def test_where_ranks_go_is_said_only_where_seeds_agree():
    places = [(block, kind) for block in range(2) for kind in ("query", "up")]
    low = [torch.tensor([[3, 3, 1, 1]]), torch.tensor([[3, 3, 1, 0]]), torch.tensor([[3, 3, 0, 1]])]
    upper, forward, paper = lesson.where_ranks_go(low, places)
    assert upper.endswith("lower keeps more.") and forward.endswith("no side surely keeps more.")
    assert "upper 0.67, lower 3.00" in upper and "left open" in paper
    both = [
        torch.tensor([[1, 2, 3, 4]]),
        torch.tensor([[0, 1, 3, 4]]),
        torch.tensor([[1, 2, 3, 4]]),
    ]
    assert lesson.where_ranks_go(both, places)[2].startswith("That is the paper's picture, in this")
    turned = [5 - one for one in both]
    assert "the opposite of the paper's" in lesson.where_ranks_go(turned, places)[2]
    crossed = [one[:, [1, 0, 3, 2]] for one in both]
    assert "in one of the two" in lesson.where_ranks_go(crossed, places)[2]


def test_fewer_numbers_do_better_where_the_interval_says_so():
    numbers = {"a": 10, "b": 20, "c": 20}
    tests = {"a": [0.8, 0.81, 0.82], "b": [0.5, 0.51, 0.52], "c": [0.1, 0.9, 0.5]}
    assert lesson.upside_down(numbers, tests, 0.03) == ["a (10) beats b (20)"]
    assert lesson.upside_down(dict(a=20, b=10, c=5), tests, 0.03) == []


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ([0.9, 0.9, 0.91], [0.5, 0.51, 0.5], "X is better than y"),
        ([0.5, 0.51, 0.5], [0.9, 0.9, 0.91], "X is worse than y"),
        ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5], "X and y are equal within 3 points"),
        ([0.1, 0.9, 0.5], [0.5, 0.5, 0.4], "decide nothing"),
    ],
)
def test_verdicts_in_words(a, b, words):
    assert words in lesson.worth(difference(a, b, 0.03), "x", "y")


def test_pictures_say_what_to_remember():
    pictures.picture()
    tests = {kind: {"LoRA r = 1": [0.1, 0.2], "IA3": [0.3, 0.4]} for kind in ("latent", "novel")}
    figure = pictures.few_numbers({"LoRA r = 1": 10, "IA3": 20}, tests, "Few are enough.")
    assert captions(figure) == ["Few are enough."] and len(figure.axes) == 2
    places = [(block, kind) for block in range(4) for kind in lesson.MAPS]
    ranks = [torch.full((5, 24), 2), torch.full((5, 24), 3)]
    figure = pictures.ranks_over_time(ranks, places, 2, "Rank stays.")
    assert captions(figure) == ["Rank stays."]
    bands = torch.cat(
        [torch.tensor(band.get_paths()[0].vertices) for band in figure.axes[0].collections]
    )
    assert bands[:, 1].min() == 0 and bands[:, 1].max() == 3  # 2.5 ± 6.35: what is possible of it
    numbers = [text.get_text() for text in figure.axes[1].texts]
    assert numbers == ["2.5"] * 24
    plt.close("all")


def captions(figure):
    return [text.get_text() for text in figure.texts if text.get_gid() == "caption"]
