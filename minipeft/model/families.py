"""The tables: what every architecture calls its parts. `anatomy.py` looks things up in them.

A model that nobody listed: fill in a `Family` and pass it on,
`attach(model, method, family=Family(...))`.
"""

from __future__ import annotations

from minipeft.model.family import Family, Slice


def thirds(module: str, **how) -> dict:
    """query, key and value of one fused map. how: the other fields of `Slice`."""
    parts = [(Slice(module, index, 3, **how),) for index in range(3)]
    return dict(zip(("query", "key", "value"), parts, strict=True), qkv=(module,))


GROUPED_QUERIES = ("heads", "key_value_heads", "key_value_heads")
_BERT_CROSS = "crossattention.self"
_BART_CROSS = "encoder_attn"
_GATED = dict(up=("mlp.up_proj",), gate=("mlp.gate_proj",), down=("mlp.down_proj",))
_LLAMA = dict(
    blocks=("layers",),
    words=("embed_tokens",),
    positions=("rotary_emb",),
    attention=("self_attn",),
    query=("self_attn.q_proj",),
    key=("self_attn.k_proj",),
    value=("self_attn.v_proj",),
    output=("self_attn.o_proj",),
    top=("norm",),
    norms=(  # of Llama and its kin, each model has some of them
        *("input_layernorm", "post_attention_layernorm", "post_self_attn_layernorm"),
        *("post_mlp_layernorm", "self_attn_layer_norm", "post_feedforward_layernorm"),
        *("pre_feedforward_layernorm",),
        *("norm", "final_layernorm", "final_layer_norm"),
    ),
)

