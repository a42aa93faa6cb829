"""Which points are beaten by no other one."""

from __future__ import annotations

from minipeft.checks.framework import Case, Check, Draw, Trial, mistake

AS_GOOD = "(costs[:, None] <= costs) & (scores[:, None] >= scores)"
BETTER = "(costs[:, None] < costs) | (scores[:, None] > scores)"
WHOLE = [("costs", "costs.long()"), ("scores", "scores.long()")]
RESULT = "~(as_good & better).any(dim=0)"


def inputs(case: Case, draw: Draw) -> dict:
    """Few different numbers, so that ties of every kind are met: counts, or what is measured."""
    costs, scores = draw.integers(1, case.levels + 1, case.n), draw.integers(0, case.levels, case.n)
    if case.aims == "close":  # a ten-thousandth apart, which counts
        return {"costs": draw.tensor(1 + costs / 2**14), "scores": draw.tensor(1 + scores / 2**14)}
    if case.aims == "measured":  # seconds, and minus a loss
        return {"costs": draw.tensor(costs / 4), "scores": draw.tensor(scores / 8 - 2)}
    return {"costs": costs, "scores": draw.tensor(scores / 8)}


pareto_front = Check(
    "pareto_front",
    "minipeft.course.pareto:pareto_front",
    "True for what no other point beats: as good in both aims, and better in one",
    [
        Trial(
            "who is on the front",
            inputs,
            lambda pareto_front, case, given: pareto_front(given.costs, given.scores),
            axes={
                "n": (6, 1, 2, 12),
                "levels": (3, 1, 8),
                "aims": ("counted", "measured", "close"),
            },
            dtypes=("float64", "float32"),
            layouts=("plain", "strided"),
            gradients=("frozen", "off"),
            small=("levels",),
        )
    ],
    [
        mistake("True is for what nobody beats: this is the opposite", (RESULT, RESULT[1:])),
        mistake(
            "that asks who beats nobody: [i, j] says that i beats j, so look along dim 0",
            (RESULT, RESULT.replace("dim=0", "dim=1")),
        ),
        mistake(
            "the answers stand in the order of the costs: bring them back into the order in which "
            "the points came",
            (RESULT, f"({RESULT})[costs.argsort(stable=True)]"),
        ),
        mistake(
            "each point is compared with those before it only: every other one may beat it",
            (RESULT, "~(as_good & better).triu(1).any(dim=0)"),
        ),
        mistake(
            "each point is compared with those behind it only: every other one may beat it",
            (RESULT, "~(as_good & better).tril(-1).any(dim=0)"),
        ),
        mistake(
            "each point is compared with its neighbour only: every other one may beat it",
            (RESULT, "~((as_good & better).triu(1) & ~(as_good & better).triu(2)).any(dim=0)"),
        ),
        mistake(
            "each point is compared with those of its own cost only: a cheaper one may beat it",
            (RESULT, "~(as_good & better & (costs[:, None] == costs)).any(dim=0)"),
        ),
        mistake(
            "a point that is as good in one aim and better in the other one beats, too",
            (RESULT, f"~({BETTER.replace('|', '&')}).any(dim=0)"),
        ),
        mistake(
            "equal points do not beat each other, and no point beats itself: it must be better in "
            "one of the two",
            (RESULT, "~as_good.any(dim=0)"),
        ),
        mistake(
            "equal points do not beat each other: both are on the front",
            (RESULT, "~as_good.fill_diagonal_(False).any(dim=0)"),
        ),
        mistake(
            "of equal points only one is kept: both are on the front",
            (
                RESULT,
                "~((as_good & better) | (as_good & as_good.T).triu(diagonal=1)).any(dim=0)",
            ),
        ),
        mistake(
            "to be better in one aim is not enough: the other one must be at least as good",
            (RESULT, "~better.any(dim=0)"),
        ),
        mistake(
            "a higher cost is taken for better: lower is",
            (AS_GOOD, AS_GOOD.replace("<=", ">=", 1)),
            (BETTER, BETTER.replace("<", ">", 1)),
        ),
        mistake(
            "a lower score is taken for better: higher is",
            (AS_GOOD, AS_GOOD.replace("scores[:, None] >=", "scores[:, None] <=")),
            (BETTER, BETTER.replace("scores[:, None] >", "scores[:, None] <")),
        ),
        *(
            mistake(
                f"{name} are cut down to whole numbers: what stands behind the point counts, too",
                (AS_GOOD, AS_GOOD.replace(name, whole)),
                (BETTER, BETTER.replace(name, whole)),
            )
            for name, whole in WHOLE
        ),
        mistake(
            "what is nearly as good counts as equal: compare the numbers as they are, without a "
            "tolerance or rounding",
            when=lambda view: view.case.aims == "close" and view.difference.kind == "value",
        ),
        mistake(
            "costs and scores are rounded: compare the numbers as they are",
            (AS_GOOD, f"(costs := costs.round(), scores := scores.round()) and {AS_GOOD}"),
        ),
        mistake(
            "one other point that beats it is enough: any, not all",
            (RESULT, RESULT.replace("any", "all")),
        ),
        mistake(
            "only the best score is kept: a point with a lower cost may be on the front as well",
            (RESULT, "scores == scores.max()"),
        ),
        mistake(
            "only the lowest cost is kept: a point with a higher score may be on the front as well",
            (RESULT, "costs == costs.min()"),
        ),
        mistake(
            "the two aims are made one number, and the best of that is kept: a front has no such "
            "number",
            (RESULT, "scores / costs == (scores / costs).max()"),
        ),
        mistake(
            "the best of each aim alone is not the front: compromises belong to it",
            (RESULT, "(scores == scores.max()) | (costs == costs.min())"),
        ),
        mistake(
            "points of equal cost are all kept: a better score beats at the same cost",
            (RESULT, "~(as_good & (costs[:, None] < costs)).any(dim=0)"),
        ),
        mistake(
            "points of equal score are all kept: a lower cost beats at the same score",
            (RESULT, "~(as_good & (scores[:, None] > scores)).any(dim=0)"),
        ),
    ],
)
