"""Checks of lesson 02: they take what is right, however it is written, and name what is wrong."""

import itertools
import math
import random

import pytest
import torch

import tiny_transformer as tt
from minipeft import checks
from minipeft.course import pretraining as lesson
from tiny_transformer.objectives import SENTINELS, pairs
from tiny_transformer.pretraining import learning_rate


def refused(check, candidate, words):
    with pytest.raises(checks.CheckFailed) as caught:
        check(candidate)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# -- causal ----------------------------------------------------------------------------------------


def by_where(ids, tokenizer, generator=None):
    real = ids.ne(tokenizer.pad_token_id)
    labels = torch.where(real, ids, torch.tensor(-100))
    return {"input_ids": ids, "attention_mask": real.int(), "labels": labels}


def by_copy(ids, tokenizer, generator=None):
    labels = ids.clone()
    labels[labels == tokenizer.pad_token_id] = -100
    return {
        "labels": labels,
        "input_ids": ids.clone(),
        "attention_mask": (labels != -100).to(torch.long),
    }


@pytest.mark.parametrize("right", [tt.objectives.causal, by_where, by_copy])
def test_right_causal_objectives_pass(right, capsys):
    checks.causal(right)
    assert f"✓ {right.__name__}" in capsys.readouterr().out


def spoilt(**change):
    """by_where with some tensors replaced: name -> function of (ids, right answer)."""

    def candidate(ids, tokenizer, generator=None):
        batch = by_where(ids, tokenizer)
        return batch | {name: new(ids, batch[name]) for name, new in change.items()}

    return candidate


def shift(labels):
    return torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)


def in_place(ids, tokenizer, generator=None):
    batch = by_where(ids.clone(), tokenizer)
    ids[ids == 0] = -100
    return batch


def padding_forgotten(ids, tokenizer, generator=None):
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


WRONG_CAUSAL = [
    (padding_forgotten, "padding is not looked for"),
    (spoilt(labels=lambda ids, labels: shift(labels)), "shifted here"),
    (
        spoilt(labels=lambda ids, _: ids[:, 1:], input_ids=lambda ids, _: ids),
        "shifted here",
    ),
    (spoilt(labels=lambda ids, _: ids.roll(-1, 1)), "shifted here"),
    (spoilt(labels=lambda ids, _: ids.roll(-1, 1).masked_fill(ids == 0, -100)), "shifted here"),
    (spoilt(labels=lambda ids, labels: labels.roll(-1, 1)), "shifted here"),
    (spoilt(labels=lambda ids, _: shift(ids)), "shifted here"),
    (spoilt(labels=lambda ids, labels: shift(labels.flip(1)).flip(1)), "shifted to the right"),
    (spoilt(labels=lambda ids, labels: ids), "padding is asked for"),
    (spoilt(labels=lambda ids, labels: labels.masked_fill(ids == 2, -100)), "learn to stop"),
    (spoilt(input_ids=lambda ids, _: ids[:, :-1]), "the last word is cut off"),
    (spoilt(attention_mask=lambda ids, mask: mask.new_ones(mask.shape)), "1 on padding too"),
    (spoilt(attention_mask=lambda ids, mask: 1 - mask), "upside down"),
    (in_place, "work on a copy"),
    (lambda ids, tokenizer: {"input_ids": ids}, "the batch has no attention_mask, labels"),
    (lambda ids, tokenizer: None, "is a return missing"),
]


@pytest.mark.parametrize(("wrong", "words"), WRONG_CAUSAL)
def test_a_wrong_causal_objective_is_told_its_mistake(wrong, words):
    refused(checks.causal, wrong, words)


# -- span corruption -------------------------------------------------------------------------------


