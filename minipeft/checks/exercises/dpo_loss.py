"""DPO: Rafailov et al. 2023, equation 7; numbers and patients of lesson 19."""

from __future__ import annotations

import math

from minipeft.checks.framework import (
    OMIT,
    Case,
    Check,
    Draw,
    NumberCheck,
    Trial,
    call,
    diagnosis,
    mistake,
)
from minipeft.course.preferences import PATIENTS


def inputs(case: Case, draw: Draw) -> dict:
    """Four log-probabilities, (B,) each. The reference is frozen, so it asks for no gradient."""
    return {
        name: give(case.scale * draw.normal(case.B).detach() - 5)
        for give, names in (
            (draw.tensor, ("better", "worse")),
            (draw.constant, ("reference_better", "reference_worse")),
        )
        for name in names
    }


BETTER = "reward_better = beta * (better - reference_better)"
WORSE = "reward_worse = beta * (worse - reference_worse)"
LOSS = "-F.logsigmoid(reward_better - reward_worse).mean()"
MARGIN = "reward_better - reward_worse"

dpo_loss = Check(
    "dpo_loss",
    "minipeft.training.preferences:dpo_loss",
    "-log sigmoid(reward of the better - reward of the worse), mean over pairs",
    [
        Trial(
            "the loss",
            inputs,
            lambda function, case, given: call(
                function,
                given.better,
                given.worse,
                given.reference_better,
                given.reference_worse,
                beta=case.beta,
            ),
            axes={
                "B": (3, 1, 6),
                "beta": (OMIT, 0.5, 2.0),
                "scale": (4.0, 1.0, 400.0),
            },
            dtypes=("float32", "float64"),
        )
    ],
    [
        mistake(
            "better and worse have changed places: the loss must fall when the better one rises",
            (MARGIN, "reward_worse - reward_better"),
        ),
        mistake("the logarithm is missing: -log sigmoid", (LOSS, f"-({MARGIN}).sigmoid().mean()")),
        mistake(
            "the logarithm is missing: -log sigmoid", (LOSS, f"1 - ({MARGIN}).sigmoid().mean()")
        ),
        mistake("the sign is wrong: the loss is -log sigmoid", (LOSS, LOSS[1:])),
        mistake("the sigmoid is missing: -log sigmoid(difference)", (LOSS, f"-({MARGIN}).mean()")),
        mistake(
            "beta is missing: it multiplies both rewards",
            (BETTER, "reward_better = better - reference_better"),
            (WORSE, "reward_worse = worse - reference_worse"),
        ),
        mistake(
            "beta is always 0.1: use the one that is given",
            (BETTER, BETTER.replace("beta", "0.1", 1)),
            (WORSE, WORSE.replace("beta", "0.1", 1)),
        ),
        mistake(
            "the better one's reward alone has beta: it multiplies both rewards",
            (WORSE, "reward_worse = worse - reference_worse"),
        ),
        mistake(
            "the worse one's reward alone has beta: it multiplies both rewards",
            (BETTER, "reward_better = better - reference_better"),
        ),
        mistake(
            "beta divides: it multiplies",
            (BETTER, BETTER.replace("beta *", "1 / beta *")),
            (WORSE, WORSE.replace("beta *", "1 / beta *")),
        ),
        mistake(
            "beta stands outside of the sigmoid: it multiplies the rewards",
            (BETTER, "reward_better = better - reference_better"),
            (WORSE, "reward_worse = worse - reference_worse"),
            (LOSS, f"beta * {LOSS}"),
        ),
        mistake(
            "the reference is missing: rewards are measured from what the model said before",
            (BETTER, "reward_better = beta * better"),
            (WORSE, "reward_worse = beta * worse"),
        ),
        mistake(
            "the references have changed places: each answer is compared with itself before",
            (BETTER, BETTER.replace("reference_better", "reference_worse")),
            (WORSE, WORSE.replace("reference_worse", "reference_better")),
        ),
        mistake(
            "the worse answer is not used: the loss is of the difference of two rewards",
            (MARGIN, "reward_better"),
        ),
        mistake(
            "the rewards are added: take their difference", (MARGIN, "reward_better + reward_worse")
        ),
        mistake(
            "the reference moves along with the model, so the loss is log 2 for ever: use the "
            "log-probabilities that are given",
            (BETTER, "reward_better = beta * (better - better.detach())"),
            (WORSE, "reward_worse = beta * (worse - worse.detach())"),
        ),
        mistake(
            "the better answer is not used: the loss is of the difference of two rewards",
            (MARGIN, "-reward_worse"),
        ),
        mistake(
            "each answer has a loss of its own: DPO has one for the difference of their rewards",
            (LOSS, "-(F.logsigmoid(reward_better) + F.logsigmoid(-reward_worse)).mean()"),
        ),
        mistake(
            "beta is there twice, inside of the sigmoid and outside: it multiplies the rewards "
            "only",
            (LOSS, f"beta * {LOSS}"),
        ),
        mistake(
            "the loss is divided by beta: it multiplies the rewards only", (LOSS, f"{LOSS} / beta")
        ),
        mistake(
            "every better answer is compared with every worse one: each pair has its own two",
            (MARGIN, "reward_better[:, None] - reward_worse"),
        ),
        mistake(
            "that is the median over pairs: take the mean", (LOSS, LOSS.replace("mean", "median"))
        ),
        mistake(
            "the softmax is over the pairs: each pair has a sigmoid of its own",
            (LOSS, f"-({MARGIN}).log_softmax(0).mean()"),
        ),
        mistake(
            "that is IPO, the square of a distance: DPO's loss is -log sigmoid(difference)",
            (LOSS, "((reward_better - reward_worse) / beta - 1 / (2 * beta)).square().mean()"),
        ),
        mistake(
            "the labels are smoothed: DPO's loss has one term, -log sigmoid(difference)",
            (
                LOSS,
                f"-(0.9 * F.logsigmoid({MARGIN}) + 0.1 * F.logsigmoid({{}})).mean()".format(
                    "reward_worse - reward_better"
                ),
            ),
        ),
        mistake(
            "the exponential is taken first: rewards are differences of log-probabilities",
            (BETTER, "reward_better = beta * (better - reference_better).exp()"),
            (WORSE, "reward_worse = beta * (worse - reference_worse).exp()"),
        ),
        mistake(
            "probabilities are subtracted: rewards are differences of log-probabilities",
            (BETTER, "reward_better = beta * (better.exp() - reference_better.exp())"),
            (WORSE, "reward_worse = beta * (worse.exp() - reference_worse.exp())"),
        ),
        mistake(
            "that is a tanh: the loss is -log sigmoid(difference)",
            (LOSS, f"-({MARGIN}).tanh().mean()"),
        ),
        mistake(
            "the difference must exceed a margin of 1: DPO has none", (MARGIN, f"{MARGIN} - 1")
        ),
        mistake(
            "the loss is squared: it is -log sigmoid",
            (LOSS, f"F.logsigmoid({MARGIN}).square().mean()"),
        ),
        mistake("1 is added: the loss is -log sigmoid(difference) alone", (LOSS, f"1 {LOSS}")),
        mistake(
            "a number is written where the number of pairs belongs: take the mean",
            (LOSS, LOSS.replace("mean()", "sum() / 3")),
        ),
        mistake("that is the sum over pairs: take the mean", (LOSS, LOSS.replace("mean", "sum"))),
        mistake(
            "the mean is inside: each pair has its own loss, then comes the mean",
            (LOSS, f"-F.logsigmoid(({MARGIN}).mean())"),
        ),
        mistake(
            "the mean is inside of the logarithm: each pair has its own loss, then comes the mean",
            (LOSS, f"-({MARGIN}).sigmoid().mean().log()"),
        ),
        mistake(
            "that is half of it: the mean over pairs, not over all answers",
            (LOSS, f"{LOSS} / 2"),
        ),
        mistake(
            "the logarithm's base is 10: it is the natural one",
            (LOSS, f"{LOSS} / torch.log(torch.tensor(10.0, dtype=better.dtype))"),
        ),
        mistake(
            "that is a hinge: the loss is -log sigmoid, which never is 0",
            (LOSS, f"(1 - ({MARGIN})).relu().mean()"),
        ),
        mistake(
            "the supervised loss is added: DPO is of the difference alone",
            (LOSS, f"{LOSS} - better.mean()"),
        ),
        mistake(
            "where a pair is far off it is cut off: use F.logsigmoid, not the logarithm of a "
            "clamped sigmoid",
            when=lambda view: (
                view.case.scale == 400.0
                and view.difference.kind == "value"
                and math.isfinite(float(view.given))
            ),
        ),
        mistake(
            "that is a ratio of probabilities: subtract the log-probabilities, do not divide",
            (BETTER, "reward_better = beta * (better / reference_better)"),
            (WORSE, "reward_worse = beta * (worse / reference_worse)"),
        ),
        mistake(
            "where a pair is far off this is infinite: use F.logsigmoid, not log(sigmoid)",
            when=lambda view: view.case.scale == 400.0 and not math.isfinite(float(view.given)),
        ),
        mistake(
            "the loss is one number: take the mean over pairs",
            when=lambda view: view.difference.kind == "shape",
        ),
    ],
)

