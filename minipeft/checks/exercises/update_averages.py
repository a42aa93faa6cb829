"""How important a number is: the moving averages of AdaLoRA, Zhang et al. 2023, section 3.2."""

from __future__ import annotations

from minipeft.checks.framework import Case, Check, Draw, Trial, mistake

SENSITIVITY = "I = (w * gradient).abs()"
MEAN = "mean = b1 * mean + (1 - b1) * I"
RESULT = "return mean, b2 * uncertainty + (1 - b2) * (I - mean).abs()"
SHAPES = {"matrix": (3, 2), "square": (3, 3), "vector": (4,), "one number": (1,)}


def inputs(case: Case, draw: Draw) -> dict:
    """w and gradient of either sign, mean and uncertainty as they are after some steps."""
    shape = SHAPES[case.shape]
    return {
        "w": draw.normal(*shape),
        "gradient": draw.normal(*shape),
        "mean": draw.uniform(*shape),
        "uncertainty": draw.uniform(*shape),
        "b1": case.b1,
        "b2": case.b2,
    }


def run(update_averages, case: Case, given):
    return update_averages(
        given.w, given.gradient, given.mean, given.uncertainty, given.b1, given.b2
    )


def sensitivity(sentence: str, wrong: str):
    return mistake(sentence, (SENSITIVITY, f"I = {wrong}"))


def mean(sentence: str, wrong: str):
    return mistake(sentence, (MEAN, f"mean = {wrong}"))


def result(sentence: str, wrong: str):
    return mistake(sentence, (RESULT, f"return {wrong}"))


