"""P-tuning: the prompt encoder, templates, what is stored, who is frozen."""

import json

import pytest
import torch
import zoo
from closeness import close
from hypothesis import given, settings
from hypothesis import strategies as st

import minipeft as mp
import tiny_transformer as tt
from minipeft.methods.p_tuning import PromptEncoder
from minipeft.methods.parts.templates import Template

V = zoo.WORDS
COUNTS = {
    "lstm": lambda n, C: 14 * C * C + 18 * C + n * C,
    "mlp": lambda n, C: 2 * C * C + 2 * C + n * C,
    None: lambda n, C: n * C,
}


# ---- the prompt encoder


def test_the_encoder_is_the_official_one():
    """Shapes of THUDM's LAMA code: LSTM(C, C/2, 2 layers, both ways), Linear, ReLU, Linear."""
    shapes = {k: tuple(t.shape) for k, t in PromptEncoder(3, 8).named_parameters()}
    C, S = 8, 4
    expected = {"vectors": (3, C)}
    for layer, into in ((0, C), (1, 2 * S)):
        for end in ("", "_reverse"):
            expected[f"lstm.weight_ih_l{layer}{end}"] = (4 * S, into)
            expected[f"lstm.weight_hh_l{layer}{end}"] = (4 * S, S)
            expected[f"lstm.bias_ih_l{layer}{end}"] = (4 * S,)
            expected[f"lstm.bias_hh_l{layer}{end}"] = (4 * S,)
    for number in (0, 2):
        expected |= {f"mlp.{number}.weight": (C, C), f"mlp.{number}.bias": (C,)}
    assert shapes == expected


def lstm(x, w):
    """One direction of an LSTM, Hochreiter & Schmidhuber's gates: x (n, in) -> (n, S)."""
    S = w["hh"].shape[1]
    h, c, out = torch.zeros(S).to(x), torch.zeros(S).to(x), []
    for row in x:
        gates = w["ih"] @ row + w["bi"] + w["hh"] @ h + w["bh"]
        i, f, g, o = gates.view(4, S)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        out.append(h)
    return torch.stack(out)


@settings(max_examples=10)
@given(n=st.integers(1, 4), width=st.integers(2, 6), hidden=st.sampled_from([None, 1, 3]))
def test_the_equation_with_plain_tensors(n, width, hidden):
    torch.manual_seed(0)
    encoder = PromptEncoder(n, width, "lstm", hidden).double()
    p = dict(encoder.named_parameters())
    y = p["vectors"]
    for layer in range(2):
        both = []
        for end in ("", "_reverse"):
            names = dict(ih="weight_ih", hh="weight_hh", bi="bias_ih", bh="bias_hh")
            w = {k: p[f"lstm.{name}_l{layer}{end}"] for k, name in names.items()}
            both.append(lstm(y.flip(0), w).flip(0) if end else lstm(y, w))
        y = torch.cat(both, dim=1)  # (n, 2 S)
    y = (y @ p["mlp.0.weight"].T + p["mlp.0.bias"]).relu() @ p["mlp.2.weight"].T + p["mlp.2.bias"]
    close(encoder(), y)


@pytest.mark.parametrize("kind", ["lstm", "mlp"])
def test_gradients_in_double_precision(kind):
    torch.manual_seed(1)
    encoder = PromptEncoder(2, 4, kind).double()
    names = [name for name, _ in encoder.named_parameters()]

    def run(*values):
        return torch.func.functional_call(encoder, dict(zip(names, values, strict=True)), ())

    assert torch.autograd.gradcheck(run, tuple(encoder.parameters()))


@pytest.mark.parametrize("kind", COUNTS)
def test_counts_gradients_and_what_is_stored(tmp_path, kind):
    model, batch = zoo.build("tiny-decoder"), zoo.batch("tiny-decoder")
    before, base = mp.fingerprint(model), zoo.logits(model, batch)
    tuner = mp.attach(model, mp.PTuning(length=3, encoder=kind), seed=0)
    report = tuner.report()
    assert report.trainable == COUNTS[kind](3, 16) == sum(p.numel() for p in tuner.parameters())
    assert report.stored == 3 * 16, "the encoder is folded away"
    first = [p.detach().clone() for p in tuner.parameters()]
    mp.train(model, [batch], 2, 1e-2, warmup=0, schedule="constant", progress=False)
    for old, new in zip(first, tuner.parameters(), strict=True):
        assert not torch.equal(old, new)
    trained = zoo.logits(model, batch)
    tuner.save(tmp_path)
    tuner.detach()
    assert mp.fingerprint(model) == before and torch.equal(zoo.logits(model, batch), base)
    again = mp.load(model, tmp_path)
    close(zoo.logits(model, batch), trained)
    assert again.method == mp.PTuning(length=3, encoder=None)
    mp.train(model, [batch], 1, 1e-2, warmup=0, progress=False)  # goes on without the encoder


