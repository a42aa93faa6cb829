"""Lesson 09: its task, its patients, its start, and what a warm-up leaves behind."""

import copy

import pytest
import torch

import minipeft as mp
from minipeft.course import p_tuning_v2 as lesson
from minipeft.course import runs
from minipeft.course.prefix import prefix_share
from minipeft.model.kind import kind_of
from minipeft.tasks.encoding import Encoding


def test_a_sentence_mentions_what_a_word_of_it_is():
    tags, food = mp.tasks.load("tags"), lesson.mentions("food")
    assert food.kind == "classify" and food.labels == ("yes", "no")
    for split in ("train", "dev", "test", "ood"):
        pairs = list(zip(tags.examples(split), food.examples(split), strict=True))
        assert all(tagged.input == asked.input for tagged, asked in pairs)
        assert all(("food" in tagged.target) == (asked.target == "yes") for tagged, asked in pairs)
    with pytest.raises(ValueError, match="tag is one of"):
        lesson.mentions("weather")


def test_the_words_of_a_verbalizer_may_be_others_and_have_a_probability():
    model, tokenizer = runs.base("tiny-encoder")
    food = lesson.mentions("food")
    said = lesson.said_at_the_mask(model, tokenizer, food, rows=8)
    values = [*said.values()]
    assert values == sorted(values, reverse=True)
    assert 0.99 < sum(10**value for value in values) < 1 + 1e-9
    best = [*said][:2]
    other = lesson.mentions("food", *best)
    assert other.labels == tuple(best)
    for asked, again in zip(food.test, other.test, strict=True):
        assert asked.input == again.input
        assert again.target == best[asked.target == "no"]
    alone = mp.tasks.make("one", "cloze", test=[(food.train[0].input, best[0])])
    assert alone.predict(model, tokenizer, [food.train[0].input]) == [best[0]]


def test_tags_move_to_the_next_word():
    labels = torch.tensor([[-100, 3, 1, 2, -100], [-100, 4, 0, -100, -100]])
    moved = [[-100, -100, 3, 1, -100], [-100, -100, 4, -100, -100]]
    assert lesson.one_late(labels).tolist() == moved


def test_every_patient_shows_its_symptom_and_leaves_the_base_alone():
    tags = mp.tasks.load("tags")
    model, tokenizer = runs.base("tiny-encoder", "tagging", len(tags.labels))
    batch = tags.batches("train", tokenizer, "encoder", batch_size=16, head="tagging")(0)
    bits = mp.fingerprint(model)
    seen = {who: lesson.examine(model, batch, who, 25) for who in lesson.PATIENTS}
    assert mp.fingerprint(model) == bits
    cause = {fault: seen[who] for who, fault in lesson.PATIENTS.items()}
    healthy, head = cause["healthy"], model.config.width * 5 + 5
    assert healthy["right"] > 0.95 and healthy["late"] < 0.5
    assert cause["late"]["late"] > 0.95 and cause["late"]["right"] < 0.5
    assert cause["head"]["head"] == 0 < healthy["head"]
    assert cause["head"]["trained"] == healthy["trained"] - head
    prompts = healthy["trained"] - head
    assert cause["layers"]["trained"] == prompts // model.config.layers + head
    assert cause["size"]["trained"] == healthy["trained"]
    for ill in ("size", "head"):
        assert cause[ill]["loss"] > 10 * healthy["loss"]


def test_a_warm_up_ends_with_a_score_for_each_task_and_no_tuner():
    model, tokenizer = runs.base("tiny-encoder", "classification", 2)
    bits = mp.fingerprint(model)
    tasks = [lesson.mentions("food"), lesson.mentions("place")]
    scores = lesson.warmed_up(model, tokenizer, mp.PTuningV2(2), tasks, (2, 1), 1e-2, 0, rows=20)
    assert len(scores) == 2 and all(0 <= score <= 1 for score in scores)
    assert mp.fingerprint(model) == bits and not hasattr(model, "minipeft")


