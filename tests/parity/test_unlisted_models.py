"""Models on no list whose parts are not where those of the list have them: right, or one sentence.

Each stands for a kind of model: language models that look or listen, stacks and tables with other
names, layers that read more, or something else, than states.
"""

import copy
import pickle

import pytest
import torch
import zoo
from closeness import close

import minipeft as mp
from minipeft.model.kind import kind_in, kind_of

hf = pytest.importorskip("transformers")

SIZE = dict(vocab_size=48, hidden_size=16, num_hidden_layers=2, num_attention_heads=4)
SIZE |= dict(num_key_value_heads=2, head_dim=4, intermediate_size=32, initializer_range=0.15)
SIZE |= dict(max_position_embeddings=32, pad_token_id=0, bos_token_id=1, eos_token_id=2)
EYES = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
PAIR = dict(
    encoder_layers=1, decoder_layers=2, encoder_attention_heads=4, d_model=16, init_std=0.15
)
PAIR |= dict(decoder_attention_heads=4, encoder_ffn_dim=16, decoder_ffn_dim=16, pad_token_id=0)
PAIR |= dict(max_position_embeddings=32, dropout=0.0, attention_dropout=0.0, eos_token_id=2)
PREFIX = mp.Prefix(length=3, hidden=None, std=1.0)
PEFT = mp.Prefix(length=3, hidden=None, std=1.0, compatibility="peft")
LLAMA = dict(blocks="language_model.layers", words="embed_tokens", positions="rotary_emb")
LLAMA |= dict(attention="self_attn")


def made(kind, config):
    """A model in eval mode and float64."""
    torch.manual_seed(0)
    return kind(config).double().eval()


def gemma3():
    config = hf.Gemma3Config(text_config=SIZE, vision_config=EYES, image_token_index=40)
    return made(hf.Gemma3ForConditionalGeneration, config)


def listening():
    """Its forward hands position_ids on to the language model inside without naming them."""
    ears = EYES | dict(max_source_positions=16)
    config = hf.MossTranscribeDiarizeConfig(text_config=SIZE, audio_config=ears, audio_token_id=40)
    return made(hf.MossTranscribeDiarizeForConditionalGeneration, config)


def fsmt():
    """Two tables of words; without labels the decoder reads the input."""
    config = hf.FSMTConfig(langs=["en", "de"], src_vocab_size=48, tgt_vocab_size=48, **PAIR)
    return made(hf.FSMTForConditionalGeneration, config).float()  # its masks are float32


@pytest.mark.parametrize("method", [PEFT, mp.PromptTuning(length=3, compatibility="peft")])
def test_a_language_model_that_looks_opens_in_peft_as_a_decoder(method, tmp_path):
    """Its class is called ForConditionalGeneration, as those of encoder-decoders are."""
    peft = pytest.importorskip("peft")
    model = gemma3()
    batch = {key: zoo.batch("llama")[key] for key in ("input_ids", "attention_mask")}
    theirs = copy.deepcopy(model)
    base = zoo.logits(model, batch)
    tuner = mp.attach(model, method, family=mp.Family((), **LLAMA), seed=0)
    zoo.shake(tuner, 0.5)
    tuner.save(tmp_path)
    ours = zoo.logits(model, tuner.wrap(batch))
    expected = zoo.logits(peft.PeftModel.from_pretrained(theirs, tmp_path).double().eval(), batch)
    close(ours, expected, dtype=torch.float32)  # the angles of Gemma 3 are float32
    assert (ours[:, -base.shape[1] :] - base).abs().max() > 1e-2


def test_kinds_of_models_that_listen_and_of_stacks_with_longer_names():
    config = hf.Qwen2AudioConfig(text_config=dict(SIZE, model_type="qwen2"))
    assert kind_in(config) == "decoder"  # in transformers' table of sequence-to-sequence models
    layers = dict.fromkeys(("encoder_layers", "decoder_layers", "speech_encoder_layers"), 1)
    heads = dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
    small = dict(vocab_size=48, hidden_size=16, encoder_ffn_dim=16, decoder_ffn_dim=16)
    config = hf.SeamlessM4TConfig(**small, **layers, **heads)
    model = hf.SeamlessM4TForTextToText(config)  # text_encoder and text_decoder
    assert kind_of(model) == "encoder-decoder"