class Own:
    """Another correct corruption: runs are laid out one after the other, with words between them.

    The wrong ones change one thing each.
    """

    begin, asked_first, stop, target_begin = True, True, True, False
    count_all = True

    def __call__(self, documents, tokenizer, generator=None, corruption_rate=0.25, mean_span=2.0):
        self.tokenizer = tokenizer
        self.gaps = tokenizer.convert_tokens_to_ids(list(SENTINELS))
        self.roll = random.Random(self.seed(generator))
        cut = [self.one(document, self.runs(len(document), corruption_rate, mean_span))
               for document in documents]  # fmt: skip
        return self.batch([source for source, _ in cut], [target for _, target in cut])

    def seed(self, generator):
        return int(torch.randint(2**31, (), generator=generator))

    def runs(self, T, corruption_rate, mean_span):
        """[(start, end), ...] that do not touch each other."""
        count = max(1, min(len(self.gaps), round(T * corruption_rate / mean_span)))
        runs, room = [], T / count
        for number in range(count):
            length = max(1, min(int(room) - 1, round(self.roll.uniform(0.5, 2 * mean_span - 0.5))))
            first = math.ceil(number * room)
            last = max(first, int((number + 1) * room) - length - 1)
            start = self.roll.randint(first, last)
            runs.append((start, min(T, start + length)))
        return runs

    def gap(self, number):
        return self.gaps[number]

    def one(self, document, runs):
        source, target, place = [], [], 0
        for number, (start, end) in enumerate(runs):
            source += [*document[place:start], self.gap(number)]
            target += self.answer(self.gap(number), document[start:end])
            place = end
        return source + document[place:], target

    def answer(self, gap, words):
        return [gap, *words]

    def batch(self, sources, targets):
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        return pairs(
            [[bos, *source, eos] for source in sources],
            [[*target, eos] for target in targets],
            self.tokenizer,
        )


def by_grouping(documents, tokenizer, generator=None, corruption_rate=0.25, mean_span=2.0):
    """A third one: each word starts a run with some probability."""
    sources, targets = [], []
    for document in documents:
        T, number, left, hidden = len(document), -1, 0, []
        for _ in document:
            if left == 0 and hidden.count(True) < len(SENTINELS) * mean_span:
                start = torch.rand((), generator=generator) < corruption_rate / mean_span
                left = 1 + int(torch.rand((), generator=generator) * (2 * mean_span - 1)) * start
                left = left if start else 0
            hidden.append(left > 0)
            left = max(0, left - 1)
        if not any(hidden):  # one run, of the same mean length as the others
            length = 1 + int(torch.rand((), generator=generator) * (2 * mean_span - 1))
            begin = int(torch.randint(max(1, T - length + 1), (), generator=generator))
            hidden[begin : begin + length] = [True] * len(hidden[begin : begin + length])
        source, target = [tokenizer.bos_token_id], []
        for place, (word, gone) in enumerate(zip(document, hidden, strict=True)):
            new = gone and (place == 0 or not hidden[place - 1])
            if new and number + 1 == len(SENTINELS):
                hidden[place:] = [False] * (T - place)
                source += document[place:]
                break
            if new:
                number += 1
                gap = tokenizer.convert_tokens_to_ids(SENTINELS[number])
                source.append(gap)
                target.append(gap)
            (target if gone else source).append(word)
        sources.append([*source, tokenizer.eos_token_id])
        targets.append([*target, tokenizer.eos_token_id])
    return pairs(sources, targets, tokenizer)


@pytest.mark.parametrize("right", [tt.objectives.span_corruption, Own(), by_grouping])
def test_right_corruptions_pass(right):
    checks.span_corruption(right)


def changed(**change):
    """Own with some methods replaced."""
    return type("Own", (Own,), change)()


def no_ends(self, sources, targets, bos=True, eos=True, stop=True, start=False):
    b, e = [self.tokenizer.bos_token_id], [self.tokenizer.eos_token_id]
    return pairs(
        [b * bos + source + e * eos for source in sources],
        [b * start + target + e * stop for target in targets],
        self.tokenizer,
    )


def ends(**which):
    return changed(batch=lambda self, sources, targets: no_ends(self, sources, targets, **which))


def padding_learnt(self, sources, targets):
    batch = Own.batch(self, sources, targets)
    return batch | {"labels": batch["labels"].masked_fill(batch["labels"] == -100, 0)}


def mask_of_ones(self, sources, targets):
    batch = Own.batch(self, sources, targets)
    return batch | {"attention_mask": torch.ones_like(batch["input_ids"])}


