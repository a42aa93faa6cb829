"""A tuner that a pass does not reach says so, and one that a pass may leave out does not.

What is expected comes from the same model called in the way that is known to work.
"""

import copy
import pickle
import warnings
from itertools import product
from types import SimpleNamespace

import pytest
import torch
import transformers as hf
import zoo
from closeness import close
from torch import nn
from whole import part_of

import minipeft as mp
import tiny_transformer as tt
from minipeft.methods.combined import mam
from minipeft.passes.reach import partly

BERT = dict(vocab_size=zoo.WORDS, hidden_size=16, num_hidden_layers=2, num_attention_heads=4)
BERT |= dict(intermediate_size=32, max_position_embeddings=40)
IDS = torch.randint(3, zoo.WORDS, (3, 7), generator=torch.Generator().manual_seed(0))
PROMPT, PREFIX = mp.PromptTuning(length=4), mp.Prefix(length=3, hidden=None, std=1.0)


def seeded(make, *args):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make(*args).eval()


def attached(model, method, **settings):
    tuner = mp.attach(model, method, seed=0, **settings)
    zoo.shake(tuner)
    return tuner


def far(a, b) -> float:
    return (a - b).abs().max().item()


# ---- soft prompts: generate of transformers, inner models, vectors ----


@pytest.mark.parametrize("name", ["t5", "t5-gated", "bart", "mbart"])
@pytest.mark.parametrize("method", [PROMPT, mp.PTuning(length=3), mp.Prefix(embedding_only=True)])
@torch.no_grad()
def test_generate_of_transformers_reads_the_prompt_of_an_encoder(name, method):
    model = zoo.build(name)
    attached(model, method)
    ids = IDS[:, :5]
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])
    for settings in ({}, {"num_beams": 2}, {"use_cache": False}, {"attention_mask": mask}):
        written = model.generate(ids, max_new_tokens=5, **settings)
        beams, given_mask = settings.get("num_beams", 1), settings.get("attention_mask")
        assert torch.equal(
            written, mp.generate(model, ids, given_mask, max_new_tokens=5, beams=beams)
        )


@pytest.mark.parametrize("name", ["t5", "bart"])
@torch.no_grad()
def test_generate_under_route_gives_each_row_its_own_prompt(name):
    model = zoo.build(name)
    a, b = (mp.attach(model, PROMPT, key, seed=n) for n, key in enumerate("ab"))
    scores = dict(max_new_tokens=1, output_scores=True, return_dict_in_generate=True)
    with mp.route(model, ["a", None, "b"]):
        mixed = model.generate(IDS, **scores).scores[0]
    b.disable()
    close(mixed[0], model.generate(IDS, **scores).scores[0][0])
    a.disable()
    close(mixed[1], model.generate(IDS, **scores).scores[0][1])


@pytest.mark.parametrize("name", ["t5", "bart"])
@torch.no_grad()
def test_what_the_encoder_alone_gave_can_be_given_back(name):
    model = zoo.build(name)
    attached(model, PROMPT)
    given = dict(attention_mask=torch.ones_like(IDS), decoder_input_ids=IDS)
    whole = model(input_ids=IDS, **given).logits
    outputs = [model.get_encoder()(rows) for rows in (IDS, IDS[:1, :5])]
    model(input_ids=IDS[:2], decoder_input_ids=IDS[:2])  # another pass between
    parts = model(encoder_outputs=outputs[0], decoder_input_ids=IDS).logits
    close(parts, whole)
    with pytest.raises(ValueError, match="give the mask of tuner.wrap"):
        model(encoder_outputs=outputs[0], **given)  # of which text?
    model.get_encoder()(IDS)
    close(model(encoder_outputs=outputs[0], **given).logits, whole)


