"""Anatomy: the words of the field name the right linear maps in every architecture."""

from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import torch
import zoo
from torch import nn

import minipeft as mp
from minipeft.model.anatomy import Anatomy
from minipeft.model.family import Slice

# words that every model of the zoo has, and how many maps they are in a model of two layers
ATTENTION = ("query", "key", "value", "output")
OLD_FALCON = dict(new_decoder_architecture=False, num_ln_in_parallel_attn=None)


@pytest.fixture(scope="module")
def models():
    return {name: zoo.build(name) for name in zoo.MODELS}


@pytest.mark.parametrize("name", zoo.MODELS)
def test_every_word_is_found_in_every_layer(models, name):
    anatomy = Anatomy(models[name])
    # an encoder-decoder of 2 + 2 layers has two attentions in each layer of its decoder
    attentions, layers = (6, 4) if name in zoo.SEQ2SEQ else (2, 2)
    for word in ATTENTION:
        assert len(anatomy.find((word,))) == attentions, word
    for word in ("up", "down"):
        assert len(anatomy.find((word,))) == layers, word
    gated = name in ("llama", "qwen2", "qwen3", "mistral", "glm4", "t5-gated")
    if gated:
        assert len(anatomy.find(("gate",))) == layers
    else:
        with pytest.raises(ValueError, match="'gate' is not in this model"):
            anatomy.find(("gate",))


@pytest.mark.parametrize("name", zoo.MODELS)
def test_words_name_the_maps_that_attention_uses(models, name):
    """Independent of names: shapes. 4 heads of width 4; two key-value heads where there is GQA."""
    anatomy = Anatomy(models[name])
    keys = 8 if name in ("llama", "qwen2", "qwen3", "mistral", "phi", "glm4") else 16
    shapes = {"query": (16, 16), "key": (16, keys), "value": (16, keys), "output": (16, 16)}
    inner = 64 if name in ("gpt2", *zoo.TINY) else 32
    shapes |= {"up": (16, inner), "down": (inner, 16)}
    for word, shape in shapes.items():
        for place in anatomy.find((word,)):
            assert (place.in_features, place.out_features) == shape, (word, place.path)
    whole = sum(place.out_features for place in anatomy.find(("qkv",)) if place.layer == 0)
    assert whole == (16 + 2 * keys) * (3 if name in zoo.SEQ2SEQ else 1)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox"])
def test_parts_of_a_fused_projection_are_what_attention_sees(models, name):
    """Change one column of each part; attention's query, key, value must change and no other."""
    model = models[name]
    anatomy = Anatomy(model)
    seen = {}

    def spy(module, query, key, value, *args, **kwargs):
        seen.update(query=query, key=key, value=value)
        return torch.zeros_like(query).transpose(1, 2), None

    import transformers

    transformers.AttentionInterface.register("spy", spy)
    before = model.config._attn_implementation
    model.set_attn_implementation("spy")
    batch = zoo.batch(name)
    try:
        for word in ("query", "key", "value"):
            place = anatomy.find((word,), layers=(1,))[0]
            model(**batch)
            old = dict(seen)
            with torch.no_grad():
                place.module.bias[place.columns] += 1.0
            model(**batch)
            with torch.no_grad():
                place.module.bias[place.columns] -= 1.0
            for other in ("query", "key", "value"):
                moved = not torch.allclose(old[other], seen[other], atol=1e-4)
                assert moved == (other == word), (word, other)
    finally:
        model.set_attn_implementation(before)


def test_slices_are_written_down_right():
    assert Slice("m", 1, 3).columns(12, heads=2).tolist() == [4, 5, 6, 7]
    # two heads, each [q q | k k | v v]
    assert Slice("m", 1, 3, per_head=True).columns(12, heads=2).tolist() == [2, 3, 8, 9]
    # 4 heads of queries, 2 of keys, 2 of values
    unequal = dict(sizes=("heads", "key_value_heads", "key_value_heads"))
    assert Slice("m", 1, 3, **unequal).columns(8, 4, 2).tolist() == [4, 5]
    # the same in two groups [q q k v | q q k v]
    grouped = [Slice("m", i, 3, **unequal, groups="key_value_heads") for i in range(3)]
    assert [s.columns(8, 4, 2).tolist() for s in grouped] == [[0, 1, 4, 5], [2, 6], [3, 7]]
    assert Slice("m", 0, 2, sizes=(3, 1)).columns(8, 1).tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="10 output features of m cannot be cut into 1 x 3 parts"):
        Slice("m", 0, 3).columns(10, 2)


