"""Prefix-tuning and P-tuning v2: equations, counts, starts, infix, files."""

import math

import pytest
import torch
import zoo
from closeness import EXACT, close
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import minipeft as mp
from minipeft.doors.memory import PositionDoor, reading_memory
from minipeft.methods.parts.prefix_options import set_rows
from minipeft.methods.prefix import PrefixEncoder, PrefixPatch
from minipeft.tasks.cloze import cloze
from tiny_transformer.attention import Attention

size = st.integers(1, 6)


@settings(max_examples=30)
@given(P=size, L=size, H=size, D=size, C=size, k=st.none() | size, data=st.data())
def test_the_rows_and_their_shares_for_any_shape(P, L, H, D, C, k, data):
    """rows = W_up tanh(W_down P' + b_down) + b_up; number [t, ((2 layer + kv) H + h) D + d]."""
    torch.manual_seed(0)
    rows = PrefixEncoder(P, 2 * L * H * D, C, k, std=1.0)
    if k is None:
        whole, count = rows.table, 2 * P * L * H * D
    else:
        middle = torch.tanh(rows.embedding @ rows.down.weight.T + rows.down.bias)
        whole = middle @ rows.up.weight.T + rows.up.bias
        count = P * C + k * C + k + 2 * (k + 1) * L * H * D
    assert sum(p.numel() for p in rows.parameters()) == count
    close(rows(), whole)
    layer = data.draw(st.integers(0, L - 1))
    keys, values = PrefixPatch(rows, layer, (H, D))(torch.zeros(2, 3, 7))
    assert keys.shape == values.shape == (1, H, P, D)
    cube = whole.view(P, L, 2, H, D)
    close(keys[0], cube[:, layer, 0].transpose(0, 1))
    close(values[0], cube[:, layer, 1].transpose(0, 1))


@pytest.mark.parametrize("hidden", [None, 3])
def test_gradients_in_double_precision(hidden):
    torch.manual_seed(0)
    patch = PrefixPatch(PrefixEncoder(2, 2 * 2 * 2 * 3, 4, hidden, 1.0), 1, (2, 3)).double()
    names = [name for name, _ in patch.named_parameters()]

    def run(*values):
        return torch.func.functional_call(patch, dict(zip(names, values, strict=True)), (None,))

    assert torch.autograd.gradcheck(run, tuple(patch.parameters()))


