"""A model that puts soft prompts in by itself answers for the tokens that it was given.

The oracle is the same model called with the batch of `tuner.wrap`, whose ids say where these tokens
stand among the soft words.
"""

import dataclasses
import warnings

import pytest
import torch
import zoo
from closeness import LOSS, close
from torch import nn
from torch.nn import functional as F

import minipeft as mp
from minipeft.training.preferences import drift, log_probabilities

METHODS = {
    "front": mp.PromptTuning(length=3),
    "end": mp.PromptTuning(length=2, position="end"),
    "template": mp.PTuning(template=("P", "{x}", "P", 5), encoder=None),
    "peft": mp.PromptTuning(length=3, compatibility="peft"),
    "peft's beside LoRA": mp.Combined(
        (mp.PromptTuning(length=3, compatibility="peft"), mp.LoRA(rank=2))
    ),
}
AS_IN_PEFT = ("peft", "peft's beside LoRA")
methods = pytest.mark.parametrize("method", METHODS)


def attached(name: str, method: str, head: str = "language"):
    model = zoo.build(name, head)
    tuner = mp.attach(model, METHODS[method], seed=0)
    zoo.shake(tuner, 0.3)
    return model, tuner


def texts(name: str, head: str = "language", left: bool = False) -> dict:
    batch = zoo.batch(name, head)
    del batch["labels"]
    return {key: value.flip(1) for key, value in batch.items()} if left else batch


def places(batch: dict, wrapped: dict, row: int) -> torch.Tensor:
    """Where a row's own tokens are in `wrapped`: its words, without the last of a template."""
    words = (wrapped["input_ids"][row] < zoo.WORDS) & (wrapped["attention_mask"][row] == 1)
    return words.nonzero()[:, 0][: batch["attention_mask"][row].sum()]


def cuts(name: str, method: str, head: str) -> bool:
    """Does it answer for the tokens that it was given?"""
    return method not in AS_IN_PEFT and (head != "language" or name == "bert")


@methods
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize(
    "name, head",
    [
        *(("gpt2", "language"), ("llama", "language"), ("tiny-decoder", "language")),
        *(("bert", "language"), ("gpt2", "tagging"), ("bert", "tagging"), ("roberta", "tagging")),
        ("tiny-encoder", "tagging"),
    ],
)
@torch.no_grad()
def test_an_answer_for_each_token(name, head, left, method):
    """Of encoders and taggers; what writes, and what is as in PEFT, answers at every place."""
    model, tuner = attached(name, method, head)
    batch = texts(name, head, left)
    wrapped = tuner.wrap(batch)
    logits, everywhere = zoo.logits(model, batch), zoo.logits(model, wrapped)
    assert everywhere.shape[:2] == wrapped["input_ids"].shape
    if not cuts(name, method, head):
        close(logits, everywhere)
        return
    assert logits.shape[:2] == batch["input_ids"].shape
    for row, mask in enumerate(batch["attention_mask"]):
        close(logits[row][mask == 1], everywhere[row][places(batch, wrapped, row)])


@methods
@torch.no_grad()
def test_hidden_states_and_attention(method):
    model, tuner = attached("bert", method)
    model.set_attn_implementation("eager")
    batch, how = texts("bert"), dict(output_hidden_states=True, output_attentions=True)
    wrapped = tuner.wrap(batch)
    out, everywhere = model(**batch, **how), model(**wrapped, **how)
    at = places(batch, wrapped, 0) if method not in AS_IN_PEFT else slice(None)
    for one, whole in zip(out.hidden_states, everywhere.hidden_states, strict=True):
        close(one[0], whole[0, at])
    for one, whole in zip(out.attentions, everywhere.attentions, strict=True):
        close(one[0], whole[0][:, at])  # to everything that is read
    states = model.bert(**batch).last_hidden_state
    close(states[0], everywhere.hidden_states[-1][0, at])