LOG2 = math.log(2)
dpo_numbers = NumberCheck(
    "dpo_numbers",
    "all depends on the difference of the two changes, and on nothing else",
    {"start": LOG2, "apart": math.log(1 + math.exp(-1)), "both": LOG2, "pull": 0.05},
    [
        ({"start": 0.0}, "start: both rewards are 0, and -log sigmoid(0) is not 0"),
        ({"start": 1.0}, "start: sigmoid(0) is a half: what is -log of it?"),
        ({"start": -LOG2}, "start: a loss is -log, which is positive"),
        ({"start": LOG2 / math.log(10)}, "start: that is the logarithm of base 10"),
        ({"start": 1 / LOG2}, "start: nats are asked, the natural logarithm of 2"),
        ({"start": 0.1 * LOG2}, "start: beta is inside of the sigmoid, and the rewards are 0"),
        ({"start": 0.5}, "start: that is sigmoid(0): the loss is -log of it"),
        ({"apart": math.log(1 + math.exp(-10))}, "apart: beta multiplies the difference of 10"),
        ({"apart": math.log(1 + math.exp(-10)) / 10}, "apart: beta is inside of the sigmoid"),
        ({"apart": 1.0}, "apart: that is the difference of the rewards; the loss is -log sigmoid"),
        ({"apart": math.log(1 + math.exp(-0.5))}, "apart: one rises by 5 and one falls by 5"),
        ({"apart": LOG2}, "apart: the changes are 5 and -5: take their difference, not their sum"),
        ({"apart": math.log(1 + math.exp(1))}, "apart: the sign: the better one has risen"),
        ({"apart": 1 / (1 + math.exp(-1))}, "apart: that is sigmoid(1): the loss is -log of it"),
        ({"apart": -math.log(1 + math.exp(-1))}, "apart: a loss is -log, which is positive"),
        ({"both": math.log(1 + math.exp(2))}, "both: the worse one has fallen just as far"),
        ({"both": math.log(1 + math.exp(4))}, "both: the worse one has fallen just as far"),
        ({"both": math.log(1 + math.exp(-2))}, "both: the better one has fallen just as far"),
        (
            {"apart": 1 / (1 + math.exp(1))},
            "apart: that is sigmoid(-1): the loss is -log of sigmoid",
        ),
        (
            {"both": math.log(1 + math.exp(-1))},
            "both: that is the pair before: here both have fallen, so the difference is 0",
        ),
        ({"both": 0.0}, "both: the difference is 0, and -log sigmoid(0) is not 0"),
        ({"pull": 0.1}, "pull: the slope of -log sigmoid at 0 is not 1: which is it, times beta?"),
        (
            {"pull": 0.5},
            "pull: beta is inside of the sigmoid: the chain rule gives one more factor",
        ),
        ({"pull": -0.05}, "pull: its size is asked, without the sign"),
        ({"pull": 0.1 * LOG2}, "pull: that is beta times the loss: take the slope of the loss"),
        ({"pull": 0.025}, "pull: the slope of sigmoid is 1/4, that of -log sigmoid is another"),
        ({"pull": 0.0}, "pull: at the start no pair is learnt, and the loss is steep"),
    ],
    tolerance=0.02,  # two digits are enough: 0.31 for 0.3133
)

