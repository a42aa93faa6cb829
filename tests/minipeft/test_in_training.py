"""What training changes: the tuners that came last, or those that are named; nothing else moves."""

import copy
import warnings

import pytest
import torch
import zoo

import minipeft as mp
from minipeft.training.loss import loss_of

QUIET = dict(progress=False, weight_decay=0.1)
METHODS = {
    "full": mp.FullFineTuning(),
    "top": mp.TopLayers(),
    "head": mp.HeadOnly(),
    "bitfit": mp.BitFit(),
    "ia3": mp.IA3(),
    "adapter": mp.Adapter(bottleneck=2),
    "prefix": mp.Prefix(length=2),
    "prompt": mp.PromptTuning(length=2),
    "p-tuning": mp.PTuning(length=2),
    "lora": mp.LoRA(rank=2),
    "dora": mp.DoRA(rank=2),
    "vera": mp.VeRA(rank=4),
    "adalora": mp.AdaLoRA(init_rank=3, target_rank=1),
    "qlora": mp.QLoRA(rank=2),
    "unipelt": mp.UniPELT(bottleneck=2, length=2, rank=2),
    "together": mp.Combined((mp.Prefix(length=2), mp.Adapter(bottleneck=2))),
}


def data(name: str = "tiny-decoder", head: str = "language") -> list[dict]:
    return [zoo.batch(name, head, rows=2, seed=seed) for seed in range(3)]


def values(tuner) -> list[torch.Tensor]:
    return [tensor.detach().clone() for tensor in tuner.named_tensors().values()]


def same(tuner, before: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, values(tuner), before))


