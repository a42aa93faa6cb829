"""Written prompts: what is scored is what a model says behind the filled template."""

import pytest
import torch
import zoo
from closeness import close

import minipeft as mp
import tiny_transformer as tt
from minipeft.course import written_prompts as written


@pytest.fixture(scope="module")
def decoder():
    return tt.load("tiny-decoder-0.4m")


class Letters:
    """A tokenizer of single letters for small random models."""

    pad_token_id = 0

    def __call__(self, text, add_special_tokens=True, return_tensors=None):
        ids = [ord(letter) % 40 + 5 for letter in text.strip()]
        return {"input_ids": [1, *ids] if add_special_tokens else ids}


@pytest.mark.parametrize("name", ["llama", "gpt2", "tiny-decoder"])
def test_a_shared_beginning_changes_nothing(name):
    model = zoo.build(name)
    texts = ["abcdefg x", "abcdefg yy", "abcdefg zzzz"]
    together = written.next_logits(model, Letters(), texts)
    for text, row in zip(texts, together, strict=True):
        ids = torch.tensor([Letters()(text)["input_ids"]])
        with torch.no_grad():
            close(row, model(input_ids=ids).logits[0, -1])
    close(written.next_logits(model, Letters(), texts[:1])[0], together[0])


def test_accuracy_is_the_share_that_greedy_writing_gets_right(decoder):
    model, tokenizer = decoder
    task = mp.tasks.load("capital")
    for template in ("the capital of {x} is", "the capital of {x} is the city of", "{x}"):
        share = written.accuracy(model, tokenizer, template, task.test)
        asked = written.asked(task, template)
        assert share == pytest.approx(asked.score(model, tokenizer, "test")["accuracy"])


def test_wordings_end_where_the_answer_begins():
    wordings = written.wordings(mp.tasks.load("capital"))
    assert sum(wordings.values()) == 4 and len(wordings) == 19 and list(wordings)[-1] == "{x}"
    assert all(text.count("{x}") == 1 and "{y}" not in text for text in wordings)


def test_shots_and_moved_answers():
    examples = [("a", "1"), ("b", "2"), ("c", "3")]
    assert written.shots(examples[:2], "{x}={y};") == "a=1;b=2;"
    moved = written.answers_moved(examples)
    assert moved == [("a", "2"), ("b", "3"), ("c", "1")]
    assert written.shots([]) == "" and written.answers_moved([]) == []


def test_one_word_is_changed_and_never_the_question():
    texts = written.one_word_changed("the capital of {x}'s land", ["the", "of", "sun"], seed=3)
    parts = "the capital of {x}'s land".split()
    assert len(texts) == 4
    for text in texts:
        changed = [a for a, b in zip(text.split(), parts, strict=True) if a != b]
        assert len(changed) == 1 and "{x}'s" in text.split()
    assert texts == written.one_word_changed("the capital of {x}'s land", ["the", "of", "sun"], 3)


def test_ordinary_spelling():
    rows = written.ordinary(mp.tasks.load("capital"))
    assert set(rows) == {"train", "dev", "test"} and ("El Salvador", "San Salvador") in rows["test"]


@pytest.mark.parametrize(("template", "pairs"), [("no question", [("a", "b")]), ("{x}", [])])
def test_what_cannot_be_scored(decoder, template, pairs):
    with pytest.raises(ValueError, match="accuracy needs") as caught:
        written.accuracy(*decoder, template, pairs)
    assert "\n" not in str(caught.value)


def test_a_chain_of_names_is_chosen_on_dev(decoder):
    model, tokenizer = decoder
    task = mp.tasks.load("reverse")
    best, share, tried = written.best_chain(model, tokenizer, task, ("copy", "reverse"), rows=10)
    assert best == "reverse : {x}" and share > 0.8 and tried == 2 + 4 * 2
    table = str(written.passport(model, tokenizer, best, share, 0.0))
    assert "2 tokens" in table and "13 (the text)" in table
