"""attach and detach: nothing is left behind, nothing is hidden, several tuners live together."""

import copy

import pytest
import torch
import zoo
from closeness import HALF, close
from torch import nn

import minipeft as mp
from minipeft.doors.door import bottom, doors
from minipeft.report import Table

METHODS = {
    "lora": mp.LoRA(rank=2, alpha=4),
    "lora-whole": mp.LoRA(rank=3, alpha=4, targets=("qkv", "output", "up", "down")),
    "full": mp.FullFineTuning(),
    "top": mp.TopLayers(1),
    "head": mp.HeadOnly(),
}
CASES = [(name, method) for name in zoo.MODELS for method in METHODS]
CASES = [c for c in CASES if c[0] in ("gpt2", "bert", "t5", *zoo.TINY) or c[1].startswith("lora")]


@pytest.mark.parametrize("name, method", CASES)
def test_attach_is_identity_and_detach_leaves_no_trace(name, method):
    model, batch = zoo.build(name), zoo.batch(name)
    before = zoo.logits(model, batch)
    modules, state = list(model.modules()), {k: v.clone() for k, v in model.state_dict().items()}
    flags = [p.requires_grad for p in model.parameters()]
    tuner = mp.attach(model, METHODS[method], seed=0)
    assert torch.equal(zoo.logits(model, batch), before)
    trained = set(tuner.parameters())
    assert {p for p in model.parameters() if p.requires_grad} == trained
    zoo.shake(tuner)
    changed = zoo.logits(model, batch)
    assert not torch.equal(changed, before)
    with tuner.disabled():
        assert torch.equal(zoo.logits(model, batch), before)
    assert torch.equal(zoo.logits(model, batch), changed)
    tuner.merge()
    assert list(model.state_dict()) == list(state), "a merged model has the base's modules"
    assert doors(model) == []
    close(zoo.logits(model, batch), changed)
    tuner.unmerge()
    assert torch.equal(zoo.logits(model, batch), changed)
    tuner.merge()
    tuner.detach()
    assert all(a is b for a, b in zip(model.modules(), modules, strict=True))
    after = model.state_dict()
    assert list(after) == list(state) and all(torch.equal(after[k], state[k]) for k in state)
    assert [p.requires_grad for p in model.parameters()] == flags
    assert "minipeft" not in vars(model)


@pytest.mark.parametrize("name", ["gpt2", "bert", "tiny-decoder"])
def test_base_is_bit_identical_after_training(name):
    model, batch = zoo.build(name), zoo.batch(name)
    tuner = mp.attach(model, mp.LoRA(rank=2, targets=("query", "down")), seed=0)
    before = mp.fingerprint(model)
    mp.train(model, [batch], 3, 1e-2, progress=False)
    assert mp.fingerprint(model) == before
    assert all(p.grad is None for p in tuner.anatomy.parameters())
    assert all(p.abs().max() > 0 for p in tuner.parameters())


def test_gradients_reach_every_patch_by_the_second_step_and_no_base_tensor():
    for name in ("gpt2", "t5", "gpt_neox", "tiny-encoder-decoder"):
        model, batch = zoo.build(name), zoo.batch(name)
        every = mp.LoRA(rank=2, targets=("query", "key", "value", "output", "up", "down"))
        tuner = mp.attach(model, every, seed=0)
        zoo.shake(tuner, 0.01)
        model(**batch).loss.backward()
        for place, patch in tuner.patches:
            for key, parameter in patch.named_parameters():
                gradient = parameter.grad
                # a bias on all keys changes no softmax, but B A x differs from key to key
                assert gradient is not None and gradient.abs().max() > 0, (name, place.path, key)
        assert all(p.grad is None for p in tuner.anatomy.parameters())


