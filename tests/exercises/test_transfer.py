"""Checks of lesson 03: they take what is right, however it is written, and name what is wrong."""

import copy
from fractions import Fraction

import pytest
import torch
from torch import nn

from minipeft import checks
from minipeft.checks.exercises.transfer_numbers import HINTS
from minipeft.course import transfer, transfer_lesson
from minipeft.tasks.metrics import exact, normal


def refused(check, candidate, words):
    with pytest.raises(checks.CheckFailed) as caught:
        check(candidate)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# -- train_top -------------------------------------------------------------------------------------


def by_flags(parts, count):
    """Everything on, then the lower parts off: what they share goes off with them."""
    if count < 0 or count > len(parts):
        raise ValueError("no")
    trained = []
    for part in parts:
        part.requires_grad_(True)
    for part in parts[: len(parts) - count]:
        part.requires_grad_(False)
    for part in parts:
        for parameter in part.parameters():
            if parameter.requires_grad and all(parameter is not other for other in trained):
                trained.append(parameter)
    return trained


def by_module_list(parts, count):
    every = nn.ModuleList(parts)
    if not 0 <= count <= len(every):
        raise ValueError("no")
    below = nn.ModuleList(parts[: len(parts) - count])
    every.requires_grad_(True)
    below.requires_grad_(False)
    return tuple(p for p in every.parameters() if p.requires_grad)


@pytest.mark.parametrize("right", [transfer.train_top, by_flags, by_module_list])
def test_right_ways_to_freeze_pass(right, capsys):
    checks.train_top(right)
    assert f"✓ {right.__name__}" in capsys.readouterr().out


def every(parts):
    return list(dict.fromkeys(p for part in parts for p in part.parameters()))


def chosen(choose, freeze=True, wake=True):
    """Candidates that differ in which parts they choose."""

    def candidate(parts, count):
        if not 0 <= count <= len(parts):
            raise ValueError("no")
        wanted = every(choose(parts, count))
        for p in every(parts):
            mine = any(p is other for other in wanted)
            if freeze and not mine:
                p.requires_grad_(False)
            if wake and mine:
                p.requires_grad_(True)
        return wanted

    return candidate


def last(parts, count):
    return parts[len(parts) - count :]


def no_return(parts, count):
    by_flags(parts, count)


def modules(parts, count):
    by_flags(parts, count)
    return last(parts, count)


def twice(parts, count):
    by_flags(parts, count)
    return [p for part in parts for p in part.parameters() if p.requires_grad]


def weights_only(parts, count):
    trained = by_flags(parts, count)
    for p in trained:
        p.requires_grad_(p.dim() > 1)
    return [p for p in trained if p.dim() > 1]


def any_count(parts, count):
    return by_flags(parts, min(max(count, 0), len(parts)))


def tied_never(parts, count):
    """What two parts share is frozen, whoever they are."""
    trained = by_flags(parts, count)
    uses = [p for part in parts for p in part.parameters()]
    single = [p for p in trained if sum(p is other for other in uses) == 1]
    for p in trained:
        p.requires_grad_(any(p is other for other in single))
    return single


def tied_head_frozen(parts, count):
    """A part that shares anything with a frozen one is frozen whole."""
    by_flags(parts, count)
    below = every(parts[: len(parts) - count])
    trained = []
    for part in last(parts, count):
        parameters = list(part.parameters())
        if any(p is q for p in parameters for q in below):
            part.requires_grad_(False)
        else:
            trained += [p for p in parameters if all(p is not q for q in trained)]
    return trained


def by_value(parts, count):
    """Equal values are taken for the same parameter."""
    trained = by_flags(parts, count)
    below = every(parts[: len(parts) - count])
    for p in trained:
        p.requires_grad_(not any(p.shape == q.shape and torch.equal(p, q) for q in below))
    return [p for p in trained if p.requires_grad]


def zeroes(parts, count):
    trained = by_flags(parts, count)
    with torch.no_grad():
        for p in every(parts):
            if not p.requires_grad:
                p.zero_()
    return trained