@pytest.mark.parametrize("name", ["tiny-encoder-decoder", "t5", "bart"])
@pytest.mark.parametrize("method", [PROMPT, PREFIX, mp.LoRA(rank=2)])
@torch.no_grad()
def test_a_decoder_goes_on_from_its_cache_while_the_encoder_reads_anew(name, method):
    model, mask = zoo.build(name), zoo.batch(name)["attention_mask"]
    attached(model, method)
    given = dict(input_ids=IDS, attention_mask=mask)
    whole = model(**given, decoder_input_ids=IDS).logits
    if name.startswith("tiny"):
        name, empty = "cache", []
    else:
        empty = hf.EncoderDecoderCache(hf.DynamicCache(), hf.DynamicCache())
        name = "past_key_values"
    first = model(**given, decoder_input_ids=IDS[:, :4], **{name: empty})
    rest = model(**given, decoder_input_ids=IDS[:, 4:], **{name: empty})
    close(first.logits, whole[:, :4])
    close(rest.logits, whole[:, 4:])


@pytest.mark.parametrize("name", ["t5", "bart"])
@pytest.mark.parametrize(
    "method", [PROMPT, PREFIX, mp.Prefix(length=2, where=("encoder",)), mp.LoRA(rank=2)]
)
@torch.no_grad()
def test_outputs_of_a_bare_encoder_are_refused(name, method):
    model = zoo.build(name)
    outputs = model.get_encoder()(IDS)
    tuner = attached(model, method)
    with pytest.raises(ValueError, match="'default' was not reached.*made without it"):
        model(encoder_outputs=outputs, decoder_input_ids=IDS)
    tuner.disable()
    model(encoder_outputs=outputs, decoder_input_ids=IDS)
    tuner.enable()
    model.generate(IDS, max_new_tokens=3)
    tuner.detach()
    attached(model, mp.Prefix(length=2, where=("decoder",)))  # which the encoder does not have
    model(encoder_outputs=outputs, decoder_input_ids=IDS)


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "bert", "roberta", "distilbert"])
@torch.no_grad()
def test_the_model_inside_reads_the_prompt(name):
    model = zoo.build(name)
    tuner = attached(model, PROMPT)
    whole = model(IDS, output_hidden_states=True).hidden_states[-1]
    inside = model.base_model(IDS).last_hidden_state
    assert torch.equal(inside, whole)
    for part in (model, model.base_model):
        with pytest.raises(ValueError, match="was not reached.*was given inputs_embeds"):
            part(inputs_embeds=torch.zeros(2, 5, 16))
    ids = tuner.wrap({"input_ids": IDS})["input_ids"]
    vectors, everywhere = model.get_input_embeddings()(ids), model.base_model(ids).last_hidden_state
    model(IDS)  # another pass between
    states = model.base_model(inputs_embeds=vectors).last_hidden_state
    if name != "roberta":  # which counts its positions by the ids
        close(states, everywhere)
    tuner.disable()
    model(inputs_embeds=torch.zeros(2, 5, 16))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@torch.no_grad()
def test_generate_from_vectors(name):
    model = zoo.build(name)
    tuner = attached(model, PROMPT)
    with pytest.raises(ValueError, match="was not reached"):
        model.generate(inputs_embeds=torch.zeros(2, 5, 16), max_new_tokens=2)
    ids = tuner.wrap({"input_ids": IDS})["input_ids"]
    vectors = model.get_input_embeddings()(ids)
    written = model.generate(inputs_embeds=vectors, max_new_tokens=4)
    assert torch.equal(written, model.generate(ids, max_new_tokens=4)[:, ids.shape[1] :])


def test_the_encoder_of_tiny_transformer_that_got_no_prompt():
    model = zoo.build("tiny-encoder-decoder")
    attached(model, PROMPT)
    with pytest.raises(ValueError, match="'default' was not reached"):
        tt.generate(model, IDS, max_new_tokens=2)
    mp.generate(model, IDS, max_new_tokens=2)


WHISPER = mp.Family(
    ("whisper",),
    blocks=("encoder.layers", "decoder.layers"),
    words=("decoder.embed_tokens",),
    attention=("self_attn",),
    cross_attention=("encoder_attn",),
    query=("self_attn.q_proj", "encoder_attn.q_proj"),
    value=("self_attn.v_proj", "encoder_attn.v_proj"),
)


