"""Lesson 19: families of instructions, the judge, pairs, and what the patients show."""

import math

import pytest
import torch

import minipeft as mp
from minipeft.course import instructions, runs
from minipeft.course import preferences as taste
from minipeft.course import real_preferences as by_hand


@pytest.fixture(scope="module")
def base():
    return runs.base("tiny-decoder-0.4m")


def test_families_have_the_answers_of_their_words():
    families = instructions.load_families()
    assert set(families) == set(instructions.FAMILIES)
    for name, answer in (
        ("first", lambda row: row[:1]),
        ("last", lambda row: row[-1:]),
        ("reverse", lambda row: row[::-1]),
        ("rotate", lambda row: row[1:] + row[:1]),
        ("count", lambda row: [instructions.NUMERALS[len(row)]]),
    ):
        for x, y in families[name]["test"][:50]:
            assert y == " ".join([*answer(x.split()), "."])
    for x, y in families["thing"]["test"][:50]:
        assert y.removesuffix(" .") in x.split()


def test_held_out_families_are_never_trained_and_more_include_fewer():
    for seed in range(5):
        sets = [instructions.split_families(count, seed) for count in (1, 2, 4, 8)]
        assert len({tuple(unseen) for _, unseen in sets}) == 1
        for (fewer, unseen), (many, _) in zip(sets, sets[1:], strict=False):
            assert set(fewer) < set(many) and not set(many) & set(unseen)
    with pytest.raises(ValueError, match="Between 1 and 8"):
        instructions.split_families(9, 0)


def test_a_mixture_has_all_families_in_turns():
    families = instructions.load_families()
    task = instructions.mixed(families, ["copy", "reverse", "count"])
    words = [example.input.split()[1] for example in task.train[:9]]
    assert words == ["copy", "reverse", "count"] * 3


def test_the_judge_orders_answers_and_looks_at_the_facts():
    worth = [
        taste.judge("in peru", answer)
        for answer in (
            "you hear spanish in the street .",
            "the government sits in lima .",
            "the shops take the sol .",
            "you hear french in the street .",
            "the government sits in quito .",
            "",
        )
    ]
    assert worth == [2, 1, 0, -1, -1, -1]
    assert taste.judge("at night in peru", "the government sits in lima .") == 1


def test_pairs_are_ordered_and_of_the_countries_asked(base):
    questions = taste.opened("train")[:20]
    pairs = taste.judged_pairs(*base, questions, seed=3)
    assert pairs and pairs == taste.judged_pairs(*base, questions, seed=3)
    for question, better, worse in pairs:
        assert question in questions
        assert taste.judge(question, better) > taste.judge(question, worse)
    assert not {q.split()[-1] for q in taste.opened("test")} & {q.split()[-1] for q in questions}


def test_a_batch_holds_the_better_answers_first_and_in_order(base):
    _, tokenizer = base
    pairs = [("in peru", "you hear spanish .", "the sol ."), ("in chad", "tree sun .", "cat .")]
    batch = taste.as_batch(pairs, *base)
    answers = [
        tokenizer.decode([i for i in row.tolist() if i != -100 and i != tokenizer.eos_token_id])
        for row in batch["labels"]
    ]
    known = [
        tokenizer.decode(tokenizer(y, return_tensors=None)["input_ids"][1:-1]) for y in answers
    ]
    assert len(batch["labels"]) == 4 and len(known) == 4
    assert answers == ["you hear spanish .", "tree sun .", "the sol .", "cat ."]


def test_the_reference_table_tells_copy_and_switch_apart(base):
    model, _ = base
    batch = taste.as_batch(taste.judged_pairs(*base, taste.opened("train")[:20]), *base)
    with runs.attached(model, mp.LoRA(2), seed=0) as tuner:
        with torch.no_grad():
            for _, patch in tuner.patches:
                patch.B.normal_(0, 0.1)
        table, seen = taste.reference_table(model, tuner, batch)
        assert seen == {"bytes": sum(p.nbytes for p in tuner.anatomy.parameters()), "equal": True}
        assert table.rows[1][2] == "0" and table.rows[2][2] != "0"


def test_patients_show_what_the_hints_speak_of(base):
    pairs = taste.judged_pairs(*base, taste.opened("train")[:30])
    seen = {who: taste.ill(base, pairs, cause, 12, 5e-4) for who, cause in taste.PATIENTS.items()}
    first = {who for who, one in seen.items() if abs(one["first"] - math.log(2)) > 1e-4}
    assert first == {"B"}
    assert {who for who, one in seen.items() if abs(one["last"] - math.log(2)) < 1e-4} == {"D"}
    assert seen["E"]["last"] < 0.1 < seen["C"]["last"]
    for who, one in seen.items():
        assert (one["better"] > one["worse"]) == (who != "A"), who


def test_a_run_on_pairs_leaves_the_base_as_it_was(base):
    model, _ = base
    mark = mp.fingerprint(model)
    seen = taste.tuned(base, mp.LoRA(2), "DPO", 3e-4, 3, seed=0)
    assert 0 <= seen["right"] <= 1 and seen["drift"] > 0 and -1 <= seen["test"] <= 2
    assert mp.fingerprint(model) == mark and not mp.tuners(model)
    with runs.attached(model, mp.LoRA(2), seed=0):
        with pytest.raises(ValueError, match="detach its tuners"):
            taste.pairs_of_the_base(*base, seed=99, draws=1)


def test_hand_written_preferences_say_the_same_shorter():
    for question, better, worse in by_hand.PREFERENCES:
        assert len(better.split()) < len(worse.split()), question
    asked = {text for text, _ in by_hand.ASKED}
    assert not asked & {question for question, *_ in by_hand.PREFERENCES}
    right = [words.split("|")[0] for _, words in by_hand.ASKED]
    assert by_hand.judged(right) == (1.0, 1.0)
    assert by_hand.judged(["no idea at all"] * len(right)) == (4.0, 0.0)