FAMILIES = (
    Family(  # tiny_transformer
        model_types=("tiny-decoder", "tiny-encoder", "tiny-encoder-decoder"),
        blocks=("blocks",),
        words=("embeddings.words",),
        positions=("embeddings.positions",),
        attention=("attention",),
        cross_attention=("cross_attention",),
        query=("attention.query", "cross_attention.query"),
        key=("attention.key", "cross_attention.key"),
        value=("attention.value", "cross_attention.value"),
        output=("attention.output", "cross_attention.output"),
        up=("feed_forward.up",),
        down=("feed_forward.down",),
        top=("norm",),
        norms=(
            *("attention_norm", "cross_attention_norm", "feed_forward_norm"),
            *("embeddings.norm", "norm"),
        ),
    ),
    Family(
        model_types=("gpt2",),
        blocks=("h",),
        words=("wte",),
        positions=("wpe",),
        attention=("attn",),
        cross_attention=("crossattention",),
        **thirds("attn.c_attn"),
        output=("attn.c_proj",),
        up=("mlp.c_fc",),
        down=("mlp.c_proj",),
        top=("ln_f",),
        norms=("ln_1", "ln_cross_attn", "ln_2", "ln_f"),
    ),
    Family(
        model_types=("gpt_bigcode",),
        blocks=("h",),
        words=("wte",),
        positions=("wpe",),
        attention=("attn",),
        **thirds("attn.c_attn", sizes=GROUPED_QUERIES, groups="key_value_heads"),
        output=("attn.c_proj",),
        up=("mlp.c_fc",),
        down=("mlp.c_proj",),
        top=("ln_f",),
        norms=("ln_1", "ln_2", "ln_f"),
    ),
    Family(
        model_types=(
            *("bert", "roberta", "electra", "xlm-roberta", "camembert", "xlm-roberta-xl"),
            *("roberta-prelayernorm", "data2vec-text"),
        ),
        blocks=("encoder.layer",),
        words=("embeddings.word_embeddings",),
        positions=("embeddings.position_embeddings",),
        attention=("attention.self",),
        cross_attention=(_BERT_CROSS,),
        query=("attention.self.query", f"{_BERT_CROSS}.query"),
        key=("attention.self.key", f"{_BERT_CROSS}.key"),
        value=("attention.self.value", f"{_BERT_CROSS}.value"),
        output=("attention.output.dense", "crossattention.output.dense"),
        up=("intermediate.dense",),
        down=("output.dense",),
        norms=(
            *("attention.output.LayerNorm", "crossattention.output.LayerNorm"),
            *("output.LayerNorm", "embeddings.LayerNorm"),
            *("attention.self_attn_layer_norm", "crossattention.self_attn_layer_norm"),  # XL
            *("attention.LayerNorm", "intermediate.LayerNorm", "LayerNorm"),  # pre-norm
        ),
    ),
    Family(  # all layers are one
        model_types=("albert",),
        blocks=("albert_layers",),
        words=("embeddings.word_embeddings",),
        positions=("embeddings.position_embeddings",),
        attention=("attention",),
        query=("attention.query",),
        key=("attention.key",),
        value=("attention.value",),
        output=("attention.dense",),
        up=("ffn",),
        down=("ffn_output",),
        norms=("attention.LayerNorm", "full_layer_layer_norm", "embeddings.LayerNorm"),
    ),
    Family(
        model_types=("modernbert",),
        blocks=("layers",),
        words=("embeddings.tok_embeddings",),
        positions=("rotary_emb",),
        attention=("attn",),
        **thirds("attn.Wqkv"),
        output=("attn.Wo",),
        gate=(Slice("mlp.Wi", 0, 2),),
        up=(Slice("mlp.Wi", 1, 2),),
        down=("mlp.Wo",),
        top=("final_norm",),
        norms=("attn_norm", "mlp_norm", "embeddings.norm", "final_norm"),
    ),
    Family(
        model_types=("distilbert",),
        blocks=("transformer.layer",),
        words=("embeddings.word_embeddings",),
        positions=("embeddings.position_embeddings",),
        attention=("attention",),
        query=("attention.q_lin",),
        key=("attention.k_lin",),
        value=("attention.v_lin",),
        output=("attention.out_lin",),
        up=("ffn.lin1",),
        down=("ffn.lin2",),
        norms=("sa_layer_norm", "output_layer_norm", "embeddings.LayerNorm"),
    ),
    Family(
        model_types=("t5", "mt5", "umt5"),
        blocks=("encoder.block", "decoder.block"),
        words=("shared", "encoder.embed_tokens", "decoder.embed_tokens"),
        attention=("layer.0.SelfAttention",),
        cross_attention=("layer.1.EncDecAttention",),
        query=("layer.*.SelfAttention.q", "layer.*.EncDecAttention.q"),
        key=("layer.*.SelfAttention.k", "layer.*.EncDecAttention.k"),
        value=("layer.*.SelfAttention.v", "layer.*.EncDecAttention.v"),
        output=("layer.*.SelfAttention.o", "layer.*.EncDecAttention.o"),
        up=("layer.*.DenseReluDense.wi", "layer.*.DenseReluDense.wi_1"),  # wi_1 where it is gated
        gate=("layer.*.DenseReluDense.wi_0",),
        down=("layer.*.DenseReluDense.wo",),
        top=("decoder.final_layer_norm",),
        norms=("layer.*.layer_norm", "final_layer_norm"),
    ),
    Family(
        model_types=("bart", "mbart", "marian", "pegasus", "m2m_100"),
        blocks=("encoder.layers", "decoder.layers"),
        words=("shared", "encoder.embed_tokens", "decoder.embed_tokens"),
        positions=("encoder.embed_positions", "decoder.embed_positions"),
        attention=("self_attn",),
        cross_attention=(_BART_CROSS,),
        query=("self_attn.q_proj", f"{_BART_CROSS}.q_proj"),
        key=("self_attn.k_proj", f"{_BART_CROSS}.k_proj"),
        value=("self_attn.v_proj", f"{_BART_CROSS}.v_proj"),
        output=("self_attn.out_proj", f"{_BART_CROSS}.out_proj"),
        up=("fc1",),
        down=("fc2",),
        top=("decoder.layer_norm",),
        norms=(
            *("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
            *("layernorm_embedding", "layer_norm"),
        ),
    ),
    Family(
        model_types=(
            *("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"),
            *("olmo2", "granite", "cohere", "stablelm", "smollm3"),
        ),
        **_LLAMA,
        **_GATED,
    ),
    Family(model_types=("qwen2_moe", "mixtral"), **_LLAMA),  # experts are no linear maps
    Family(
        model_types=("starcoder2",),
        **_LLAMA,
        up=("mlp.c_fc",),
        down=("mlp.c_proj",),
    ),
    Family(
        model_types=("phi3",),
        **_LLAMA | thirds("self_attn.qkv_proj", sizes=GROUPED_QUERIES),
        gate=(Slice("mlp.gate_up_proj", 0, 2),),
        up=(Slice("mlp.gate_up_proj", 1, 2),),
        down=("mlp.down_proj",),
    ),
    Family(
        model_types=("glm", "glm4"),
        **_LLAMA,
        gate=(Slice("mlp.gate_up_proj", 0, 2),),
        up=(Slice("mlp.gate_up_proj", 1, 2),),
        down=("mlp.down_proj",),
    ),
    Family(
        model_types=("phi",),
        **_LLAMA | dict(output=("self_attn.dense",), top=("final_layernorm",)),
        up=("mlp.fc1",),
        down=("mlp.fc2",),
    ),
    Family(
        model_types=("opt",),
        **_LLAMA
        | dict(
            positions=("embed_positions",),
            output=("self_attn.out_proj",),
            top=("final_layer_norm",),
        ),
        up=("fc1",),
        down=("fc2",),
    ),
    Family(
        model_types=("gpt_neox",),
        blocks=("layers",),
        words=("embed_in",),
        positions=("rotary_emb",),
        attention=("attention",),
        **thirds("attention.query_key_value", per_head=True),
        output=("attention.dense",),
        up=("mlp.dense_h_to_4h",),
        down=("mlp.dense_4h_to_h",),
        top=("final_layer_norm",),
        norms=("input_layernorm", "post_attention_layernorm", "final_layer_norm"),
    ),
    # attention of the next ones cannot be extended from outside: they have no memory door
    Family(
        model_types=("falcon",),
        blocks=("h",),
        words=("word_embeddings",),
        positions=("rotary_emb",),
        **thirds("self_attention.query_key_value", sizes=GROUPED_QUERIES, groups="key_value_heads"),
        output=("self_attention.dense",),
        up=("mlp.dense_h_to_4h",),
        down=("mlp.dense_4h_to_h",),
        top=("ln_f",),
        norms=("input_layernorm", "post_attention_layernorm", "ln_attn", "ln_mlp", "ln_f"),
    ),
    Family(
        model_types=("gptj",),
        blocks=("h",),
        words=("wte",),
        query=("attn.q_proj",),
        key=("attn.k_proj",),
        value=("attn.v_proj",),
        output=("attn.out_proj",),
        up=("mlp.fc_in",),
        down=("mlp.fc_out",),
        top=("ln_f",),
        norms=("ln_1", "ln_f"),
    ),
    Family(  # cut for four devices; in each part query, value, key
        model_types=("codegen",),
        blocks=("h",),
        words=("wte",),
        query=(Slice("attn.qkv_proj", 0, 3, groups=4),),
        key=(Slice("attn.qkv_proj", 2, 3, groups=4),),
        value=(Slice("attn.qkv_proj", 1, 3, groups=4),),
        qkv=("attn.qkv_proj",),
        output=("attn.out_proj",),
        up=("mlp.fc_in",),
        down=("mlp.fc_out",),
        top=("ln_f",),
        norms=("ln_1", "ln_f"),
    ),
    Family(
        model_types=("longt5",),
        blocks=("encoder.block", "decoder.block"),
        words=("shared", "encoder.embed_tokens", "decoder.embed_tokens"),
        query=("layer.*.*Attention.q",),
        key=("layer.*.*Attention.k",),
        value=("layer.*.*Attention.v",),
        output=("layer.*.*Attention.o",),
        up=("layer.*.DenseReluDense.wi", "layer.*.DenseReluDense.wi_1"),
        gate=("layer.*.DenseReluDense.wi_0",),
        down=("layer.*.DenseReluDense.wo",),
        top=("decoder.final_layer_norm",),
        norms=("layer.*.layer_norm", "final_layer_norm"),
    ),
    Family(
        model_types=("bloom",),
        blocks=("h",),
        words=("word_embeddings",),
        **thirds("self_attention.query_key_value", per_head=True),
        output=("self_attention.dense",),
        up=("mlp.dense_h_to_4h",),
        down=("mlp.dense_4h_to_h",),
        top=("ln_f",),
        norms=(
            *("input_layernorm", "post_attention_layernorm"),
            *("word_embeddings_layernorm", "ln_f"),
        ),
    ),
    Family(
        model_types=("gpt_neo",),
        blocks=("h",),
        words=("wte",),
        positions=("wpe",),
        query=("attn.attention.q_proj",),
        key=("attn.attention.k_proj",),
        value=("attn.attention.v_proj",),
        output=("attn.attention.out_proj",),
        up=("mlp.c_fc",),
        down=("mlp.c_proj",),
        top=("ln_f",),
        norms=("ln_1", "ln_2", "ln_f"),
    ),
    Family(
        model_types=("deberta-v2",),
        blocks=("encoder.layer",),
        words=("embeddings.word_embeddings",),
        positions=("embeddings.position_embeddings",),
        query=("attention.self.query_proj",),
        key=("attention.self.key_proj",),
        value=("attention.self.value_proj",),
        output=("attention.output.dense",),
        up=("intermediate.dense",),
        down=("output.dense",),
        norms=("attention.output.LayerNorm", "output.LayerNorm", "embeddings.LayerNorm"),
        rowless=("encoder",),
    ),
)

COUNT_OWN_TOKENS = ("opt", "m2m_100")  # by themselves, whatever the side of the padding

NO_FIRST_TOKEN = ("t5", "mt5", "umt5", "longt5")  # encoders without [CLS]

# Heads that a fresh task starts from random numbers; they are trained and saved with a tuner.
TASK_HEADS = ("score", "classifier", "pre_classifier", "classification_head", "qa_outputs")
TINY_TASK_HEADS = ("ClassificationHead", "TaggingHead")  # the class of a tiny model's `head`
