"""Lesson 09: its task, its patients, and what a warm-up leaves behind."""

import pytest
import torch

import minipeft as mp
from minipeft.course import p_tuning_v2 as lesson
from minipeft.course import runs


def test_a_sentence_mentions_what_a_word_of_it_is():
    tags, food = mp.tasks.load("tags"), lesson.mentions("food")
    assert food.kind == "classify" and food.labels == ("yes", "no")
    for split in ("train", "dev", "test", "ood"):
        pairs = list(zip(tags.examples(split), food.examples(split), strict=True))
        assert all(tagged.input == asked.input for tagged, asked in pairs)
        assert all(("food" in tagged.target) == (asked.target == "yes") for tagged, asked in pairs)
    with pytest.raises(ValueError, match="tag is one of"):
        lesson.mentions("weather")


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


def test_the_two_files_differ_in_what_the_table_says():
    rows = {row[0]: row[1:] for row in lesson.side_by_side_settings().rows}
    assert rows["length"] == ("10", "20") and rows["reparameterize"] == ("-", "None")
    assert rows["embedding_only"] == ("False", "-")