def whisper():
    config = dict(vocab_size=zoo.WORDS, d_model=16, encoder_layers=2, decoder_layers=2)
    config |= dict(encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=32)
    config |= dict(decoder_ffn_dim=32, max_source_positions=10, num_mel_bins=8, pad_token_id=0)
    config |= dict(bos_token_id=1, eos_token_id=2, decoder_start_token_id=1)
    config |= dict(suppress_tokens=None, begin_suppress_tokens=None)
    return hf.WhisperForConditionalGeneration(hf.WhisperConfig(**config))


@torch.no_grad()
def test_sound_has_no_words():
    model, sound = seeded(whisper), torch.randn(2, 8, 20)
    base = model(input_features=sound, labels=IDS[:2]).logits
    for method in (PREFIX, mp.LoRA(rank=2)):
        tuner = attached(model, method, family=WHISPER)
        assert far(model(input_features=sound, labels=IDS[:2]).logits, base) > 1e-4
        model.generate(sound, max_new_tokens=3)
        model.get_encoder()(sound)
        tuner.detach()
    for method in (PROMPT, mp.PTuning(length=3)):
        tuner = attached(model, method, family=WHISPER)
        with pytest.raises(ValueError, match="was not reached.*was given input_features"):
            model(input_features=sound, labels=IDS[:2])
        with pytest.raises(ValueError, match="was not reached"):
            model.generate(sound, max_new_tokens=3)
        tuner.detach()
    assert torch.equal(model(input_features=sound, labels=IDS[:2]).logits, base)


# ---- memories ----


def gptj():
    return hf.GPTJForCausalLM(
        hf.GPTJConfig(vocab_size=zoo.WORDS, n_embd=16, n_layer=2, n_head=4, rotary_dim=4)
    )


def falcon():
    return hf.FalconForCausalLM(
        hf.FalconConfig(
            vocab_size=zoo.WORDS, hidden_size=16, num_hidden_layers=2, num_attention_heads=4
        )
    )


NO_MEMORY = {
    "gptj": (gptj, dict(blocks=("h",), attention=("attn",))),
    "falcon": (falcon, dict(blocks=("h",), attention=("self_attention",))),
    "bloom": (lambda: zoo.build("bloom"), dict(blocks=("h",), attention=("self_attention",))),
    "gpt_neo": (lambda: zoo.build("gpt_neo"), dict(blocks=("h",), attention=("attn.attention",))),
    "deberta-v2": (
        lambda: zoo.build("deberta-v2"),
        dict(blocks=("encoder.layer",), attention=("attention.self",)),
    ),
}


@pytest.mark.parametrize("name", NO_MEMORY)
@pytest.mark.parametrize("method", [PREFIX, mp.PTuningV2(length=3)])
@torch.no_grad()
def test_attention_that_reads_no_memory_is_refused_and_unharmed(name, method):
    make, family = NO_MEMORY[name]
    model = seeded(make)
    base, before = model(IDS).logits, model.config._attn_implementation
    with pytest.raises(ValueError, match="has no memory door"):
        mp.attach(model, method, family=mp.Family((name,), **family))
    assert not mp.tuners(model) and model.config._attn_implementation == before
    assert torch.equal(model(IDS).logits, base)


def test_a_memory_around_the_layer_that_reads_it():
    model = zoo.build("bert")
    family = mp.Family(("bert",), blocks=("encoder.layer",), attention=("attention",))
    mp.attach(model, PREFIX, family=family)
    with pytest.raises(ValueError, match=r"not reached at bert.encoder.layer.0.attention: Bert"):
        model(IDS)