update_averages = Check(
    "update_averages",
    "minipeft.methods.parts.budget:update_averages",
    "|w dL/dw|, its moving average, and how far it lies from that average, averaged as well",
    [
        Trial(
            "the two averages",
            inputs,
            run,
            axes={"shape": tuple(SHAPES), "b1": (0.85, 0.5, 0.9), "b2": (0.6, 0.85, 0.25)},
            names={"[0]": "the new mean", "[1]": "the new uncertainty"},
            gradients=("frozen", "off"),
        )
    ],
    [
        sensitivity("the sensitivity is a size: take |w dL/dw|, without its sign", "w * gradient"),
        sensitivity(
            "the sensitivity is the size of the whole product, |w dL/dw|: the gradient still has "
            "its sign",
            "w.abs() * gradient",
        ),
        sensitivity(
            "a product below 0 counts as much as one above: take its size, |w dL/dw|",
            "(w * gradient).relu()",
        ),
        mistake(
            "w.grad is empty: the gradient is handed in as `gradient`",
            when=lambda view: "NoneType" in str(view.error),
        ),
        sensitivity("the sensitivity is |w dL/dw|: w is missing", "gradient.abs()"),
        sensitivity("the sensitivity is |w dL/dw|: the gradient is missing", "w.abs()"),
        sensitivity("the sensitivity is |w dL/dw|, not its square", "(w * gradient) ** 2"),
        sensitivity("the sensitivity is |w dL/dw|: a product, not a sum", "(w + gradient).abs()"),
        sensitivity(
            "the sensitivity is |w dL/dw|: a product, not a quotient", "(gradient / w).abs()"
        ),
        sensitivity(
            "every number has a sensitivity of its own: take no mean over them",
            "(w * gradient).abs().mean().expand_as(w)",
        ),
        sensitivity(
            "every number has a sensitivity of its own: take no sum over them",
            "(w * gradient).abs().sum().expand_as(w)",
        ),
        mistake(
            "the uncertainty is measured from the mean before this step: it is |I - mean| with the "
            "new mean",
            (MEAN, "old, mean = mean, b1 * mean + (1 - b1) * I"),
            (RESULT, RESULT.replace("I - mean", "I - old")),
        ),
        mistake(
            "the distance is that of the sensitivity from its mean, |I - mean|, not how far the "
            "mean has moved",
            (MEAN, "old, mean = mean, b1 * mean + (1 - b1) * I"),
            (RESULT, RESULT.replace("I - mean", "mean - old")),
        ),
        mistake(
            "0.85 stands where b1 and b2 belong: both are handed in",
            (MEAN, MEAN.replace("b1", "0.85")),
            (RESULT, RESULT.replace("b2", "0.85")),
        ),
        mistake(
            "b1 and b2 have changed places: b1 smooths the mean, b2 the uncertainty",
            (MEAN, MEAN.replace("b1", "b2")),
            (RESULT, RESULT.replace("b2", "b1")),
        ),
        mistake(
            "b1 smooths both averages: the uncertainty has b2", (RESULT, RESULT.replace("b2", "b1"))
        ),
        mistake("b2 smooths both averages: the mean has b1", (MEAN, MEAN.replace("b1", "b2"))),
        mistake(
            "b1 and b2 are the weights of the past, 1 - b1 and 1 - b2 those of the new value: they "
            "have changed places",
            (MEAN, "mean = (1 - b1) * mean + b1 * I"),
            (RESULT, "return mean, (1 - b2) * uncertainty + b2 * (I - mean).abs()"),
        ),
        mean(
            "b1 is the weight of the past, 1 - b1 that of the new sensitivity: they have changed "
            "places",
            "(1 - b1) * mean + b1 * I",
        ),
        mean("the new sensitivity has the weight 1 - b1, not 1", "b1 * mean + I"),
        mean("the old mean has the weight b1, not 1", "mean + (1 - b1) * I"),
        mean("the mean forgets the past: b1 mean + (1 - b1) I", "I"),
        mistake(
            "the mean given back is the one that came in: b1 mean + (1 - b1) I",
            (MEAN, "old, mean = mean, b1 * mean + (1 - b1) * I"),
            (RESULT, RESULT.replace("return mean", "return old")),
        ),
        mistake(
            "the averages are divided by 1 - b1 and 1 - b2, as Adam does at the start: nothing is "
            "corrected here",
            (
                RESULT,
                "return mean / (1 - b1), (b2 * uncertainty + (1 - b2) * (I - mean).abs()) "
                "/ (1 - b2)",
            ),
        ),
        mean("the mean stays as it was: b1 mean + (1 - b1) I", "mean + 0"),
        result(
            "b2 is the weight of the past, 1 - b2 that of the new distance: they have changed "
            "places",
            "mean, (1 - b2) * uncertainty + b2 * (I - mean).abs()",
        ),
        result(
            "the distance between the sensitivity and its mean has no sign: |I - mean|",
            "mean, b2 * uncertainty + (1 - b2) * (I - mean)",
        ),
        result(
            "the distance is |I - mean|, not its square",
            "mean, b2 * uncertainty + (1 - b2) * (I - mean) ** 2",
        ),
        result(
            "every number has a distance of its own: take no mean over them",
            "mean, b2 * uncertainty + (1 - b2) * (I - mean).abs().mean()",
        ),
        result(
            "the distance is that of the sensitivity from its mean, |I - mean|: the old "
            "uncertainty has no part in it",
            "mean, b2 * uncertainty + (1 - b2) * (I - uncertainty).abs()",
        ),
        result(
            "the distance is that of the sensitivity from its mean, |I - mean|: the old "
            "uncertainty has no part in it",
            "mean, b2 * uncertainty + (1 - b2) * (mean - uncertainty).abs()",
        ),
        result(
            "the second result is the score: give back the uncertainty, (mean, uncertainty)",
            "mean, mean * (b2 * uncertainty + (1 - b2) * (I - mean).abs())",
        ),
        result(
            "the uncertainty averages the distance |I - mean|, not the sensitivity",
            "mean, b2 * uncertainty + (1 - b2) * I",
        ),
        result(
            "the uncertainty forgets the past: b2 uncertainty + (1 - b2) |I - mean|",
            "mean, (I - mean).abs()",
        ),
        result(
            "the new distance has the weight 1 - b2, not 1",
            "mean, b2 * uncertainty + (I - mean).abs()",
        ),
        result(
            "the uncertainty stays as it was: b2 uncertainty + (1 - b2) |I - mean|",
            "mean, uncertainty + 0",
        ),
        result(
            "mean and uncertainty have changed places: give back (mean, uncertainty)",
            "b2 * uncertainty + (1 - b2) * (I - mean).abs(), mean",
        ),
        result(
            "that is their product, the score: give back the two averages, (mean, uncertainty)",
            "mean * (b2 * uncertainty + (1 - b2) * (I - mean).abs())",
        ),
        result("the uncertainty is missing: give back (mean, uncertainty)", "mean"),
    ],
)