def test_dropout_falls_on_keys_and_values():
    patch = PrefixPatch(PrefixEncoder(50, 2 * 10 * 10, 4, None, 0.0), 0, (10, 10), dropout=0.25)
    with torch.no_grad():
        patch.encoder.table.fill_(3.0)
    keys, values = patch(None)
    seen = torch.cat([keys, values]).flatten()
    assert set(seen.unique().tolist()) == {0.0, 4.0}
    assert (seen == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert (patch.eval()(None)[0] == 3).all()


# ---- He's identity


def gated_sum(query, key, value, memory, allowed, scale, bias=0.0):
    """(1 - lambda) Attn(x) + lambda softmax(Q P_k^T) P_v, equation 5: (B, H, T, D)."""
    prefix_keys, prefix_values = memory
    group = query.shape[1] // key.shape[1]
    key, value, prefix_keys, prefix_values = (
        part.repeat_interleave(group, dim=1) for part in (key, value, prefix_keys, prefix_values)
    )
    scores = query @ key.transpose(2, 3) * scale + bias  # (B, H, T, S)
    scores = scores.masked_fill(~allowed, -torch.inf)
    prefix_scores = query @ prefix_keys.transpose(2, 3) * scale  # (B, H, T, P)
    words, prefix = scores.exp().sum(-1, keepdim=True), prefix_scores.exp().sum(-1, keepdim=True)
    gate = prefix / (prefix + words)
    return (1 - gate) * scores.softmax(-1) @ value + gate * (
        prefix_scores.softmax(-1) @ prefix_values
    )


@pytest.mark.parametrize("name", ["gpt2", "bert", "t5", "bart", "llama", "gpt_neox"])
def test_he_identity_in_transformers(name):
    """Every attention layer of the running model, in double precision, to 1e-6."""
    from transformers import AttentionInterface

    model = zoo.build(name).double()
    mp.attach(model, mp.Prefix(length=3, hidden=4, std=1.0), seed=0)
    ours, checked = reading_memory("sdpa"), []

    def check(module, query, key, value, mask, **kwargs):
        out, _ = ours(module, query, key, value, mask, **kwargs)
        T, S = query.shape[2], key.shape[2]
        causal = kwargs.get("is_causal")
        causal = module.is_causal if causal is None else causal
        allowed = torch.ones(T, S, dtype=torch.bool)
        allowed = mask if mask is not None else allowed.tril() if causal else allowed
        scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
        bias = kwargs.get("position_bias")
        bias = 0.0 if bias is None else bias
        memory = [part.to(query) for part in module.memory[:2]]
        expected = gated_sum(query, key, value, memory, allowed, scale, bias)
        real = torch.broadcast_to(allowed, (len(query), 1, T, S)).any(-1)[:, 0]  # (B, T)
        difference = (out - expected.transpose(1, 2))[real]
        assert difference.abs().max() < EXACT
        checked.append(type(module).__name__)
        return out, None

    try:
        AttentionInterface.register("minipeft_sdpa", check)
        model(**zoo.batch(name))
    finally:
        AttentionInterface.register("minipeft_sdpa", ours)
    assert len(checked) == (6 if name in zoo.SEQ2SEQ else 2)


def test_he_identity_in_tiny_transformer():
    torch.manual_seed(0)
    layer, x = Attention(16, 4).double(), torch.randn(2, 5, 16).double()
    layer.output = nn.Identity()
    layer.memory = PrefixPatch(PrefixEncoder(3, 2 * 16, 8, 4, 1.0), 0, (4, 4)).double()(x)
    query, key, value = (layer.split(part(x)) for part in (layer.query, layer.key, layer.value))
    past = torch.ones(5, 5, dtype=torch.bool).tril()
    expected = gated_sum(query, key, value, layer.memory, past, 4**-0.5)
    close(layer(x, causal=True), layer.join(expected))


# ---- in a model

MODELS = ("tiny-decoder", "tiny-encoder", "tiny-encoder-decoder", "gpt2", "bert", "t5", "llama")
METHODS = {
    "flat": mp.Prefix(length=3, hidden=None),
    "mlp": mp.Prefix(length=3, hidden=5, dropout=0.1),
    "kept": mp.Prefix(length=3, hidden=5, keep_mlp=True, layers=(1,)),
    "words": mp.Prefix(length=3, hidden=5, embedding_only=True),
    "v2": mp.PTuningV2(length=3),
    "v2 mlp": mp.PTuningV2(length=3, reparameterize="mlp", hidden=5, layers=(0,)),
}


def count(name: str, method) -> tuple[int, int]:
    """(trainable, stored) by the formulas: C = 16, H D = 16 (llama 8), 2 layers."""
    P, C, HD = method.length, 16, 8 if name == "llama" else 16
    k = method.hidden if getattr(method, "reparameterize", "mlp") == "mlp" else None
    if getattr(method, "embedding_only", False):
        return P * C + k * C + k + (k + 1) * C, P * C
    L = len(method.layers or (0, 1))
    kinds = 3 if name in zoo.SEQ2SEQ else 1
    flat = 2 * P * L * HD
    mlp = flat if k is None else P * C + k * C + k + 2 * (k + 1) * L * HD
    return kinds * mlp, kinds * (flat + (mlp if method.keep_mlp else 0))


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("name", MODELS)
def test_counts_gradients_files(tmp_path, name, method):
    model, batch = zoo.build(name), zoo.batch(name)
    before, base = mp.fingerprint(model), zoo.logits(model, batch)
    tuner = mp.attach(model, method, seed=0)
    report = tuner.report()
    trainable, stored = count(name, method)
    assert report.trainable == sum(p.numel() for p in tuner.parameters()) == trainable
    assert report.stored == stored
    model(**batch).loss.backward()
    assert all(p.grad.abs().max() > 0 for p in tuner.parameters())
    assert all(p.grad is None for p in tuner.anatomy.parameters())
    zoo.shake(tuner)
    changed = zoo.logits(model, batch)
    tuner.save(tmp_path)
    tuner.detach()
    assert mp.fingerprint(model) == before and torch.equal(zoo.logits(model, batch), base)
    tuner = mp.load(model, tmp_path)
    close(zoo.logits(model, batch), changed)
    kept = method.keep_mlp and method.hidden is not None
    assert tuner.report().trainable == (trainable if kept else stored)
    tuner.save(tmp_path / "again")
    tuner.detach()
    mp.load(model, tmp_path / "again")
    close(zoo.logits(model, batch), changed)


@pytest.mark.parametrize("name", ["tiny-encoder-decoder", "t5", "bart"])
def test_encoder_decoder_and_cross_attention_have_prefixes_of_their_own(name):
    model, batch = zoo.build(name), zoo.batch(name)
    whole = mp.attach(model, mp.Prefix(length=2, hidden=None, std=1.0), seed=0)
    targets = [(place.target, place.stack) for place, _ in whole.patches]
    assert len(targets) == 6 and len(set(targets)) == 3
    assert len({id(patch.encoder) for _, patch in whole.patches}) == 3
    whole.detach()
    changed = {}
    for kind in ("encoder", "decoder", "cross"):
        tuner = mp.attach(model, mp.Prefix(length=2, hidden=None, std=1.0, where=kind), seed=0)
        assert tuner.report().trainable == 2 * 2 * 2 * 16
        assert {kind == "cross"} == {place.target == "cross memory" for place, _ in tuner.patches}
        changed[kind] = zoo.logits(model, batch)
        tuner.detach()
    base = zoo.logits(model, batch)
    assert all((logits - base).abs().max() > 1e-5 for logits in changed.values())
    with pytest.raises(ValueError, match="This model has no cross attention, only decoder"):
        mp.attach(zoo.build("tiny-decoder"), mp.Prefix(where=("cross",)))


# ---- the start


@pytest.mark.parametrize("hidden", [None, 6])
@pytest.mark.parametrize("name", ["tiny-decoder", "gpt2", "llama"])
def test_starting_from_a_text_is_having_read_it(name, hidden):
    """With learned positions the words would move, so the check is for the cache itself."""
    text = (7, 9, 11)
    model, batch = zoo.build(name), zoo.batch(name)
    tuner = mp.attach(
        model, mp.Prefix(length=3, hidden=hidden, start=text, compatibility="peft"), seed=0
    )
    logits = zoo.logits(model, batch)
    tuner.detach()
    ids = torch.cat([torch.tensor([text]).expand(3, -1), batch["input_ids"]], dim=1)
    mask = torch.cat([torch.ones(3, 3, dtype=torch.long), batch["attention_mask"]], dim=1)
    read = zoo.logits(model, {"input_ids": ids, "attention_mask": mask})[:, 3:]
    close(logits, read)


def test_short_texts_are_repeated_and_words_are_drawn():
    model, batch = zoo.build("gpt2"), zoo.batch("gpt2")
    outs = []
    for start in ((7, 9), (7, 9, 7, 9, 7)):
        tuner = mp.attach(model, mp.Prefix(length=5, hidden=None, start=start))
        outs.append(zoo.logits(model, batch))
        tuner.detach()
    assert torch.equal(*outs)
    for seed in (0, 0, 1):
        tuner = mp.attach(model, mp.Prefix(length=5, hidden=None, start="words"), seed=seed)
        outs.append(tuner.patches[0][1].encoder.table.detach().clone())
        tuner.detach()
    assert torch.equal(outs[2], outs[3]) and not torch.equal(outs[3], outs[4])
    with pytest.raises(ValueError, match="start has the id 48, but there are 48"):
        mp.attach(model, mp.Prefix(length=5, start=(48,)))


def test_too_few_hidden_features_come_as_near_as_they_can():
    """Two hidden features and a bias span three dimensions: P = 6 rows are fitted, not met."""
    torch.manual_seed(0)
    rows, target = PrefixEncoder(6, 8, 4, 2, 0.02).double(), torch.randn(6, 8).double()
    set_rows(rows, target)
    middle = F.pad(torch.tanh(rows.down(rows.embedding)), (0, 1), value=1.0).detach().double()
    best = middle @ torch.linalg.lstsq(middle, target.double()).solution
    close(rows().double(), best)


@pytest.mark.parametrize("hidden", [None, 4])
def test_embedding_only_is_a_soft_prompt(hidden):
    model, batch = zoo.build("gpt2"), zoo.batch("gpt2")
    method = mp.Prefix(length=2, hidden=hidden, embedding_only=True, start=(7, 9))
    mp.attach(model, method, seed=0)
    logits = zoo.logits(model, batch)
    ids = torch.cat([torch.tensor([[7, 9]]).expand(3, -1), batch["input_ids"]], dim=1)
    mask = torch.cat([torch.ones(3, 2, dtype=torch.long), batch["attention_mask"]], dim=1)
    plain = zoo.logits(zoo.build("gpt2"), {"input_ids": ids, "attention_mask": mask})
    close(logits, plain)


# ---- infix

SEPARATOR = 5


def separated(name: str) -> dict:
    """Rows with a separator at 3, at 1, and at 0 of seven tokens."""
    batch = zoo.batch(name)
    batch["input_ids"][batch["input_ids"] == SEPARATOR] = 6
    for row, place in enumerate((3, 1, 0)):
        batch["input_ids"][row, place] = SEPARATOR
    return batch


@pytest.mark.parametrize("name", ["tiny-decoder", "gpt2", "llama"])
def test_an_infix_is_read_from_its_place_on(name):
    model, batch = zoo.build(name), separated(name)
    base = zoo.logits(model, batch)
    settings = dict(length=3, hidden=None, std=1.0)
    tuner = mp.attach(model, mp.Prefix(**settings), seed=0)
    prefix = zoo.logits(model, batch)
    tuner.detach()
    tuner = mp.attach(model, mp.Prefix(**settings, position="infix", after=SEPARATOR), seed=0)
    infix = zoo.logits(model, batch)
    changed = (infix - base).abs().amax(-1)[:, :5] > 1e-4
    assert changed.tolist() == [[0, 0, 0, 1, 1], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]
    close(infix[2], prefix[2])  # nothing before it
    assert (infix[0, 3:] - prefix[0, 3:]).abs().max() > 1e-4
    with mp.route(model, ["default", None, "default"]):
        mixed = zoo.logits(model, batch)
    expected = torch.stack([infix[0], base[1], infix[2]])
    close(mixed, expected)
    model(**batch).loss.backward()
    assert all(p.grad.abs().max() > 0 for p in tuner.parameters())
    ids = batch["input_ids"][:2]
    for beams in (1, 2):
        how = dict(max_new_tokens=5, beams=beams)
        kept = mp.generate(model, ids, **how)
        assert torch.equal(kept, mp.generate(model, ids, **how, use_cache=False))
        with mp.route(model, ["default", None]):
            routed = mp.generate(model, ids, **how)
        assert torch.equal(routed[0], kept[0])
    with pytest.raises(ValueError, match="Row 1 has no token 5: the infix has no place"):
        model(torch.tensor([[4, 5], [4, 4]]))
    with mp.route(model, ["default", None]):
        model(torch.tensor([[4, 5], [4, 4]]))
    tuner.detach()
    parts = mp.Prefix(**settings, position="infix", after=SEPARATOR), mp.LoRA(rank=2)
    mp.attach(model, mp.Combined(parts), seed=0)
    close(zoo.logits(model, batch), infix)


def test_an_infix_needs_one_row_for_both():
    for name in ("tiny-encoder", "tiny-encoder-decoder"):
        with pytest.raises(ValueError, match="needs a decoder that reads x and y in one row"):
            mp.attach(zoo.build(name), mp.Prefix(position="infix", after=5))


# ---- PEFT's layout, as far as it is no matter of files


def test_peft_layout_is_said_and_is_never_the_default():
    model = zoo.build("gpt2")
    tuner = mp.attach(model, mp.Prefix(), name="ours")
    assert "positions move" not in str(tuner.report())
    tuner.detach()
    for method in (mp.Prefix(compatibility="peft"), mp.PTuningV2(compatibility="peft")):
        tuner = mp.attach(model, method)
        assert 'compatibility="peft": positions move' in str(tuner.report())
        tuner.detach()


@pytest.mark.parametrize("name", ["tiny-encoder-decoder", "bart"])
def test_in_peft_layout_only_the_decoder_has_a_prefix_and_moves(name):
    model = zoo.build(name)
    tuner = mp.attach(model, mp.Prefix(length=3, compatibility="peft"))
    paths = [path for path, module in model.named_modules() if isinstance(module, PositionDoor)]
    assert len(paths) == 1
    assert all("decoder" in path for path in (*paths, *(place.path for place, _ in tuner.patches)))
    assert {place.target for place, _ in tuner.patches} == {"memory"}


def test_defect_1_t5_layers_do_not_share_rows():
    """Every row is read by one layer, all get gradients; in PEFT's layout layers 0 and 2 share."""
    model, batch = zoo.build("t5", layers=4), zoo.batch("t5")
    tuner = mp.attach(model, mp.Prefix(length=3, hidden=None, std=1.0), seed=0)
    read = [(id(patch.encoder), patch.index) for _, patch in tuner.patches]
    assert len(set(read)) == len(read) == 12  # four each in encoder, decoder, cross-attention
    model(**batch).loss.backward()
    for parameter in tuner.parameters():
        assert (parameter.grad.view(3, 4, 32).abs().amax((0, 2)) > 0).all()
    tuner.detach()
    tuner = mp.attach(
        model, mp.Prefix(length=3, hidden=None, std=1.0, compatibility="peft"), seed=0
    )
    assert [patch.index for _, patch in tuner.patches] == [0, 2, 0, 2]
    model(**batch).loss.backward()
    (table,) = tuner.parameters()
    reached = table.grad.view(3, 4, 32).abs().amax((0, 2)) > 0
    assert reached.tolist() == [True, False, True, False]


@pytest.mark.parametrize("hidden", [None, 5])
@pytest.mark.parametrize("name", ["tiny-decoder", "gpt2", "t5", "llama"])
def test_defect_6_gradient_checkpointing(name, hidden):
    """The same loss and the same gradients with it, where PEFT refuses or fails."""
    results = []
    for checkpointing in (False, True):
        model, batch = zoo.build(name), zoo.batch(name)
        tuner = mp.attach(model, mp.Prefix(length=3, hidden=hidden, std=1.0), seed=0)
        model.train()
        if checkpointing and name == "tiny-decoder":
            model.gradient_checkpointing = True
        elif checkpointing:
            model.activation_checkpointing_enable()
        loss = model(**batch).loss
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in tuner.parameters())])
    for one, other in zip(*results, strict=True):
        close(one, other)
    assert all(g.abs().max() > 0 for g in results[1][1:])