class Around(nn.Module):
    """A module of one's own around an encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = hf.BertModel(hf.BertConfig(**BERT))
        self.out = nn.Linear(16, 2)
        self.config = self.encoder.config

    def forward(self, input_ids, labels=None):
        logits = self.out(self.encoder(input_ids=input_ids).last_hidden_state[:, 0])
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SimpleNamespace(logits=logits, loss=loss)


class OtherNames(Around):
    def forward(self, tokens, labels=None):
        return super().forward(tokens, labels)


class Heir(hf.BertPreTrainedModel):
    """Its attention cannot be set, since this file has no attention."""

    def __init__(self, config=None) -> None:
        super().__init__(config or hf.BertConfig(**BERT))
        self.bert, self.out = hf.BertModel(self.config), nn.Linear(16, 2)

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return False  # as transformers says of a class written in a notebook

    def forward(self, input_ids=None, attention_mask=None):
        states = self.bert(input_ids, attention_mask).last_hidden_state
        return SimpleNamespace(logits=self.out(states[:, 0]))


EVERY = [PROMPT, mp.PTuning(length=3), PREFIX, mp.PTuningV2(length=3, std=1.0), mp.LoRA(rank=2)]
EVERY += [mp.UniPELT(bottleneck=4, length=3, rank=2), mam(length=3, bottleneck=4)]


@pytest.mark.parametrize("kind", [Around, OtherNames, Heir])
@pytest.mark.parametrize("method", EVERY, ids=lambda m: type(m).__name__)
@torch.no_grad()
def test_a_model_inside_a_module_of_ones_own(kind, method):
    model, bare = seeded(kind), seeded(kind)
    base = model(IDS).logits
    tuner = attached(model, method, head=False)
    inner = bare.encoder if kind is not Heir else bare.bert
    attached(inner, method, head=False)
    answer = model(IDS).logits
    assert far(answer, base) > 1e-6
    close(answer, bare(IDS).logits)  # attached to the encoder itself
    tuner.detach()
    assert torch.equal(model(IDS).logits, base)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("method", EVERY, ids=lambda m: type(m).__name__)
def test_a_module_of_ones_own_is_trained(method):
    model = seeded(Around)
    mp.attach(model, method, seed=0)
    batch = {"input_ids": IDS, "labels": torch.tensor([0, 1, 0])}
    losses = mp.train(model, [batch], 20, 1e-3, progress=False).losses
    assert min(losses[1:]) < losses[0]


class Two(nn.Module):
    """Two texts through one model, one after the other."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def read(self, ids, mask):
        return self.body(input_ids=ids, attention_mask=mask).last_hidden_state[:, -1]

    def forward(self, first, first_mask, second, second_mask):
        return torch.stack([self.read(first, first_mask), self.read(second, second_mask)])


class TwoByName(Two):
    """Its first text has the names that ids and masks have everywhere."""

    def forward(self, input_ids, attention_mask, second, second_mask):
        return super().forward(input_ids, attention_mask, second, second_mask)


@pytest.mark.parametrize("kind", [Two, TwoByName])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("method", EVERY, ids=lambda m: type(m).__name__)
@torch.no_grad()
def test_two_texts_in_one_pass_are_read_as_each_alone(kind, name, method):
    """Also rows behind padding on the left, whose positions are counted."""
    bodies = [getattr(zoo.build(name), zoo.build(name).base_model_prefix) for _ in range(2)]
    model, bare = kind(bodies[0]).eval(), bodies[1]
    attached(model, method, head=False)
    attached(bare, method, head=False)
    first, second = IDS[:, :5], IDS[:2]
    masks = [torch.ones_like(first), torch.ones_like(second)]
    masks[0][0, :2] = masks[1][1, :3] = 0

    def alone(ids, mask):
        rows = zip(ids, mask != 0, strict=True)
        return torch.cat([bare(input_ids=r[m][None]).last_hidden_state[:, -1] for r, m in rows])

    texts = [(first[:2], masks[0][:2]), (second, masks[1])]
    both = model(*texts[0], *texts[1])
    if name == "llama":  # the others count the padding of a plain pass where nothing is added
        inside = dict(dtype=torch.float32)  # the angles of its rotations
        close(both, torch.stack([alone(*text) for text in texts]), **inside)
    for (ids, mask), row in zip(texts, both, strict=True):
        close(row, bare(input_ids=ids, attention_mask=mask).last_hidden_state[:, -1])