@torch.no_grad()
def test_a_tuple_is_cut_as_well():
    model, _ = attached("bert", "front")
    batch = texts("bert")
    named = model(**batch, output_hidden_states=True)
    assert named.logits.shape[:2] == batch["input_ids"].shape
    how = dict(output_hidden_states=True, return_dict=False)
    logits, states = model(**batch, **how)
    assert torch.equal(logits, named.logits)
    assert all(map(torch.equal, states, named.hidden_states))


def asking(name: str):
    from transformers import BartForQuestionAnswering, BertForQuestionAnswering

    torch.manual_seed(0)
    kind = dict(bert=BertForQuestionAnswering, bart=BartForQuestionAnswering)[name]
    config = zoo.build(name).config
    config.num_labels = 2
    return kind(config).double().eval()


@methods
@pytest.mark.parametrize("name", ["bert", "bart"])
def test_positions_of_an_answer_move_with_their_tokens(name, method):
    model, batch = asking(name), texts(name)
    tuner = mp.attach(model, METHODS[method], seed=0)
    zoo.shake(tuner, 0.3)
    T = batch["input_ids"].shape[1]
    spans = dict(start_positions=torch.tensor([1, 0, T]), end_positions=torch.tensor([3, 6, 4]))
    out = model(**batch, **spans)  # no answer starts in the last row
    expected = batch["input_ids"].shape if method not in AS_IN_PEFT else (3, T + 3)
    assert out.start_logits.shape == out.end_logits.shape == expected
    wrapped = tuner.wrap({**batch, **spans})
    everywhere = model(**wrapped)
    at = [places(batch, wrapped, row) for row in range(3)]
    start = F.cross_entropy(everywhere.start_logits[:2], torch.stack([at[0][1], at[1][0]]))
    end = F.cross_entropy(everywhere.end_logits, torch.stack([at[0][3], at[1][6], at[2][4]]))
    close(out.loss, (start + end) / 2)
    close(everywhere.loss, out.loss)
    whole = method in AS_IN_PEFT
    cut = everywhere.start_logits[0] if whole else everywhere.start_logits[0, at[0]]
    close(out.start_logits[0], cut)


@methods
def test_preferences_are_about_the_given_answers(method):
    model, tuner = attached("gpt2", method)
    batch = zoo.batch("gpt2")
    batch["labels"][:, :3] = -100
    wrapped = tuner.wrap(batch)
    with torch.no_grad():
        chances = zoo.logits(model, {k: v for k, v in wrapped.items() if k != "labels"})
    chances, labels = chances.log_softmax(-1)[:, :-1], wrapped["labels"][:, 1:]
    expected = chances.gather(-1, labels.clamp(min=0)[..., None])[..., 0] * (labels != -100)
    close(log_probabilities(model, batch), expected.sum(dim=1), dtype=torch.float32, roundings=LOSS)
    assert drift(model, tuner, batch) > 0