# ---- P-tuning v2


@pytest.mark.parametrize("head", ["classification", "tagging"])
def test_v2_trains_linear_heads(head):
    """On [CLS], or on every token."""
    model, batch = zoo.build("tiny-encoder", head), zoo.batch("tiny-encoder", head)
    tuner = mp.attach(model, mp.PTuningV2(length=4, std=1.0), seed=0)
    assert tuner.report().head > 0
    losses = mp.train(model, [batch], 15, 3e-2, progress=False).losses
    assert losses[-1] < 0.99 * losses[0]


def test_v2_with_a_verbalizer():
    """Trained towards the label word that the base likes less, which gains in every row."""
    mask, words = 4, [31, 32]
    model, batch = zoo.build("bert"), zoo.batch("bert")
    batch["input_ids"][batch["input_ids"] == mask] = 6
    batch["input_ids"][:, 2] = mask
    before = cloze(model, batch, words, mask).detach()  # (3, 2)
    label = int(before.mean(0).argmin())
    batch["labels"] = torch.full_like(batch["labels"], -100)
    batch["labels"][:, 2] = words[label]
    mp.attach(model, mp.PTuningV2(length=4, std=1.0), seed=0)
    mp.train(model, [batch], 30, 5e-2, progress=False)
    gain = cloze(model, batch, words, mask) - before
    assert (gain[:, label] > gain[:, 1 - label] + 0.1).all()


