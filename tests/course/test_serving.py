"""What lesson 17 measures, by other ways."""

from __future__ import annotations

import math

import pytest
import torch

import minipeft as mp
import tiny_transformer as tt
from minipeft.course import runs, serving, serving_charts
from minipeft.course import serving_times as times
from minipeft.course import serving_training as training

LORA = mp.LoRA(rank=2, targets=("query", "value"))


@pytest.fixture
def base():
    return tt.load("tiny-decoder-0.1m")


def test_every_user_wants_a_function_and_a_word():
    users = serving.users_of(2)
    assert len(users) == 2 * len(serving.FUNCTIONS)
    row, wanted = users["reverse-bell"].test[0]
    words = row.removesuffix(" =>").split()
    assert wanted.split() == [*reversed(words), "bell", "."]
    assert users["reverse-moon"].test[0].input == row


def test_many_in_one_pass_learn_what_each_learns_alone(base):
    """Against one user trained by itself: the same matrices."""
    users = dict(list(serving.users_of(1).items())[:3])
    many = training.train_many(base, users, LORA, 1e-2, 4, batch_size=4)
    model, tokenizer = base
    name = list(users)[2]
    with runs.attached(model, LORA, seed=2) as tuner:
        batches = users[name].batches("train", tokenizer, batch_size=4, seed=2)
        mp.train(model, batches, 4, 1e-2, seed=2, progress=False)
        for place, patch in tuner.patches:
            A, B = many[name][place.path]
            torch.testing.assert_close(A, patch.A.detach(), rtol=0, atol=2e-5)
            torch.testing.assert_close(B, patch.B.detach(), rtol=0, atol=2e-5)


def test_who_answers_is_one_pass_for_each_pair(base):
    users = dict(list(serving.users_of(1).items())[:3])
    adapters = training.train_many(base, users, LORA, 1e-2, 3, batch_size=4)
    model, _ = base
    bits = mp.fingerprint(model)
    with serving.serving(model, adapters, LORA):
        names, batch = serving.requests(base, users, 2)
        assert names == [name for name in users for _ in range(2)]
        words, exact = serving.who_answers(model, names, batch, range(3))
        part = {key: value[2:4] for key, value in batch.items()}
        alone, _ = serving.scores(model, [list(users)[2]] * 2, part)
    assert words[1, 2].item() == pytest.approx(alone.mean().item())
    assert not words.isnan().any() and (exact <= words).all()
    assert mp.fingerprint(model) == bits and not mp.tuners(model)


def test_scores_are_counted_by_hand(base):
    model, _ = base
    _, batch = serving.requests(base, dict(list(serving.users_of(1).items())[:1]), 3)
    share, right = serving.scores(model, [None] * 3, batch)
    with torch.no_grad():
        predicted = model(**batch).logits.argmax(dim=-1)
    for row, labels in enumerate(batch["labels"].tolist()):
        pairs = [(predicted[row, t - 1], label) for t, label in enumerate(labels) if label != -100]
        hits = [int(said) == label for said, label in pairs]
        assert share[row].item() == pytest.approx(sum(hits) / len(hits))
        assert bool(right[row]) == all(hits)


@pytest.mark.parametrize("method", [LORA, mp.Prefix(3), mp.PromptTuning(3)])
def test_rows_are_not_disturbed(base, method):
    model, tokenizer = base
    rows = runs.rows_of(mp.tasks.load("reverse"), "test", tokenizer, model, rows=5)
    assert serving.mixed_against_alone(model, method, 5, rows) < 1e-10


def test_full_fine_tuning_cannot_be_mixed(base):
    model, tokenizer = base
    rows = runs.rows_of(mp.tasks.load("reverse"), "test", tokenizer, model, rows=3)
    assert serving.mixed_against_alone(model, mp.FullFineTuning(), 3, rows) is None


def alone(base, method, users, rate, steps, seed):
    """A prompt for the rows of some users in a loop that knows nothing of routes: dev, test."""
    model, tokenizer = base

    def rows(batches):
        ids = max(len(batch["input_ids"][0]) for batch in batches)
        fill = {"input_ids": tokenizer.pad_token_id, "labels": -100, "attention_mask": 0}
        return {
            key: torch.cat(
                [
                    torch.nn.functional.pad(
                        batch[key], (0, ids - batch[key].shape[1]), value=fill[key]
                    )
                    for batch in batches
                ]
            )
            for key in fill
        }

    feeds = [
        task.batches("train", tokenizer, batch_size=3, seed=number)
        for number, task in users.items()
    ]
    with runs.attached(model, method, seed=seed) as tuner:
        optimizer = torch.optim.Adam(tuner.parameters(), lr=rate)
        for step in range(steps):
            model(**rows([feed(step) for feed in feeds])).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        dev, test = [], []
        for task in users.values():
            held = task.batches("dev", tokenizer, batch_size=5)(0)
            for row in range(5):
                with torch.no_grad():
                    dev.append(model(**{k: v[row : row + 1] for k, v in held.items()}).loss.item())
            test.append(runs.quality(model, tokenizer, task, "test", rows=5))
    return sum(dev) / len(dev), test


