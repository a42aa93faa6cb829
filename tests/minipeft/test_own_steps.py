"""AdaLoRA in a loop of one's own: its steps are counted, or it says that nobody tells it."""

import copy
import gc
import warnings

import pytest
import torch
import zoo
from closeness import close

import minipeft as mp
from minipeft.methods.parts import own_steps

STEPS = 10
BATCH = zoo.batch("tiny-decoder")


def adalora(**settings):
    return mp.AdaLoRA(init_rank=4, target_rank=2, **settings)


def ranks(tuner) -> list[int]:
    return [len(patch.Lambda) for _, patch in tuner.patches]


def tuned(method, name="tiny-decoder"):
    model = zoo.build(name).double()
    return model, mp.attach(model, method, "t", seed=0)


def loop(model, tuner, steps=STEPS, batch=BATCH, after=lambda step: None, loss=lambda x: x):
    optimizer = torch.optim.AdamW(tuner.parameters(), 1e-2, weight_decay=0.0)
    for step in range(steps):
        loss(model(**batch).loss).backward()
        optimizer.step()
        after(step)
        optimizer.zero_grad()
    return optimizer


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def trained():
    model, tuner = tuned(adalora())
    settings = dict(clip=None, schedule="constant", warmup=0, progress=False)
    mp.train(model, [BATCH], STEPS, 1e-2, **settings)
    return tuner


def same(tuner, other) -> None:
    tensors, others = tuner.named_tensors(), other.named_tensors()
    assert tensors.keys() == others.keys()
    for key, tensor in tensors.items():
        close(tensor, others[key])


def test_a_loop_that_says_its_length_does_what_train_does():
    model, tuner = tuned(adalora(total_steps=STEPS))
    optimizer = loop(model, tuner)
    assert sum(ranks(tuner)) == 2 * len(ranks(tuner))
    same(tuner, trained())
    held = {p for group in optimizer.param_groups for p in group["params"]}
    assert held == set(tuner.parameters())  # it goes on with what is left
    before = [p.detach().clone() for p in tuner.parameters()]
    model(**BATCH).loss.backward()
    optimizer.step()
    pairs = zip(tuner.parameters(), before, strict=True)
    assert all((p != b).any() for p, b in pairs if len(p) and p.numel())


def test_a_loop_that_asks_for_the_penalty_itself():
    model, tuner = tuned(adalora(total_steps=STEPS))
    loop(model, tuner, loss=lambda loss: loss + tuner.method.penalty(tuner))
    same(tuner, trained())


def test_a_loop_that_calls_the_method_itself_is_left_alone():
    model, tuner = tuned(adalora(total_steps=99))
    method = tuner.method
    method.begin(tuner, STEPS)
    loop(
        model,
        tuner,
        after=lambda step: method.after_step(tuner, step, STEPS),
        loss=lambda loss: loss + method.penalty(tuner),
    )
    method.finish(tuner)
    same(tuner, trained())


def test_train_counts_its_steps_once_whatever_was_said():
    model, tuner = tuned(adalora(total_steps=5))
    settings = dict(clip=None, schedule="constant", warmup=0, progress=False)
    mp.train(model, [BATCH], STEPS, 1e-2, **settings)
    same(tuner, trained())


def test_a_length_that_nobody_tells_is_said_once():
    model, tuner = tuned(adalora())
    assert "not pruned" not in str(tuner.report())
    with pytest.warns(UserWarning, match="'t' is not pruned, because.*total_steps") as caught:
        loop(model, tuner)
    assert len(caught) == 1
    assert "not pruned" in str(tuner.report()) and ranks(tuner) == [4] * len(ranks(tuner))
    mp.train(model, [BATCH], STEPS, progress=False)
    assert "not pruned" not in str(tuner.report())
    loop(model, tuner)  # it has its ranks


def test_after_step_that_was_forgotten():
    model, tuner = tuned(adalora())
    tuner.method.begin(tuner, STEPS)
    with pytest.warns(UserWarning, match=r"begin\(\) was called, but not after_step\(\)"):
        loop(model, tuner)


def test_other_optimizers_and_resting_tuners_are_no_steps():
    model, tuner = tuned(adalora())
    other = mp.attach(model, mp.LoRA(rank=2, targets=("output",)), "other")
    loop(model, other)
    tuner.disable()
    loop(model, other)
    tuner.enable()
    assert tuner.own_steps.made == 0


def test_copies_count_their_own_steps():
    model, tuner = tuned(adalora(total_steps=STEPS))
    twin = copy.deepcopy(model)
    other = mp.tuners(twin)["t"]
    loop(twin, other)
    assert ranks(tuner) == [4] * len(ranks(tuner)) and sum(ranks(other)) == 2 * len(ranks(other))
    loop(model, tuner)
    same(tuner, other)


def test_among_other_methods():
    method = mp.Combined((adalora(total_steps=STEPS), mp.Adapter(bottleneck=4)))
    model, tuner = tuned(method)
    loop(model, tuner)
    left = [len(p.Lambda) for _, p in tuner.patches if hasattr(p, "Lambda")]
    assert sum(left) == 2 * len(left)


def test_a_file_with_its_ranks_is_trained_without_a_word(tmp_path):
    trained().save(tmp_path / "t")
    model = zoo.build("tiny-decoder").double()
    loop(model, mp.load(model, tmp_path / "t", "t"))


def test_no_hook_stays_when_the_last_one_is_gone():
    model, tuner = tuned(adalora(total_steps=STEPS))
    plain = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(plain.parameters(), 0.1)
    assert own_steps.HOOKS
    tuner.detach()
    del model, tuner
    gc.collect()
    optimizer.step()
    assert not own_steps.HOOKS


@pytest.mark.parametrize("wrong", [0, 1, -3, 2.5, "10", True])
def test_wrong_lengths(wrong):
    with pytest.raises(ValueError, match="total_steps must be a whole number from 2, or None"):
        mp.AdaLoRA(total_steps=wrong)