def test_v2_is_a_prefix_without_an_mlp():
    batch = zoo.batch("bert")
    outs = []
    for method in (
        mp.PTuningV2(length=3, reparameterize=None),
        mp.PTuningV2(length=3, reparameterize="embedding"),
        mp.Prefix(length=3, hidden=None),
    ):
        model = zoo.build("bert")
        mp.attach(model, method, seed=0)
        outs.append(zoo.logits(model, batch))
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])


def test_warm_up_gives_every_task_the_same_prompt():
    model = zoo.build("tiny-encoder", "classification")
    before = mp.fingerprint(model)
    batches = [zoo.batch("tiny-encoder", "classification", seed=seed) for seed in range(4)]
    tasks = {"one": batches[:2], "two": batches[2:]}
    made = mp.warm_up(model, mp.PTuningV2(length=2), tasks, 6, progress=False)
    assert list(made) == list(mp.tuners(model)) == ["one", "two"]
    assert not any(tuner.enabled for tuner in made.values())
    one, two = (tuner.named_tensors() for tuner in made.values())
    start = mp.attach(model, mp.PTuningV2(length=2), "start", seed=0).named_tensors()
    for key, value in one.items():
        assert torch.equal(value, two[key]) and not torch.equal(value, start[key])
    made["one"].enable()
    mp.tuners(model)["start"].detach()
    mp.train(model, tasks["one"], 2, progress=False)
    assert not torch.equal(made["one"].parameters()[0], made["two"].parameters()[0])
    for tuner in made.values():
        tuner.detach()
    assert mp.fingerprint(model) == before
    with pytest.raises(ValueError, match="at least one batch"):
        mp.warm_up(model, mp.PTuningV2(), {"empty": []}, 3)


