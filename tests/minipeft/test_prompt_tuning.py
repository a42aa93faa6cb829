"""Prompt tuning: what the model reads, how prompts start, where they stand, who votes."""

import json

import pytest
import torch
import zoo
from closeness import close

import minipeft as mp

HEADS = [(name, "language") for name in (*zoo.TINY, "gpt2", "bert", "t5", "llama")]
HEADS += [("tiny-encoder", "classification"), ("bert", "classification"), ("gpt2", "tagging")]


def test_the_model_reads_the_prompt_and_then_the_input():
    """[P_e ; X_e], by vectors: transformers' inputs_embeds is the oracle."""
    model, batch = zoo.build("gpt2"), zoo.batch("gpt2")
    tuner = mp.attach(model, mp.PromptTuning(length=4), seed=0)
    vectors = tuner.parameters()[0].detach()
    ours = model(**batch)
    tuner.detach()
    X = model.transformer.wte(batch["input_ids"])  # (B, T, C)
    both = torch.cat([vectors.expand(3, -1, -1), X], dim=1)  # (B, P + T, C)
    mask = torch.cat([torch.ones(3, 4, dtype=torch.long), batch["attention_mask"]], dim=1)
    labels = torch.cat([torch.full((3, 4), -100), batch["labels"]], dim=1)
    theirs = model(inputs_embeds=both, attention_mask=mask, labels=labels)
    close(ours.logits, theirs.logits)
    close(ours.loss, theirs.loss)


@pytest.mark.parametrize("name, head", HEADS)
def test_only_the_prompt_learns_and_nothing_is_left_behind(tmp_path, name, head):
    """Count, gradients, base bits, save and load."""
    model, batch = zoo.build(name, head), zoo.batch(name, head)
    before, base = mp.fingerprint(model), zoo.logits(model, batch)
    tuner = mp.attach(model, mp.PromptTuning(length=3, scale=0.1), head=False, seed=0)
    C = tuner.anatomy.words().width
    report = tuner.report()
    assert report.trainable == report.stored == 3 * C
    assert sum(p.numel() for p in tuner.parameters()) == 3 * C
    first = tuner.parameters()[0].detach().clone()
    mp.train(model, [batch], 2, 1e-2, warmup=0, schedule="constant", progress=False)
    moved = (tuner.parameters()[0].detach() - first).abs()
    assert bool((moved > 0).any(dim=1).all()), "every vector of the prompt got a gradient"
    trained = zoo.logits(model, batch)
    assert trained.shape[0] == base.shape[0]
    tuner.save(tmp_path)
    tuner.detach()
    assert mp.fingerprint(model) == before and torch.equal(zoo.logits(model, batch), base)
    again = mp.load(model, tmp_path)
    assert torch.equal(zoo.logits(model, batch), trained)
    assert type(again.method) is mp.PromptTuning and again.method.compatibility is None


def test_in_double_precision_the_gradient_is_the_derivative():
    model = zoo.build("tiny-decoder").double()
    tuner = mp.attach(model, mp.PromptTuning(length=2), seed=0)
    vectors = tuner.parameters()[0]
    assert vectors.dtype == torch.float64
    batch = zoo.batch("tiny-decoder", rows=2, tokens=3)

    def run(values):
        patch = tuner.patches[0][1]
        kept, patch.forward = patch.forward, lambda: values
        try:
            return model(**batch).logits.square().mean()
        finally:
            patch.forward = kept

    assert torch.autograd.gradcheck(run, (vectors,))


# ---- how it starts


def vectors_of(method, seed=0, name="tiny-decoder"):
    model = zoo.build(name)
    tuner = mp.attach(model, method, seed=seed)
    return tuner.parameters()[0].detach(), tuner.anatomy.words().module.weight.detach()


def test_random_is_uniform_within_the_scale():
    drawn, _ = vectors_of(mp.PromptTuning(length=20, scale=0.2))
    assert drawn.abs().max() <= 0.2 and drawn.abs().max() > 0.19
    assert drawn.var().item() == pytest.approx(0.4**2 / 12, rel=0.15)


def test_the_defaults():
    drawn, _ = vectors_of(mp.PromptTuning())
    assert len(drawn) == 20 and drawn.abs().max() <= 0.5
    assert torch.equal(drawn, vectors_of(mp.PromptTuning(20, "random", 0.5))[0])


def test_vocabulary_draws_from_the_common_words_none_twice():
    drawn, table = vectors_of(mp.PromptTuning(length=6, start="vocabulary", common=6))
    ids = [int((table == row).all(dim=1).nonzero()) for row in drawn]
    assert sorted(ids) == list(range(6))
    drawn, table = vectors_of(mp.PromptTuning(length=9, start="vocabulary", common=2))
    assert len(drawn) == 9


def test_text_is_repeated_or_cut():
    for ids, expected in (((7, 8, 9), [7, 8, 9, 7]), ((9, 8, 7, 6, 5), [9, 8, 7, 6])):
        drawn, table = vectors_of(mp.PromptTuning(length=4, start="text", words=ids))
        assert torch.equal(drawn, table[expected])