WRONG_TOPS = [
    (chosen(lambda parts, count: parts[-count:]), "parts[-0:] is the whole list"),
    (chosen(lambda parts, count: parts[:count]), "the first 1 are awake"),
    (chosen(last, freeze=False), "freeze parts 1 to 3"),
    (chosen(last, wake=False), "must wake up"),
    (chosen(lambda parts, count: parts[-count - 1 : -1] if count else []), "last part is left out"),
    (chosen(lambda parts, count: parts[-count - 1 :]), "lower parts are awake too"),
    (chosen(last), "the frozen part would change"),
    (lambda parts, count: every(last(parts, count)), "lower parts are awake too"),
    (no_return, "gives None back"),
    (modules, "the list holds a Linear"),
    (twice, "given back twice"),
    (weights_only, "no bias"),
    (any_count, "raise a ValueError"),
    (tied_never, "no frozen part uses it"),
    (tied_head_frozen, "the bias of a tied head is frozen"),
    (by_value, "compare by identity"),
    (zeroes, "the values of the parameters changed"),
]


@pytest.mark.parametrize(("wrong", "words"), WRONG_TOPS)
def test_wrong_ways_to_freeze_are_named(wrong, words):
    refused(checks.train_top, wrong, words)


def test_train_top_wakes_what_top_layers_wakes():
    """By hand and by the tuner: the same parameters of a decoder, for every k."""
    import minipeft as mp
    import tiny_transformer as tt

    model = tt.Decoder(tt.TransformerConfig.gpt2(vocab_size=11, width=8, layers=3, heads=2))
    for k in (1, 2, 3):
        tuner = mp.attach(model, mp.TopLayers(k))
        by_tuner = {id(p) for p in tuner.parameters()}
        tuner.detach()
        parts = [
            model.embeddings,
            *model.blocks[:-1],
            nn.ModuleList([model.blocks[-1], model.norm]),
        ]
        assert {id(p) for p in transfer.train_top(parts, k)} == by_tuner


# -- training_bytes --------------------------------------------------------------------------------


def by_nbytes(model):
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    return {
        "adam": trained + trained,
        "gradients": trained,
        "weights": sum(p.nbytes for p in model.parameters()),
    }


def by_adding_up(model):
    """Really train a copy one step, and add up what is there."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.Adam(
        [p for p in model.parameters() if p.requires_grad] or [nn.Parameter()]
    )
    for p in model.parameters():
        p.grad = torch.ones_like(p) if p.requires_grad else None
    optimizer.step()
    states = [s for p, s in optimizer.state.items() if p.numel()]
    moments = [s[name] for s in states for name in ("exp_avg", "exp_avg_sq")]
    return {
        "weights": sum(p.numel() * p.element_size() for p in model.parameters()),
        "gradients": sum(p.grad.nbytes for p in model.parameters() if p.grad is not None),
        "adam": sum(m.nbytes for m in moments),
    }


@pytest.mark.parametrize("right", [transfer.training_bytes, by_nbytes, by_adding_up])
def test_right_ledgers_pass(right, capsys):
    checks.training_bytes(right)
    assert f"✓ {right.__name__}" in capsys.readouterr().out


def ledger(weights="all", gradients="trained", adam="trained", size=None, means=2, tied=False):
    def candidate(model):
        named = list(model.named_parameters(remove_duplicate=not tied))
        sizes = {
            "all": sum(p.numel() * (size or p.element_size()) for _, p in named),
            "trained": sum(
                p.numel() * (size or p.element_size()) for _, p in named if p.requires_grad
            ),
        }
        return {
            "weights": sizes[weights],
            "gradients": sizes[gradients],
            "adam": means * sizes[adam],
        }

    return candidate


def sized_by(number):
    """The size of one parameter's numbers, taken for all."""

    def candidate(model):
        return ledger(size=list(model.parameters())[number].element_size())(model)

    return candidate


def of_what_is_there(model):
    gradients = sum(p.nbytes for p in model.parameters() if p.grad is not None)
    return by_nbytes(model) | {"gradients": gradients, "adam": 2 * gradients}


def made_for_it(model):
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    return of_what_is_there(model)


WRONG_LEDGERS = [
    (sized_by(0), "parameters differ in dtype"),
    (sized_by(-1), "parameters differ in dtype"),
    (of_what_is_there, "empty before the first step"),
    (made_for_it, "changed"),
    (
        lambda model: by_nbytes(model) | ({} if model.training else {"gradients": 0, "adam": 0}),
        "eval mode changes nothing",
    ),
    (lambda model: {k: v / 2**20 for k, v in by_nbytes(model).items()}, "whole numbers"),
    (ledger(size=1), "not bytes"),
    (ledger(size=4), "element_size() is 2"),
    (ledger(tied=True), "the shared matrix counts twice"),
    (ledger(weights="trained"), "must be in memory too"),
    (ledger(gradients="all", adam="all"), "frozen parameters get gradients"),
    (ledger(adam="all"), "Adam keeps means of frozen parameters"),
    (ledger(means=1), "Adam keeps one mean"),
    (ledger(means=3), "half as many again: Adam keeps two running means"),
    (lambda model: None, "should return a dict"),
    (lambda model: {"weights": 1, "gradients": 2}, "the dict has no adam"),
]