@pytest.mark.parametrize("method", [PROMPT, PREFIX], ids=lambda m: type(m).__name__)
@torch.no_grad()
def test_a_module_of_ones_own_may_go_on_from_a_cache_of_another_name(method):
    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = zoo.build("llama")

        def forward(self, tokens, kept):
            return self.body(input_ids=tokens, past_key_values=kept, use_cache=True)

    model = Steps().eval()
    attached(model, method, head=False)
    whole = model(IDS, None).logits
    first = model(IDS[:, :4], None)
    close(model(IDS[:, 4:], first.past_key_values).logits, whole[:, -3:])


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "t5"])
@torch.no_grad()
def test_the_attention_may_be_set_later(name):
    model, batch = zoo.build(name), zoo.batch(name)
    tuner = attached(model, PREFIX)
    before = zoo.logits(model, batch)
    inside = dict(dtype=torch.float32)  # eager attention has its softmax in fp32
    for kind in ("eager", "sdpa"):
        model.set_attn_implementation(kind)
        close(zoo.logits(model, batch), before, **inside)
    model.base_model.set_attn_implementation("eager")
    close(zoo.logits(model, batch), before, **inside)
    tuner.detach()
    assert model.config._attn_implementation == "eager"  # what was chosen last


def test_attention_that_takes_no_mask_is_refused_before_the_next_pass():
    model = zoo.build("llama")
    attached(model, PREFIX)
    model.set_attn_implementation("flex_attention")
    with pytest.raises(ValueError, match="A memory needs attention that takes a mask"):
        model(IDS)
    model.set_attn_implementation("sdpa")
    model(IDS)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", "t5"])
@pytest.mark.parametrize("method", [PREFIX, PROMPT, mp.LoRA(rank=2)])
def test_a_static_cache_writes_the_same(name, method):
    model = zoo.build(name)
    tuner = attached(model, method)
    mask = torch.ones_like(IDS)
    for padding in (0, 3):  # without padding a causal model passes no mask on
        mask[0, :padding] = 0
        batch = tuner.wrap({"input_ids": IDS, "attention_mask": mask})
        static = model.generate(**batch, max_new_tokens=6, cache_implementation="static")
        assert torch.equal(static, model.generate(**batch, max_new_tokens=6))


# ---- weights ----