def test_labels_come_first_and_the_vocabulary_fills_up():
    drawn, table = vectors_of(mp.PromptTuning(length=4, start="labels", words=(30, (31, 33))))
    assert torch.equal(drawn[0], table[30])
    close(drawn[1], (table[31] + table[33]) / 2)
    assert all(bool((table == row).all(dim=1).any()) for row in drawn[2:])


def test_words_that_the_model_does_not_know_are_refused():
    model = zoo.build("tiny-decoder")
    with pytest.raises(ValueError, match="There is no word with the id 48: the model knows 48"):
        mp.attach(model, mp.PromptTuning(length=2, start="text", words=(5, 48)))
    assert not mp.tuners(model)


# ---- where it stands


def ids_of(name, head="language", **settings):
    model, batch = zoo.build(name, head), zoo.batch(name, head)
    tuner = mp.attach(model, mp.PromptTuning(length=2, **settings), seed=0)
    return batch["input_ids"][0].tolist(), tuner.wrap(batch), zoo.WORDS


@pytest.mark.parametrize("name", ["tiny-decoder", "gpt2", "tiny-encoder-decoder", "t5"])
def test_in_front_by_default(name):
    x, batch, V = ids_of(name)
    assert batch["input_ids"][0].tolist() == [V, V + 1, *x]


@pytest.mark.parametrize("name", ["tiny-encoder", "bert", "roberta", "distilbert", "electra"])
def test_behind_cls_by_default_in_encoders(name):
    x, batch, V = ids_of(name, "classification")
    assert batch["input_ids"][0].tolist() == [x[0], V, V + 1, *x[1:]]


def test_behind_bos_and_at_the_end():
    x, batch, V = ids_of("tiny-decoder", position="after-bos")
    assert batch["input_ids"][0].tolist() == [x[0], V, V + 1, *x[1:]]
    x, batch, V = ids_of("tiny-encoder-decoder", position="end")
    assert batch["input_ids"][0].tolist() == [*x, V, V + 1]
    assert batch["input_ids"][2].tolist()[-4:] == [V, V + 1, 0, 0], "padding stays behind"


def test_at_the_end_of_a_decoder_is_before_the_answer():
    """The place is the same in training, with the answer, and in generation, without."""
    model, batch = zoo.build("tiny-decoder"), zoo.batch("tiny-decoder", rows=1)
    tuner = mp.attach(model, mp.PromptTuning(length=2, position="end"), seed=0)
    V, x = zoo.WORDS, batch["input_ids"][0].tolist()
    batch["labels"][:, :5] = -100
    assert tuner.wrap(batch)["input_ids"][0].tolist() == [*x[:5], V, V + 1, *x[5:]]
    question = {"input_ids": batch["input_ids"][:, :5]}
    assert tuner.wrap(question)["input_ids"][0].tolist() == [*x[:5], V, V + 1]
    first = mp.generate(model, question["input_ids"], max_new_tokens=1)[0, -1]
    assert first == zoo.logits(model, tuner.wrap(batch))[0, 6].argmax()


def test_before_cls_only_when_asked_and_then_the_report_says_so():
    model = zoo.build("bert", "classification")
    tuner = mp.attach(model, mp.PromptTuning(length=2, position="start"), seed=0)
    assert "before [CLS]" in str(tuner.report())
    tuner.detach()
    tuner = mp.attach(model, mp.PromptTuning(length=2), seed=0)
    assert "before [CLS]" not in str(tuner.report())


@pytest.mark.parametrize("name", ["gpt2", "tiny-decoder", "t5", "llama"])
def test_a_prompt_does_not_change_what_is_written_with_or_without_a_cache(name):
    model, batch = zoo.build(name), zoo.batch(name, rows=2, tokens=5)
    batch["attention_mask"] = batch["attention_mask"].flip(1)  # padding on the left
    mp.attach(model, mp.PromptTuning(length=3), seed=0)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    with_cache = mp.generate(model, ids, mask, max_new_tokens=5)
    assert torch.equal(with_cache, mp.generate(model, ids, mask, max_new_tokens=5, use_cache=False))
    if name not in zoo.SEQ2SEQ:
        assert torch.equal(with_cache[:, :5], ids), "soft words are not given back"
        alone = mp.generate(model, ids[1:, 2:], max_new_tokens=5)[0, 3:]
        together = with_cache[1, 5:]
        assert torch.equal(together[: len(alone)], alone), "padding on the left changes nothing"


@pytest.mark.parametrize("name", ["tiny-decoder", "tiny-encoder-decoder"])
def test_a_task_reads_what_was_written_and_no_less(name):
    import tiny_transformer as tt

    words = [f"w{i}" for i in range(zoo.WORDS - 14)]
    tokenizer = tt.WordTokenizer(words, ends=name != "tiny-decoder")
    task = mp.tasks.make("mine", "cloze", train=[("w1 w2", "w3"), ("w4", "w5")])
    model = zoo.build(name)
    mp.attach(model, mp.PromptTuning(length=3), seed=0)
    said = task.predict(model, tokenizer, ["w1 w2"])
    ids = torch.tensor([tokenizer("w1 w2", return_tensors=None)["input_ids"]])
    new = mp.generate(model, ids, max_new_tokens=1)[0, -1:]
    assert said == [tokenizer.decode(new.tolist(), skip_special_tokens=True)]