class Tagger(nn.Module):
    """A module of one's own around a model, which takes no mask."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.out = body, nn.Linear(16, zoo.LABELS).double()

    def forward(self, ids):
        return self.out(self.body(input_ids=ids).last_hidden_state)


class Masked(Tagger):
    """The same, with a mask, and labels for a loss."""

    def forward(self, input_ids, attention_mask=None, labels=None):
        states = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        scores = self.out(states)
        loss = None if labels is None else F.cross_entropy(scores.flatten(0, 1), labels.flatten())
        return {"loss": loss, "scores": scores}


def test_modules_of_ones_own():
    inner, batch = zoo.build("bert").bert, zoo.batch("bert", "tagging")
    ids = batch["input_ids"]
    for kind in (Tagger, Masked):
        torch.manual_seed(0)
        model = kind(inner)
        tuner = mp.attach(model, METHODS["front"], seed=0)
        wrapped = tuner.wrap(batch)
        states = inner(wrapped["input_ids"]).last_hidden_state
        scores = mp.tuners(model)["default"].copies["out"](states)
        expected = torch.cat([scores[:, :1], scores[:, 4:]], dim=1)  # behind [CLS]
        if kind is Tagger:
            close(model(ids), expected)
        else:
            out = model(ids, labels=batch["labels"])
            close(out["scores"], expected)
            close(out["loss"], F.cross_entropy(expected.flatten(0, 1), batch["labels"].flatten()))
        tuner.detach()


@torch.no_grad()
def test_what_goes_on_to_somebody_else_stays_whole():
    model, tuner = attached("t5", "front")
    batch, start = zoo.batch("t5"), torch.zeros(3, 10, dtype=torch.long)
    del batch["labels"]
    N = tuner.wrap(batch)["input_ids"].shape[1]
    assert start.shape[1] == N  # as long as the input with the prompt, and not cut
    out = model(**batch, decoder_input_ids=start)
    assert out.logits.shape[1] == N == out.encoder_last_hidden_state.shape[1]
    assert model.get_encoder()(**batch).last_hidden_state.shape[1] == N
    decoder, _ = attached("gpt2", "front")
    assert decoder(**texts("gpt2")).past_key_values.get_seq_length() == 10


@torch.no_grad()
def test_outputs_of_tiny_transformer():
    model, tuner = attached("tiny-encoder", "front", "classification")
    batch = texts("tiny-encoder", "classification")
    out, everywhere = model(**batch), model(**tuner.wrap(batch))
    assert dataclasses.is_dataclass(out)
    close(out.logits, everywhere.logits)
    close(out.states[0], everywhere.states[0, places(batch, tuner.wrap(batch), 0)])


DECODER_METHODS = ["front", "end", "template", "peft"]


@pytest.mark.parametrize("method", DECODER_METHODS)
@pytest.mark.parametrize("name", ["gpt2", "tiny-decoder"])
def test_labels_that_were_taken_out_before_the_prompt_came_are_told(name, method):
    """As transformers' Trainer takes them out, to smooth them: the answer's place is not known."""
    model, tuner = attached(name, method)
    batch = zoo.batch(name)
    bare = {key: value for key, value in batch.items() if key != "labels"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(**bare)  # not in training
        model.train()
        with torch.no_grad():
            model(**bare)
        model(**batch)
        wrapped = tuner.wrap(batch)
        labels = wrapped.pop("labels")
        logits = model(**wrapped).logits
    loss = F.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), label_smoothing=0.1
    )
    loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in tuner.parameters())
    smoother = pytest.importorskip("transformers.trainer_pt_utils").LabelSmoother(epsilon=0.1)
    close(smoother({"logits": logits}, labels, shift_labels=True), loss, dtype=torch.float32)
    with pytest.warns(UserWarning, match=r"labels out of tuner.wrap\(batch\)"):
        logits = model(**bare).logits
    assert logits.shape[1] > batch["labels"].shape[1]
    with pytest.raises(RuntimeError, match="must match the size"):
        smoother({"logits": logits}, batch["labels"], shift_labels=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(**bare)  # said once


@pytest.mark.parametrize("name, head, method", [
    ("bert", "language", "peft"), ("bert", "tagging", "peft"), ("t5", "language", "front"),
    ("gpt2", "trunk", "front"), ("llama", "trunk", "end"),
])  # fmt: skip
def test_in_training_nothing_is_said_of_labels_where_their_places_are_known(name, head, method):
    """What an encoder and an encoder-decoder answer, and states, which take no labels."""
    model = zoo.build(name, "language" if head == "trunk" else head)
    model = model.base_model if head == "trunk" else model
    mp.attach(model, METHODS[method], "a", seed=0, head=False)
    batch = zoo.batch(name)
    bare = {key: value for key, value in batch.items() if key != "labels"}
    if name == "t5":
        bare["decoder_input_ids"] = batch["labels"].clamp(min=0)
    model.train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(**bare)


def test_a_prompt_behind_an_answer_learns_nothing_from_it():
    """What the sentence above is about: without labels the words of "end" are the row's last."""
    model, tuner = attached("gpt2", "end")
    batch = zoo.batch("gpt2")
    labels = batch.pop("labels")
    model.train()
    with pytest.warns(UserWarning, match="stands behind it"):
        logits = model(**batch).logits[:, : labels.shape[1]]
    F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()).backward()
    assert all(not p.grad.any() for p in tuner.parameters())
