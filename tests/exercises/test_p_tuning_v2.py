"""Checks of lesson 09: they take what is right, however it is written, and name what is wrong."""

from dataclasses import asdict, fields, replace

import diagnoses
import pytest
import torch

import minipeft as mp
from minipeft import checks
from minipeft.checks.exercises.deep_patients import HINTS
from minipeft.course import p_tuning_v2 as lesson
from minipeft.methods.p_tuning_v2 import PTuningV2
from minipeft.methods.prefix import Prefix


def written(prefix):
    """A PTuningV2 with this prefix(self)."""
    return type("PTuningV2", (PTuningV2,), {"prefix": prefix})


def settings(method, **changed):
    """The right settings, some of them changed; those that are "left out" go."""
    right = {
        "length": method.length,
        "hidden": method.hidden if method.reparameterize == "mlp" else None,
        **{name: getattr(method, name) for name in ("std", "dropout", "layers", "compatibility")},
    }
    given = {name: value for name, value in {**right, **changed}.items() if value != "left out"}
    return Prefix(**given)


# -- p_tuning_v2 -----------------------------------------------------------------------------------


def step_by_step(self):
    """One setting after the other."""
    prefix = Prefix(self.length, None)
    if self.reparameterize == "mlp":
        prefix = replace(prefix, hidden=self.hidden)
    for name in ("std", "dropout", "layers", "compatibility"):
        prefix = replace(prefix, **{name: getattr(self, name)})
    return prefix


def in_order(self):
    k = {"mlp": self.hidden}.get(self.reparameterize)
    return Prefix(
        self.length, k, self.dropout, "random", self.std, self.layers,
        compatibility=self.compatibility,
    )  # fmt: skip


def with_its_mlp_kept(self):
    """What is stored is the method's affair, not the prefix's."""
    return replace(settings(self), keep_mlp=self.keep_mlp)


def two_returns(self):
    shared = {"std": self.std, "dropout": self.dropout, "compatibility": self.compatibility}
    if self.reparameterize in (None, "embedding"):
        return mp.Prefix(length=self.length, hidden=None, layers=self.layers, **shared)
    return mp.Prefix(length=self.length, hidden=self.hidden, layers=self.layers, **shared)


def std_where_it_acts(self):
    """With an MLP no number is drawn from N(0, std^2)."""
    return settings(self, std=0.02 if self.reparameterize == "mlp" else self.std)


def layers_in_a_list(self):
    return settings(self, layers=None if self.layers is None else list(self.layers))


class MyPrefix(Prefix):
    """A Prefix all the same."""


def of_a_subclass(self):
    return MyPrefix(**asdict(settings(self)))


RIGHT_PREFIXES = (
    *(settings, step_by_step, in_order, with_its_mlp_kept, two_returns),
    *(std_where_it_acts, layers_in_a_list, of_a_subclass),
)


@pytest.mark.parametrize("right", [PTuningV2, *map(written, RIGHT_PREFIXES)])
def test_right_prefixes_pass(right, capsys):
    checks.p_tuning_v2(right)
    assert "✓ PTuningV2" in capsys.readouterr().out


kept = {}


def first_answer(self):
    return kept.setdefault("prefix", settings(self))


def one_for_each_length(self):
    return kept.setdefault(self.length, settings(self))


def without_hidden_for_ever(self):
    """Right answers, but the method is another one afterwards."""
    if self.reparameterize != "mlp":
        object.__setattr__(self, "hidden", None)
    return Prefix(
        self.length, self.hidden, self.dropout, std=self.std, layers=self.layers,
        compatibility=self.compatibility,
    )  # fmt: skip


def interchanged(self):
    return settings(self, std=self.dropout, dropout=self.std)


