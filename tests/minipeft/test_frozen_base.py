"""The frozen base under optimizers, states and vocabularies that know nothing of the tuners."""

import copy
import io
import pickle
import warnings

import pytest
import torch
import zoo
from closeness import close

import minipeft as mp

METHODS = {
    "lora": mp.LoRA(rank=2),
    "qlora": mp.QLoRA(rank=2),
    "adapter": mp.Adapter(bottleneck=2),
    "ia3": mp.IA3(),
    "bitfit": mp.BitFit(),
    "prefix": mp.Prefix(length=2),
    "prompt": mp.PromptTuning(length=2),
    "head": mp.HeadOnly(),
    "top": mp.TopLayers(),
    "adalora": mp.AdaLoRA(init_rank=3, target_rank=1),
}
IN_PLACE = ("top",)
OPTIMIZERS = {
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, 1e-2, weight_decay=0.5),
    "SGD": lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9),
    "LBFGS": lambda parameters: torch.optim.LBFGS(parameters, 0.1, max_iter=2),
}
methods = pytest.mark.parametrize("method", METHODS)


def state(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(model, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def steps(model, optimizer, count: int = 2) -> list[str]:
    """A loop of one's own, and what was warned of."""

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(**zoo.batch("gpt2")).loss
        loss.backward()
        return loss

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(count):
            optimizer.step(closure) if isinstance(optimizer, torch.optim.LBFGS) else closure()
            if not isinstance(optimizer, torch.optim.LBFGS):
                optimizer.step()
    return [str(warning.message) for warning in said if "pruned" not in str(warning.message)]


# ---- requires_grad, set by hand ----


@methods
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_base_that_is_trained_by_hand_is_told_and_taken_back(method, kind):
    model = zoo.build("gpt2")
    before = state(model)
    tuner = mp.attach(model, METHODS[method], seed=0)
    model.requires_grad_(True)
    optimizer = OPTIMIZERS[kind](model.parameters())
    (sentence,) = steps(model, optimizer)
    assert "of the base are trained, because requires_grad was set after attach" in sentence
    assert steps(model, optimizer) == []
    assert not torch.equal(model.transformer.wpe.weight, before["transformer.wpe.weight"])
    tuner.detach()
    assert same(model, before)


@methods
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_train_tells_it_as_well(method, dtype):
    model = zoo.build("gpt2", dtype=dtype)
    before = state(model)
    tuner = mp.attach(model, METHODS[method], seed=0)
    words = model.transformer.wpe.weight.requires_grad_(True)
    if method not in IN_PLACE:
        with pytest.warns(UserWarning, match="transformer.wpe.weight of the base are trained"):
            mp.train(model, [zoo.batch("gpt2")], 2, 1e-2, progress=False)
        assert not torch.equal(words, before["transformer.wpe.weight"])
    tuner.detach()
    assert same(model, before)


@pytest.mark.parametrize("order", ["merged", "in place", "later in place"])
def test_what_is_taken_back_is_beneath_merges_and_training_in_place(order):
    model = zoo.build("gpt2")
    before = state(model)
    first = mp.attach(model, mp.FullFineTuning() if order == "in place" else mp.LoRA(), "a")
    zoo.shake(first)
    if order == "merged":
        first.merge()
    second = mp.attach(model, mp.LoRA(rank=2), "b")
    model.requires_grad_(True)
    with pytest.warns(UserWarning, match="of the base are trained"):
        steps_that_warn(model)
    if order == "merged":
        first.unmerge()
    first.detach()
    if order == "later in place":
        third = mp.attach(model, mp.FullFineTuning(), "c")
        zoo.shake(third)
        second.detach()
        third.detach()
    else:
        second.detach()
    assert same(model, before)


def steps_that_warn(model) -> None:
    optimizer = OPTIMIZERS["AdamW"](model.parameters())
    model(**zoo.batch("gpt2")).loss.backward()
    optimizer.step()


@methods
def test_gradients_of_the_base_from_before_are_not_acted_on(method):
    model = zoo.build("gpt2")
    before = state(model)
    model(**zoo.batch("gpt2")).loss.backward()
    tuner = mp.attach(model, METHODS[method], seed=0)
    assert steps(model, OPTIMIZERS["AdamW"](model.parameters())) == []
    tuner.detach()
    assert same(model, before)


def test_gradients_of_the_base_without_a_step_are_nobodys_business():
    """What an attribution asks for; and an optimizer of something else."""
    model = zoo.build("gpt2")
    tuner = mp.attach(model, mp.LoRA(rank=2), seed=0)
    words = model.get_input_embeddings().weight.requires_grad_(True)
    assert steps(model, OPTIMIZERS["AdamW"](tuner.parameters())) == []
    assert words.grad is not None
    other = torch.nn.Linear(2, 2)
    other(torch.ones(2)).sum().backward()
    OPTIMIZERS["SGD"](other.parameters()).step()


def test_a_copy_of_the_model_is_kept_as_well():
    model = zoo.build("gpt2")
    before = state(model)
    mp.attach(model, mp.LoRA(rank=2), seed=0)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        twin.requires_grad_(True)
        assert len(steps(twin, OPTIMIZERS["AdamW"](twin.parameters()))) == 1
        again = copy.deepcopy(twin)
        for each in (twin, again):
            mp.tuners(each)["default"].detach()
            assert same(each, before)


# ---- an optimizer from before, or after ----


@methods
def test_an_optimizer_made_before_attach_says_so_once(method):
    model = zoo.build("gpt2")
    before = state(model)
    optimizer = OPTIMIZERS["AdamW"](model.parameters())
    tuner = mp.attach(model, METHODS[method], seed=0)
    said = steps(model, optimizer)
    if method in IN_PLACE:  # these parameters the optimizer has
        assert said == []
    else:
        (sentence,) = said
        assert "has none of the parameters of 'default', which it was made before" in sentence
        assert steps(model, optimizer) == []
    tuner.detach()
    assert same(model, before)


def test_an_optimizer_over_the_whole_model_trains_what_came_before_it():
    model = zoo.build("gpt2")
    mp.attach(model, mp.LoRA(rank=2), "a", seed=0)
    optimizer = OPTIMIZERS["AdamW"](model.parameters())
    assert steps(model, optimizer) == []
    mp.attach(model, mp.LoRA(rank=2), "b", seed=1)
    sentences = steps(model, optimizer)  # a is finished now, and b not in it
    assert len(sentences) == 2
    assert any("'a', whose parameters it has, was finished" in each for each in sentences)
    assert any("has none of the parameters of 'b'" in each for each in sentences)


def test_a_loop_over_the_base_after_detach_says_so_once():
    model = zoo.build("gpt2")
    mp.attach(model, mp.LoRA(rank=2)).detach()
    optimizer = OPTIMIZERS["AdamW"](model.parameters())
    (sentence,) = steps(model, optimizer)
    assert "parameters of the base itself are trained" in sentence
    assert steps(model, optimizer) == []
    mp.attach(model, mp.FullFineTuning())
    assert steps(model, OPTIMIZERS["AdamW"](model.parameters())) == []


def test_a_loop_over_a_chosen_part_of_the_base_needs_no_word():
    model = zoo.build("gpt2")
    mp.attach(model, mp.LoRA(rank=2)).detach()
    model.requires_grad_(False)
    model.lm_head.requires_grad_(True)
    assert steps(model, OPTIMIZERS["AdamW"](model.lm_head.parameters())) == []


# ---- states and vocabularies ----


@methods
def test_a_state_that_puts_other_parameters_there_is_refused(method):
    model = zoo.build("gpt2")
    before = state(model)
    tuner = mp.attach(model, METHODS[method], seed=0)
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match="assign=True.* would put other parameters"):
        model.load_state_dict(kept, assign=True)
    model.load_state_dict(kept)
    tuner.detach()
    assert same(model, before) and all(p.requires_grad for p in model.parameters())
    model.load_state_dict(before, assign=True)


RESIZED = ("gpt2", "llama", "t5", "bert")
AT_THE_WORDS = {
    "prompt": mp.PromptTuning(length=2),
    "rows": mp.TokenRows((3, 5)),
    "table": mp.LoRAEmbedding(rank=2),
    "full": mp.FullFineTuning(),
}


@pytest.mark.parametrize("name", RESIZED)
@pytest.mark.parametrize("method", AT_THE_WORDS)
def test_a_vocabulary_that_a_tuner_stands_at_is_not_resized(name, method):
    model, batch = zoo.build(name), zoo.batch(name)
    before, expected = state(model), zoo.logits(model, batch)
    tuner = mp.attach(model, AT_THE_WORDS[method], seed=0)
    tuned = zoo.logits(model, batch)
    with pytest.raises(ValueError, match="exchange a matrix at which 'default' stands: detach it"):
        model.resize_token_embeddings(zoo.WORDS + 5)
    model.resize_token_embeddings(zoo.WORDS)  # which changes nothing
    assert torch.equal(zoo.logits(model, batch), tuned)
    tuner.detach()
    assert same(model, before) and "resize_token_embeddings" not in vars(model)
    model.resize_token_embeddings(zoo.WORDS + 5)
    assert zoo.logits(model, batch).shape[-1] == zoo.WORDS + 5
    close(zoo.logits(model, batch)[..., : zoo.WORDS], expected)


@pytest.mark.parametrize("name", RESIZED)
@pytest.mark.parametrize("method", ["lora", "prefix", "adapter"])
def test_another_tuner_goes_on_with_more_words(name, method):
    model, batch = zoo.build(name), zoo.batch(name)
    tuner = mp.attach(model, METHODS[method], seed=0)
    zoo.shake(tuner)
    expected = zoo.logits(model, batch)
    model.resize_token_embeddings(zoo.WORDS + 5)
    close(zoo.logits(model, batch)[..., : zoo.WORDS], expected)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    twin = torch.load(file, weights_only=False)
    twin.resize_token_embeddings(zoo.WORDS + 9)
    assert model.get_input_embeddings().weight.shape[0] == zoo.WORDS + 5
    for each in (model, twin):
        mp.tuners(each)["default"].detach()
        assert all(parameter.requires_grad for parameter in each.parameters())


@pytest.mark.parametrize("method", [m for m in METHODS if m != "adalora"])
def test_inference_mode_leaves_nothing_that_cannot_be_trained(method):
    model = zoo.build("gpt2")
    before = state(model)
    with torch.inference_mode():
        tuner = mp.attach(model, METHODS[method], seed=0)
        model(**zoo.batch("gpt2"))
    optimizer = OPTIMIZERS["AdamW"](tuner.parameters())
    kept = [parameter.detach().clone() for parameter in tuner.parameters()]
    assert steps(model, optimizer) == []
    assert not all(map(torch.equal, kept, tuner.parameters()))
    with torch.inference_mode():
        tuner.disable()
        tuner.enable()
        if method not in ("adapter", "prefix", "prompt"):
            tuner.merge()
            tuner.unmerge()
    assert steps(model, OPTIMIZERS["AdamW"](tuner.parameters())) == []
    with torch.inference_mode():
        tuner.detach()
    assert same(model, before)
    model(**zoo.batch("gpt2")).loss.backward()


# ---- offloaded by accelerate ----


@methods
def test_an_offloaded_model_is_refused(method):
    accelerate = pytest.importorskip("accelerate")
    model, batch = zoo.build("bert", dtype=torch.float32), zoo.batch("bert")
    expected = zoo.logits(model, batch)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    with pytest.raises(ValueError, match="Weights of this model are offloaded"):
        mp.attach(model, METHODS[method])
    assert torch.equal(zoo.logits(model, batch), expected)


@pytest.mark.parametrize("method", ["lora", "adapter", "bitfit", "prompt"])
def test_a_tuner_that_is_offloaded_says_so(method):
    accelerate = pytest.importorskip("accelerate")
    model, batch = zoo.build("bert", dtype=torch.float32), zoo.batch("bert")
    mp.attach(model, METHODS[method])
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    with pytest.raises(ValueError, match="'default' was offloaded together with the model"):
        zoo.logits(model, batch)
