"""Settings and steps that are right one by one, and what comes of them together."""

import pytest
import torch
import zoo
from closeness import close

import minipeft as mp
from minipeft.methods.parts.gates import gates


def same_in_a_file(model, base, names, inputs, folder):
    """Every tuner of a model is saved, opened on a fresh base in turn, and acts there as here."""
    for name in names:
        mp.tuners(model)[name].save(folder / name)
    for name in names:
        mp.load(base, folder / name, name)
    close(zoo.logits(base, inputs), zoo.logits(model, inputs))


@pytest.mark.parametrize("first", [True, False])
def test_a_prefix_that_starts_at_words_is_a_part_of_several(first):
    """The model is called while it comes in, when only some of the parts are there."""
    start, lora = mp.Prefix(length=2, hidden=None, start=(5, 6)), mp.LoRA(rank=2)
    parts = (start, lora) if first else (lora, start)
    model, alone, inputs = zoo.build("llama"), zoo.build("llama"), zoo.batch("llama")
    mp.attach(model, mp.Combined(parts))  # LoRA adds nothing yet
    mp.attach(alone, start)
    close(zoo.logits(model, inputs), zoo.logits(alone, inputs))


def test_a_prefix_starts_at_words_below_a_head_that_asks_for_more():
    """BART's classifier reads the end token, which the words of a start have not."""
    model, other = zoo.build("bart", "classification"), zoo.build("bart")
    other.model.load_state_dict(model.model.state_dict())
    method = mp.Prefix(length=3, hidden=None, start=(5, 6, 7))
    tuner, expected = mp.attach(model, method), mp.attach(other, method).named_tensors()
    for key, tensor in expected.items():
        close(tuner.named_tensors()[key], tensor)


@pytest.mark.parametrize("above", [mp.FullFineTuning(), mp.TopLayers(1)])
@pytest.mark.parametrize("bias", ["adapted", "all"])
def test_a_file_says_biases_without_what_trains_them_in_place(above, bias, tmp_path):
    model, base, inputs = zoo.build("gpt2"), zoo.build("gpt2"), zoo.batch("gpt2")
    for number, (name, method) in enumerate((("a", mp.LoRABias(rank=2, bias=bias)), ("b", above))):
        zoo.shake(mp.attach(model, method, name), 0.3, seed=number)
    same_in_a_file(model, base, "ab", inputs, tmp_path)
    mp.tuners(model)["b"].disable()
    alone = zoo.build("gpt2")
    mp.load(alone, tmp_path / "a")
    close(zoo.logits(alone, inputs), zoo.logits(model, inputs))


@pytest.mark.parametrize("name", ["gpt2", "llama", "tiny-encoder"])
@pytest.mark.parametrize("encoder", ["lstm", "mlp"])
def test_p_tuning_that_trains_the_model_too_opens_again(name, encoder, tmp_path):
    """The model's own feed-forward layers may be called mlp, as a part of the encoder is."""
    model, base = zoo.build(name), zoo.build(name)
    zoo.shake(mp.attach(model, mp.PTuning(length=2, encoder=encoder, tune_model=True), "a"))
    same_in_a_file(model, base, "a", zoo.batch(name), tmp_path)


@pytest.mark.parametrize("targets", [("all-linear",), ("up", "down"), ("query", "output", "down")])
@pytest.mark.parametrize("name", ["gpt2", "t5", "bert"])
def test_a_gate_for_every_width_that_maps_of_one_layer_read(name, targets, tmp_path):
    model, base = zoo.build(name), zoo.build(name)
    method = mp.UniPELT(bottleneck=0, length=0, rank=2, targets=targets)
    tuner = mp.attach(model, method, "a")
    zoo.shake(tuner, 0.3)
    for place, patch in tuner.patches:
        assert len(patch.gate.weight) == place.in_features
    same_in_a_file(model, base, "a", zoo.batch(name), tmp_path)


@pytest.mark.parametrize("part", [mp.LoRA(rank=2), mp.BitFit(), mp.AdaLoRA()])
def test_a_method_that_trains_the_base_and_patches_it_is_merged_and_unmerged(part):
    model, inputs = zoo.build("gpt2"), zoo.batch("gpt2")
    base = zoo.logits(model, inputs)
    tuner = mp.attach(model, mp.Combined((mp.TopLayers(1), part)))
    zoo.shake(tuner)
    before = zoo.logits(model, inputs)
    tuner.merge()
    close(zoo.logits(model, inputs), before)
    tuner.unmerge()
    assert torch.equal(zoo.logits(model, inputs), before)
    tuner.detach()
    assert torch.equal(zoo.logits(model, inputs), base)


@pytest.mark.parametrize("name", ["bart", "marian", "pegasus", "llama"])
def test_a_model_whose_vocabulary_grew_meanwhile_works_when_it_is_detached(name):
    """BART keeps a buffer with a number for each word."""
    model, inputs = zoo.build(name), zoo.batch(name)
    base = zoo.logits(model, inputs)
    tuner = mp.attach(model, mp.LoRA(rank=2))
    zoo.shake(tuner, 0.3)
    acting = zoo.logits(model, inputs)
    model.resize_token_embeddings(zoo.WORDS + 4, mean_resizing=False)
    close(zoo.logits(model, inputs)[..., : zoo.WORDS], acting)
    tuner.detach()
    close(zoo.logits(model, inputs)[..., : zoo.WORDS], base)