class Fused(nn.Module):
    """torch's own encoder, which has a fused path where nothing is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(zoo.WORDS, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, ids):
        return self.encoder(self.words(ids))


def test_a_fused_path_that_goes_past_a_layer():
    model = seeded(Fused).double()
    attached(model, mp.LoRA(targets=("linear1",)))
    slow = model.train()(IDS)  # in training every layer is called
    model.eval()
    with torch.no_grad():
        with pytest.raises(ValueError, match="passed by at encoder.layers.0.linear1"):
            model(IDS)
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            close(model(IDS), slow)
        finally:
            torch.backends.mha.set_fastpath_enabled(True)


def test_layers_that_were_exchanged():
    model = zoo.build("gpt2")
    attached(model, mp.LoRA(rank=2, targets=("lm_head",)), name="head")
    model(IDS)
    model.lm_head = nn.Linear(16, zoo.WORDS, bias=False, dtype=torch.float64)
    with pytest.raises(ValueError, match="'head' was not reached.*lm_head is no longer a part"):
        model(IDS)
    mp.tuners(model)["head"].disable()
    attached(model, PROMPT, name="words")
    model.set_input_embeddings(nn.Embedding(zoo.WORDS, 16, dtype=torch.float64))
    with pytest.raises(ValueError, match="'words' was not reached: transformer.wte is another"):
        model(IDS)


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.used(x)


def test_a_layer_that_the_model_never_calls():
    model = Unused()
    tuner = mp.attach(model, mp.LoRA(rank=2, targets=("spare",)), name="a")
    mp.attach(model, mp.LoRA(rank=2, targets=("used", "spare")), name="b")
    with pytest.raises(ValueError, match="'a' was not reached.*spare was never called"):
        model(torch.zeros(1, 4))
    with mp.route(model, ["b"]):
        model(torch.zeros(1, 4))
    tuner.disable()
    model(torch.zeros(1, 4))


# ---- what may be left out ----


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.text, self.other = (hf.BertModel(hf.BertConfig(**BERT)) for _ in range(2))

    def forward(self, text=None, other=None):
        states = [self.text(text)] if text is not None else []
        states += [self.other(inputs_embeds=other)] if other is not None else []
        return sum(state.last_hidden_state[:, 0] for state in states)


@pytest.mark.parametrize("method", [mp.LoRA(rank=2, targets=("text.*.query",)), PREFIX, PROMPT])
def test_a_tower_that_the_input_does_not_need(method):
    model = seeded(Towers)
    attached(model, method)
    model(other=torch.zeros(2, 5, 16))
    model(text=IDS)
    model(other=torch.zeros(2, 5, 16))


@pytest.mark.parametrize("method", [mp.LoRA(rank=2, layers=(1,)), mp.Prefix(layers=(0,), length=2)])
def test_layers_that_layerdrop_skips(method):
    config = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, ffn_dim=32)
    config |= dict(word_embed_proj_dim=16, vocab_size=zoo.WORDS, layerdrop=0.9)
    model = seeded(lambda: hf.OPTForCausalLM(hf.OPTConfig(**config)))
    attached(model, method)
    model.train()
    for _ in range(8):
        model(IDS)


def test_an_expert_that_got_no_token():
    config = dict(vocab_size=zoo.WORDS, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4)
    config |= dict(num_experts=8, decoder_start_token_id=0, num_decoder_layers=2)
    config |= dict(num_sparse_encoder_layers=1, num_sparse_decoder_layers=1)
    kind = hf.SwitchTransformersForConditionalGeneration
    model = seeded(lambda: kind(hf.SwitchTransformersConfig(**config)))
    names = [name for name, _ in model.named_modules() if name.endswith("expert_3.wi")]
    attached(model, mp.LoRA(rank=2, targets=names[:1]))
    for seed in range(4):
        ids = torch.randint(3, zoo.WORDS, (1, 1), generator=torch.Generator().manual_seed(seed))
        model(input_ids=ids, decoder_input_ids=ids)


def test_parts_of_a_model_called_alone():
    model = zoo.build("bert", "classification")
    attached(model, mp.HeadOnly())
    model.bert(IDS)
    model = zoo.build("gpt2")
    attached(model, mp.LoRA(rank=2, targets=("lm_head",)))
    model.transformer(IDS)
    model(IDS)
    with partly(model):
        model.lm_head = nn.Linear(16, zoo.WORDS, dtype=torch.float64)
        model(IDS)


@pytest.mark.parametrize("name", ["gpt2", "llama", "bart", "t5", "bert"])
@pytest.mark.parametrize("method", [PROMPT, PREFIX, mp.LoRA(rank=2)])
def test_gradient_checkpointing(name, method):
    model, batch = zoo.build(name), zoo.batch(name)
    mp.attach(model, method, seed=0)
    model.gradient_checkpointing_enable()
    mp.train(model, [batch], 2, progress=False)


def test_a_merged_and_a_disabled_tuner_are_not_expected():
    model = zoo.build("llama")
    mp.attach(model, mp.LoRA(rank=2), "a").merge()
    mp.attach(model, PROMPT, "b").disable()
    model(inputs_embeds=torch.zeros(2, 5, 16))


def test_a_pass_that_fails_leaves_nothing_behind():
    model = zoo.build("gpt2")
    attached(model, PROMPT)
    for _ in range(2):
        with pytest.raises(ValueError, match="positions"):
            model(torch.zeros(1, 99, dtype=torch.long))
    model(IDS)
    assert model.minipeft.reach.depth == 0 and not model.minipeft.forward_lock.held()


class Asked(nn.Module):
    """Remembers what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = zoo.build("gpt2")

    def forward(self, input_ids, attention_mask=None, extra=7, **rest):
        self.asked = extra, rest
        return self.inner(input_ids, attention_mask=attention_mask)


