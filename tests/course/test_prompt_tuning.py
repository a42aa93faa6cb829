"""What lesson 07 measures, where the right answer is known beforehand."""

import copy

import pytest
import torch

import minipeft as mp
from minipeft import tasks
from minipeft.course import capitals, passport_facts, runs
from minipeft.course import prompt_tuning as lesson

BASE = "tiny-decoder-0.1m"


@pytest.fixture(scope="module")
def base():
    return runs.base(BASE)


@pytest.fixture(scope="module")
def saying():
    """A base, and two prompts (5, C) that were trained on it: they ask to reverse and to copy."""
    model, tokenizer = runs.base("tiny-decoder-0.4m")
    method = mp.PromptTuning(5, start="vocabulary")
    trained = {}
    for name in ("reverse", "copy"):
        batches = tasks.load(name).batches("train", tokenizer, batch_size=16)
        trained[name] = lesson.trained_prompt(model, method, batches, 1e-1, 60, seed=0)
    return model, tokenizer, trained


def test_tasks_in_turns():
    feeds = [lambda step: ("a", step), lambda step: ("b", step)]
    turns = lesson.in_turns(feeds)
    assert [turns(step) for step in range(4)] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]


def test_padding_on_the_left_moves_rows_and_keeps_their_order():
    batch = {
        "input_ids": torch.tensor([[5, 6, 0, 0], [1, 2, 3, 4]]),
        "attention_mask": torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]),
    }
    left = lesson.padded_left(batch)
    assert left["input_ids"].tolist() == [[0, 0, 5, 6], [1, 2, 3, 4]]
    assert left["attention_mask"].tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    row, alone = lesson.shortest_alone(left)
    assert row == 0 and alone["input_ids"].tolist() == [[5, 6]]


def test_a_prompt_answers_its_own_task_and_no_other(saying):
    model, tokenizer, trained = saying
    bits = mp.fingerprint(model)
    batches = {
        name: runs.rows_of(tasks.load(name), "test", tokenizer, model, rows=40) for name in trained
    }
    (reverse, wrong), (also_wrong, copied) = lesson.wrong_prompts(model, trained, batches)
    assert reverse > 0.6 and copied > 0.6
    assert wrong < 0.2 and also_wrong < 0.2
    assert mp.fingerprint(model) == bits


def test_rows_of_two_tasks_in_one_batch_are_what_they_are_alone(saying):
    model, tokenizer, trained = copy.deepcopy(saying[0]).double(), *saying[1:]
    batches = {
        name: runs.rows_of(tasks.load(name), "test", tokenizer, model, rows=count)
        for name, count in (("reverse", 7), ("copy", 4))
    }
    difference, exact = lesson.mixed_tasks(model, trained, batches, tokenizer.pad_token_id)
    assert difference < 1e-10
    each = [lesson.exact_with(model, trained[name], batch) for name, batch in batches.items()]
    assert exact == pytest.approx((7 * each[0] + 4 * each[1]) / 11)


def test_the_majority_wins_a_vote(saying):
    """Two prompts that copy outvote one that reverses, wherever it stands."""
    model, tokenizer, trained = saying
    for order in (("copy", "reverse", "copy"), ("reverse", "copy", "copy")):
        members = [trained[name] for name in order]
        each, voted = lesson.votes((model, tokenizer), members, tasks.load("copy"), rows=20)
        assert voted == max(each) > 0.6
        assert [share < 0.3 for share in each] == [name == "reverse" for name in order]
    one, voted = lesson.votes(
        (model, tokenizer), [trained["reverse"]], tasks.load("reverse"), rows=20
    )
    assert one == [voted]


def test_the_nearest_word_of_a_word_is_itself(base):
    words = base[0].embeddings.words.weight.detach()
    cosines, ids = lesson.nearest_words(3.0 * words[[7, 300]], words)
    assert ids.tolist() == [7, 300]
    torch.testing.assert_close(cosines, torch.ones(2))


def test_mixed_difference_is_none_for_what_trains_the_base(base):
    model, tokenizer = base
    four = runs.rows_of(tasks.load("reverse"), "dev", tokenizer, model, rows=4)
    assert passport_facts.mixed_difference(model, mp.FullFineTuning(), four) is None
    assert passport_facts.mixed_difference(model, mp.PromptTuning(3), four) < 1e-3
    assert not passport_facts.mixes(model, mp.FullFineTuning(), four)


def test_questions_of_another_relation():
    def letters(text):
        return {"input_ids": [ord(letter) for letter in text.strip()]}

    capital, language = (
        capitals.questions(letters, "test", name) for name in ("capital", "language")
    )
    assert [country for country, _ in capital] == [country for country, _ in language]
    assert capitals.questions(letters, "test") == capital != language
