"""Small random models of every architecture, and a batch for each, for the tests of minipeft."""

from __future__ import annotations

import logging
import warnings

import torch
from closeness import close

import minipeft as mp

logging.getLogger("transformers").setLevel(logging.ERROR)

WORDS = 48
LABELS = 3
TINY = ("tiny-decoder", "tiny-encoder", "tiny-encoder-decoder")
MODELS = (
    *TINY,
    *("gpt2", "bert", "roberta", "electra", "distilbert", "bart", "mbart", "t5", "t5-gated"),
    *("llama", "qwen2", "qwen3", "mistral", "gpt_neox", "opt", "phi", "glm4"),
)
MORE = (  # in the table of support only
    *("mt5", "glm", "bloom", "gpt_neo", "deberta-v2"),
    *("gemma", "gemma2", "gemma3_text", "phi3", "olmo2", "granite", "cohere", "starcoder2"),
    *("stablelm", "smollm3", "qwen2_moe", "mixtral", "falcon", "gpt_bigcode", "gptj", "codegen"),
    *("xlm-roberta", "camembert", "albert", "modernbert", "marian", "pegasus", "m2m_100"),
    *("xlm-roberta-xl", "roberta-prelayernorm", "data2vec-text"),
    *("umt5", "longt5"),
)
# scores in fp32; padding is hidden with the minimum of fp32
SINGLE = ("gpt_neo", "bloom", "gptj", "codegen", "gemma2", "longt5")
SEQ2SEQ = (
    *("tiny-encoder-decoder", "bart", "mbart", "t5", "t5-gated", "mt5"),
    *("marian", "pegasus", "m2m_100", "umt5", "longt5"),
)
ENCODERS = (
    *("tiny-encoder", "bert", "roberta", "electra", "distilbert", "deberta-v2"),
    *("xlm-roberta", "camembert", "albert", "modernbert"),
    *("xlm-roberta-xl", "roberta-prelayernorm", "data2vec-text"),
)


