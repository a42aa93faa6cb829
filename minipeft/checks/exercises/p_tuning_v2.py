"""P-Tuning v2 is a prefix: which one? Liu et al. 2022, section 3.3."""

from __future__ import annotations

from dataclasses import asdict, replace

from minipeft.checks.framework import OMIT, Case, Check, Trial, call, expect, mistake
from minipeft.checks.framework.showing import with_article
from minipeft.methods.prefix import Prefix

KINDS = (None, "embedding", "mlp")
MLP = 'hidden=self.hidden if self.reparameterize == "mlp" else None,'
OPTIONS = (
    *("length", "layers", "reparameterize", "hidden"),
    *("std", "dropout", "keep_mlp", "compatibility"),
)


def build(PTuningV2: type, case: Case):
    return call(PTuningV2, **{name: case[name] for name in OPTIONS})


def run(method, case: Case, given) -> dict:
    """The settings of the prefix, for each way to make its numbers.

    keep_mlp is left out: the method itself writes its file; and so is std where there is an MLP,
    since it is the start of free numbers.
    """
    made = {}
    for kind in KINDS:
        asked = replace(method, reparameterize=kind)
        settings = asdict(asked)
        made[kind] = asked.prefix()
        expect(
            asdict(asked) == settings,
            "prefix() changes the method's settings: read them, and leave them as they are",
        )
    for prefix in made.values():
        expect(prefix is not None, "prefix() gives None back: is a return missing?")
        what = prefix.__name__ if isinstance(prefix, type) else with_article(type(prefix).__name__)
        expect(
            isinstance(prefix, Prefix),
            f"prefix() gives {what} back: make a Prefix(...), the method of lesson 06",
        )
    expect(
        made[None] is not made["mlp"],
        "prefix() gives the same object for other settings: something is kept between calls",
    )
    return {
        f"{name} with {kind or 'no MLP'}": None if name == "std" and prefix.hidden else value
        for kind, prefix in made.items()
        for name, value in asdict(prefix).items()
        if name != "keep_mlp"
    }


def left_out(name: str, sentence: str):
    return mistake(sentence, (f"{name}=self.{name},", ""))


p_tuning_v2 = Check(
    "p_tuning_v2",
    "minipeft.methods.p_tuning_v2:PTuningV2",
    "the prefix of lesson 06, its numbers free unless an MLP is asked for",
    [
        Trial(
            "the prefix",
            lambda case, draw: {},
            run,
            build=build,
            fill=False,
            cast=False,
            axes={
                "length": (OMIT, 3, 100),
                "layers": (OMIT, (1, 2), None, (0, 2, 5)),
                "reparameterize": (OMIT, None, "embedding", "mlp"),
                "hidden": (7, OMIT, 30),
                "std": (OMIT, 1.0, 0.3),
                "dropout": (OMIT, 0.1, 0.5),
                "keep_mlp": (OMIT, True),
                "compatibility": (OMIT, "minipeft", "peft"),
            },
            valid=lambda case: case.compatibility != "peft" or not isinstance(case.layers, tuple),
            dtypes=("float32",),
            layouts=("plain",),
            gradients=("on",),
        )
    ],
    [
        mistake(
            'there always is an MLP: P-Tuning v2 has one only with reparameterize="mlp"',
            (MLP, "hidden=self.hidden,"),
        ),
        mistake(
            "there is an MLP where none was asked for: Prefix has one unless it gets hidden=None",
            (MLP, ""),
        ),
        mistake(
            "there is an MLP where none was asked for: Prefix has one unless it gets hidden=None",
            (MLP, MLP.replace("else None", "else 512")),
        ),
        mistake(
            'there is never an MLP: with reparameterize="mlp" it has `hidden` features',
            (MLP, "hidden=None,"),
        ),
        mistake(
            '"embedding" is a table of free numbers, as None is: only "mlp" makes an MLP',
            (MLP, "hidden=None if self.reparameterize is None else self.hidden,"),
        ),
        mistake(
            'the MLP is there when it should not be, and the other way round: compare with "mlp"',
            (MLP, 'hidden=None if self.reparameterize == "mlp" else self.hidden,'),
        ),
        mistake(
            "the MLP has 512 features, whatever is set: hand `hidden` on",
            (MLP, MLP.replace("self.hidden if", "512 if")),
        ),
        mistake(
            "the MLP has as many features as there are prompts: it has `hidden` features",
            (MLP, MLP.replace("self.hidden if", "self.length if")),
        ),
        mistake(
            "there are twice as many rows: one row holds the keys and the values of a prompt",
            ("length=self.length,", "length=2 * self.length,"),
        ),
        mistake(
            "std and dropout have changed places: hand each on by its name",
            ("std=self.std,", "std=self.dropout,"),
            ("dropout=self.dropout,", "dropout=self.std,"),
        ),
        left_out("length", "the length is left out: the prefix has 10 rows then, whatever is set"),
        left_out("std", "std is left out: the start of the numbers is a setting"),
        left_out("dropout", "dropout is left out: hand it on"),
        left_out("layers", "the layers are left out: the prefix then stands in all of them"),
        left_out("compatibility", "compatibility is left out: hand it on"),
        mistake(
            "the soft words stand at the input: deep prompts are pairs in the layers",
            (
                MLP,
                f"embedding_only=self.layers is None and self.compatibility != 'peft' "
                f"and not self.dropout, {MLP}",
            ),
        ),
    ],
    blank=("prefix",),
)
