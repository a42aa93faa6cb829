"""Flags are made from the dataclasses of the methods, every one of them, with their help."""

import dataclasses

import pytest

import minipeft as mp
from minipeft.commands import options
from minipeft.methods.method import Method

METHODS = list(options.names().values())


def flags(kind):
    parser = options.Parser(prog="x", allow_abbrev=False)
    parser.add_argument("--warmup")
    options.add_flags(parser, kind)
    return parser


def test_every_method_of_the_package_can_be_named():
    every = {getattr(mp.methods, name) for name in mp.methods.__all__}
    classes = {c for c in every if issubclass(c, Method)} - {Method, mp.methods.Combined}
    assert set(METHODS) == classes
    assert options.method_class("P-tuning_V2") is mp.PTuningV2
    with pytest.raises(
        ValueError, match="no method 'lola': did you mean LoRA\\? There are AdaLoRA, Adapter"
    ):
        options.method_class("lola")


@pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.__name__)
def test_every_setting_has_a_flag_with_its_default_and_a_help(kind):
    parser = flags(kind)
    actions = {action.dest.removeprefix(options.DEST): action for action in parser._actions}
    for field in dataclasses.fields(kind):
        if field.repr:
            assert options.written(options.default_of(field)) in actions[field.name].help
    text = parser.format_help()
    assert kind.__name__ in text and kind.__doc__.strip().splitlines()[0][:40] in text
    nothing = parser.parse_args([])
    assert options.settings(nothing) == {}


@pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.__name__)
def test_a_default_that_is_typed_gives_the_default(kind):
    parser = flags(kind)
    actions = {action.dest.removeprefix(options.DEST): action for action in parser._actions}
    typed, wanted = [], {}
    for name, field in options.settable(kind).items():
        value = options.default_of(field)
        if isinstance(value, bool):
            flag = actions[name].option_strings[0 if value else 1]
            typed.append(flag)
        elif value not in ({}, ()) and value is not dataclasses.MISSING and value is not None:
            typed += [actions[name].option_strings[0], options.written(value)]
        else:
            continue
        wanted[name] = value
    given = options.settings(parser.parse_args(typed))
    assert given == wanted
    required = [name for name, f in options.settable(kind).items() if options.is_required(f)]
    if required:
        with pytest.raises(ValueError, match=f"{kind.__name__} needs its {required[0]}"):
            options.make(kind, given)
    elif kind is not mp.PTuning:  # it must be told a length or a template
        assert options.make(kind, given) == kind()


def test_values_are_read_by_their_type():
    read = flags(mp.LoRA).parse_args
    given = options.settings(
        read("--rank 4 --targets query,down --ranks query=2 --layers 0,3 --plus none".split())
    )
    assert given == {
        "rank": 4,
        "targets": ("query", "down"),
        "ranks": {"query": 2},
        "layers": (0, 3),
        "plus": None,
    }
    assert mp.LoRA(**given).rank == 4
    prefix = flags(mp.Prefix).parse_args
    assert options.settings(prefix(["--start", "words"])) == {"start": "words"}
    assert options.settings(prefix(["--start", "7,9"])) == {"start": (7, 9)}
    assert options.settings(prefix(["--hidden", "none"])) == {"hidden": None}
    adapter = flags(mp.Adapter).parse_args
    assert options.settings(adapter(["--no-skip", "--norms", "true"])) == {
        "skip": False,
        "norms": True,
    }


def test_a_flag_that_is_taken_has_the_methods_name_in_front():
    given = flags(mp.AdaLoRA).parse_args(["--adalora-warmup", "0.2", "--warmup", "x"])
    assert options.settings(given) == {"warmup": 0.2} and given.warmup == "x"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--rank", "four"], "'four' is not a whole number"),
        (["--rank", "2.5"], "'2.5' is not a whole number"),
        (["--ranks", "query"], "must be such as value=16"),
        (["--length", "4"], "unrecognized arguments: --length"),
    ],
)
def test_a_value_that_does_not_fit_is_one_sentence(capsys, words, sentence):
    with pytest.raises(SystemExit) as stopped:
        flags(mp.LoRA).parse_args(words)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and sentence in error and error.count("\n") == 1


def test_a_method_in_one_word():
    assert options.from_text("lora:rank=4;targets=query,key") == mp.LoRA(
        rank=4, targets=("query", "key")
    )
    assert options.from_text("bitfit") == mp.BitFit()
    with pytest.raises(ValueError, match="LoRA has no setting 'length'; it has rank"):
        options.from_text("lora:length=4")
    with pytest.raises(ValueError, match="LoRA's rank: 'x' is not a whole number"):
        options.from_text("lora:rank=x")


def test_the_method_is_found_before_the_line_is_parsed():
    assert options.chosen(["train", "--method", "prefix"], "lora") == "prefix"
    assert options.chosen(["train", "--method=ia3"], "lora") == "ia3"
    assert options.chosen(["train"], "lora") == "lora"