def build(
    name: str,
    head: str = "language",
    layers: int = 2,
    seed: int = 0,
    dropout: float = 0.0,
    dtype: torch.dtype | None = None,
):
    """A model in eval mode. head: language, classification or tagging; dtype: None is float64.

    What is compared is compared in float64, see closeness.py. The two of SINGLE do not know it.
    """
    dtype = dtype or (torch.float32 if name in SINGLE else torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _tiny(name, head, layers, dropout) if name in TINY else _hub(name, head, layers)
    return model.to(dtype).eval()


def _tiny(name, head, layers, dropout):
    import tiny_transformer as tt

    numbers = dict(vocab_size=WORDS, width=16, layers=layers, heads=4, positions=32)
    layout = {"tiny-decoder": "gpt2", "tiny-encoder": "bert", "tiny-encoder-decoder": "bart"}[name]
    config = getattr(tt.TransformerConfig, layout)(**numbers, dropout=dropout)
    kind = {"classification": tt.ClassificationHead, "tagging": tt.TaggingHead}.get(head)
    model = {"gpt2": tt.Decoder, "bert": tt.Encoder, "bart": tt.EncoderDecoder}[layout]
    return model(config, kind(config, LABELS) if kind else None)


def _hub(name, head, layers):
    import transformers as hf

    ids = dict(vocab_size=WORDS, pad_token_id=0, bos_token_id=1, eos_token_id=2, num_labels=LABELS)
    ids |= dict(initializer_range=0.15, init_std=0.15)  # 0.02 makes 16 features almost silent
    llama = dict(hidden_size=16, num_hidden_layers=layers, num_attention_heads=4)
    llama |= dict(num_key_value_heads=2, intermediate_size=32, max_position_embeddings=32)
    bert = dict(hidden_size=16, num_hidden_layers=layers, num_attention_heads=4)
    bert |= dict(intermediate_size=32, max_position_embeddings=40)
    quiet = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    bart = dict(
        d_model=16, encoder_layers=layers, decoder_layers=layers, max_position_embeddings=32
    )
    bart |= dict(encoder_attention_heads=4, decoder_attention_heads=4, dropout=0.0)
    bart |= dict(encoder_ffn_dim=32, decoder_ffn_dim=32, decoder_start_token_id=2)
    t5 = dict(d_model=16, d_kv=4, d_ff=32, num_layers=layers, num_heads=4, dropout_rate=0.0)
    t5 |= dict(decoder_start_token_id=0)
    gpt2 = dict(n_embd=16, n_layer=layers, n_head=4, n_positions=32)
    gpt2 |= dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    distil = dict(dim=16, n_layers=layers, n_heads=4, hidden_dim=32, dropout=0.0)
    distil |= dict(attention_dropout=0.0, seq_classif_dropout=0.0, max_position_embeddings=32)
    opt = dict(hidden_size=16, num_hidden_layers=layers, num_attention_heads=4, ffn_dim=32)
    opt |= dict(word_embed_proj_dim=16, dropout=0.0, max_position_embeddings=32)
    neo = dict(hidden_size=16, num_layers=layers, num_heads=4, intermediate_size=32)
    neo |= dict(max_position_embeddings=32, attention_types=[[["global"], layers]])
    neo |= dict(resid_dropout=0.0, embed_dropout=0.0, attention_dropout=0.0)
    experts = dict(num_experts=4, num_local_experts=4, num_experts_per_tok=2)
    experts |= dict(moe_intermediate_size=16, shared_expert_intermediate_size=16)
    experts |= dict(experts_implementation="eager")  # the grouped product knows no float64
    gptj = dict(n_embd=16, n_layer=layers, n_head=4, n_positions=32, rotary_dim=4)
    gptj |= dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    falcon = dict(hidden_size=16, num_hidden_layers=layers, num_attention_heads=4)
    falcon |= dict(hidden_dropout=0.0, attention_dropout=0.0, multi_query=False)
    names = {
        "gemma": ("Gemma", llama | dict(head_dim=4)),
        "gemma2": ("Gemma2", llama | dict(head_dim=4, query_pre_attn_scalar=4)),
        "gemma3_text": ("Gemma3", llama | dict(head_dim=4, query_pre_attn_scalar=4)),
        "phi3": ("Phi3", llama),
        "olmo2": ("Olmo2", llama),
        "granite": ("Granite", llama),
        "cohere": ("Cohere", llama),
        "starcoder2": ("Starcoder2", llama),
        "stablelm": ("StableLm", llama | dict(partial_rotary_factor=0.5)),
        "smollm3": ("SmolLM3", llama),
        "qwen2_moe": ("Qwen2Moe", llama | experts),
        "mixtral": ("Mixtral", llama | experts),
        "falcon": ("Falcon", falcon | dict(new_decoder_architecture=True, num_kv_heads=2)),
        "gpt_bigcode": ("GPTBigCode", gpt2),
        "gptj": ("GPTJ", gptj),
        "codegen": ("CodeGen", gptj),
        "xlm-roberta": ("XLMRoberta", bert | quiet),
        "camembert": ("Camembert", bert | quiet),
        "xlm-roberta-xl": ("XLMRobertaXL", bert | quiet),
        "roberta-prelayernorm": ("RobertaPreLayerNorm", bert | quiet),
        "data2vec-text": ("Data2VecText", bert | quiet),
        "albert": ("Albert", bert | quiet | dict(embedding_size=8)),
        "modernbert": ("ModernBert", bert | dict(cls_token_id=1, sep_token_id=2)),
        "marian": ("Marian", bart),
        "pegasus": ("Pegasus", bart),
        "m2m_100": ("M2M100", bart),
        "umt5": ("UMT5", t5),
        "longt5": ("LongT5", t5),
        "gpt2": ("GPT2", gpt2),
        "bert": ("Bert", bert | quiet),
        "roberta": ("Roberta", bert | quiet),
        "electra": ("Electra", bert | quiet | dict(embedding_size=8)),
        "distilbert": ("DistilBert", distil),
        "bart": ("Bart", bart),
        "mbart": ("MBart", bart),
        "t5": ("T5", t5),
        "t5-gated": ("T5", t5 | dict(feed_forward_proj="gated-gelu")),
        "llama": ("Llama", llama),
        "qwen2": ("Qwen2", llama),
        "qwen3": ("Qwen3", llama | dict(head_dim=4)),
        "mistral": ("Mistral", llama),
        "gpt_neox": ("GPTNeoX", bert),
        "opt": ("OPT", opt),
        "phi": ("Phi", llama),
        "glm4": ("Glm4", llama | dict(head_dim=4)),
        "glm": ("Glm", llama | dict(head_dim=4)),
        "mt5": ("MT5", t5),
        "bloom": ("Bloom", dict(hidden_size=16, n_layer=layers, n_head=4)),
        "gpt_neo": ("GPTNeo", neo),
        "deberta-v2": ("DebertaV2", bert | quiet),
    }
    prefix, numbers = names[name]
    language = "ForMaskedLM" if name in ENCODERS else "ForCausalLM"
    language = "LMHeadModel" if name == "gpt2" else language
    language = "ForConditionalGeneration" if name in SEQ2SEQ else language
    language = "MTModel" if name == "marian" else language
    end = {"classification": "ForSequenceClassification", "tagging": "ForTokenClassification"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text = "Text" if name == "gemma3_text" else ""
        config = getattr(hf, f"{prefix}{text}Config")(**(ids | numbers))
        return getattr(hf, f"{prefix}{end.get(head, language)}")(config)


def batch(name: str, head: str = "language", rows: int = 3, tokens: int = 7, seed: int = 0) -> dict:
    """Ids, a mask with padding in the last row, labels that fit the head."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, WORDS, (rows, tokens), generator=generator)
    mask = torch.ones_like(ids)
    if rows > 1:  # padding on the right
        ids[-1, -2:], mask[-1, -2:] = 0, 0
    if head == "classification":
        if name in ("bart", "mbart", "t5", "t5-gated", "mt5"):
            ids[mask.sum(1) > 0, -1 if rows == 1 else 0] = 5
            ids[ids == 2] = 3
            last = mask.sum(1) - 1
            ids[torch.arange(rows), last] = 2  # these heads read the end token
        labels = torch.randint(LABELS, (rows,), generator=generator)
    elif head == "tagging":
        labels = torch.randint(LABELS, (rows, tokens), generator=generator)
        labels = labels.masked_fill(mask == 0, -100)
    else:
        labels = ids.masked_fill(mask == 0, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def shake(tuner, scale: float = 0.1, seed: int = 0) -> None:
    """Random numbers into everything that a tuner trains, so that it does something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in tuner.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            parameter.add_(noise.to(parameter), alpha=scale)


@torch.no_grad()
def logits(model, inputs: dict) -> torch.Tensor:
    """The model's logits, in the mode it is in."""
    return model(**inputs).logits


def answered(logits: torch.Tensor, batch: dict, wrapped: dict) -> torch.Tensor:
    """Which places of the logits (B, N, V) are no padding: (B, N).

    They are those of the batch, or also those of the prompts that are in `wrapped`.
    """
    masks = (batch["attention_mask"], wrapped["attention_mask"])
    return next(mask.bool() for mask in masks if mask.shape[1] == logits.shape[1])


def mixed_equals_separate(model, inputs: dict, methods: dict, rows: list, scale: float) -> dict:
    """A batch routed row by row gives each row what its own tuner alone gives it.

    Attaches the methods by their names, shaken by `scale`; leaves all enabled. Returns the logits
    of each name alone, and of the base as None.
    """
    for number, (key, method) in enumerate(methods.items()):
        shake(mp.attach(model, method, name=key, seed=number), scale, seed=number)
    known, alone = mp.tuners(model), {}
    for key in (*methods, None):
        for other, tuner in known.items():
            (tuner.enable if other == key else tuner.disable)()
        alone[key] = logits(model, inputs)
    for tuner in known.values():
        tuner.enable()
    with mp.route(model, rows):
        mixed = logits(model, inputs)
    for row, key in enumerate(rows):
        close(mixed[row], alone[key][row])
        if key:
            assert (mixed[row] - alone[None][row]).abs().max() > 1e-4
    return alone


def head_goes_both_ways(theirs, name: str, head: str, folder, opened) -> None:
    """Of a tuner of another library's with a trained head: its file opens here, ours opens there.

    theirs: the other library's model, with `save_pretrained`.  opened: (name, head, folder) -> it.
    """
    inputs = batch(name, head)
    theirs.save_pretrained(folder / "theirs")
    model = build(name, head)
    tuner = mp.load(model, folder / "theirs")
    expected = logits(theirs, inputs)
    close(logits(model, inputs), expected)
    assert tuner.report().head > 0
    tuner.save(folder / "ours")
    again = logits(opened(name, head, folder / "ours"), inputs)
    close(again, expected)


def their_file_goes_both_ways(theirs, name: str, folder, opened, trained: str):
    """Of a tuner of another library's: its file opens here and acts alike, also merged, and back.

    theirs: the other library's model.  opened: (name, head, folder) -> it.  trained: in the names
    of its trained parameters.  Gives the tuner, merged.
    """
    inputs = batch(name)
    theirs.save_pretrained(folder / "theirs")
    model = build(name)
    base = logits(model, inputs)
    tuner = mp.load(model, folder / "theirs")
    expected = logits(theirs, inputs)
    close(logits(model, inputs), expected)
    assert (expected - base).abs().max() > 1e-2, "the vectors do something"
    count = sum(p.numel() for n, p in theirs.named_parameters() if trained in n)
    assert tuner.report().trainable == count
    tuner.save(folder / "ours")  # and back
    close(logits(opened(name, "language", folder / "ours"), inputs), expected)
    merged = theirs.merge_and_unload()
    tuner.merge()
    ours = dict(model.named_parameters())
    for key, weight in merged.named_parameters():
        close(ours[key], weight)
    return tuner


def our_file_opens_there(name: str, method, folder, opened) -> None:
    """Of a tuner of ours: its file does there what it does here, and opens here with the same bits.

    opened: (name, head, folder) -> the other library's model.
    """
    model, inputs = build(name), batch(name)
    base = logits(model, inputs)
    tuner = mp.attach(model, method)
    shake(tuner, 0.3)
    tuner.save(folder)
    ours = logits(model, inputs)
    assert (ours - base).abs().max() > 1e-2
    close(logits(opened(name, "language", folder), inputs), ours)
    again = build(name)
    assert mp.load(again, folder).method == method
    assert torch.equal(logits(again, inputs), ours)