@pytest.mark.parametrize(
    "name, settings",
    [
        *((name, {}) for name in ("gpt2", "gpt_neox", "bloom", "phi3", "codegen", "modernbert")),
        ("gpt_bigcode", {}),  # one head of keys
        ("gpt_bigcode", dict(multi_query=False, num_key_value_heads=4)),
        ("falcon", {}),
        ("falcon", dict(OLD_FALCON, multi_query=True)),
        ("falcon", dict(OLD_FALCON, multi_query=False, num_kv_heads=4)),
    ],
)
def test_a_part_of_a_fused_map_is_what_attention_takes_it_for(name, settings):
    """Without values attention gives nothing; without queries it does not matter what keys are."""
    model = zoo.build(name)
    if settings:
        config = type(model.config)(**(model.config.to_dict() | settings))
        model = type(model)(config).to(model.dtype).eval()
    anatomy, batch, outputs = Anatomy(model), zoo.batch(name), []
    for place in anatomy.find(("output",)):
        place.module.register_forward_pre_hook(lambda _, given: outputs.append(given[0].clone()))

    @torch.no_grad()
    def without(target: str) -> torch.Tensor:
        """What the first output projection reads when this part gives zeros."""
        place = anatomy.find((target,))[0]
        kept = {n: p.clone() for n, p in place.module.named_parameters()}
        for parameter in place.module.parameters():  # (out, in), in GPT-2 (in, out), and (out,)
            conv = parameter.dim() == 2 and type(place.module).__name__ == "Conv1D"
            (parameter.T if conv else parameter)[place.columns] = 0
        outputs.clear()
        model(batch["input_ids"], attention_mask=batch["attention_mask"])
        result = outputs[0]
        if target == "query":
            with_keys = without("key")
            assert torch.equal(with_keys, result) and result.abs().max() > 0
        for n, p in place.module.named_parameters():
            p.copy_(kept[n])
        return result

    assert without("value").abs().max() == 0
    without("query")


def test_raw_names_ends_of_names_and_patterns(models):
    anatomy = Anatomy(models["bart"])
    paths = [p.path for p in anatomy.find(("q_proj",))]
    assert len(paths) == 6
    one = anatomy.find(("model.decoder.layers.1.encoder_attn.q_proj",))
    assert [p.path for p in one] == ["model.decoder.layers.1.encoder_attn.q_proj"]
    cross = anatomy.find(("model.decoder.layers.*.encoder_attn.q_proj",))
    assert [p.layer for p in cross] == [0, 1]
    assert len(anatomy.find(("q_proj",), layers=(1,))) == 3


@pytest.mark.parametrize(
    "targets, layers, error, sentence",
    [
        ("qurey", None, ValueError, "matches nothing.*did you mean 'query'"),
        ("c_atn", None, ValueError, "did you mean 'c_attn'"),
        ("gate", None, ValueError, r"gpt2: no layer.*it has 'query', 'key'"),
        ("ln_1", None, TypeError, "a LayerNorm: a weights door needs a linear map"),
        ("wte", None, TypeError, "an? Embedding: a weights door"),
        (("qkv", "query"), None, ValueError, "'qkv' and 'query' both name transformer.h.0"),
        (("query", "query"), None, ValueError, "both name"),
        ("query", (0, 7), ValueError, r"has no layer \[7\]; its layers are \[0, 1\]"),
    ],
)
def test_a_wrong_target_is_refused_with_what_there_is(models, targets, layers, error, sentence):
    model = models["gpt2"]
    before = list(model.modules())
    with pytest.raises(error, match=sentence):
        mp.attach(model, mp.LoRA(targets=targets, layers=layers))
    assert mp.tuners(model) == {} and list(model.modules()) == before
    assert all(p.requires_grad for p in model.parameters())