def test_modes_come_back():
    model = zoo.build("gpt2")
    model.transformer.h[0].train()
    modes = [m.training for m in model.modules()]
    tuner = mp.attach(model, mp.LoRA())
    patches = [patch for _, patch in tuner.patches]
    assert [p.training for p in patches] == [True, True, False, False]
    model.train()
    assert all(p.training for p in patches)
    tuner.detach()
    assert [m.training for m in model.modules()] == modes


def test_buffers_come_back():
    """Batch norm counts what it sees, frozen or not."""
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    tuner = mp.attach(model, mp.LoRA(targets="0"))
    model(torch.randn(8, 4))
    tuner.detach()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_names_are_checked():
    model = zoo.build("tiny-decoder")
    mp.attach(model, mp.LoRA(), name="a")
    with pytest.raises(ValueError, match="already has a tuner named 'a'"):
        mp.attach(model, mp.LoRA(), name="a")
    for name in ("", "a.b", "a b", 3):
        with pytest.raises(ValueError, match="letters, digits, _ and -"):
            mp.attach(model, mp.LoRA(), name=name)
    with pytest.raises(ValueError, match="'keys' is one that torch modules use"):
        mp.attach(model, mp.LoRA(), name="keys")
    with pytest.raises(TypeError, match="needs a method such as minipeft.LoRA"):
        mp.attach(model, mp.LoRA)
    assert list(mp.tuners(model)) == ["a"]


def test_a_failed_second_attach_leaves_the_first_alone():
    model, batch = zoo.build("gpt2"), zoo.batch("gpt2")
    first = mp.attach(model, mp.LoRA(), name="a", seed=0)
    zoo.shake(first)
    before = zoo.logits(model, batch)
    with pytest.raises(ValueError):
        mp.attach(model, mp.LoRA(targets=("query", "nothing")), name="b")
    assert list(mp.tuners(model)) == ["a"] and torch.equal(zoo.logits(model, batch), before)


def test_one_tuner_does_not_copy_and_patch_the_same_layer():
    model = zoo.build("gpt2", "classification")
    with pytest.raises(ValueError, match="copied and patched at once"):
        mp.attach(model, mp.LoRA(targets="score"))
    assert not mp.tuners(model) and not doors(model)


@pytest.mark.parametrize("order", ["pc", "cp"])
@pytest.mark.parametrize("leave", ["pc", "cp"])
def test_one_tuner_may_patch_a_layer_that_another_has_copied(order, leave):
    """Biases of norms, and norms as a whole: each alone, both, row by row, in any order."""
    model, batch = zoo.build("tiny-encoder"), zoo.batch("tiny-encoder")
    base, modules = zoo.logits(model, batch), list(model.modules())
    methods = dict(p=mp.BitFit(), c=mp.Adapter(3, sigma=0))
    for number, name in enumerate(order):
        zoo.shake(mp.attach(model, methods[name], name=name, seed=number), 0.3, ord(name))
    known, alone = mp.tuners(model), {}
    both = zoo.logits(model, batch)
    for name in "pc":
        with known["c" if name == "p" else "p"].disabled():
            alone[name] = zoo.logits(model, batch)
    with known["p"].disabled(), known["c"].disabled():
        assert torch.equal(zoo.logits(model, batch), base)
    with mp.route(model, ["p", "c", None]):
        mixed = zoo.logits(model, batch)
    for row, expected in enumerate((alone["p"], alone["c"], base)):
        close(mixed[row], expected[row])
    with mp.route(model, ["c", "p", ("c", "p")]):
        mixed = zoo.logits(model, batch)
    for row, expected in enumerate((alone["c"], alone["p"], both)):
        close(mixed[row], expected[row])
    norm = bottom(model.blocks[0].attention_norm)
    patch = dict((place.path, p) for place, p in known["p"].patches)["blocks.0.attention_norm"]
    x = torch.randn(2, 3, 16, dtype=torch.float64)
    expected = known["c"].copies["blocks.0.attention_norm"](x) + patch.d
    close(model.blocks[0].attention_norm(x), expected)
    with pytest.raises(ValueError, match="'p' cannot be merged: 'c' has a place at the same layer"):
        known["p"].merge()
    known[leave[0]].detach()
    assert torch.equal(zoo.logits(model, batch), alone[leave[1]])
    if leave[1] == "p":
        known["p"].merge()
        close(zoo.logits(model, batch), alone["p"])
    known[leave[1]].detach()
    assert torch.equal(zoo.logits(model, batch), base)
    assert bottom(model.blocks[0].attention_norm) is norm is model.blocks[0].attention_norm
    assert all(a is b for a, b in zip(model.modules(), modules, strict=True))