def train(model, *settings, **options):
    """mp.train, and what it warned of."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        history = mp.train(model, data(), 3, 1e-2, **QUIET, **options)
    return history, [str(warning.message) for warning in said]


@pytest.mark.parametrize("method", METHODS)
def test_a_tuner_trained_before_the_next_one_came_stays_as_it_is(method):
    model = zoo.build("tiny-decoder")
    a = mp.attach(model, METHODS[method], "a", seed=0)
    history, said = train(model)
    assert (history.trained, said) == ("a", [])
    kept = values(a)
    b = mp.attach(model, mp.LoRA(rank=2, targets=("up",)), "b", seed=1)
    fresh = values(b)
    history, (sentence,) = train(model)
    assert history.trained == "b" and "Only 'b' is trained: 'a', finished before" in sentence
    assert same(a, kept) and not same(b, fresh)
    assert all(p.grad is None for p in a.parameters())
    b.disable()  # alone again, so it is what is meant
    history, said = train(model)
    assert (history.trained, said) == ("a", []) and not same(a, kept)


def test_tuners_that_came_together_are_trained_together_as_often_as_one_likes():
    model = zoo.build("tiny-decoder")
    both = [mp.attach(model, mp.LoRA(rank=2), name, seed=i) for i, name in enumerate("ab")]
    for _ in range(2):
        before = [values(tuner) for tuner in both]
        history, said = train(model)
        assert (history.trained, said) == ("a, b", [])
        assert not any(map(same, both, before))


def test_a_sweep_without_detach_trains_one_after_the_other():
    model, kept = zoo.build("tiny-decoder"), {}
    for number in range(3):
        tuner = mp.attach(model, mp.LoRA(rank=2), f"r{number}", seed=number)
        history, said = train(model)
        assert history.trained == f"r{number}" and len(said) == (number > 0)
        assert all(same(old, before) for old, before in kept.items())
        kept[tuner] = values(tuner)
    history, _ = train(model)  # goes on with the last one
    assert history.trained == "r2" and all(same(t, kept[t]) for t in list(kept)[:2])


def test_names_decide(tmp_path):
    model = zoo.build("tiny-decoder")
    a = mp.attach(model, mp.LoRA(rank=2), "a", seed=0)
    b = mp.attach(model, mp.LoRA(rank=2), "b", seed=1)
    before = values(b)
    history, said = train(model, tuners="a")
    assert (history.trained, said) == ("a", []) and same(b, before)
    assert all(p.requires_grad and p.grad is None for p in b.parameters())
    c = mp.attach(model, mp.LoRA(rank=2), "c", seed=2)
    kept, fresh = values(a), values(c)
    history, said = train(model, tuners=(a, "b"))  # names or tuners
    assert (history.trained, said) == ("a, b", [])
    assert not same(a, kept) and not same(b, before) and same(c, fresh)
    for wrong, sentence in [
        ("d", "no tuner named 'd' on this model to train: those of this model are a, b, c"),
        ((), "must name at least one"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            train(model, tuners=wrong)
    a.disable(), b.merge()
    for name, what in (("a", "disabled: enable"), ("b", "merged: unmerge")):
        with pytest.raises(ValueError, match=f"'{name}' cannot be trained while it is {what} it"):
            train(model, tuners=["c", name])


def test_a_named_run_that_fails_leaves_the_flags_as_they_were():
    model = zoo.build("tiny-decoder")
    a = mp.attach(model, mp.LoRA(rank=2), "a", seed=0)
    train(model)
    b = mp.attach(model, mp.LoRA(rank=2), "b", seed=1)
    with pytest.raises(TypeError):
        mp.train(model, [3], 1, tuners="a", progress=False)
    assert not any(p.requires_grad for p in a.parameters())
    assert all(p.requires_grad for p in b.parameters())


def test_a_loaded_tuner_is_trained_and_rests_under_a_new_one(tmp_path):
    model = zoo.build("tiny-decoder")
    a = mp.attach(model, mp.LoRA(rank=2), "a", seed=0)
    train(model)
    a.save(tmp_path)
    a.detach()
    a = mp.load(model, tmp_path, name="a")
    before = values(a)
    history, said = train(model)
    assert (history.trained, said) == ("a", []) and not same(a, before)
    a.detach()
    a = mp.load(model, tmp_path, name="a")
    mp.attach(model, mp.LoRA(rank=2), "b", seed=1)
    history, said = train(model)
    assert history.trained == "b" and len(said) == 1 and same(a, before)


def test_loops_of_ones_own_see_it_by_the_flags():
    model = zoo.build("tiny-decoder")
    a = mp.attach(model, mp.LoRA(rank=2), "a", seed=0)

    def loop(parameters):
        optimizer = torch.optim.AdamW(parameters, 1e-2, weight_decay=0.1)
        for batch in data():
            model(**batch).loss.backward()
            optimizer.step()  # the last gradients stay: they must not move anything later

    loop(a.parameters())
    kept = values(a)
    b = mp.attach(model, mp.LoRA(rank=2), "b", seed=1)
    fresh = values(b)
    loop(model.parameters())
    assert same(a, kept) and not same(b, fresh)
    b.detach()
    assert all(p.requires_grad for p in a.parameters())


def test_under_the_trainer_a_finished_tuner_stays_as_it_is(tmp_path):
    from transformers import Trainer, TrainingArguments

    model = zoo.build("gpt2")
    batches = data("gpt2")
    rows = [{k: v[i] for k, v in batch.items()} for batch in batches for i in range(2)]
    settings = dict(max_steps=2, learning_rate=1e-2, weight_decay=0.1, report_to=[], use_cpu=True)
    settings |= dict(disable_tqdm=True, save_strategy="no", output_dir=str(tmp_path))

    def run():
        Trainer(model=model, args=TrainingArguments(**settings), train_dataset=rows).train()

    a = mp.attach(model, mp.LoRA(rank=2), "a", seed=0)
    before = values(a)
    run()
    assert not same(a, before)
    kept = values(a)
    b = mp.attach(model, mp.LoRA(rank=2), "b", seed=1)
    fresh = values(b)
    run()
    assert same(a, kept) and not same(b, fresh)


@pytest.mark.parametrize("off", ["disable", "merge"])
@pytest.mark.parametrize("method", ["full", "top"])
def test_base_parameters_of_a_tuner_that_is_off_are_the_bases(method, off):
    model = zoo.build("tiny-decoder")
    a = mp.attach(model, METHODS[method], "a", seed=0)
    train(model)
    kept = {name: p.detach().clone() for name, p in model.named_parameters()}
    if off == "disable":
        a.disable()
        kept = {name: p.detach().clone() for name, p in model.named_parameters()}
    else:
        a.merge()
    mp.attach(model, mp.LoRA(rank=2), "b", seed=1)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    model(**data()[0]).loss.backward()
    optimizer.step()
    now = {name.replace(".base", ""): p for name, p in model.named_parameters()}
    assert all(torch.equal(now[name], value) for name, value in kept.items())


def test_a_run_of_the_second_tuner_is_resumed(tmp_path):
    def two(folder=None, **options):
        model = zoo.build("tiny-decoder")
        a = mp.attach(model, mp.LoRA(rank=2), "a", seed=0)
        train(model)
        b = mp.attach(model, mp.LoRA(rank=2), "b", seed=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mp.train(model, data(), 6, 1e-2, checkpoint=folder, **QUIET, **options)
        return values(a), values(b)

    def stop(history):
        if len(history.losses) == 3:
            raise KeyboardInterrupt

    whole = two()
    with pytest.raises(KeyboardInterrupt):
        two(tmp_path, checkpoint_every=2, watch=stop)
    again = two(tmp_path, checkpoint_every=2, resume=True)
    for left, right in zip(whole, again, strict=True):
        assert all(map(torch.equal, left, right))


def test_each_tuner_has_its_own_head():
    model = zoo.build("bert", "classification")
    batches = data("bert", "classification")
    a = mp.attach(model, mp.LoRA(rank=2), "a", seed=0)
    mp.train(model, batches, 3, 1e-2, **QUIET)
    kept = values(a)
    assert a.copies
    b = mp.attach(model, mp.LoRA(rank=2), "b", seed=1)
    fresh = values(b)
    with pytest.warns(UserWarning, match="Only 'b'"):
        mp.train(model, batches, 3, 1e-2, **QUIET)
    assert same(a, kept) and not any(map(torch.equal, values(b), fresh))


def test_what_warm_up_made_can_be_trained_together():
    model = zoo.build("tiny-decoder")
    tasks = {"one": data(), "two": data()}
    made = mp.warm_up(model, mp.PTuningV2(length=2), tasks, 2, progress=False)
    for tuner in made.values():
        tuner.enable()
    history, said = train(model)
    assert (history.trained, said) == ("one, two", [])


def test_copies_of_a_model_go_by_the_same_rule():
    model = zoo.build("tiny-decoder")
    mp.attach(model, mp.LoRA(rank=2), "a", seed=0)
    train(model)
    twin = copy.deepcopy(model)
    mp.attach(twin, mp.LoRA(rank=2), "b", seed=1)
    kept = values(mp.tuners(twin)["a"])
    assert train(twin)[0].trained == "b" and same(mp.tuners(twin)["a"], kept)
    assert all(p.requires_grad for p in mp.tuners(model)["a"].parameters())


# ---- no tuner ----


def test_training_the_base_after_detach_says_so_and_a_fresh_model_does_not():
    model = zoo.build("tiny-decoder")
    history, said = train(model)
    assert (history.trained, said) == ("the model itself", [])
    mp.attach(model, mp.LoRA(rank=2)).detach()
    history, (sentence,) = train(model)
    count = sum(p.numel() for p in model.parameters())
    assert f"all {count:,} parameters of the base itself are trained" in sentence
    mp.attach(model, mp.FullFineTuning())
    assert train(model)[1] == []


def test_parameters_that_somebody_froze_need_no_warning():
    model = zoo.build("tiny-decoder")
    mp.attach(model, mp.LoRA(rank=2)).detach()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("norm" in name)
    assert train(model)[1] == []


# ---- loops of one's own over a tuner that is not in training ----


def own_loop(model, parameters, steps: int = 2) -> list[str]:
    """Steps of an optimizer over these parameters, and what was warned of."""
    optimizer = torch.optim.AdamW(parameters, 1e-2)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for batch in data()[:steps]:
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            if loss.requires_grad:
                loss.backward()
            optimizer.step()
    return [str(warning.message) for warning in said]


WHY = {
    "rests": "'a', whose parameters it has, was finished before a later one came: disable",
    "disabled": "'a', whose parameters it has, is disabled: enable it first",
    "merged": "'a', whose parameters it has, is merged: unmerge it first",
    "detached": "'a', whose parameters it has, was detached: attach it again",
}


@pytest.mark.parametrize("state", WHY)
def test_a_step_over_a_tuner_that_is_not_in_training_says_so_once(state):
    model = zoo.build("tiny-decoder")
    tuner = mp.attach(model, mp.LoRA(rank=2), "a")
    parameters = tuner.parameters()
    assert own_loop(model, parameters) == []
    if state == "rests":
        mp.attach(model, mp.LoRA(rank=2), "b")
    else:
        {"disabled": tuner.disable, "merged": tuner.merge, "detached": tuner.detach}[state]()
    for parameter in parameters:
        parameter.grad = None
    (sentence,) = own_loop(model, parameters)
    assert sentence.startswith("This step of the optimizer changes nothing: " + WHY[state])
    assert own_loop(model, parameters) == []


def test_a_step_that_changes_something_needs_no_warning():
    model = zoo.build("tiny-decoder")
    first = mp.attach(model, mp.LoRA(rank=2), "a")
    own_loop(model, first.parameters())
    second = mp.attach(model, mp.LoRA(rank=2), "b")
    assert own_loop(model, first.parameters() + second.parameters()) == []
    other = torch.nn.Linear(2, 2)  # an optimizer that has nothing of the tuners
    torch.optim.SGD(other.parameters(), 0.1).step()
    second.detach()
    assert own_loop(model, first.parameters()) == []


# ---- two models around one backbone ----


def pair():
    import transformers as hf

    small = dict(vocab_size=48, hidden_size=16, num_hidden_layers=2, num_attention_heads=4)
    config = hf.BertConfig(**small, intermediate_size=32)
    one, two = hf.BertForSequenceClassification(config), hf.BertForTokenClassification(config)
    two.bert = one.bert
    two.bert.pooler = None
    one.classifier = torch.nn.Linear(16, 2)
    return one, two


@pytest.mark.parametrize("method", ["lora", "head", "full", "prefix", "prompt"])
def test_a_model_whose_layers_serve_another_with_tuners_is_refused(method):
    one, two = pair()
    tuner = mp.attach(one, METHODS[method], "a")
    modules, flags = list(two.modules()), [p.requires_grad for p in two.parameters()]
    for model in (two, two.bert, torch.nn.ModuleDict({"inner": two})):
        with pytest.raises(ValueError, match="shares") as refused:
            mp.attach(model, mp.LoRA(rank=2), "b")
        assert "'a'" in str(refused.value) and "\n" not in str(refused.value)
    assert list(two.modules()) == modules and not mp.tuners(two)
    assert [p.requires_grad for p in two.parameters()] == flags
    tuner.detach()
    mp.attach(two, mp.LoRA(rank=2), "b").detach()


def test_layers_with_doors_of_a_copied_model_are_refused():
    one, two = pair()
    mp.attach(one, mp.LoRA(rank=2), "a")
    two = copy.deepcopy(two)  # and with it, through the layers that they share, the first one
    with pytest.raises(
        ValueError, match=r"shares layers with another one.*tuners attached \('a'\)"
    ):
        mp.attach(two, mp.LoRA(rank=2), "b")