def test_prompts_of_all_jobs_learn_what_each_learns_alone(base):
    users = dict(list(serving.users_of(1).items())[:2])
    numbered = dict(enumerate(users.values()))
    model, _ = base
    bits = mp.fingerprint(model)
    method = mp.PromptTuning(2, start="vocabulary")
    run = training.prompts_at_once(base, users, method, 3, batch_size=3, rows=5)
    jobs = [(training.EACH, 1e-1, 0), (training.SHARED, 1e-1, 0), (training.SHARED, 1e-2, 0)]
    each, shared, slower = run(jobs)
    assert mp.fingerprint(model) == bits and not mp.tuners(model)
    for result, (_, rate, _) in ((shared, jobs[1]), (slower, jobs[2])):
        dev, test = alone(base, method, numbered, rate, 3, seed=0)
        assert result["dev"] == pytest.approx(dev, rel=1e-4)
        assert result["test"] == pytest.approx(test)
    singles = [alone(base, method, {n: task}, 1e-1, 3, seed=n) for n, task in numbered.items()]
    assert each["dev"] == pytest.approx(sum(dev for dev, _ in singles) / 2, rel=1e-4)
    assert each["test"] == pytest.approx([test[0] for _, test in singles])
    assert run([(training.EACH, 1e-1, 1)])[0]["dev"] != each["dev"]


def test_rates_are_tried_in_one_pass(base):
    """The dev loss of every rate is that of its users' adapters, each trained by itself."""
    users = dict(list(serving.users_of(1).items())[:2])
    model, tokenizer = base
    run = training.loras_at_once(base, users, LORA, 3, batch_size=4, rows=5)
    results = run([("LoRA", 1e-2, 0), ("LoRA", 1e-1, 0)])
    for rate, result in zip((1e-2, 1e-1), results, strict=True):
        losses = []
        for number, task in enumerate(users.values()):
            with runs.attached(model, LORA, seed=number):
                batches = task.batches("train", tokenizer, batch_size=4, seed=number)
                mp.train(model, batches, 3, rate, seed=number, progress=False)
                held = task.batches("dev", tokenizer, batch_size=5)(0)
                for row in range(5):
                    with torch.no_grad():
                        one = {key: value[row : row + 1] for key, value in held.items()}
                        losses.append(model(**one).loss.item())
        assert result["dev"] == pytest.approx(sum(losses) / len(losses), rel=1e-3)


def test_equal_rows_get_equal_answers():
    """Of three users, two want the same of a row that all three send: two answers of three."""
    answers = ("b .", "b .", "c .")
    users = {
        str(number): mp.tasks.make(str(number), "generate", test=[("a =>", answer)])
        for number, answer in enumerate(answers)
    }
    assert training.most_for_all(users) == pytest.approx(2 / 3)
    assert training.most_for_all({"0": users["0"]}) == 1


def test_memory_of_a_request_by_formula(base):
    model, _ = base
    C, L = model.config.width, model.config.layers
    assert serving.memory_of_a_request(model, LORA) == 0
    for method in (mp.Prefix(5), mp.PTuningV2(5), mp.PromptTuning(5)):
        assert serving.memory_of_a_request(model, method) == 2 * L * 5 * C * 4


def test_subtracting_leaves_something_behind():
    torch.manual_seed(0)
    weight, deltas = torch.randn(8, 8), [torch.randn(8, 8) for _ in range(20)]
    half = serving.drift_by_hand(weight, deltas, torch.bfloat16)
    single = serving.drift_by_hand(weight, deltas, torch.float32)
    assert len(half) == 20 and half[-1] > 100 * single[-1] > 0
    assert serving.drift_by_hand(weight, [0 * weight] * 3, torch.float32) == [0, 0, 0]
    assert torch.equal(weight, weight.clone())


def test_three_ways_give_one_answer():
    """What is timed must be the same work: the answers of all three ways, row by row."""
    model = times.larger(width=16, layers=2)
    bench = times.Bench(model, 4, mp.LoRA(rank=2, targets=("query", "value")))
    bench.shared.double(), bench.single.double(), bench.bare.double()
    ids = torch.arange(24).reshape(6, 4) + 20
    seen: list[torch.Tensor] = []
    hooks = [
        each.register_forward_hook(lambda *call: seen.append(call[-1].logits))
        for each in (bench.shared, bench.single)
    ]
    answers = []
    with torch.no_grad():
        for way in bench.ways(4, {"input_ids": ids}).values():
            seen.clear()
            way()
            rows = torch.empty_like(torch.cat(seen))
            for user, part in enumerate(seen):
                rows[user :: len(seen)] = part
            answers.append(rows)
    for hook in hooks:
        hook.remove()
    assert not torch.allclose(answers[0], model(ids).logits)
    for other in answers[1:]:
        torch.testing.assert_close(answers[0], other, rtol=0, atol=1e-6)


def test_ratios_are_to_the_neighbour():
    calls = []
    ratios = times.in_turns(
        lambda: calls.append("base"), {"a": lambda: calls.append("a")}, repeats=3
    )
    assert calls == ["base", "a"] + ["a", "base"] * 3
    assert len(ratios["a"]) == 3 and all(ratio > 0 for ratio in ratios["a"])


def test_medians_and_quartiles():
    assert times.middle([3.0, 1.0, 2.0]) == (2.0, 1.5, 2.5)
    assert times.middle([2.0]) == (2.0, 2.0, 2.0)
    assert times.said([1.0, 2.0, 3.0]) == "2.00 (1.50-2.50)"


def test_pictures_are_drawn():
    from matplotlib import pyplot

    way = dict.fromkeys(times.WAYS, [1.0, 2.0])
    drawn = [
        serving_charts.picture(),
        serving_charts.times_chart({"one": {1: way, 4: way}, "two": {1: way, 4: way}}, "Caption."),
        serving_charts.matrix_chart(torch.tensor([[1.0, math.nan], [0.0, 1.0]]), "ab", "Caption."),
        serving_charts.drift_chart({"float32": [0.0, 1e-8], "kept": [0.0, 0.0]}, "Caption."),
    ]
    for figure in drawn:
        figure.canvas.draw()
        pyplot.close(figure)
