"""Scores that practitioners compare, by name, from the libraries that define them.

| name            | of      | value                                            | library      |
|-----------------|---------|--------------------------------------------------|--------------|
| accuracy        | classes | share of equal pairs                             | -            |
| macro_f1        | classes | mean F1 of the classes                           | scikit-learn |
| matthews        | classes | Matthews correlation, -1 to 1 (CoLA)             | scikit-learn |
| entity_f1       | tags    | micro F1 of whole entities (B I E S O)           | seqeval      |
| pearson         | numbers | linear correlation, -1 to 1 (STS-B)              | scipy        |
| spearman        | numbers | correlation of ranks, -1 to 1                    | scipy        |
| bleu            | texts   | BLEU of the whole corpus, 0 to 1                 | sacrebleu    |
| rouge1, rouge2, | texts   | mean F1 of words, pairs of words, longest common | rouge-score  |
| rougeL          |         | subsequence, 0 to 1                              |              |

and the scores of `minipeft.tasks.scoring`, which need no library. All but mse and error_rate are
better when they are higher. Texts with the same input are references of one another, as in
E2E: BLEU counts against all of them, ROUGE takes the nearest.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

from minipeft.tasks import metrics

INSTALL = 'install it with `pip install "minipeft[metrics]"`'


def _needs(package: str, name: str) -> ValueError:
    return ValueError(f"The score {name} is counted by the package {package}: {INSTALL}.")


def accuracy(predictions: Sequence[str], targets: Sequence[str], _inputs) -> float:
    """Share of equal answers."""
    return metrics.accuracy(predictions, targets)


def f1(predictions: Sequence[str], targets: Sequence[str], _inputs) -> float:
    """F1 over whole entities where tags mark them, else over words; no library is needed."""
    rows = [[row.split() for row in side] for side in (predictions, targets)]
    return metrics.tag_f1(*rows, labels={tag for side in rows for row in side for tag in row})


def matthews(predictions: Sequence[str], targets: Sequence[str], _inputs) -> float:
    """Matthews correlation of classes; 0 where one class is always said."""
    try:
        from sklearn.metrics import matthews_corrcoef
    except ImportError:
        raise _needs("scikit-learn", "matthews") from None
    if len({*predictions, *targets}) < 2:
        return 0.0  # as scikit-learn, which warns besides
    return float(matthews_corrcoef(targets, predictions))


def macro_f1(predictions: Sequence[str], targets: Sequence[str], _inputs) -> float:
    """Mean F1 of all classes that are said or wanted."""
    try:
        from sklearn.metrics import f1_score
    except ImportError:
        raise _needs("scikit-learn", "macro_f1") from None
    return float(f1_score(targets, predictions, average="macro", zero_division=0))


def entity_f1(predictions: Sequence[str], targets: Sequence[str], _inputs) -> float:
    """F1 over whole entities; predictions and targets are tags with spaces between them."""
    try:
        from seqeval.metrics import f1_score
    except ImportError:
        raise _needs("seqeval", "entity_f1") from None
    rows = [[metrics.as_iobes(row.split()) for row in side] for side in (targets, predictions)]
    with warnings.catch_warnings():  # of tags that are none of B, I, E, S, O, word by word
        warnings.filterwarnings("ignore", ".*seems not to be NE tag")
        return float(f1_score(*rows, zero_division=0))


def _correlation(name: str, predictions: Sequence[str], targets: Sequence[str]) -> float:
    try:
        from scipy import stats
    except ImportError:
        raise _needs("scipy", name) from None
    x, y = metrics.numbers(predictions), metrics.numbers(targets)
    if len(set(x)) < 2 or len(set(y)) < 2:
        return 0.0  # one number always: nothing goes together with anything
    value = getattr(stats, f"{name}r")(x, y).statistic
    return 0.0 if math.isnan(value) else float(value)


def pearson(predictions: Sequence[str], targets: Sequence[str], _inputs) -> float:
    """Linear correlation of numbers; 0 where one number is always said."""
    return _correlation("pearson", predictions, targets)


def spearman(predictions: Sequence[str], targets: Sequence[str], _inputs) -> float:
    """Correlation of ranks; 0 where one number is always said."""
    return _correlation("spearman", predictions, targets)


def by_input(
    predictions: Sequence[str], targets: Sequence[str], inputs: Sequence[str]
) -> list[tuple[str, list[str]]]:
    """(prediction, its references): one for every different input, in order of appearance."""
    rows: dict[str, tuple[str, list[str]]] = {}
    for prediction, target, text in zip(predictions, targets, inputs, strict=True):
        rows.setdefault(text, (prediction, []))[1].append(target)
    return list(rows.values())


def bleu(predictions: Sequence[str], targets: Sequence[str], inputs: Sequence[str]) -> float:
    """sacrebleu's corpus BLEU / 100, each prediction against all targets of its input."""
    try:
        from sacrebleu.metrics import BLEU
    except ImportError:
        raise _needs("sacrebleu", "bleu") from None
    rows = by_input(predictions, targets, inputs)
    most = max(len(references) for _, references in rows)
    padded = [references + [None] * (most - len(references)) for _, references in rows]
    columns = [list(column) for column in zip(*padded, strict=True)]
    return BLEU().corpus_score([said for said, _ in rows], columns).score / 100