FIRST = "its loss at step 1 is log 2, as it must be where model and reference are the same"
HINTS = {  # (patient, wrong cause): what speaks against it
    ("A", "moving"): "its loss falls: a reference that moves along keeps it at log 2",
    ("A", "none"): FIRST,
    ("A", "beta"): "its loss falls no faster than others do",
    ("A", "healthy"): "which of the two answers has become more likely?",
    ("B", "moving"): "its loss falls: a reference that moves along keeps it at log 2",
    ("B", "swapped"): "its worse answers fall, and the better ones do not",
    ("B", "beta"): "its loss falls no faster than others do",
    ("B", "healthy"): "look at the loss of step 1: model and reference are the same there",
    ("C", "moving"): "its loss falls: a reference that moves along keeps it at log 2",
    ("C", "none"): FIRST,
    ("C", "swapped"): "its worse answers fall, and the better ones do not",
    ("C", "beta"): "its loss falls no faster than others do",
    ("D", "none"): FIRST,
    ("D", "swapped"): "its worse answers fall, and the better ones do not",
    ("D", "beta"): "its loss does not fall at all",
    ("D", "healthy"): "look at the loss of the last step beside what has changed",
    ("E", "moving"): "its loss falls: a reference that moves along keeps it at log 2",
    ("E", "none"): FIRST,
    ("E", "swapped"): "its worse answers fall, and the better ones do not",
    ("E", "healthy"): "its loss is nearly 0, and its answers have hardly moved",
}

dpo_patients = diagnosis(
    "dpo_patients",
    "the first loss, the last one, and which answer rises tell every fault",
    PATIENTS,
    HINTS,
)