@pytest.mark.parametrize("name", ["tiny-decoder-0.1m", "tiny-encoder"])
def test_a_tag_is_read_at_its_own_word_beside_a_deep_prompt(name):
    """A batch with padding, single rows and the score of the task count the same words as right."""
    tags = mp.tasks.load("tags")
    model, tokenizer = runs.base(name, "tagging", len(tags.labels))
    kind = kind_of(model)
    with runs.attached(model, mp.PTuningV2(4), seed=0):
        feed = tags.batches("train", tokenizer, kind, batch_size=16, head="tagging")
        mp.train(model, feed, 20, 3e-2, progress=False)
        encoding = Encoding(tags, tokenizer, kind, "tagging")
        model.eval()

        @torch.no_grad()
        def right(examples) -> tuple[int, int]:
            batch = encoding.batch(examples)
            said, asked = model(**batch).logits.argmax(dim=-1), batch["labels"] != -100
            return int((said == batch["labels"])[asked].sum()), int(asked.sum())

        rows = tags.test[:30]
        at_once, words = right(rows)
        assert at_once == sum(right([row])[0] for row in rows)
        whole = sum(right([row]) == (n, n) for row in rows for n in [len(row.input.split())])
        assert runs.loss_and_exact(model, encoding.batch(rows))[1] == pytest.approx(whole / 30)
        score = tags.score(model, tokenizer, "test", limit=30)["accuracy"]
        assert score == pytest.approx(at_once / words)
        assert score > 0.5


def test_a_start_is_measured_before_the_head_and_leaves_the_base_alone():
    """With queries of 0 every key counts alike: P rows get P / (P + S), S the keys of a row."""
    tags = mp.tasks.load("tags")
    model, tokenizer = runs.base("tiny-encoder", "tagging", len(tags.labels))
    batch = tags.batches("dev", tokenizer, "encoder", batch_size=8, head="tagging")(0)
    bits = mp.fingerprint(model)
    assert lesson.what_the_head_reads(model, batch).shape == (
        int((batch["labels"] != -100).sum()),
        model.config.width,
    )
    still = copy.deepcopy(model)
    for block in still.blocks:
        torch.nn.init.zeros_(block.attention.query.weight)
        torch.nn.init.zeros_(block.attention.query.bias)
    with runs.attached(still, mp.PTuningV2(4), seed=0) as tuner:
        share = prefix_share(still, tuner, batch)
    sizes = batch["attention_mask"].sum(dim=1).double()  # S of every row
    expected = (sizes * 4 / (4 + sizes)).sum() / sizes.sum()
    assert torch.allclose(share.double(), expected.expand_as(share), atol=1e-6)
    rows = lesson.start_table(("tiny-decoder-0.1m", "tiny-encoder"), tags, (1, 4)).rows
    assert [row[0] for row in rows] == ["tiny-decoder-0.1m", "tiny-encoder"]
    assert all(0 < int(cell.split()[0]) for row in rows for cell in row[1:])
    assert mp.fingerprint(model) == bits


def test_a_prompt_at_its_start_stays_there_while_the_head_learns():
    tags = mp.tasks.load("tags")
    model, tokenizer = runs.base("tiny-decoder-0.1m", "tagging", len(tags.labels))
    feed = tags.batches("train", tokenizer, "decoder", batch_size=8, head="tagging")
    with runs.attached(model, lesson.AtItsStart(3), seed=0) as tuner:
        before = [p.clone() for p in tuner.parameters()]
        mp.train(model, feed, 2, 1e-2, progress=False)
        prompts = {p for _, patch in tuner.patches for p in patch.parameters()}
        for parameter, old in zip(tuner.parameters(), before, strict=True):
            assert torch.equal(parameter, old) == (parameter in prompts)


def test_limits_of_shares_hold_every_value():
    assert lesson.room_for([[0.97, 0.99], [1.0]]) == pytest.approx((0.8, 1.0))
    assert lesson.room_for([[0.05]]) == (0.0, 1.0)


def test_the_two_files_differ_in_what_the_table_says():
    rows = {row[0]: row[1:] for row in lesson.side_by_side_settings().rows}
    assert rows["length"] == ("10", "20") and rows["reparameterize"] == ("-", "None")
    assert rows["embedding_only"] == ("False", "-")