def rouge(kind: str) -> Callable[[Sequence[str], Sequence[str], Sequence[str]], float]:
    """rouge-score's F1 of a kind, each prediction against the nearest target of its input."""

    def score(predictions, targets, inputs) -> float:
        try:
            from rouge_score.rouge_scorer import RougeScorer
        except ImportError:
            raise _needs("rouge-score", kind) from None
        scorer = RougeScorer([kind])
        rows = by_input(predictions, targets, inputs)
        return sum(scorer.score_multi(refs, said)[kind].fmeasure for said, refs in rows) / len(rows)

    return score


METRICS = {  # name -> (the kinds of task that it is for, what counts it)
    "accuracy": (("classify", "cloze", "tag"), accuracy),
    "macro_f1": (("classify",), macro_f1),
    "matthews": (("classify",), matthews),
    "entity_f1": (("tag",), entity_f1),
    "f1": (("tag",), f1),
    "pearson": (("regress",), pearson),
    "spearman": (("regress",), spearman),
    "mse": (("regress",), lambda p, t, _: metrics.squared(p, t)),
    "exact": (("generate",), lambda p, t, _: metrics.exact(p, t)),
    "overlap": (("generate",), lambda p, t, _: metrics.overlap(p, t)),
    "error_rate": (("generate",), lambda p, t, _: metrics.error_rate(p, t)),
    "bleu": (("generate",), bleu),
    "rouge1": (("generate",), rouge("rouge1")),
    "rouge2": (("generate",), rouge("rouge2")),
    "rougeL": (("generate",), rouge("rougeL")),
}


def check(names: Sequence[str], kind: str, labels: Sequence[str] | None = None) -> None:
    """Refuse names that are none of METRICS, or not for this kind of task or its labels.

    Raises:
        ValueError: such a name, where the sentence lists those that fit; or a package that it needs
            is not installed, which is better known before a training than at its first validation.
    """
    fitting = ", ".join(name for name, (kinds, _) in METRICS.items() if kind in kinds)
    for name in names:
        if name not in METRICS or kind not in METRICS[name][0]:
            known = "is not a score that is known" if name not in METRICS else "does not fit"
            raise ValueError(
                f"--metric {name} {known}: for a task of kind {kind!r} give one of {fitting}."
            )
        if name == "entity_f1" and labels and not metrics.are_entities(labels):
            raise ValueError(
                f"--metric entity_f1 counts entities tagged O, B-x, I-x, but a tag here is "
                f"{next(label for label in labels if label not in metrics.OTHER)!r}: take --metric "
                "f1, which counts words."
            )
        METRICS[name][1](("1",), ("1",), ("a text",))


def scores(
    names: Sequence[str], predictions: Sequence[str], targets: Sequence[str], inputs: Sequence[str]
) -> dict[str, float]:
    """The named scores of predictions against targets.

    Raises:
        ValueError: a package that is not installed, or nothing to score.
    """
    metrics.check_lengths(predictions, targets)
    return {name: METRICS[name][1](predictions, targets, inputs) for name in names}