@pytest.mark.parametrize("kind", ["lstm", "mlp"])
def test_a_kept_encoder_goes_on_as_if_it_had_never_stopped(tmp_path, kind):
    batch = zoo.batch("tiny-encoder-decoder")
    method = mp.PTuning(template=("P", "{x}", "P"), encoder=kind, keep_encoder=True)
    options = dict(warmup=0, schedule="constant", progress=False)
    results = []
    for stops in (False, True):
        model = zoo.build("tiny-encoder-decoder")
        tuner = mp.attach(model, method, seed=0)
        mp.train(model, [batch], 2, 1e-2, **options)
        if stops:
            tuner.save(tmp_path)
            tuner.detach()
            tuner = mp.load(model, tmp_path)
            assert tuner.method == method
        mp.train(model, [batch], 2, 1e-2, **options)
        results.append([p.detach() for p in tuner.parameters()])
    for whole, stopped in zip(*results, strict=True):
        assert torch.equal(whole, stopped)


# ---- templates


def filled(name, template, batch, mask=None, frame=None):
    model = zoo.build(name)
    method = mp.PTuning(template=template, mask=mask, frame=frame, encoder=None)
    tuner = mp.attach(model, method, seed=0)
    return tuner.wrap(batch)


def test_a_decoder_writes_at_the_mask_with_and_without_the_answer():
    ids = torch.tensor([[1, 10, 11, 20], [1, 12, 21, 22]])
    labels = torch.tensor([[-100, -100, -100, 20], [-100, -100, 21, 22]])
    template = ("P", "P", "{x}", 7, "P", "{mask}")
    batch = {"input_ids": ids, "labels": labels}
    out = filled("tiny-decoder", template, batch, frame=(1, None))
    first, second = out["input_ids"].tolist()
    assert first == [1, V, V + 1, 10, 11, 7, V + 2, 20]
    assert second == [1, V, V + 1, 12, 7, V + 2, 21, 22]
    assert out["labels"].tolist() == [[-100] * 7 + [20], [-100] * 6 + [21, 22]]
    out = filled("tiny-decoder", template, {"input_ids": ids[:, :3]}, frame=(1, None))
    assert out["input_ids"].tolist()[0] == [1, V, V + 1, 10, 11, 7, V + 2]


@pytest.mark.parametrize("name", ["tiny-decoder", "gpt2", "llama"])
@pytest.mark.parametrize("head", ["classification", "tagging"])
def test_labels_of_another_head_are_no_answer(name, head):
    """The prompt stands at the same places with labels and without."""
    model, batch = zoo.build(name, head), zoo.batch(name, head)
    for method in (mp.PTuning(template=("{x}", "P")), mp.PromptTuning(length=1, position="end")):
        tuner = mp.attach(model, method, seed=0)
        with_labels = tuner.wrap(batch)["input_ids"]
        del batch["labels"]
        assert torch.equal(tuner.wrap(batch)["input_ids"], with_labels)
        assert with_labels[0, -1] == V and with_labels[2, -3] == V
        batch = zoo.batch(name, head)
        tuner.detach()


def test_an_encoder_fills_in_the_mask_and_keeps_its_frame():
    """The mask of the batch moves to its place in the template, and its label with it."""
    ids = torch.tensor([[1, 10, 4, 2, 0], [1, 10, 11, 12, 2]])
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    labels = torch.where(ids == 4, 30, -100)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    out = filled("tiny-encoder", ("P", "{mask}", 7, "{x}"), batch, mask=4, frame=(1, 2))
    assert out["input_ids"].tolist() == [[1, V, 4, 7, 10, 2, 0, 0], [1, V, 4, 7, 10, 11, 12, 2]]
    assert out["labels"].tolist()[0] == [-100, -100, 30, *[-100] * 5]
    assert out["labels"].tolist()[1] == [-100] * 8, "nobody knows the answer of the second row"
    out = filled("tiny-encoder", ("P", "{x}", "{mask}"), batch, mask=4)  # no frame: [CLS] is first
    assert out["input_ids"].tolist()[0] == [1, V, 10, 2, 4, 0, 0]