def test_arguments_arrive_as_they_were_given():
    model = Asked()
    attached(model, PROMPT)
    for given in ({}, {"extra": None, "other": 3}, {"extra": 5, "other": None}):
        assert model(IDS, **given).logits.shape[1] == 11
        extra = given.pop("extra", 7)
        assert model.asked == (extra, given)


def test_copies_of_a_model_look_after_themselves():
    model = zoo.build("gpt2")
    attached(model, PROMPT)
    twin = copy.deepcopy(model)
    mp.tuners(model)["default"].detach()
    model(inputs_embeds=torch.zeros(2, 5, 16))
    for other in (twin, copy.deepcopy(twin)):
        assert far(other(IDS).logits[:, 4:], model(IDS).logits) > 1e-4
        with pytest.raises(ValueError, match="was not reached"):
            other(inputs_embeds=torch.zeros(2, 5, 16))
    assert pickle.loads(pickle.dumps(twin.minipeft.reach.lock)).held() is False


COMPILED = product([PROMPT, PREFIX, mp.LoRA(rank=2)], ["gpt2", "llama", "tiny-decoder"])


@pytest.mark.parametrize("method, name", part_of([*COMPILED], 3))
def test_torch_compile(name, method):
    torch.compiler.reset()
    model, batch = zoo.build(name), zoo.batch(name)
    attached(model, method)
    expected = zoo.logits(model, batch)
    compiled = torch.compile(model, backend="eager")
    for _ in range(2):
        close(zoo.logits(compiled, batch), expected)


def test_a_layer_of_all_linear_ones_whose_weight_is_read_without_calling_it(tmp_path):
    """As Jamba's step sizes: the others act, and one sentence names it. By its name: refused."""
    config = hf.JambaConfig(
        vocab_size=48, hidden_size=16, intermediate_size=32, num_hidden_layers=2, mamba_dt_rank=4,
        num_attention_heads=2, num_key_value_heads=2, attn_layer_period=2, attn_layer_offset=1,
        num_experts=1, num_experts_per_tok=1, mamba_d_state=4, use_mamba_kernels=False,
    )  # fmt: skip
    model, ids = hf.JambaForCausalLM(config).eval(), torch.arange(3, 10)[None]
    tuner = mp.attach(model, mp.LoRA(rank=2, targets="all-linear"))
    with pytest.warns(
        UserWarning, match="does nothing at model.layers.0.mamba.dt_proj: this model"
    ):
        model(input_ids=ids)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(input_ids=ids)  # it is told once
        mp.train(model, [{"input_ids": ids, "labels": ids}], 2, 1e-2, progress=False)
    inert = [patch for place, patch in tuner.patches if place.path.endswith("dt_proj")]
    assert len(inert) == 1 and not inert[0].B.any()
    others = [patch for _, patch in tuner.patches if patch is not inert[0]]
    assert all(patch.B.any() for patch in others)
    tuner.merge().unmerge()
    zoo.shake(tuner)
    with pytest.raises(ValueError, match="does nothing at .*dt_proj, .* a merge would act there"):
        tuner.merge()
    tuner.detach()
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(target_modules=["dt_proj", "q_proj"], r=2)
    theirs = peft.get_peft_model(copy.deepcopy(model), settings).eval()
    theirs.save_pretrained(tmp_path)
    tuner = mp.load(model, tmp_path)  # where it does nothing either
    with pytest.warns(UserWarning, match="does nothing at model.layers.0.mamba.dt_proj: this"):
        logits = model(input_ids=ids).logits
    assert torch.equal(logits, theirs(input_ids=ids).logits)
    tuner.detach()
    mp.attach(model, mp.LoRA(rank=2, targets=("dt_proj", "q_proj")))
    with pytest.raises(ValueError, match="passed by at model.layers.0.mamba.dt_proj"):
        model(input_ids=ids)