# ---- ensembles


def test_each_member_sees_its_own_rows():
    model, batch = zoo.build("tiny-decoder"), zoo.batch("tiny-decoder", rows=5)
    tuner = mp.attach(model, mp.PromptTuning(length=2, ensemble=3), seed=0)
    V, front = zoo.WORDS, tuner.wrap(batch)["input_ids"][:, :2]
    assert front.tolist() == [[V + 2 * m, V + 2 * m + 1] for m in (0, 1, 2, 0, 1)]
    assert tuner.report().trainable == 3 * 2 * 16
    model(**{k: v[:2] for k, v in batch.items()}).loss.backward()
    gradient = tuner.parameters()[0].grad.view(3, 2, 16)
    assert gradient[:2].abs().amax(dim=(1, 2)).min() > 0 and gradient[2].abs().max() == 0


def test_a_vote_is_that_of_prompts_that_run_alone(tmp_path):
    model = zoo.build("tiny-encoder", "classification")
    batch = zoo.batch("tiny-encoder", "classification", rows=6)
    tuner = mp.attach(model, mp.PromptTuning(length=3, ensemble=5), head=False, seed=0)
    zoo.shake(tuner, 3.0)
    prompts = tuner.parameters()[0].detach().view(5, 3, 16)
    tuner.save(tmp_path)
    voted = mp.vote(model, batch)
    tuner.detach()
    alone = mp.attach(model, mp.PromptTuning(length=3), head=False)
    votes = torch.zeros(6, zoo.LABELS)
    for prompt in prompts:
        with torch.no_grad():
            alone.parameters()[0].copy_(prompt)
        shares = zoo.logits(model, batch).softmax(-1)
        votes[torch.arange(6), shares.argmax(-1)] += 1
        votes += shares / 10
    assert torch.equal(voted, votes.argmax(-1))
    alone.detach()
    mp.load(model, tmp_path)
    assert torch.equal(mp.vote(model, batch), voted)


def test_most_votes_win_and_probabilities_decide_a_draw():
    from minipeft.tasks.voting import majority

    one, two = [4.0, 0.0, 0.0], [0.0, 1.0, 0.9]
    assert majority(torch.tensor([[one, two, two]])).tolist() == [1]
    assert majority(torch.tensor([[one, two]])).tolist() == [0]


def test_a_written_vote_is_the_commonest_text():
    model = zoo.build("tiny-decoder")
    ids = zoo.batch("tiny-decoder", rows=2, tokens=4)["input_ids"]
    tuner = mp.attach(model, mp.PromptTuning(length=2, ensemble=3), seed=0)
    with torch.no_grad():
        vectors = tuner.parameters()[0].view(3, 2, 16)
        vectors.mul_(10)
        vectors[2] = vectors[1]  # two members agree whatever they write
    written = mp.vote_written(model, ids, max_new_tokens=4)
    second = mp.generate(model, ids.repeat_interleave(3, dim=0), max_new_tokens=4)[1::3]
    assert torch.equal(written, second)


def test_a_vote_needs_one_ensemble():
    model = zoo.build("tiny-encoder", "classification")
    with pytest.raises(ValueError, match="A vote needs exactly one enabled PromptTuning"):
        mp.vote(model, zoo.batch("tiny-encoder", "classification"))


# ---- settings


@pytest.mark.parametrize(
    "settings, sentence",
    [
        (dict(length=0), "length must be a whole number from 1, not 0"),
        (dict(length=True), "length must be a whole number"),
        (dict(length=2.0), "length must be a whole number"),
        (dict(ensemble=0), "ensemble must be a whole number from 1"),
        (dict(common="5000"), "common must be a whole number"),
        (dict(scale=0), "scale must be a number above 0"),
        (dict(scale=float("nan")), "scale must be a number above 0"),
        (dict(start="zeros"), "start must be one of 'random', 'vocabulary', 'text', 'labels'"),
        (dict(position="middle"), "position must be one of 'start', 'after-bos', 'end'"),
        (dict(compatibility="hf"), "compatibility must be one of 'peft'"),
        (dict(compatibility="peft", ensemble=2), "knows one prompt, at the start"),
        (dict(compatibility="peft", position="end"), "knows one prompt, at the start"),
        (dict(start="text"), r"needs words=\(ids\)"),
        (dict(words=(3,)), r"needs words=\(ids\)"),
        (dict(start="text", words=("a",)), "words must be ids of tokens"),
        (dict(start="text", words=(True,)), "words must be ids of tokens"),
        (dict(start="labels", words=(1, 2, 3), length=2), "3 labels do not fit into a prompt of 2"),
    ],
)
def test_impossible_settings_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        mp.PromptTuning(**settings)


def test_settings_survive_json():
    method = mp.PromptTuning(length=3, start="labels", words=(4, (5, 6)))
    settings = json.loads(json.dumps(method.settings()))
    assert mp.PromptTuning.from_settings(settings, None) == method