def test_a_target_in_some_layers_only_is_refused():
    model = zoo.build("gpt2", layers=3)
    whole = model.transformer.h[1].mlp.c_fc
    del model.transformer.h[1].mlp.c_fc
    with pytest.raises(
        ValueError, match=r"is in layers \[0, 2\] of transformer.h but not in \[1\]"
    ):
        mp.attach(model, mp.LoRA(targets="c_fc"))
    with pytest.raises(ValueError, match="1 layers lack it, such as transformer.h.1"):
        mp.attach(model, mp.LoRA(targets="up"))
    model.transformer.h[1].mlp.c_fc = nn.Identity()
    with pytest.raises(TypeError, match="a Identity: a weights door needs"):
        mp.attach(model, mp.LoRA(targets="up"))
    model.transformer.h[1].mlp.c_fc = whole
    mp.attach(model, mp.LoRA(targets="up")).detach()


def test_a_patch_that_would_never_be_called_is_refused():
    model = nn.Sequential(nn.MultiheadAttention(8, 2))
    with pytest.raises(TypeError, match="reads the weights without calling the layer"):
        mp.attach(model, mp.LoRA(targets="out_proj"))


def test_an_unknown_model_says_how_to_describe_it():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.floors = nn.ModuleList(
                [nn.ModuleDict({"ask": nn.Linear(4, 4), "see": nn.Linear(4, 4)}) for _ in range(2)]
            )

    model = Own()
    with pytest.raises(ValueError, match=r"family=minipeft.Family\(model_types, blocks"):
        mp.attach(model, mp.LoRA(targets="query"))
    mp.attach(model, mp.LoRA(targets="ask")).detach()
    family = mp.Family(model_types=(), blocks=("floors",), query=("ask",), value=("see",))
    tuner = mp.attach(model, mp.LoRA(rank=1), family=family)
    assert [p.path for p, _ in tuner.patches] == [
        *("floors.0.ask", "floors.0.see", "floors.1.ask", "floors.1.see"),
    ]


def test_a_model_of_ones_own_around_a_known_one():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.reader = zoo.build("bert")
            self.classifier = nn.Linear(16, 2)

    tuner = mp.attach(Pair(), mp.LoRA(rank=1, targets="value"))
    assert {p.path for p, _ in tuner.patches} == {
        *(f"reader.bert.encoder.layer.{i}.attention.self.value" for i in range(2)),
    }
    assert list(tuner.copies) == ["classifier"]


def test_an_unknown_model_may_call_its_modules_by_a_word_of_the_field():
    model = nn.Sequential(nn.ModuleDict({"key": nn.Linear(4, 4), "other": nn.Linear(4, 4)}))
    tuner = mp.attach(model, mp.LoRA(rank=1, targets="key"))
    assert [p.path for p, _ in tuner.patches] == ["0.key"]


@pytest.mark.parametrize("name", [n for n in zoo.MODELS if n != "mbart"])
def test_blocks_and_top(models, name):
    anatomy = Anatomy(models[name])
    assert len(anatomy.blocks()) == (4 if name in zoo.SEQ2SEQ else 2)
    last = anatomy.blocks()[-1][1]
    top = set(anatomy.top(1))
    assert set(last.parameters()) <= top
    assert not set(anatomy.blocks()[-2][1].parameters()) & top
    final_norm = name not in (*zoo.ENCODERS, "bart", "tiny-encoder-decoder")
    assert (len(top) > len(list(last.parameters()))) == final_norm
    with pytest.raises(ValueError, match="has 2 layers, so the top 3 do not exist"):
        anatomy.top(3)


def misspelt(name):
    """The last two letters of a name change places, or one is added."""
    if isinstance(name, Slice):
        return replace(name, module=misspelt(name.module))
    return name[:-2] + name[-1] + name[-2] if len(name) > 4 and name[-1] != name[-2] else name + "x"


