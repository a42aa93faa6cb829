"""A model on another device: what is drawn, read and given to it goes where it is.

On the processor alone the "meta" device, which has shapes and no numbers, shows most of it. Where
an accelerator is at hand, every method is compared with the processor.
"""

import copy
import warnings
from itertools import product

import pytest
import torch
import zoo
from whole import part_of

import minipeft as mp
import tiny_transformer as tt
from minipeft.model.devices import moved, on_device_of, on_host
from minipeft.routing import wrap
from minipeft.training import gradients
from minipeft.training.batches import tidy
from minipeft.training.savings import shared_prompt

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


# ---- what is waited for ----

# A tensor on "meta" has no numbers, and whoever asks for one is refused: where a step ends well,
# an accelerator would not have been waited for.
WAITS = {
    "adalora": "it writes down the ranks that are left",
    "prefix of words": "as in PEFT positions move, and the last one must be known to the model",
}
silent = [key for key in SHAPES if key not in WAITS]


def without_questions(monkeypatch, name: str, head: str = "language"):
    """A model on "meta" that asks nothing of its mask and its padding by itself."""
    masks = pytest.importorskip("transformers").masking_utils
    monkeypatch.setattr(masks, "fast_all", lambda mask: True)
    model = zoo.build(name, head, dtype=torch.float32)
    model.config.pad_token_id = None
    return model.to("meta")


@pytest.mark.parametrize("question", [0, 4], ids=["asked everywhere", "asked at the end"])
@pytest.mark.parametrize("name, key", part_of([*product(["gpt2", "llama"], silent)], 13))
def test_a_step_waits_for_the_two_numbers_of_its_log_and_once(monkeypatch, name, key, question):
    if name == "llama" and key == "bitfit":
        pytest.skip("llama has no biases")
    model, batch, waited = without_questions(monkeypatch, name), zoo.batch(name), []
    batch["labels"] = batch["input_ids"].clone()
    batch["labels"][:, :question] = -100
    mp.attach(model, SHAPES[key], seed=0)

    def numbers(values):
        waited.append(len(values))
        return [1.0] * len(values)

    monkeypatch.setattr(gradients, "numbers", numbers)
    mp.train(model, [batch], 3, 1e-3, progress=False)
    assert waited == 3 * [2]  # the loss and the gradient's norm


@pytest.mark.parametrize("key", [key for key in silent if key.startswith("p") and "prompt" in key])
def test_nor_does_a_prompt_that_is_run_once_for_all_rows(monkeypatch, key):
    monkeypatch.setattr(shared_prompt, "WORTH", 0)
    model, ids = without_questions(monkeypatch, "llama"), torch.arange(3, 27).view(3, 8)
    mp.attach(model.train(), SHAPES[key], seed=0)
    batch = wrap(model, tidy({"input_ids": ids, "labels": ids}, "meta"))
    loss = shared_prompt.shared_loss(model, batch)
    loss.backward()
    assert loss.device.type == "meta"


@pytest.mark.parametrize("key", ["prompt", "p-tuning"])
def test_nor_does_a_tagger_that_answers_for_the_tokens_it_was_given(monkeypatch, key):
    model, batch = without_questions(monkeypatch, "gpt2", "tagging"), zoo.batch("gpt2", "tagging")
    mp.attach(model, SHAPES[key], seed=0)
    for names in (("input_ids", "attention_mask"), ("input_ids",)):
        logits = model(**tidy({name: batch[name] for name in names}, "meta")).logits
        assert logits.device.type == "meta" and logits.shape[:2] == batch["input_ids"].shape


@pytest.mark.parametrize("key", ["prompt", "p-tuning"])
def test_words_are_put_in_as_on_the_processor(key):
    batches = []
    for device in ("cpu", "meta"):
        model = zoo.build("gpt2").to(device)
        tuner = mp.attach(model, SHAPES[key], seed=0)
        batches.append(tuner.wrap(tidy(zoo.batch("gpt2"), device)))
    for name, value in batches[0].items():
        assert batches[1][name].device.type == "meta"
        assert torch.equal(on_host(batches[1][name]), value)


def test_what_came_from_the_processor_is_known_there_in_parts_too():
    ids = torch.arange(12).view(3, 4)
    elsewhere = moved(ids, "meta")
    assert elsewhere.device.type == "meta"
    for part in (lambda x: x, lambda x: x[:1, :2], lambda x: x[:, 1:], lambda x: x.view(-1, 2)):
        assert torch.equal(on_host(part(elsewhere)), part(ids))
    assert on_host(ids) is ids


def test_what_is_changed_is_not_known_any_more():
    elsewhere = moved(torch.arange(4), "meta")
    elsewhere[:2].add_(1)
    with pytest.raises(NotImplementedError, match="meta"):
        on_host(elsewhere)


def test_numbers_with_a_fraction_are_not_remembered():
    elsewhere = moved(torch.ones(4), "meta")
    with pytest.raises(NotImplementedError, match="meta"):
        on_host(elsewhere)


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