@pytest.mark.parametrize(("wrong", "words"), WRONG_LEDGERS)
def test_wrong_ledgers_are_named(wrong, words):
    refused(checks.training_bytes, wrong, words)


# -- forgotten -------------------------------------------------------------------------------------


def by_counting(before, after, targets):
    if len(before) != len(targets) or len(after) != len(targets):
        raise ValueError("lengths")
    right = lost = 0
    for i, target in enumerate(targets):
        if normal(before[i]) == normal(target):
            right += 1
            lost += normal(after[i]) != normal(target)
    if right == 0:
        raise ValueError("nothing known")
    return lost / right


def by_metrics(before, after, targets):
    """One minus the accuracy after, on what was right before."""
    rows = list(zip(before, after, targets, strict=True))
    known = [(a, t) for b, a, t in rows if exact([b], [t])]
    said, true = zip(*known, strict=True) if known else ((), ())
    return 1 - exact(said, true)


@pytest.mark.parametrize("right", [transfer.forgotten, by_counting, by_metrics])
def test_right_measures_of_forgetting_pass(right, capsys):
    checks.forgotten(right)
    assert f"✓ {right.__name__}" in capsys.readouterr().out


def share(formula, same=lambda a, b: normal(a) == normal(b)):
    """A formula of (right before, right after, lost, changed, questions), errors handled."""

    def candidate(before, after, targets):
        rows = list(zip(before, after, targets, strict=True))
        known = sum(same(b, t) for b, a, t in rows)
        if not known:
            raise ValueError("nothing known")
        now = sum(same(a, t) for b, a, t in rows)
        lost = sum(same(b, t) and not same(a, t) for b, a, t in rows)
        changed = sum(not same(a, b) for b, a, t in rows)
        return formula(known, now, lost, changed, len(rows))

    return candidate


def by_share(same):
    return share(lambda known, now, lost, changed, n: lost / known, same)


def by_answer(before, after, targets):
    """The place of a question is looked up by its answer."""
    if not len(before) == len(after) == len(targets):
        raise ValueError("lengths")
    known = [b for b, t in zip(before, targets, strict=True) if normal(b) == normal(t)]
    if not known:
        raise ValueError("nothing known")
    return sum(normal(after[before.index(b)]) != normal(b) for b in known) / len(known)


def zero_division(before, after, targets):
    rows = list(zip(before, after, targets, strict=True))
    known = [normal(a) == normal(t) for b, a, t in rows if normal(b) == normal(t)]
    return 1 - sum(known) / len(known)


def zero_when_empty(before, after, targets):
    try:
        return by_counting(before, after, targets)
    except ValueError:
        return 0.0


def short_lists(before, after, targets):
    return share(lambda known, now, lost, changed, n: lost / known)(
        *zip(*zip(before, after, targets, strict=False), strict=True)
    )


WRONG_MEASURES = [
    (share(lambda known, now, lost, changed, n: (known - now) / n), "the fall of the accuracy"),
    (share(lambda known, now, lost, changed, n: (known - now) / known), "make up for"),
    (share(lambda known, now, lost, changed, n: lost / n), "divide by all questions"),
    (share(lambda known, now, lost, changed, n: 1 - lost / known), "the share that is kept"),
    (share(lambda known, now, lost, changed, n: lost), "a number of questions"),
    (share(lambda known, now, lost, changed, n: 100 * lost / known), "per cent"),
    (share(lambda known, now, lost, changed, n: (n - now) / n), "everything that is wrong now"),
    (share(lambda known, now, lost, changed, n: changed / known), "every changed answer"),
    (share(lambda known, now, lost, changed, n: lost / known, str.__eq__), "metrics.normal"),
    (by_share(lambda a, b: normal(b) in normal(a)), "compare whole texts"),
    (by_share(lambda a, b: normal(b).startswith(normal(a))), "compare whole texts"),
    (by_share(lambda a, b: a.lower().strip(" .") == b.lower().strip(" .")), "metrics.normal"),
    (by_answer, "go through the three lists together"),
    (zero_division, "divide by zero"),
    (zero_when_empty, "nothing was right before"),
    (short_lists, "differ in length"),
    (lambda before, after, targets: None, "is a return missing?"),
]