def each_word_a_gap(self, document, runs):
    cut = {place for start, end in runs for place in range(start, end)}
    source, target = [], []
    for place, word in enumerate(document):
        if place in cut and len(target) < 2 * len(self.gaps):
            gap = self.gaps[len(target) // 2]
            source.append(gap)
            target += [gap, word]
        else:
            source.append(word)
    return source, target


def masks(self, document, runs):
    source, target = Own.one(self, document, runs)
    return [self.tokenizer.mask_token_id if w in self.gaps else w for w in source], target


def whole_target(self, document, runs):
    source, _ = Own.one(self, document, runs)
    return source, [self.gaps[0], *document]


def forgets_the_rest(self, document, runs):
    source, target = Own.one(self, document, runs)
    return source[: source.index(self.gap(len(runs) - 1)) + 1], target


def drops_the_cut(self, document, runs):
    gone = {place for start, end in runs for place in range(start, end)}
    return [w for i, w in enumerate(document) if i not in gone], Own.one(self, document, runs)[1]


def short_texts_stay(self, document, runs):
    return Own.one(self, document, runs if len(document) > 4 else [])


def eats_its_input(self, document, runs):
    answer = Own.one(self, list(document), runs)
    for start, end in reversed(runs):
        del document[start:end]
    return answer


WRONG_CORRUPTIONS = [
    (ends(bos=False), "a source begins with <bos>"),
    (ends(eos=False), "a source ends with <eos>"),
    (ends(stop=False), "a target ends with <eos>"),
    (ends(start=True), "a target has no <bos>"),
    (changed(batch=padding_learnt), "should be -100"),
    (changed(batch=mask_of_ones), "0 on padding"),
    (changed(gap=lambda self, number: self.gaps[0]), "a gap stands twice"),
    (changed(gap=lambda self, number: self.gaps[7 - number]), "counted from <gap0>"),
    (changed(one=each_word_a_gap), "side by side"),
    (changed(one=masks), "words become <mask>"),
    (changed(one=drops_the_cut), "no gap stands where"),
    (changed(answer=lambda self, gap, words: words), "the target holds no gaps"),
    (changed(answer=lambda self, gap, words: [*words, gap]), "begins with a word"),
    (changed(answer=lambda self, gap, words: [gap]), "has no words behind it"),
    (changed(answer=lambda self, gap, words: [gap, *words[::-1]]), "does not give the text"),
    (changed(one=whole_target), "holds the whole text"),
    (changed(one=forgets_the_rest), "does not give the text"),
    (changed(one=short_texts_stay), "nothing was cut out of a text of 1 words"),
    (changed(one=eats_its_input), "work on copies"),
    (
        changed(
            runs=lambda self, T, corruption_rate, mean_span: Own.runs(self, T, 0.25, mean_span)
        ),
        "corruption_rate changes nothing",
    ),
    (
        changed(
            runs=lambda self, T, corruption_rate, mean_span: Own.runs(
                self, T, corruption_rate / 3, mean_span
            )
        ),
        "the model is asked for",
    ),
    (
        changed(
            runs=lambda self, T, corruption_rate, mean_span: Own.runs(
                self, T, corruption_rate * 1.25, 2.0
            )
        ),
        "mean_span changes nothing",
    ),
    (changed(seed=lambda self, generator: torch.randint(2**31, ()).item()), "from `generator`"),
    (lambda documents, tokenizer, generator=None: None, "is a return missing"),
]


@pytest.mark.parametrize(("wrong", "words"), WRONG_CORRUPTIONS)
def test_a_wrong_corruption_is_told_its_mistake(wrong, words):
    refused(checks.span_corruption, wrong, words)


# -- the learning rate -----------------------------------------------------------------------------


def in_two_lines(step, steps, peak, warmup, floor=0.05):
    rise = 1.0 if step + 1 >= warmup else (step + 1) / warmup
    return peak * rise * (1 + floor + (1 - floor) * math.cos(math.pi * step / steps)) / 2


def as_a_tensor(step, steps, peak, warmup, floor=0.05):
    angle = torch.tensor(step / steps * 180.0).deg2rad()
    fall = torch.lerp(torch.tensor(floor), torch.tensor(1.0), (angle / 2).cos() ** 2)
    return peak * min(1, (step + 1) / max(warmup, 1)) * fall


@pytest.mark.parametrize("right", [learning_rate, in_two_lines, as_a_tensor])
def test_right_schedules_pass(right):
    checks.learning_rate(right)


def schedule(
    rise=lambda step, warmup: min(1, (step + 1) / max(1, warmup)),
    fall=lambda step, steps, warmup, floor: (
        floor + (1 - floor) * (1 + math.cos(math.pi * step / steps)) / 2
    ),
    scale=lambda peak: peak,
):
    def learning_rate(step, steps, peak, warmup, floor=0.05):
        return scale(peak) * rise(step, warmup) * fall(step, steps, warmup, floor)

    return learning_rate


def cosine(step, steps):
    return (1 + math.cos(math.pi * step / steps)) / 2


def one_after_the_other(step, steps, peak, warmup, floor=0.05):
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (floor + (1 - floor) * cosine(step, steps))


def floor_outside(step, steps, peak, warmup, floor=0.05):
    rise = min(1, (step + 1) / max(1, warmup))
    return peak * (floor + rise * (1 - floor) * cosine(step, steps))


def floor_without_peak(step, steps, peak, warmup, floor=0.05):
    rise = min(1, (step + 1) / max(1, warmup))
    return floor + peak * rise * (1 - floor) * cosine(step, steps)


def held_up(step, steps, peak, warmup, floor=0.05):
    return max(floor * peak, learning_rate(step, steps, peak, warmup, floor))


WRONG_SCHEDULES = [
    (one_after_the_other, "in the warm-up the cosine is left out"),
    (floor_outside, "outside of the warm-up"),
    (floor_without_peak, "not multiplied by peak"),
    (held_up, "holds the warm-up up"),
    (schedule(rise=lambda step, warmup: min(1, (step + 1) // max(1, warmup))), "rounded down"),
    (schedule(scale=lambda peak: 1), "not multiplied by peak"),
    (schedule(rise=lambda step, warmup: min(1, step / max(1, warmup))), "begins at 0"),
    (schedule(rise=lambda step, warmup: 1), "warm-up is missing"),
    (schedule(rise=lambda step, warmup: (step + 1) / max(1, warmup)), "beyond 1"),
    (schedule(fall=lambda step, steps, warmup, floor: 1), "no fall"),
    (schedule(fall=lambda step, steps, warmup, floor: cosine(step, steps)), "floor is ignored"),
    (
        schedule(fall=lambda step, steps, warmup, floor: floor + cosine(step, steps)),
        "added on top",
    ),
    (
        schedule(fall=lambda step, steps, warmup, floor: max(floor, cosine(step, steps))),
        "cuts the cosine off",
    ),
    (
        schedule(fall=lambda step, steps, warmup, floor: floor + (1 - floor) * (1 - step / steps)),
        "straight line",
    ),
    (
        schedule(
            fall=lambda step, steps, warmup, floor: floor + (1 - floor) * cosine(2 * step, steps)
        ),
        "whole period",
    ),
    (
        schedule(
            fall=lambda step, steps, warmup, floor: floor + (1 - floor) * (1 - cosine(step, steps))
        ),
        "upside down",
    ),
    (
        schedule(
            fall=lambda step, steps, warmup, floor: (
                floor + (1 - floor) * cosine(max(0, step - warmup), steps - warmup)
            )
        ),
        "from step 0",
    ),
    (
        schedule(
            fall=lambda step, steps, warmup, floor: (
                floor + (1 - floor) * cosine(step - warmup, steps - warmup)
            )
        ),
        "from step 0",
    ),
    (
        schedule(
            fall=lambda step, steps, warmup, floor: (
                floor + (1 - floor) * cosine(step, steps - warmup)
            )
        ),
        "divide by steps, as the equation says",
    ),
    (
        schedule(
            fall=lambda step, steps, warmup, floor: floor + (1 - floor) * 2 * cosine(step, steps)
        ),
        "division by 2",
    ),
    (schedule(rise=lambda step, warmup: min(1, (step + 1) / warmup)), "ZeroDivisionError"),
]


@pytest.mark.parametrize(("wrong", "words"), WRONG_SCHEDULES)
def test_a_wrong_schedule_is_told_its_mistake(wrong, words):
    refused(checks.learning_rate, wrong, words)


# -- numbers and diagnoses -------------------------------------------------------------------------

PRICES = {
    "first": math.log(6),
    "noun": math.log(9),
    "answer": 0,
    "whole": math.log(6 * 10 * 9 * 8),
}


def test_the_prices_are_those_of_all_texts_that_the_author_can_write():
    """-log(share) of a text, and of each of its parts, by listing all of them."""
    texts = [
        (function, *row) for function in range(6) for row in itertools.permutations(range(10), 3)
    ]
    assert math.isclose(math.log(len(texts)), PRICES["whole"])
    begins = [text for text in texts if text[:2] == texts[0][:2]]
    goes_on = {text[2] for text in begins}
    assert math.isclose(math.log(len(goes_on)), PRICES["noun"])
    assert math.isclose(
        -math.log(sum(text[0] == 0 for text in texts) / len(texts)), PRICES["first"]
    )


def test_right_prices_pass_in_any_form():
    checks.puzzle_floor(PRICES)
    checks.puzzle_floor({name: torch.tensor(float(value)) for name, value in PRICES.items()})
    checks.puzzle_floor({"first": 1.79, "noun": 2.2, "answer": 0.0, "whole": 8.37})


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"first": 1 / 6}, "the price is its -log"),
        ({"first": math.log2(6)}, "in bits"),
        ({"first": -math.log(6)}, "not negative"),
        ({"first": math.log(885)}, "only 6 words"),
        ({"noun": math.log(10)}, "cannot come again"),
        ({"noun": math.log(8)}, "only one is gone"),
        ({"answer": math.log(6)}, "the rule names the one"),
        ({"answer": math.log(720)}, "the nouns are known by then"),
        ({"whole": math.log(6) + 3 * math.log(10)}, "no noun comes twice"),
        ({"whole": math.log(720)}, "the first word has its price"),
        ({"whole": math.log(6) + 2 * math.log(720)}, "the answer costs nothing"),
        ({"whole": math.log2(4320)}, "in bits"),
        ({"whole": 3.0}, "too small"),
    ],
)
def test_wrong_prices_are_told_where_they_come_from(changed, words):
    refused(checks.puzzle_floor, PRICES | changed, words)