def test_a_detached_tuner_says_so():
    tuner = mp.attach(zoo.build("gpt2"), mp.LoRA(), name="a")
    tuner.detach()
    for act in (tuner.detach, tuner.merge, tuner.enable, tuner.disable, tuner.report):
        with pytest.raises(ValueError, match="'a' is detached"):
            act()


def test_seed_decides_the_start_and_leaves_the_generator_alone():
    model = zoo.build("gpt2")
    state = torch.get_rng_state()
    a = mp.attach(model, mp.LoRA(), name="a", seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    b = mp.attach(model, mp.LoRA(), name="b", seed=3)
    c = mp.attach(model, mp.LoRA(), name="c", seed=4)
    A = [t.patches[0][1].A for t in (a, b, c)]
    assert torch.equal(A[0], A[1]) and not torch.equal(A[0], A[2])


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_two_tuners_add_up_and_part_in_any_order(order):
    model, batch = zoo.build("gpt2"), zoo.batch("gpt2")
    base = zoo.logits(model, batch)
    made = {}
    alone = {}
    for number, name in enumerate("ab"):
        for tuner in made.values():
            tuner.disable()
        made[name] = mp.attach(model, mp.LoRA(targets=("qkv", "up")), name=name, seed=number)
        zoo.shake(made[name], seed=number)
        alone[name] = zoo.logits(model, batch)
    made["a"].enable()
    both = zoo.logits(model, batch)
    assert not torch.equal(both, alone["a"]) and not torch.equal(both, alone["b"])
    for name in order:  # merge in any order, unmerge one, the other acts alone
        made[name].merge()
    close(zoo.logits(model, batch), both)
    first, second = order
    made[first].unmerge()
    made[first].disable()
    close(zoo.logits(model, batch), alone[second])
    made[first].detach()
    made[second].unmerge()
    assert torch.equal(zoo.logits(model, batch), alone[second])
    made[second].detach()
    assert torch.equal(zoo.logits(model, batch), base) and doors(model) == []


@pytest.mark.parametrize("name", zoo.MODELS)
def test_a_tuner_per_row_equals_separate_runs(name):
    model, batch = zoo.build(name), zoo.batch(name, rows=5)
    for number, label in enumerate("ab"):
        targets = ("query", "down") if label == "a" else ("value", "up")
        tuner = mp.attach(model, mp.LoRA(rank=2, targets=targets), name=label, seed=number)
        zoo.shake(tuner, seed=number)
    rows = ["a", None, "b", ("a", "b"), "a"]
    with mp.route(model, rows):
        mixed = zoo.logits(model, batch)
    for i, row in enumerate(rows):
        active = {row} if isinstance(row, str) else set(row or ())
        for label, tuner in mp.tuners(model).items():
            tuner.enable() if label in active else tuner.disable()
        close(mixed[i], zoo.logits(model, batch)[i])


@pytest.mark.parametrize("name", ["gpt2", "roberta", "bart", "tiny-encoder"])
def test_a_head_per_row(name):
    model, batch = zoo.build(name, "classification"), zoo.batch(name, "classification", rows=4)
    base = zoo.logits(model, batch)
    alone = {}
    for number, label in enumerate("ab"):
        tuner = mp.attach(model, mp.LoRA(rank=2), name=label, seed=number)
        zoo.shake(tuner, seed=number)
        with mp.route(model, [label] * 4):
            alone[label] = zoo.logits(model, batch)
    with mp.route(model, ["a", "b", None, "a"]):
        mixed = zoo.logits(model, batch)
    expected = torch.stack([alone["a"][0], alone["b"][1], base[2], alone["a"][3]])
    close(mixed, expected)


def test_routes_that_cannot_be_are_refused():
    model, batch = zoo.build("gpt2"), zoo.batch("gpt2")
    a = mp.attach(model, mp.LoRA(), name="a")
    for names, sentence in [
        ([], "one name per row"),
        (["b"] * 3, "no tuner named 'b'"),
    ]:
        with pytest.raises(ValueError, match=sentence), mp.route(model, names):
            pass
    with pytest.raises(ValueError, match="names 2 rows, but the batch has 3"):
        with mp.route(model, ["a", "a"]):
            model(**batch)
    model(**batch)  # the failed route is over
    a.merge()
    with pytest.raises(ValueError, match="unmerge it before routing"), mp.route(model, ["a"] * 3):
        pass
    a.unmerge()
    full = mp.attach(model, mp.FullFineTuning(), name="full")
    with pytest.raises(ValueError, match="disable it before routing"), mp.route(model, ["a"] * 3):
        pass
    full.disable()
    with mp.route(model, ["a"] * 3):
        model(**batch)
    a.disable()
    with pytest.raises(ValueError, match="'a' is disabled"), mp.route(model, ["a"] * 3):
        pass


def test_beams_follow_their_row():
    model, batch = zoo.build("gpt2"), zoo.batch("gpt2", rows=2)
    ids = batch["input_ids"][:, :3]
    tuner = mp.attach(model, mp.LoRA(), name="a", seed=0)
    zoo.shake(tuner, 0.5)
    options = dict(beams=3, max_new_tokens=4, eos_token_id=0)
    with mp.route(model, ["a", None]):
        mixed = mp.generate(model, ids, **options)
    tuned = mp.generate(model, ids, **options)
    with tuner.disabled():
        base = mp.generate(model, ids, **options)
    assert not torch.equal(tuned, base)
    assert torch.equal(mixed[0], tuned[0]) and torch.equal(mixed[1], base[1])


def test_merging_a_tied_weight_is_refused():
    model = zoo.build("gpt2")
    tuner = mp.attach(model, mp.LoRA(targets=("lm_head", "query")))
    with pytest.raises(ValueError, match="lm_head is shared with transformer.wte"):
        tuner.merge()
    assert not tuner.merged and all(not door.merged for door in doors(model))


def test_disabled_and_merged_exclude_each_other():
    tuner = mp.attach(zoo.build("gpt2"), mp.LoRA())
    tuner.merge()
    assert tuner.merge() is tuner
    with pytest.raises(ValueError, match="call unmerge"):
        tuner.disable()
    tuner.unmerge().disable()
    with pytest.raises(ValueError, match="call enable"):
        tuner.merge()


def test_a_merged_model_is_a_plain_base(tmp_path):
    """save_pretrained of a merged model opens without minipeft and has the same logits."""
    import transformers

    model, batch = zoo.build("gpt2", dtype=torch.float32), zoo.batch("gpt2")
    tuner = mp.attach(model, mp.LoRA(targets=("qkv", "down")), seed=0)
    zoo.shake(tuner)
    tuner.merge()
    model.save_pretrained(tmp_path)
    other = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    assert torch.equal(zoo.logits(other, batch), zoo.logits(model, batch))


def test_a_copy_of_the_model_has_tuners_of_its_own():
    model, batch = zoo.build("gpt2"), zoo.batch("gpt2")
    base = zoo.logits(model, batch)
    zoo.shake(mp.attach(model, mp.LoRA(), name="a", seed=0))
    changed = zoo.logits(model, batch)
    twin = copy.deepcopy(model)
    mp.tuners(twin)["a"].detach()
    assert torch.equal(zoo.logits(twin, batch), base)
    assert torch.equal(zoo.logits(model, batch), changed)


def test_heads_of_fresh_tasks_are_trained_and_counted_apart():
    heads = {  # C = 16, 3 labels
        "gpt2": 3 * 16,
        "bert": 3 * 16 + 3,
        "roberta": 16 * 16 + 16 + 3 * 16 + 3,
        "distilbert": 16 * 16 + 16 + 3 * 16 + 3,
        "t5": 16 * 16 + 16 + 3 * 16 + 3,
        "tiny-decoder": 3 * 16,
        "tiny-encoder": 16 * 16 + 16 + 3 * 16 + 3,
    }
    for name, count in heads.items():
        model = zoo.build(name, "classification")
        before = sum(p.numel() for p in model.parameters())
        tuner = mp.attach(model, mp.LoRA(rank=2))
        report = tuner.report()
        assert report.head == count, name
        assert report.stored == report.trainable + report.head
        assert report.base == before and report.total == before + report.stored
        tuner.detach()
        assert mp.attach(model, mp.LoRA(rank=2), head=False).report().head == 0
    assert mp.attach(zoo.build("gpt2"), mp.LoRA()).report().head == 0


@pytest.mark.parametrize("name", zoo.MODELS)
def test_counts_are_the_formula(name):
    """r (in + out) for every map: formula, report and the sum of tensors."""
    rank, C, layers = 3, 16, 2
    tuner = mp.attach(zoo.build(name), mp.LoRA(rank=rank, targets=("query", "output")))
    attentions = 6 if name in zoo.SEQ2SEQ else layers
    formula = attentions * 2 * rank * (C + C)
    report = tuner.report()
    assert report.trainable == formula
    assert sum(p.numel() for p in tuner.parameters()) == formula == report.stored


def test_report_reads_well():
    tuner = mp.attach(zoo.build("gpt2", "classification"), mp.LoRA(rank=2), name="task")
    text = str(tuner.report())
    assert text.splitlines()[0].startswith("task: LoRA(rank=2, alpha=16, targets=('query', 'value'")
    lines = [line.split() for line in text.splitlines()]
    assert lines[2] == ["kind", "target", "module", "tensors", "places", "parameters"]
    shapes = "A (2, 16) B (16, 2)".split()
    assert ["patch", "query", "transformer.h.*.attn.c_attn", *shapes, "2", "128"] in lines
    assert "head 48" in text and "trainable 256" in text
    page = tuner.report()._repr_html_()
    assert page.count("<tr>") == 4 and "A (2, 16)" in page and "&#x27;query&#x27;" in page


def test_full_top_and_head_count():
    model = zoo.build("tiny-decoder")
    C, V, P, L = 16, zoo.WORDS, 32, 2
    block = 12 * C * C + 13 * C
    counts = {
        mp.FullFineTuning(): V * C + P * C + L * block + 2 * C,
        mp.TopLayers(1): block + 2 * C,
        mp.TopLayers(2): 2 * block + 2 * C,
    }
    for method, count in counts.items():
        tuner = mp.attach(model, method)
        assert tuner.report().trainable == count
        tuner.detach()
    assert mp.attach(model, mp.HeadOnly()).report().head == V * C


def test_head_only_trains_a_copy_of_a_tied_head():
    model, batch = zoo.build("tiny-decoder"), zoo.batch("tiny-decoder")
    tuner = mp.attach(model, mp.HeadOnly())
    words = model.embeddings.words.weight.detach().clone()
    mp.train(model, [batch], 3, 1e-2, progress=False)
    assert torch.equal(model.embeddings.words.weight, words)
    assert not torch.equal(tuner.copies["head.words"].weight, words)


def test_two_tuners_cannot_train_the_same_base():
    model = zoo.build("tiny-decoder")
    mp.attach(model, mp.TopLayers(1), name="a")
    with pytest.raises(ValueError, match="cannot train the same base parameters"):
        mp.attach(model, mp.FullFineTuning(), name="b")
    assert {p for p in model.parameters() if p.requires_grad} == set(
        mp.tuners(model)["a"].parameters()
    )


@pytest.mark.parametrize("name", ["gpt2", "bert", "llama"])
def test_gradient_checkpointing_changes_no_gradient(name):
    batch = zoo.batch(name)
    gradients = []
    for checkpointing in (False, True):
        model = zoo.build(name).train()
        tuner = mp.attach(model, mp.LoRA(rank=2), seed=0)
        zoo.shake(tuner)
        if checkpointing:
            model.gradient_checkpointing_enable()
        loss = model(**batch).loss
        loss.backward()
        gradients.append([loss.detach(), *(p.grad for p in tuner.parameters())])
    for plain, checked in zip(*gradients, strict=True):
        close(plain, checked)


@pytest.mark.parametrize("name", ["gpt2", "t5", "llama", "tiny-decoder", "bart"])
def test_bf16_base(name):
    model, batch = zoo.build(name).bfloat16(), zoo.batch(name)
    before = zoo.logits(model, batch)
    tuner = mp.attach(model, mp.LoRA(rank=2), seed=0)
    assert torch.equal(zoo.logits(model, batch), before)
    zoo.shake(tuner)
    mp.train(model, [batch], 2, 1e-3, progress=False)
    changed = zoo.logits(model, batch)
    tuner.merge()  # rounded once to bf16, so near, not equal
    close(zoo.logits(model, batch), changed, roundings=HALF)
    tuner.detach()
    assert torch.equal(zoo.logits(model, batch), before)


def test_tying_weights_again_while_attached():
    """transformers ties its head to the embeddings whenever it resizes or saves."""
    model, batch = zoo.build("gpt2"), zoo.batch("gpt2")
    tuner = mp.attach(model, mp.LoRA(targets=("lm_head",)))
    before = zoo.logits(model, batch)
    model.tie_weights()
    assert torch.equal(zoo.logits(model, batch), before)
    assert model.lm_head.base.weight is model.transformer.wte.weight
    assert {p for p in model.parameters() if p.requires_grad} == set(tuner.parameters())


@pytest.mark.parametrize("name", ["gpt2", "bart", "tiny-decoder", "tiny-encoder-decoder"])
def test_generation_with_cache_equals_without(name):
    model, batch = zoo.build(name), zoo.batch(name, rows=2)
    zoo.shake(mp.attach(model, mp.LoRA(targets=("qkv", "up")), seed=0), 0.3)
    ids = batch["input_ids"][:, :4]
    options = dict(max_new_tokens=5, eos_token_id=0)
    cached = mp.generate(model, ids, **options)
    assert torch.equal(cached, mp.generate(model, ids, use_cache=False, **options))
    assert not model.training


def test_a_head_without_parameters_is_refused():
    model = zoo.build("gpt2")
    with pytest.raises(ValueError, match="has no parameters"):
        mp.attach(model, mp.HeadOnly(heads="transformer.drop"))
    with pytest.raises(ValueError, match="no module 'lm_hed'; did you mean 'lm_head'"):
        mp.attach(model, mp.HeadOnly(heads="lm_hed"))
    assert mp.tuners(model) == {}


def test_notes_of_a_table_are_text_and_code_in_a_notebook():
    note = "`a < b` is code, and   spaces stay"
    page = Table("t", ("x",), [("1",)], [note])._repr_html_()
    assert "<code>a &lt; b</code> is code, and   spaces stay</p>" in page and "pre-wrap" in page
    assert note in str(Table("t", ("x",), [("1",)], [note]))