@pytest.mark.parametrize(("wrong", "words"), WRONG_MEASURES)
def test_wrong_measures_of_forgetting_are_named(wrong, words):
    refused(checks.forgotten, wrong, words)


# -- adam_bytes ------------------------------------------------------------------------------------

BYTES = {"full": 6_240_000, "top 1": 2_496_000, "head only": 2_692_800}


@pytest.mark.parametrize(
    "answer",
    [
        BYTES,
        {
            "head only": 2_692_800.0,
            "top 1": torch.tensor(2_496_000),
            "full": Fraction(12_480_000, 2),
        },
        lambda: {"full": 16 * 390_000, "top 1": 4 * 390_000 + 12 * 78_000, "head only": 2_692_800},
        {**BYTES, "top 2": "not asked for"},
    ],
)
def test_the_right_bytes_in_any_form_are_accepted(answer):
    checks.adam_bytes(answer)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"head only": 2_409_600}, "the copy lies beside the frozen matrix"),
        ({"head only": 2_496_000}, "that is top 1"),
        ({"head only": 1_843_200}, "the gradients and Adam's two means of the copy"),
        ({"head only": 1_132_800}, "head only: the frozen numbers must be in memory too"),
        (
            {"head only": 7_372_800},
            "frozen numbers have no gradient, and Adam has no means of them",
        ),
        ({"head only": 2_126_400}, "head only: Adam's two running means are missing"),
        ({"top 1": 1_248_000}, "top 1: the frozen numbers must be in memory too"),
        ({"top 1": 6_240_000}, "frozen numbers have no gradient, and Adam has no means of them"),
        ({"top 1": 4_992_000}, "top 1: Adam keeps means only of what it trains"),
        ({"top 1": 2_184_000}, "top 1: Adam keeps two means"),
        ({"top 1": 1_872_000}, "top 1: Adam's two running means are missing"),
        ({"top 1": 624_000}, "top 1: that is how many numbers"),
        ({"top 1": 1_248_001}, "too small"),
        ({"full": 1_560_000}, "or these are no bytes"),
        ({"full": 3_120_000}, "full: Adam's two running means are missing"),
        ({"full": 4_680_000}, "full: Adam keeps two means"),
        ({"full": 1_560_001}, "full"),
        ({"full": 6_240}, "thousands"),
    ],
)
def test_wrong_bytes_are_told_where_they_come_from(changed, words):
    refused(checks.adam_bytes, BYTES | changed, words)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (6_240_000, "should be a dict"),
        ({"full": 6_240_000, "top 1": 2_496_000}, "has no head only"),
        (None, "is a return missing"),
    ],
)
def test_what_is_no_answer_about_bytes_is_told_so(answer, words):
    refused(checks.adam_bytes, answer, words)


def test_unanswered_bytes_and_patients_are_unfinished():
    for check in (checks.adam_bytes, checks.transfer_patients):
        with pytest.raises(checks.NotFinished, match="yours to work out"):
            check(...)


# -- transfer_patients -----------------------------------------------------------------------------

DIAGNOSIS = {"A": "idle", "B": "again", "C": "lowest", "D": "decay"}


@pytest.mark.parametrize(
    "answer",
    [
        DIAGNOSIS,
        dict(A="Idle", B="(again)", C=" lowest.", D="DECAY"),
        {**DIAGNOSIS, "healthy": "-"},
    ],
)
def test_the_right_diagnosis_is_accepted(answer):
    checks.transfer_patients(answer)


@pytest.mark.parametrize("patient", DIAGNOSIS)
@pytest.mark.parametrize("cause", transfer_lesson.CAUSES)
def test_every_wrong_cause_is_told_what_speaks_against_it(patient, cause):
    if DIAGNOSIS[patient] != cause:
        hint = HINTS[patient, cause]
        refused(checks.transfer_patients, DIAGNOSIS | {patient: cause}, f"is not {cause!r}: {hint}")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"A": "idle", "B": "again", "C": "lowest"}, "has no D"),
        (DIAGNOSIS | {"D": "unlucky"}, "D should be one of"),
        (["idle", "again", "lowest", "decay"], "should be a dict"),
        ("idle", "should be a dict"),
    ],
)
def test_what_is_no_diagnosis_is_told_so(answer, words):
    refused(checks.transfer_patients, answer, words)
