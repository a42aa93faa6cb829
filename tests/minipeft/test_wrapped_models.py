"""Models inside torch.compile and DataParallel: tuners are remembered by the model itself."""

import pytest
import torch
import zoo
from closeness import close
from torch import nn

import minipeft as mp

WRAPPERS = {
    "compile": lambda model: torch.compile(model, backend="eager"),
    "DataParallel": nn.DataParallel,  # on a machine without a GPU it calls the model as it is
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_wrapper_is_seen_through(wrap, tmp_path):
    torch.compiler.reset()
    model, inputs = zoo.build("gpt2", layers=1).double(), zoo.batch("gpt2")
    base, wrapper = mp.fingerprint(model), wrap(model)
    tuner = mp.attach(wrapper, mp.LoRA(rank=2), "a", seed=0)
    assert mp.tuners(wrapper) == mp.tuners(model) == {"a": tuner} and tuner.model is model
    with pytest.raises(ValueError, match="already has a tuner named 'a'"):
        mp.attach(wrapper, mp.LoRA(), "a")
    history = mp.train(wrapper, [inputs], 3, 1e-2, progress=False)
    assert history.trained == "a" and mp.fingerprint(wrapper) == base
    trained = zoo.logits(model, inputs)
    with mp.route(wrapper, ["a", None, "a"]), torch.no_grad():
        rows = wrapper(**inputs).logits
    close(rows[::2], trained[::2])
    ids = inputs["input_ids"][:1, :3]
    written = mp.generate(wrapper, ids, max_new_tokens=3)
    assert torch.equal(written, mp.generate(model, ids, max_new_tokens=3))
    tuner.save(tmp_path)
    tuner.detach()
    mp.load(wrapper, tmp_path)
    close(zoo.logits(model, inputs), trained)


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_training_inside_a_wrapper_is_that_of_the_model(wrap):
    torch.compiler.reset()
    trained = []
    for outer in (lambda model: model, wrap):
        model, inputs = zoo.build("gpt2", layers=1).double(), zoo.batch("gpt2")
        tuner = mp.attach(model, mp.PromptTuning(length=2), seed=0)
        mp.train(outer(model), [inputs], 3, 1e-2, progress=False)
        trained.append(next(iter(tuner.named_tensors().values())))
    close(*trained)


def test_multiple_choice_has_its_prompts_in_every_choice():
    from transformers import BertConfig, BertForMultipleChoice

    torch.manual_seed(0)
    small = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    model = BertForMultipleChoice(BertConfig(vocab_size=50, **small)).double().eval()
    tuner = mp.attach(model, mp.PromptTuning(length=2), seed=0)
    zoo.shake(tuner)
    ids = torch.randint(5, 40, (2, 3, 7))  # (B, choices, T)
    batch = dict(input_ids=ids, labels=torch.tensor([0, 2]))
    wrapped = tuner.wrap(batch)
    assert wrapped["input_ids"].shape == (2, 3, 9) and wrapped["labels"] is batch["labels"]
    with torch.no_grad():
        expected = model(**batch).logits  # (2, 3)
        close(model(**wrapped).logits, expected)
        for row in range(2):
            for choice in range(3):
                alone = model(input_ids=ids[row : row + 1, choice : choice + 1]).logits
                close(alone[0, 0], expected[row, choice])
    first = [p.clone() for p in tuner.parameters()]
    mp.train(model, [batch], 2, 1e-2, progress=False)
    assert not all(map(torch.equal, first, tuner.parameters()))