def test_four_bits_answer_in_the_dtype_of_autocast():
    """As the linear map does in whose place they stand; DeBERTa's attention relies on it."""
    inputs = zoo.batch("deberta-v2")
    model = zoo.build("deberta-v2", dtype=torch.float32)
    mp.attach(model, mp.QLoRA(rank=2, targets=("query", "value"), block=16))
    kinds = []
    layer = model.get_submodule("deberta.encoder.layer.0.attention.self.query_proj")
    layer.register_forward_hook(lambda *given: kinds.append(given[-1].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(zoo.logits(model, inputs)).all()
    zoo.logits(model, inputs)
    assert kinds == [torch.bfloat16, torch.float32]


GATED = mp.UniPELT(bottleneck=4, length=2, rank=2)


@pytest.mark.parametrize("name", ["bert", "bart", "t5"])
def test_gates_leave_padding_out_where_vectors_are_given(name):
    model, inputs = zoo.build(name), zoo.batch(name)
    zoo.shake(mp.attach(model, GATED), 0.5)
    vectors = {key: value for key, value in inputs.items() if key != "input_ids"}
    vectors["inputs_embeds"] = model.get_input_embeddings()(inputs["input_ids"])
    close(zoo.logits(model, vectors), zoo.logits(model, inputs))


def test_gates_leave_padding_out_of_every_choice_of_a_routed_question():
    hf = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = hf.BertForMultipleChoice(zoo.build("bert").config).double().eval()
    zoo.shake(mp.attach(model, GATED, "a"), 0.5)
    ids = zoo.batch("bert", rows=6)["input_ids"]
    mask = torch.ones_like(ids)
    mask[::2, -2:] = 0
    inputs = {"input_ids": ids.view(3, 2, -1), "attention_mask": mask.view(3, 2, -1)}
    alone = zoo.logits(model, inputs)
    with mp.route(model, [None, "a", "a"]):
        close(zoo.logits(model, inputs)[1:], alone[1:])


def test_an_infix_does_not_look_for_its_token_in_vectors():
    model, inputs = zoo.build("llama"), zoo.batch("llama")
    after = int(inputs["input_ids"][0, 2])
    mp.attach(model, mp.Prefix(length=2, position="infix", after=after), "a")
    row = {"input_ids": inputs["input_ids"][:1]}
    expected = zoo.logits(model, row)
    vectors = {"inputs_embeds": model.get_input_embeddings()(row["input_ids"])}
    with pytest.raises(ValueError, match="is looked for in input_ids: give the model these"):
        model(**vectors)
    assert torch.equal(zoo.logits(model, row), expected)


def test_a_gate_at_a_map_outside_of_the_blocks():
    model, inputs = zoo.build("bart"), zoo.batch("bart")
    tuner = mp.attach(model, mp.UniPELT(bottleneck=0, length=0, rank=2, targets=("lm_head",)))
    assert [*gates(tuner)] == ["LoRA lm_head"]
    assert "gate" in str(tuner.report())
    model(**inputs)


def test_two_parts_at_one_fused_map():
    model, inputs = zoo.build("gpt2"), zoo.batch("gpt2")
    before = zoo.logits(model, inputs)
    whole, part = mp.LoRA(targets=("c_attn",)), mp.IA3(targets=("query",))
    for parts in ((whole, part), (part, whole), (whole, whole)):
        with pytest.raises(ValueError, match=r"h.0.attn.c_attn already has a patch named 'both'"):
            mp.attach(model, mp.Combined(parts), "both")
        assert not mp.tuners(model) and torch.equal(zoo.logits(model, inputs), before)


@pytest.mark.parametrize(
    "method", [mp.Adapter(placement="parallel", bottleneck=4), mp.UniPELT(bottleneck=4, length=0)]
)
def test_a_block_with_several_feed_forward_layers(method):
    """A group of ALBERT may have several layers: each adapter reads the input of its own."""
    config = zoo.build("albert").config
    config.inner_group_num = 2
    hf = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model, inputs = hf.AlbertForMaskedLM(config).double().eval(), zoo.batch("albert")
    tuner = mp.attach(model, method)
    zoo.shake(tuner, 0.3)
    read, taken = [], []
    for place, patch in tuner.patches:
        if place.target == "up":
            place.module.register_forward_pre_hook(lambda _, given: read.append(given[0]))
        elif place.target == "down":
            pop = patch.tap.pop
            patch.tap.pop = lambda pop=pop: taken.append(pop()) or taken[-1]
    zoo.logits(model, inputs)
    assert len(read) == len(taken) == 4
    assert all(torch.equal(one, other) for one, other in zip(read, taken, strict=True))


ARRAY = torch.tensor([0, 1]).numpy()


@pytest.mark.parametrize(
    "kind, settings, sentence",
    [
        (mp.PTuning, dict(length=2, mask={1}), "The mask is the id of a token"),
        (mp.PTuning, dict(length=2, frame=5), "A frame is two ids"),
        (mp.AdaLoRA, dict(ranks={"query": ARRAY[1]}), "ranks must be whole numbers from 0"),
        (mp.LoRA, dict(layers=torch.tensor(1)), "layers must be None or layer numbers"),
        (mp.LoRA, dict(targets=torch.tensor(1)), "targets must be one or more names"),
        (mp.IA3, dict(feedforward=ARRAY), "feedforward must be one or more names"),
    ],
)
def test_what_no_file_can_hold_is_no_setting(kind, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        kind(**settings)


def test_a_list_is_a_frame_and_ranks_of_adalora_are_by_place():
    assert mp.PTuning(length=2, frame=[1, 2]) == mp.PTuning(length=2, frame=(1, 2))
    model = zoo.build("llama")
    with pytest.raises(ValueError, match="ranks are by place, such as 'model.*q_proj.query', and"):
        mp.attach(model, mp.AdaLoRA(ranks={"query": 2}))
    place = "model.layers.0.self_attn.q_proj.query"
    tuner = mp.attach(model, mp.AdaLoRA(ranks={place: 2}))
    assert len(tuner.named_tensors()[f"{place}.Lambda"]) == 2