def test_rows_that_read_a_memory_count_their_own_tokens_in_a_model_that_listens():
    model = listening()
    mp.attach(model, PREFIX, family=mp.Family((), **LLAMA), seed=0)
    row, nothing = torch.tensor([[5, 6, 7, 8]]), torch.zeros(1, 3, dtype=torch.long)
    padded = torch.cat([nothing, row], 1)
    alone = zoo.logits(model, {"input_ids": row})
    behind = zoo.logits(model, {"input_ids": padded, "attention_mask": (padded > 0).long()})
    close(behind[:, 3:], alone, dtype=torch.float32)  # its angles are float32


@torch.no_grad()
def test_ids_that_another_part_reads_too():
    """A table that nobody named knows no new words, nor do layers that choose experts by ids."""
    model, batch = fsmt(), {"input_ids": zoo.batch("bart")["input_ids"]}
    tables = ("encoder.embed_tokens", "decoder.embed_tokens")
    tuner = mp.attach(model, mp.PromptTuning(length=3), family=mp.Family((), "layers", tables[:1]))
    for each in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with pytest.raises(ValueError, match="model.decoder.embed_tokens reads the ids .* as well"):
            each(**batch)
    tuner.detach()
    mp.attach(model, mp.PromptTuning(length=3), family=mp.Family((), "layers", tables))
    model(**batch)
    small = dict(moe_intermediate_size=16, q_lora_rank=8, n_routed_experts=4, num_experts_per_tok=2)
    small |= dict(o_groups=2, o_lora_rank=8, index_n_heads=2, index_head_dim=4, index_topk=8)
    kinds = ["heavily_compressed_attention", "compressed_sparse_attention"]
    routers = dict(layer_types=kinds, mlp_layer_types=["hash_moe", "moe"])
    model = made(hf.DeepseekV4ForCausalLM, hf.DeepseekV4Config(**SIZE | small | routers))
    mp.attach(model, mp.PromptTuning(length=3), family=mp.Family((), "layers", "embed_tokens"))
    with pytest.raises(ValueError, match="reads the ids of the input too.*such as LoRA"):
        model(**batch)


def test_a_prefix_as_in_peft_needs_positions_that_can_be_moved():
    config = hf.CTRLConfig(vocab_size=48, n_positions=32, n_embd=16, dff=16, n_layer=1, n_head=2)
    model = made(hf.CTRLLMHeadModel, config)
    family = mp.Family((), "h", attention="multi_head_attention")
    with pytest.raises(ValueError, match="takes position_ids, .*its family names no positions"):
        mp.attach(model, PEFT, family=family)


def test_attention_that_is_not_called_with_states():
    config = hf.PegasusXConfig(vocab_size=48, num_global_tokens=4, block_size=8, **PAIR)
    model = made(hf.PegasusXForConditionalGeneration, config)
    mp.attach(model, PREFIX, family=mp.Family((), "layers", attention="self_attn"))
    with pytest.raises(ValueError, match="PegasusXGlobalLocalAttention is not called with hidden"):
        model(**zoo.batch("bart"))


def test_a_gate_whose_layer_reads_another_width():
    """The layers of MobileBERT read fewer features than its config calls hidden_size."""
    small = dict(intra_bottleneck_size=8, embedding_size=8, num_feedforward_networks=1)
    model = made(hf.MobileBertForMaskedLM, hf.MobileBertConfig(**SIZE | small))
    names = dict(attention="attention.self", query="attention.self.query")
    method = mp.UniPELT(bottleneck=0, length=2, rank=0)
    mp.attach(model, method, family=mp.Family((), "encoder.layer", **names))
    with pytest.raises(ValueError, match="A gate of width 16 does not fit an attention layer"):
        model(**zoo.batch("bert"))


def test_a_decoder_without_attention_of_its_own_to_the_encoder():
    """T5Gemma 2's looks at itself and at the encoder in one layer."""
    half = hf.T5Gemma2EncoderConfig(text_config=SIZE, vision_config=EYES, image_token_index=40)
    config = hf.T5Gemma2Config(encoder=half.to_dict(), decoder=SIZE, image_token_index=40)
    model = made(hf.T5Gemma2ForConditionalGeneration, config)
    method = mp.Prefix(length=3, hidden=None, where=("decoder",))
    stacks = ("text_model.layers", "decoder.layers")
    tuner = mp.attach(model, method, family=mp.Family((), stacks, attention="self_attn"))
    assert {place.stack for place, _ in tuner.patches} == {"model.decoder.layers"}
