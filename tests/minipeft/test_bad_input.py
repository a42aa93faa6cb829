"""Settings and files that the soak found to end in a traceback: each is a sentence now."""

import json

import pytest
import zoo

import minipeft as mp
from minipeft.tasks import tables

LONG = "x" * 3000


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: mp.LoRA(targets=3), "targets must be one or more names, .* not 3"),
        (lambda: mp.LoRA(targets=0.5), "targets must be one or more names, .* not 0.5"),
        (lambda: mp.Adapter(layers=2), "layers must be None or layer numbers from 0, not 2"),
        (lambda: mp.BitFit(layers=(True,)), "layers must be None or layer numbers from 0"),
        (lambda: mp.LoRA(ranks=2), "ranks must be a dict by target"),
        (lambda: mp.LoRA(alphas=("query",)), "alphas must be a dict by target"),
        (lambda: mp.LoRA(ranks={3: 3}), "ranks must be a dict by target"),
        (lambda: mp.LoRA(alpha="2"), "alpha must be a positive number, not '2'"),
        (lambda: mp.LoRA(dropout="much"), "dropout must be at least 0 and below 1, not 'much'"),
        (lambda: mp.LoRA(rank_stabilized="yes"), "rank_stabilized must be True or False"),
        (lambda: mp.LoRA(rank=2**40), "rank must be a whole number of at least 1"),
        (lambda: mp.Prefix(length=2**63), "length must be a whole number from 1"),
        (lambda: mp.AdaLoRA(ranks=1), "ranks must be a dict by target"),
        (lambda: mp.Adapter(sigma=LONG), "sigma must be a number of at least 0, not 'x+[.]{4}$"),
        (lambda: mp.TopLayers(LONG), "count of at least 1, not 'x+[.]{4}$"),
        (lambda: mp.Combined((mp.Combined((mp.IA3(),)), mp.BitFit())), "no part of another"),
    ],
)
def test_settings(make, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        make()
    assert str(caught.value).endswith(".") and len(str(caught.value)) < 300


@pytest.fixture
def folder(tmp_path):
    model = zoo.build("tiny-decoder")
    mp.attach(model, mp.AdaLoRA(init_rank=2, target_rank=1), seed=0).save(tmp_path)
    return tmp_path


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 50_000, '{"x": ' + "[" * 100_000])
def test_json_that_is_nested_too_deeply(folder, text):
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(ValueError, match="is not JSON: it is damaged[.]$"):
        mp.load(zoo.build("tiny-decoder"), folder)


def stranger(folder, **settings):
    """The folder as another library writes it, with other settings."""
    from safetensors.torch import load_file, save_file

    path = folder / "adapter_model.safetensors"
    save_file(load_file(path), path, {"format": "pt"})
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"rank_pattern": "all"}, "a rank_pattern that is no dict of lists"),
        ({"rank_pattern": [1, 2]}, "a rank_pattern that is no dict of lists"),
        ({"made_up": LONG}, "made_up='x+[.]{3}, which is none of the settings of AdaLoRA"),
        ({"peft_type": LONG}, "holds a x+[.]{3} tuner, a method that this version"),
    ],
)
def test_settings_of_a_file(folder, settings, sentence):
    stranger(folder, **settings)
    with pytest.raises(ValueError, match=sentence) as caught:
        mp.load(zoo.build("tiny-decoder"), folder)
    said = str(caught.value).replace(str(folder), "")  # how long its path is, is not ours to say
    assert said.endswith(".") and len(said) < 400


def test_a_header_of_a_table_without_end_is_not_repeated(tmp_path):
    (tmp_path / "a.csv").write_text("[" * 100_000 + "\nb,c\n")
    with pytest.raises(ValueError, match="line 2, has 2 fields, but its header has 1") as caught:
        tables.read(tmp_path / "a.csv")
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "method, settings",
    [
        (mp.LoRA, {"targets": LONG}),
        (mp.IA3, {"feedforward": (LONG,)}),
        (mp.HeadOnly, {"heads": LONG}),
        (mp.Adapter, {"scale": 10**30}),
        (mp.UniPELT, {"alpha": 2**63}),
    ],
)
def test_names_without_end_and_numbers_beyond_torch(method, settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))} must be") as caught:
        method(**settings)
    assert len(str(caught.value)) < 300