@pytest.mark.parametrize("name", [*zoo.MODELS, *zoo.MORE])
def test_every_field_of_a_family_is_looked_at(name):
    model = zoo.build(name)
    known = Anatomy(model).family
    Anatomy(model, known)  # also where a model lacks what another one of the family has
    family = replace(known, model_types=("mine",))
    Anatomy(model, family)
    for field in fields(family):
        names = getattr(family, field.name)
        if names and field.name != "model_types":
            wrong = replace(family, **{field.name: tuple(map(misspelt, names))})
            match = "no list of blocks" if field.name == "blocks" else "The family's .* names '"
            with pytest.raises(ValueError, match=match):
                mp.attach(model, mp.LoRA(rank=2, targets=("lm_head",)), family=wrong)
    assert not mp.tuners(model)


def test_one_name_of_several_is_misspelt():
    bart = Anatomy(zoo.build("bart")).family
    changes = {
        "query": ("self_attn.q_proj", "encoder_attn.q_porj"),
        "blocks": ("encoder.layers", "decoder.layer"),
        "norms": ("self_attn_layer_norm", "encoder_attn_layernorm", "final_layer_norm"),
        "words": ("shared", "encoder.embed_token"),
        "cross_attention": ("encoder_atn",),
    }
    near = ("encoder_attn.q_proj", "decoder.layers", "encoder_attn_layer_norm")
    near += ("encoder.embed_tokens", "encoder_attn")
    for (field, names), right in zip(changes.items(), near, strict=True):
        family = replace(bart, model_types=("mine",), **{field: names})
        with pytest.raises(
            ValueError, match=f"The family's {field} names .*did you mean.*'{right}"
        ):
            Anatomy(zoo.build("bart"), family)


def test_attention_that_does_not_say_its_heads_has_no_memory_door():
    block = nn.ModuleDict({"mixer": nn.ModuleDict({"ask": nn.Linear(8, 8)})})
    model = nn.ModuleDict({"words": nn.Embedding(9, 8), "floors": nn.ModuleList([block])})
    family = mp.Family((), "floors", words="words", attention="mixer", query="mixer.ask")
    with pytest.raises(ValueError, match="mixer has no memory door: its config does not say"):
        mp.attach(model, mp.Prefix(length=2), family=family)
    assert not mp.tuners(model)


def test_a_family_takes_one_name_and_no_other_things():
    assert mp.Family("x", blocks="h", query="q").query == ("q",)
    for wrong in (3, None, (3,), ("",)):
        with pytest.raises(ValueError, match="A Family's attention must be a tuple of names"):
            mp.Family("x", blocks="h", attention=wrong)
    with pytest.raises(TypeError, match="family must be a minipeft.Family, not a dict"):
        mp.attach(zoo.build("gpt2"), mp.LoRA(), family={"blocks": "h"})


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (dict(index=3, of=3), "counted from 0, such as 0 of 3, not '3' of '3'"),
        (dict(index="0", of=3), "index-th of some parts"),
        (dict(index=0, of=3, sizes=("head", 1, 1)), "'heads' or 'key_value_heads', not 'head'"),
        (dict(index=0, of=3, groups=0), "whole numbers from 1"),
    ],
)
def test_a_slice_that_is_none(how, said):
    with pytest.raises(ValueError, match=said):
        Slice("qkv", **how)


class Mixer(nn.Module):
    """Attention, or a convolution of one token, which has other maps."""

    def __init__(self, names):
        super().__init__()
        for name in names:
            self.add_module(name, nn.Linear(4, 4))

    def forward(self, x):
        for module in self.children():
            x = x + module(x)
        return x


class Convolution(Mixer):
    """A mixer of another class."""


class Hybrid(nn.Module):
    """Layers of two makes in turn."""

    def __init__(self):
        super().__init__()
        kinds = [(Convolution, ("in_proj", "out_proj")), (Mixer, ("q_proj", "out_proj"))]
        self.layers = nn.ModuleList(
            nn.ModuleDict({"mixer": kind(names), "up": nn.Linear(4, 4)})
            for kind, names in kinds * 2
        )

    def forward(self, x):
        for layer in self.layers:
            x = layer["up"](layer["mixer"](x))
        return x


