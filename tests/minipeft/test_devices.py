"""A model on another device: what is drawn, read and given to it goes where it is.

On the processor alone the "meta" device, which has shapes and no numbers, shows most of it. Where
an accelerator is at hand, every method is compared with the processor.
"""

import copy
import warnings

import pytest
import torch
import zoo

import minipeft as mp
import tiny_transformer as tt
from minipeft.model.devices import on_device_of

METHODS = {
    "lora": mp.LoRA(rank=2),
    "dora": mp.DoRA(rank=2),
    "vera": mp.VeRA(rank=4),
    "qlora": mp.QLoRA(rank=2, block=16),
    "adalora": mp.AdaLoRA(init_rank=3, target_rank=2),
    "lora and biases": mp.LoRABias(rank=1, bias="adapted"),
    "lora and all biases": mp.LoRABias(rank=1, bias="all"),
    "lora with a bias": mp.LoRABias(rank=1, bias="detour"),
    "lora of a table": mp.LoRAEmbedding(rank=2),
    "rows": mp.TokenRows((3, 4)),
    "ia3": mp.IA3(),
    "bitfit": mp.BitFit(),
    "adapter": mp.Adapter(bottleneck=2),
    "prefix": mp.Prefix(length=2, hidden=4),
    "prefix of words": mp.Prefix(length=2, hidden=None, compatibility="peft"),
    "p-tuning v2": mp.PTuningV2(length=2),
    "prompt": mp.PromptTuning(length=2),
    "prompt of common words": mp.PromptTuning(length=2, start="vocabulary"),
    "p-tuning": mp.PTuning(length=2),
    "p-tuning mlp": mp.PTuning(length=2, encoder="mlp"),
    "p-tuning alone": mp.PTuning(length=2, encoder=None),
    "unipelt": mp.UniPELT(bottleneck=2, length=2, rank=2),
    "top": mp.TopLayers(1),
}
every = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
NEED_VALUES = ("qlora",)  # looks at the weights' values, of which "meta" has none
SHAPES = {key: method for key, method in METHODS.items() if key not in NEED_VALUES}
of_shapes = pytest.mark.parametrize("method", SHAPES.values(), ids=SHAPES)
models = pytest.mark.parametrize("name", ["tiny-decoder", "gpt2"])


@of_shapes
@models
def test_the_same_random_numbers_are_drawn_on_every_device(name, method):
    """A seed means the same everywhere: torch's generator of the processor is drawn from."""
    states = []
    for device in ("cpu", "meta"):
        model = zoo.build(name).to(device)
        torch.manual_seed(0)
        tuner = mp.attach(model, method)
        states.append(torch.get_rng_state())
        assert {value.device.type for value in tuner.named_tensors().values()} == {device}
    assert torch.equal(*states)


@of_shapes
@models
def test_a_file_is_read_for_a_model_on_another_device(name, method, tmp_path):
    mp.attach(zoo.build(name), method, seed=0).save(tmp_path)
    again = mp.load(zoo.build(name).to("meta"), tmp_path, any_base=True)
    assert {value.device.type for value in again.named_tensors().values()} == {"meta"}


def test_a_batch_goes_where_the_model_is():
    batch = {**zoo.batch("gpt2"), "note": "what is no tensor stays"}
    moved = on_device_of(zoo.build("gpt2").to("meta"), batch)
    assert moved.keys() == batch.keys() and moved["note"] == batch["note"]
    assert all(moved[key].device.type == "meta" for key in zoo.batch("gpt2"))


def test_generate_writes_where_the_model_is(monkeypatch):
    given = {}

    def written(model, input_ids, **options):
        given.update(options)
        return input_ids

    monkeypatch.setattr(tt, "generate", written)
    model = zoo.build("tiny-decoder").to("meta")
    mp.attach(model, mp.LoRA(rank=2))
    batch = zoo.batch("tiny-decoder")
    ids = mp.generate(model, batch["input_ids"], batch["attention_mask"])
    assert ids.device.type == given["attention_mask"].device.type == "meta"


# ---- where there is an accelerator ----


@pytest.fixture(scope="module")
def device():
    if not torch.accelerator.is_available():
        pytest.skip("no accelerator here")
    accelerator = torch.accelerator.current_accelerator()
    if accelerator.type == "mps":
        pytest.skip("mps has no float64")
    return accelerator


def near(value, expected) -> None:
    """Equal up to the float32 that some models score in."""
    torch.testing.assert_close(value.detach().cpu(), expected.detach(), rtol=1e-5, atol=1e-5)


@every
@pytest.mark.parametrize("name", ["tiny-decoder", "gpt2", "t5"])
def test_a_method_answers_and_learns_as_on_the_processor(device, name, method, tmp_path):
    if name == "t5" and isinstance(method, mp.BitFit):
        pytest.skip("t5 has no biases")
    batch, results = zoo.batch(name), []
    for place in ("cpu", device):
        model = zoo.build(name).to(place)
        before = copy.deepcopy(model.state_dict())
        tuner = mp.attach(model, method, seed=0)
        zoo.shake(tuner)
        inputs = on_device_of(model, tuner.wrap(batch))
        start = zoo.logits(model, inputs)
        losses = mp.train(model, [batch], 2, 1e-3, progress=False).losses
        tuner.save(tmp_path / str(place))
        answer = zoo.logits(model.eval(), inputs)
        tuner.detach()
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        mp.load(model, tmp_path / str(place))
        near(zoo.logits(model, inputs), answer.cpu())
        results.append((start, losses))
    near(results[1][0], results[0][0])
    assert results[1][1] == pytest.approx(results[0][1], rel=1e-5)


def test_an_id_that_is_not_there_leaves_the_accelerator_usable(device):
    model, batch = zoo.build("tiny-decoder").to(device), zoo.batch("tiny-decoder")
    mp.attach(model, mp.LoRA(rank=2), seed=0)
    strange = batch | {"input_ids": batch["input_ids"] + 10_000}
    with pytest.raises(ValueError, match="in input_ids, but the model knows"):
        mp.train(model, [strange], 1, progress=False)
    mp.train(model, [batch], 1, progress=False)


def test_whatever_takes_a_batch_takes_one_of_the_processor(device):
    model, batch = zoo.build("tiny-decoder").to(device), zoo.batch("tiny-decoder")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mp.sanity_ladder(model, mp.LoRA(rank=2), batch, steps=2)
    result = mp.prompt_search.search(
        model, mp.Template(("P", 3, "P", "{x}")), [batch], steps=2, progress=False
    )
    assert len(result.losses) == 3
    zoo.shake(mp.attach(model, mp.LoRA(rank=2)))
    mp.merge_drift(mp.tuners(model)["default"], batch)
    assert mp.generate(model, batch["input_ids"], max_new_tokens=2).device.type == device.type