def test_every_patient_is_what_its_name_says():
    _, tokenizer = tt.load("tiny-decoder-0.1m")
    batches, pad = lesson.patients(tokenizer), tokenizer.pad_token_id
    ids = batches["C"]["input_ids"]
    for name, cause in lesson.PATIENTS.items():
        seen, labels = batches[name]["input_ids"], batches[name]["labels"]
        asked, hidden = labels != -100, seen != ids
        assert bool((asked & (ids == pad)).any()) == (cause == "padding")
        assert bool((labels[asked] != ids[asked]).any()) == (cause == "shifted")
        if lesson.AIMS[name] == "masked":
            assert torch.equal(asked & hidden, hidden)
            assert bool(hidden.any()) == (cause != "nothing hidden")
            assert bool((asked & ~hidden & (ids != tokenizer.bos_token_id)).any()) == (
                cause in ("nothing hidden", "all asked")
            )
        else:
            assert not hidden.any()


def test_every_wrong_diagnosis_is_told_what_speaks_against_it():
    checks.batch_patients(dict(lesson.PATIENTS))
    checks.batch_patients({who: cause.upper() for who, cause in lesson.PATIENTS.items()})
    wrong = 0
    for who, right in lesson.PATIENTS.items():
        for cause in lesson.PATIENTS.values():
            if cause != right:
                refused(checks.batch_patients, dict(lesson.PATIENTS) | {who: cause}, f"{who} is")
                wrong += 1
    assert wrong == 20
    refused(checks.batch_patients, {"A": "nothing hidden"}, "batch_patients has no B")