def test_an_encoder_decoder_has_its_mask_in_the_input():
    batch = zoo.batch("tiny-encoder-decoder", rows=1, tokens=3)
    out = filled("tiny-encoder-decoder", ("P", "{x}", "{mask}", 9), batch, mask=4)
    assert out["input_ids"].tolist() == [[V, *batch["input_ids"][0].tolist(), 4, 9]]
    assert torch.equal(out["labels"], batch["labels"]), "labels are the decoder's"


def test_a_template_in_writing():
    tokenizer = tt.WordTokenizer(["is", ".", "in", "italy"])
    method = mp.PTuning.from_template("[P][P] {x} is [P] {mask} .", tokenizer)
    one = lambda word: tokenizer.encode(word, add_special_tokens=False)[0]  # noqa: E731
    assert method.template == ("P", "P", "{x}", one("is"), "P", "{mask}", one("."))
    assert method.mask == tokenizer.mask_token_id
    assert method.frame[0] == tokenizer.bos_token_id
    saved = json.loads(json.dumps(method.settings()))
    assert mp.PTuning.from_settings(saved, None) == method


@pytest.mark.parametrize("name", ["tiny-decoder", "tiny-encoder", "tiny-encoder-decoder", "gpt2"])
@pytest.mark.parametrize("left", [False, True])
def test_padding_on_either_side_is_the_same(name, left):
    model, batch = zoo.build(name), zoo.batch(name)
    template = ("P", "{x}", 9, "P", "P")
    mp.attach(model, mp.PTuning(template=template), seed=0)
    question = {"input_ids": batch["input_ids"][2:, :5]}  # the row that has padding, without it
    answers = {} if name != "tiny-encoder-decoder" else {"labels": batch["labels"]}
    alone = zoo.logits(model, question | {k: v[2:] for k, v in answers.items()})[0]
    rows = {k: batch[k].clone() for k in ("input_ids", "attention_mask")}
    if left:
        for value in rows.values():
            value[2] = value[2].roll(2)
    got = zoo.logits(model, rows | answers)[2]
    if name != "tiny-encoder-decoder":
        got = got[2:] if left else got[:-2]
    close(got, alone)


@pytest.mark.parametrize("name", ["tiny-decoder", "t5"])
def test_generation_with_and_without_cache(name):
    model, ids = zoo.build(name), zoo.batch(name, rows=2)["input_ids"][:, :5]
    mp.attach(model, mp.PTuning(template=("P", "{x}", 9, "P", "{mask}"), mask=4), seed=0)
    with_cache = mp.generate(model, ids, max_new_tokens=4)
    assert torch.equal(with_cache, mp.generate(model, ids, max_new_tokens=4, use_cache=False))


# ---- answers at the mask


@pytest.mark.parametrize("name", [*zoo.TINY, "gpt2", "bert", "t5"])
def test_cloze_reads_the_answer_where_it_belongs(name):
    model, batch = zoo.build(name), zoo.batch(name)
    del batch["labels"]
    tail = () if name in ("tiny-decoder", "gpt2") else (9,)
    method = mp.PTuning(template=("P", "{x}", "P", "{mask}", *tail), mask=4)
    tuner = mp.attach(model, method, seed=0)
    scores = mp.cloze(model, batch, [20, (21, 22)])
    wrapped = tuner.wrap(batch)
    if name in zoo.SEQ2SEQ:
        start = 2 if name == "tiny-encoder-decoder" else 0
        start = getattr(model, "start_token_id", start)
        wrapped["decoder_input_ids"] = torch.full((3, 1), start)
    spoken = zoo.logits(model, wrapped).log_softmax(-1)
    ids = wrapped["input_ids"]
    for b in range(3):
        if name in zoo.SEQ2SEQ:
            at = 0
        elif tail:
            at = ids[b].tolist().index(4)
        else:
            at = int(wrapped["attention_mask"][b].sum()) - 1
        one, two = spoken[b, at, 20], spoken[b, at, [21, 22]].mean()
        close(scores[b], torch.stack([one, two]))


def test_cloze_learns_which_label_word_belongs():
    """Three inputs, two label words, an encoder that is tuned with its prompt."""
    model = zoo.build("tiny-encoder")
    ids = torch.tensor([[3, 10, 4], [3, 11, 4], [3, 12, 4]])
    said = torch.tensor([20, 21, 20])
    batch = {"input_ids": ids, "labels": torch.where(ids == 4, said[:, None], -100)}
    template = ("P", "P", "{x}", "P", "{mask}")
    mp.attach(model, mp.PTuning(template=template, mask=4, tune_model=True), seed=0)
    mp.train(model, [batch], 40, 1e-2, progress=False)
    chosen = mp.cloze(model, {"input_ids": ids}, [20, 21]).argmax(-1)
    assert chosen.tolist() == [0, 1, 0]


