"""One thread at a time is inside a model with tuners, so each gets its own answers."""

import copy
import sys
import threading

import pytest
import torch
import zoo

import minipeft as mp
from minipeft import attached


@pytest.fixture
def model():
    model = zoo.build("tiny-decoder")
    for seed, (name, method) in enumerate(
        {"a": mp.LoRA(rank=2), "b": mp.Prefix(length=2, hidden=None)}.items()
    ):
        zoo.shake(mp.attach(model, method, name, seed=seed), seed=seed)
    return model


def test_threads_with_different_routes_get_their_own(model):
    plans = [["a", "b"], ["b", None, "a"], None]
    batches = [zoo.batch("tiny-decoder", rows=rows, seed=rows) for rows in (2, 3, 4)]

    def answer(number: int):
        if plans[number] is None:
            return zoo.logits(model, batches[number])
        with mp.route(model, plans[number]):
            return zoo.logits(model, batches[number])

    wanted, wrong = [answer(number) for number in range(3)], []

    def work(number: int) -> None:
        try:
            for _ in range(20):
                assert torch.equal(answer(number), wanted[number])
        except BaseException as error:
            wrong.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(before)
    assert not wrong


def elsewhere(action):
    """What an action gives, or raises, in another thread."""
    results = []

    def run():
        try:
            results.append(action())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return results[0]


def test_who_never_gets_a_turn_is_told(model, monkeypatch):
    monkeypatch.setattr(attached, "WAIT", 0.05)
    batch = zoo.batch("tiny-decoder", rows=1)
    with mp.route(model, ["a"]):
        error = elsewhere(lambda: zoo.logits(model, batch))
        assert isinstance(error, ValueError) and "leave it there first" in str(error)
        zoo.logits(model, batch)  # the thread that has its turn goes on
        twin = copy.deepcopy(model)
    assert isinstance(elsewhere(lambda: zoo.logits(twin, batch)), torch.Tensor)
    assert isinstance(elsewhere(lambda: zoo.logits(model, batch)), torch.Tensor)


def test_a_pass_that_fails_gives_its_turn_away(model, monkeypatch):
    monkeypatch.setattr(attached, "WAIT", 0.05)
    batch = zoo.batch("tiny-decoder", rows=1)
    with pytest.raises(ValueError, match="positions"):
        zoo.logits(model, zoo.batch("tiny-decoder", rows=1, tokens=99))
    with pytest.raises(ValueError, match="no tuner named"), mp.route(model, ["nobody"]):
        pass
    with pytest.raises(ValueError, match="positions"), mp.route(model, ["a"]):
        model(**zoo.batch("tiny-decoder", rows=3, tokens=99))
    assert isinstance(elsewhere(lambda: zoo.logits(model, batch)), torch.Tensor)


def test_without_tuners_there_is_nothing_to_wait_for(model):
    for tuner in mp.tuners(model).values():
        tuner.detach()
    assert not model._forward_pre_hooks and not model._forward_hooks
    assert not model._forward_hooks_always_called