def test_layers_of_several_makes():
    """A name need not be in a layer of another make; in one of the same make it must."""
    family = mp.Family((), "layers", query="mixer.q_proj", output="mixer.out_proj", up="up")
    model = Hybrid()
    for target, layers in (("q_proj", [1, 3]), ("in_proj", [0, 2]), ("out_proj", [0, 1, 2, 3])):
        tuner = mp.attach(model, mp.LoRA(rank=1, targets=target))
        assert [place.layer for place, _ in tuner.patches] == layers
        model(torch.ones(1, 2, 4))
        tuner.detach()
    for options in ({}, {"family": family}):
        target = "query" if options else "q_proj"
        tuner = mp.attach(model, mp.LoRA(rank=1, targets=target, layers=(3,)), **options)
        assert [place.layer for place, _ in tuner.patches] == [3]
        tuner.detach()
        with pytest.raises(ValueError, match=rf"{target}' has no layer \[0\]; its layers are"):
            mp.attach(model, mp.LoRA(rank=1, targets=target, layers=(0, 1)), **options)
    del model.layers[1].mixer.q_proj  # of the same make as the mixer of layer 3
    with pytest.raises(ValueError, match=r"is in layers \[3\] of layers but not in \[1\]"):
        mp.attach(model, mp.LoRA(rank=1, targets="q_proj"))
    mp.attach(model, mp.LoRA(rank=1, targets="q_proj", layers=(3,))).detach()


class Router(nn.Linear):
    """As those of experts: scores, and which are the highest."""

    def forward(self, x):
        scores = super().forward(x)
        return scores, scores.argmax(-1)


class Grouped(nn.Linear):
    """Each half of the features has its half of the weight."""

    def forward(self, x):
        x = x.unflatten(-1, (2, -1)).transpose(-2, -3)
        weight = self.weight.unflatten(0, (2, -1)).transpose(1, 2)
        return (x @ weight).transpose(-2, -3).flatten(-2)


class Careful(nn.Linear):
    """A linear map all the same."""

    def forward(self, x):
        return super().forward(x.to(self.weight.dtype))