def test_cloze_says_what_is_missing():
    model, batch = zoo.build("tiny-encoder"), zoo.batch("tiny-encoder")
    with pytest.raises(ValueError, match=r"Every row needs one mask token \(id 4\)"):
        mp.cloze(model, {"input_ids": batch["input_ids"].masked_fill(batch["input_ids"] == 4, 5)},
                 [5, 6], mask=4)  # fmt: skip
    with pytest.raises(ValueError, match="words must be ids below 48"):
        mp.cloze(zoo.build("tiny-decoder"), {"input_ids": batch["input_ids"]}, [5, 48])


# ---- the model frozen, or tuned with it


def test_the_model_is_tuned_with_the_prompt_when_asked(tmp_path):
    model, batch = zoo.build("tiny-decoder"), zoo.batch("tiny-decoder")
    before, base = mp.fingerprint(model), zoo.logits(model, batch)
    total = sum(p.numel() for p in model.parameters())
    method = mp.PTuning(template=("P", "{x}", "P", "{mask}"), tune_model=True)
    tuner = mp.attach(model, method, seed=0)
    assert tuner.report().trainable == total + COUNTS["lstm"](2, 16)
    assert tuner.report().stored == total + 2 * 16
    mp.train(model, [batch], 2, 1e-2, progress=False)
    trained = zoo.logits(model, batch)
    tuner.save(tmp_path)
    tuner.detach()
    assert mp.fingerprint(model) == before and torch.equal(zoo.logits(model, batch), base)
    mp.load(model, tmp_path)
    close(zoo.logits(model, batch), trained)


# ---- settings


@pytest.mark.parametrize(
    "settings, sentence",
    [
        (dict(), "needs either a length or a template"),
        (dict(length=3, template=("P", "{x}")), "needs either a length or a template"),
        (dict(length=0), "length must be a whole number from 1"),
        (dict(length=True), "length must be a whole number"),
        (dict(length=3, hidden=0.5), "hidden must be a whole number"),
        (dict(length=3, encoder="gru"), "encoder must be one of 'lstm', 'mlp'"),
        (dict(length=3, keep_encoder=1), "keep_encoder must be True or False"),
        (dict(length=3, tune_model="yes"), "tune_model must be True or False"),
        (dict(length=3, compatibility="hf"), "compatibility must be one of 'peft'"),
        (dict(template=("P", "{x}"), compatibility="peft"), "knows no template"),
        (dict(template="P {x}"), "A template is made of"),
        (dict(template=("P", "{x}", -1)), "A template is made of .* not -1"),
        (dict(template=("P", "{x}", True)), "A template is made of .* not True"),
        (dict(template=("P", "x")), "A template is made of .* not 'x'"),
        (dict(template=("P",)), "A template has one {x}"),
        (dict(template=("P", "{x}", "{mask}", "{mask}")), "at most one {mask}"),
        (dict(template=("{x}", 7)), "at least one pseudo token"),
        (dict(template=("P", "{x}"), frame=(1,)), "A frame is two ids"),
        (dict(template=("P", "{x}"), frame=(1, "2")), "A frame is two ids"),
        (dict(template=("P", "{x}"), mask="4"), "The mask is the id of a token"),
    ],
)
def test_impossible_settings_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        mp.PTuning(**settings)


@pytest.mark.parametrize(
    "name, template, mask, sentence",
    [
        ("tiny-decoder", ("P", "{mask}", "{x}"), None, "A decoder writes its answer at {mask}"),
        ("tiny-encoder", ("P", "{x}", "{mask}"), None, "needs a mask token at {mask}"),
        ("tiny-encoder", ("P", "{x}", 48), None, "has the id 48, but the model knows 48 words"),
        ("tiny-encoder", ("P", "{x}", "{mask}"), 99, "has the id 99"),
    ],
)
def test_a_template_that_does_not_fit_is_refused(name, template, mask, sentence):
    model = zoo.build(name)
    with pytest.raises(ValueError, match=sentence):
        mp.attach(model, mp.PTuning(template=template, mask=mask))
    assert not mp.tuners(model)
    assert Template(template, mask).pieces == template