def all_fields(self):
    names = {field.name for field in fields(Prefix)}
    return Prefix(**{name: value for name, value in asdict(self).items() if name in names})


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (written(first_answer), "gives the same object"),
        (written(one_for_each_length), "gives the same object"),
        (written(without_hidden_for_ever), "changes the method's settings"),
        (written(interchanged), "std and dropout have changed places"),
        (written(all_fields), "always is an MLP"),
        (written(lambda m: settings(m, length=20)), "a number is written where length belongs"),
        (written(lambda m: settings(m, length=2 * m.length)), "twice as many rows"),
        (written(lambda m: settings(m, std=1.0)), "a number is written where std belongs"),
        (
            written(lambda m: settings(m, hidden=512 if m.reparameterize == "mlp" else None)),
            "512 features, whatever is set",
        ),
        (
            written(lambda m: settings(m, hidden=m.length if m.reparameterize == "mlp" else None)),
            "as many features as there are prompts",
        ),
        (
            written(lambda m: settings(m, position="infix", after=5)),
            "it should be 'prefix' and is 'infix'",
        ),
        (written(lambda m: Prefix(m.length, m.layers, m.dropout, m.std)), "start must be"),
        (written(lambda m: settings(m, hidden=m.hidden if m.keep_mlp else None)), "never an MLP"),
        (written(lambda m: asdict(settings(m))), "gives a dict back"),
        (written(lambda m: settings(m, hidden=m.hidden)), "always is an MLP"),
        (written(lambda m: settings(m, hidden=None)), "never an MLP"),
        (
            written(lambda m: settings(m, hidden=None if m.reparameterize is None else m.hidden)),
            "table of free numbers",
        ),
        (
            written(lambda m: settings(m, hidden=None if m.reparameterize == "mlp" else m.hidden)),
            "other way round",
        ),
        (
            written(
                lambda m: settings(m, hidden=m.hidden if m.reparameterize == "mlp" else "left out")
            ),
            "none was asked for",
        ),
        (written(lambda m: settings(m, length="left out")), "length is left out"),
        (written(lambda m: settings(m, std="left out")), "std is left out"),
        (written(lambda m: settings(m, dropout="left out")), "dropout is left out"),
        (written(lambda m: settings(m, layers="left out")), "layers are left out"),
        (written(lambda m: settings(m, compatibility="left out")), "compatibility is left out"),
        (written(lambda m: None), "return missing"),
        (written(lambda m: mp.PromptTuning(m.length)), "gives a PromptTuning"),
        (written(lambda m: Prefix), "gives Prefix back: make a Prefix"),
        (written(lambda m: settings(m, start="words")), "start"),
    ],
)
def test_a_wrong_prefix_is_told_its_mistake(wrong, words):
    with pytest.raises(checks.CheckFailed) as caught:
        checks.p_tuning_v2(wrong)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_an_unwritten_prefix_is_unfinished():
    def unwritten(self):
        raise NotImplementedError("PTuningV2.prefix is yours to write")

    with pytest.raises(checks.NotFinished, match="yours to write"):
        checks.p_tuning_v2(written(unwritten))


# -- deep_numbers ----------------------------------------------------------------------------------

RIGHT = {"prompts": 983_040, "head": 2050, "words": 960}


def test_the_formulas_are_those_of_the_package():
    """At a size that can be built: 2 P L C, C K + K, and 2 P L soft words of as many numbers."""
    from tiny_models import fresh

    model, P = fresh("gpt2"), 3
    L, C = model.config.layers, model.config.width
    counts = []
    for method in (mp.PTuningV2(P), mp.PromptTuning(2 * P * L)):
        tuner = mp.attach(model, method, seed=0)
        counts.append(sum(parameter.numel() for parameter in tuner.parameters()))
        tuner.detach()
    assert counts == [2 * P * L * C] * 2
    head = torch.nn.Linear(1024, 2)
    assert sum(parameter.numel() for parameter in head.parameters()) == RIGHT["head"]


@pytest.mark.parametrize(
    "answer",
    [
        RIGHT,
        {name: float(value) for name, value in RIGHT.items()},
        {name: torch.tensor(value) for name, value in RIGHT.items()},
        lambda: RIGHT | {"share": 0.3},
    ],
)
def test_right_numbers_pass(answer):
    checks.deep_numbers(answer)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (RIGHT | {"prompts": 491_520}, "twice as many"),
        (RIGHT | {"prompts": 40_960}, "one layer"),
        (RIGHT | {"prompts": 20_480}, "prompt tuning"),
        (RIGHT | {"prompts": 985_090}, "head is asked for by itself"),
        (RIGHT | {"prompts": 4 * 983_040}, "bytes"),
        (RIGHT | {"head": 2048}, "has a bias"),
        (RIGHT | {"prompts": 61_440}, "one head of width 64"),
        (RIGHT | {"prompts": 1_024_000}, "embedding is no layer"),
        (RIGHT | {"prompts": 1_474_560}, "no query"),
        (RIGHT | {"prompts": 2050, "head": 983_040}, "interchanged"),
        (RIGHT | {"prompts": float("nan")}, "that is no number"),
        (RIGHT | {"head": 2049}, "each of the two classes has a bias"),
        (RIGHT | {"words": 512}, "how many tokens BERT reads"),
        (RIGHT | {"words": 40}, "for one layer"),
        (RIGHT | {"words": 40_960}, "count all L layers"),
        (RIGHT | {"words": 49_152}, "count all P rows"),
        (RIGHT | {"head": 1025}, "each of the two classes"),
        (RIGHT | {"head": 24 * 2050}, "highest layer only"),
        (RIGHT | {"words": 20}, "2 L times too few"),
        (RIGHT | {"words": 480}, "a key and a value"),
        (RIGHT | {"words": 983_040}, "divide by C"),
        (RIGHT | {"words": 961}, "off by one"),
        (983_040, "should be a dict"),
    ],
)
def test_wrong_numbers_are_told_where_they_come_from(answer, words):
    with pytest.raises(checks.CheckFailed, match=words):
        checks.deep_numbers(answer)


# -- deep_patients ---------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", diagnoses.forms(lesson.PATIENTS))
def test_right_diagnoses_pass(answer):
    checks.deep_patients(answer)


@pytest.mark.parametrize(("answer", "words"), diagnoses.wrong(lesson.PATIENTS, HINTS))
def test_a_wrong_diagnosis_is_told_what_speaks_against_it(answer, words):
    with pytest.raises(checks.CheckFailed) as caught:
        checks.deep_patients(answer)
    assert words in str(caught.value)


def test_every_wrong_diagnosis_has_its_hint():
    diagnoses.assert_complete(lesson.PATIENTS, HINTS, lesson.CAUSES)