class ChannelsFirst(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class WithRouters(nn.Module):
    def __init__(self):
        super().__init__()
        self.careful, self.norm = Careful(4, 4), ChannelsFirst(4)
        self.router, self.grouped = Router(4, 4), Grouped(2, 4, bias=False)

    def forward(self, x):
        x = self.norm(self.careful(x).transpose(1, 2)).transpose(1, 2)
        scores, best = self.router(x)
        return self.grouped(x * scores + best[..., None])


def test_what_looks_like_a_linear_map_but_computes_something_else():
    """It is refused by name, no part of all linear maps, and its bias is none of BitFit's."""
    model, x = WithRouters(), torch.ones(1, 2, 4)
    model(x)
    for target in ("router", "grouped"):
        with pytest.raises(TypeError, match="computes something else than W x"):
            mp.attach(model, mp.LoRA(rank=1, targets=target))
    tuner = mp.attach(model, mp.LoRA(rank=1, targets="all-linear"))
    assert [place.path for place, _ in tuner.patches] == ["careful"]
    model(x)
    tuner.detach()
    for norms, path in ((None, "norm is a ChannelsFirst"), (False, "router is a Router")):
        with pytest.raises(ValueError, match=f"{path}, whose bias is not added"):
            mp.attach(model, mp.BitFit(norms=norms))
    mp.attach(model, mp.BitFit(targets="careful")).detach()
    assert not mp.tuners(model)


def test_all_linear_maps_of_some_layers():
    model = Hybrid()
    tuner = mp.attach(model, mp.LoRA(rank=1, targets="all-linear", layers=(1, 2)))
    assert {place.layer for place, _ in tuner.patches} == {1, 2} and len(tuner.patches) == 6
    tuner.detach()
    with pytest.raises(ValueError, match=r"no linear maps in layer \[4\]"):
        mp.attach(model, mp.LoRA(rank=1, targets="all-linear", layers=(1, 4)))


def test_all_linear_maps_are_those_without_a_word_as_well():
    """Of a hybrid that was described, and of the experts that every token shares."""
    family = mp.Family((), "layers", query="mixer.q_proj", output="mixer.out_proj", up="up")
    model = Hybrid()
    tuner = mp.attach(model, mp.LoRA(rank=1, targets="all-linear"), family=family)
    assert len(tuner.patches) == 12
    assert {p.target for p, _ in tuner.patches} == {
        *("output", "up", "layers.0.mixer.in_proj", "layers.1.mixer.q_proj"),
        *("layers.2.mixer.in_proj", "layers.3.mixer.q_proj"),
    }
    tuner.detach()
    tuner = mp.attach(model, mp.LoRA(rank=1, targets="all-linear", layers=(0, 1)), family=family)
    assert len(tuner.patches) == 6
    model = zoo.build("qwen2_moe")
    tuner = mp.attach(model, mp.LoRA(rank=2, targets="all-linear"))
    maps = {p for p, m in Anatomy(model).modules.items() if isinstance(m, nn.Linear)}
    assert {place.path for place, _ in tuner.patches} == maps - {"lm_head"}


def fused(config=None):
    """One layer with a map of 2 queries, a key and a value of width 2 each; config: its own."""
    attention = nn.ModuleDict({"qkv": nn.Linear(4, 8)})
    attention.config = config
    model = nn.Module()
    model.layers = nn.ModuleList([nn.ModuleDict({"attn": attention})])
    model.config = SimpleNamespace(model_type="mine")
    return model


def test_how_many_heads_there_are_is_said_where_a_map_stands():
    """By the text's part of a model for pictures too, or by nobody: then it is asked for."""
    sizes = ("heads", "key_value_heads", "key_value_heads")
    family = mp.Family("mine", "layers", key=Slice("attn.qkv", 1, 3, sizes=sizes))
    config = SimpleNamespace(num_attention_heads=2, num_key_value_heads=1)
    tuner = mp.attach(fused(config), mp.LoRA(rank=1, targets="key"), family=family)
    assert tuner.patches[0][0].columns.tolist() == [4, 5]
    for part in (family.key[0], Slice("attn.qkv", 1, 4, per_head=True)):
        with pytest.raises(ValueError, match="how many heads there are at layers.0.attn.qkv: "):
            mp.attach(fused(), mp.LoRA(rank=1, targets="key"), family=replace(family, key=(part,)))
    numbers = mp.Family("mine", "layers", key=Slice("attn.qkv", 1, 3, sizes=(2, 1, 1)))
    tuner = mp.attach(fused(), mp.LoRA(rank=1, targets="key"), family=numbers)
    assert tuner.patches[0][0].columns.tolist() == [4, 5]


def test_layers_that_differ_in_their_heads():
    """A config of transformers that has settings for each layer gives them for no other."""
    hf = pytest.importorskip("transformers")
    model, batch = zoo.build("llama"), zoo.batch("llama")
    model.config.per_layer_config = {1: {"num_key_value_heads": 1}}
    config = model.config.per_layer_config[1]
    attention = hf.models.llama.modeling_llama.LlamaAttention(config, 1)
    attention.config = model.config
    model.model.layers[1].self_attn = attention.double()
    with pytest.raises(RuntimeError, match="per-layer attribute"):
        _ = model.config.num_key_value_heads
    tuner = mp.attach(model, mp.LoRA(rank=2, targets=("key", "value")))
    assert [place.out_features for place, _ in tuner.patches] == [8, 8, 4, 4]
    zoo.logits(model, batch)
    tuner.detach()
    for method in (mp.Prefix(length=2), mp.PTuningV2(length=2), mp.UniPELT()):
        with pytest.raises(ValueError, match="differ in their key-value heads, 2 of width 4 and 1"):
            mp.attach(model, method)
    base = zoo.logits(model, batch)
    for layer in (0, 1):
        tuner = mp.attach(model, mp.Prefix(length=2, layers=(layer,)))
        zoo.shake(tuner)
        assert (zoo.logits(model, batch) - base).abs().max() > 1e-4
        tuner.detach()