# ---- settings

WRONG = [
    *(dict(length=bad) for bad in (0, -1, True, 2.0, "5", None)),
    *(dict(hidden=bad) for bad in (0, True, 2.5, "8")),
    *(dict(dropout=bad) for bad in (1, -0.1, math.nan, "0", True)),
    *(dict(std=bad) for bad in (-1, math.inf, math.nan, "1")),
    *(dict(start=bad) for bad in ("random words", (), 3, (1.0,), (-1,), (True,), tuple(range(11)))),
    *(dict(layers=bad) for bad in ((), (-1,))),
    *(dict(where=bad) for bad in ((), ("head",), (1,))),
    *(dict(position="middle"), dict(position="infix"), dict(after=3), dict(compatibility="hf")),
    *(dict(position="infix", after=True), dict(keep_mlp=1), dict(embedding_only=None)),
    *(dict(compatibility="peft", layers=(0,)), dict(compatibility="peft", where="decoder")),
    *(dict(embedding_only=True, dropout=0.1), dict(embedding_only=True, layers=(0,))),
    dict(embedding_only=True, compatibility="peft"),
]


@pytest.mark.parametrize("settings", WRONG, ids=str)
def test_wrong_settings_are_refused_in_a_sentence(settings):
    with pytest.raises(ValueError) as error:
        mp.Prefix(**settings)
    assert str(error.value).endswith(".") and len(str(error.value)) > 20
    shared = {k: v for k, v in settings.items() if k in ("length", "dropout", "std", "layers")}
    layout = settings.get("compatibility") == "peft" and "layers" in settings
    if shared and (len(shared) == len(settings) or layout):
        with pytest.raises(ValueError):
            mp.PTuningV2(**settings)


@pytest.mark.parametrize(
    "settings", [dict(reparameterize="lstm"), dict(hidden=0), dict(keep_mlp=2)]
)
def test_wrong_settings_of_v2(settings):
    with pytest.raises(ValueError):
        mp.PTuningV2(**settings)


def test_a_layer_that_is_not_there():
    model = zoo.build("tiny-decoder")
    with pytest.raises(ValueError, match=r"There is no layer \[7\]"):
        mp.attach(model, mp.Prefix(layers=(0, 7)))
    assert not mp.tuners(model)
