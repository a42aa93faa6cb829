"""tiny_transformer against transformers: the same folder, the same logits, losses and words."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path

import pytest
import torch
from closeness import close
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_models import HEADS, padded, scrambled, words
from torch import Tensor

import tiny_transformer as tt
from tiny_transformer.tokenizer import SPECIAL

hf = pytest.importorskip("transformers")

V, LABELS = 50, 3
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
CLASSES = {
    ("gpt2", "language"): hf.GPT2LMHeadModel,
    ("gpt2", "classification"): hf.GPT2ForSequenceClassification,
    ("gpt2", "tagging"): hf.GPT2ForTokenClassification,
    ("bert", "language"): hf.BertForMaskedLM,
    ("bert", "classification"): hf.BertForSequenceClassification,
    ("bert", "tagging"): hf.BertForTokenClassification,
    ("bart", "language"): hf.BartForConditionalGeneration,
    ("bart", "classification"): hf.BartForSequenceClassification,
}
GPT2 = {"vocab_size": V, "n_positions": 24, "num_labels": LABELS, **IDS}
BERT = {"vocab_size": V, "max_position_embeddings": 24, "num_labels": LABELS, **IDS}
BART = {"vocab_size": V, "max_position_embeddings": 24, "num_labels": LABELS, **IDS}
BART |= {"decoder_start_token_id": 2}
CONFIGS = {
    "gpt2": [
        hf.GPT2Config(n_embd=16, n_layer=2, n_head=2, **GPT2),
        hf.GPT2Config(
            n_embd=15, n_layer=1, n_head=5, n_inner=7, activation_function="relu", **GPT2
        ),
        hf.GPT2Config(
            n_embd=12,
            n_layer=3,
            n_head=1,
            activation_function="gelu",
            layer_norm_epsilon=1e-3,
            **GPT2,
        ),
    ],
    "bert": [
        hf.BertConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, **BERT
        ),
        hf.BertConfig(
            hidden_size=15,
            num_hidden_layers=3,
            num_attention_heads=3,
            intermediate_size=7,
            hidden_act="gelu_new",
            type_vocab_size=3,
            layer_norm_eps=1e-3,
            **BERT,
        ),
    ],
    "bart": [
        hf.BartConfig(
            d_model=16,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            **BART,
        ),
        hf.BartConfig(
            d_model=12,
            encoder_layers=1,
            decoder_layers=3,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=10,
            decoder_ffn_dim=10,
            activation_function="relu",
            scale_embedding=True,
            **BART,
        ),
    ],
}
THEIRS = [
    pytest.param(layout, head, number, id=f"{layout}-{head}-{number}")
    for layout, head in CLASSES
    for number in range(len(CONFIGS[layout]))
]
OURS = [  # layout and numbers
    ("gpt2", {}),
    ("gpt2", {"width": 15, "heads": 5, "layers": 1, "inner": 7, "activation": "relu"}),
    ("bert", {}),
    ("bert", {"width": 15, "heads": 3, "inner": 7, "activation": "gelu_tanh", "token_types": 1}),
    ("bart", {}),
    ("bart", {"width": 12, "heads": 4, "layers": 1, "decoder_layers": 2, "scale_embedding": True}),
]
ROWS = [words(1, n, seed=n)[0] for n in (4, 9, 6)]


def ends_once(rows: list[Tensor]) -> list[Tensor]:
    """Each row closed by the end token, on which transformers' BART classifier insists."""
    return [torch.cat([row, torch.tensor([2])]) for row in rows]


def answers(head: str, ids: Tensor, mask: Tensor) -> Tensor:
    """Labels with -100 at padding."""
    generator = torch.Generator().manual_seed(4)
    if head == "classification":
        return torch.tensor([0, 2, 1])
    top = LABELS if head == "tagging" else V
    labels = torch.randint(top, ids.shape, generator=generator)
    return labels.masked_fill(mask == 0, -100)


def positions(mask: Tensor) -> Tensor:
    """What transformers must be told when padding stands on the left."""
    return (mask.cumsum(1) - 1).clamp(min=0)


def agree(ours, theirs, layout: str, head: str) -> None:
    """The same logits, loss and states: without a mask, padded on the right, on the left."""
    rows = ends_once(ROWS) if (layout, head) == ("bart", "classification") else ROWS
    seq2seq = layout == "bart" and head == "language"
    even = torch.stack([row[-4:] for row in rows])
    batches = [(even, None), padded(rows, "right", room=1)]
    # On the left transformers' BART cannot be told the positions, and its BERT reads the first
    # column, padding or not; that padding changes nothing here is tested without them.
    if layout == "gpt2" or (layout == "bert" and head != "classification"):
        batches += [padded(rows, "left", room=1)]
    for ids, mask in batches:
        whole = torch.ones_like(ids) if mask is None else mask
        labels = answers(head, ids, whole)
        spelt = {} if layout == "bart" else {"position_ids": positions(whole)}
        if layout == "gpt2" and head == "language":
            first = positions(whole) == 0  # the first word is asked for of nobody
            labels = labels.masked_fill(first, -100)
        kept = {} if mask is None else {"attention_mask": mask}
        with torch.no_grad():
            a = ours(ids, **kept, labels=labels)
            b = theirs(input_ids=ids, **kept, **spelt, labels=labels)
        real = whole.bool() if head != "classification" and not seq2seq else slice(None)
        close(a.logits[real], b.logits[real])
        close(a.loss, b.loss)


def noisy(model, seed: int = 0):
    """Noise on every parameter, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.15 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


# Random weights, both directions


@pytest.mark.parametrize("layout, head, number", THEIRS)
def test_their_folder_opens_here(layout, head, number, tmp_path):
    torch.manual_seed(number)
    theirs = noisy(CLASSES[layout, head](CONFIGS[layout][number]))
    theirs.save_pretrained(tmp_path)
    ours, tokenizer = tt.load(tmp_path, head=head)
    assert tokenizer is None and not ours.training
    agree(ours, theirs, layout, head)


@pytest.mark.parametrize("head", ["language", *HEADS])
@pytest.mark.parametrize("layout, numbers", OURS)
def test_our_folder_opens_there(layout, numbers, head, tmp_path):
    if (layout, head) == ("bart", "tagging"):
        pytest.skip("BART has no tagging head")
    ours = scrambled(layout, head, LABELS, **numbers)
    tt.save(ours, None, tmp_path)
    theirs, loading = CLASSES[layout, head].from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    agree(ours, theirs.eval(), layout, head)


@pytest.mark.parametrize("head", ["language", *HEADS])
@pytest.mark.parametrize("layout, numbers", OURS)
def test_there_and_back_to_the_same_bits(layout, numbers, head, tmp_path):
    """Ours -> folder -> transformers -> folder -> ours."""
    if (layout, head) == ("bart", "tagging"):
        pytest.skip("BART has no tagging head")
    ours = scrambled(layout, head, LABELS, **numbers).float()
    tt.save(ours, None, tmp_path / "ours")
    theirs = CLASSES[layout, head].from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    for folder in ("ours", "theirs"):
        again, _ = tt.load(tmp_path / folder, head=head)
        same_bits(ours, again)


def same_bits(ours, again) -> None:
    one, two = ours.state_dict(), again.state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    "layout, auto",
    [
        ("gpt2", "AutoModelForCausalLM"),
        ("bert", "AutoModelForMaskedLM"),
        ("bart", "AutoModelForSeq2SeqLM"),
    ],
)
def test_auto_classes_find_the_model(layout, auto, tmp_path):
    ours = scrambled(layout)
    tt.save(ours, tt.WordTokenizer(["anna"]), tmp_path)
    theirs = getattr(hf, auto).from_pretrained(tmp_path).eval()
    assert type(theirs) is CLASSES[layout, "language"]
    agree(ours, theirs, layout, "language")


def test_segments_and_bare_models(tmp_path):
    """A BertModel without a head: its states, with segments; a GPT2Model and a BartModel too."""
    theirs = noisy(hf.BertModel(CONFIGS["bert"][1]))
    theirs.save_pretrained(tmp_path / "bert")
    with pytest.warns(UserWarning, match="holds no language head"):
        ours, _ = tt.load(tmp_path / "bert")
    ids, mask = padded(ROWS, "right")
    segments = (torch.arange(ids.shape[1]) // 3 % 3).expand_as(ids)
    with torch.no_grad():
        states = ours(ids, mask, token_type_ids=segments).states
        close(
            states[mask.bool()],
            theirs(ids, mask, token_type_ids=segments).last_hidden_state[mask.bool()],
        )
    for layout, base in (("gpt2", hf.GPT2Model), ("bart", hf.BartModel)):
        theirs = noisy(base(CONFIGS[layout][0]))
        theirs.save_pretrained(tmp_path / layout)
        targets = {"labels": ids} if layout == "bart" else {}
        theirs_more = {}
        if layout == "bart":
            with pytest.warns(UserWarning, match="final_logits_bias"):
                ours, _ = tt.load(tmp_path / layout)
            theirs_more = {"decoder_input_ids": ours.shift_right(ids)}
        else:
            ours, _ = tt.load(tmp_path / layout)
        with torch.no_grad():
            states = ours(ids, mask, **targets).states
            other = theirs(input_ids=ids, attention_mask=mask, **theirs_more).last_hidden_state
        close(states[mask.bool()], other[mask.bool()])


def test_a_half_precision_folder_keeps_its_type(tmp_path):
    ours = scrambled("gpt2").bfloat16()
    tt.save(ours, None, tmp_path)
    theirs = hf.GPT2LMHeadModel.from_pretrained(tmp_path)
    assert theirs.dtype == torch.bfloat16
    again, _ = tt.load(tmp_path)
    assert next(again.parameters()).dtype == torch.float32
    same_bits(ours, again.bfloat16())


# Real weights


def rows_of(limit: int, lowest: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(lowest, limit, (n,), generator=generator) for n in (5, 12, 8)]


@pytest.mark.assets
def test_capp_gpt2(asset):
    folder = asset("checkpoints/capp-gpt2")
    ours, theirs = tt.load(folder)[0], hf.GPT2LMHeadModel.from_pretrained(folder).eval()
    for side in ("right", "left"):
        ids, mask = padded(rows_of(51), side, room=1)
        labels = ids.masked_fill((mask == 0) | (positions(mask) == 0), -100)
        with torch.no_grad():
            a = ours(ids, mask, labels=labels)
            b = theirs(ids, attention_mask=mask, position_ids=positions(mask), labels=labels)
        close(a.logits[mask.bool()], b.logits[mask.bool()])
        close(a.loss, b.loss)


@pytest.mark.assets
def test_all_minilm(asset):
    folder = asset("checkpoints/all-minilm-l6-v2")
    with pytest.warns(UserWarning, match="no language head"):
        ours = tt.load(folder)[0]
    theirs = hf.BertModel.from_pretrained(folder).eval()
    classify = tt.load(folder, head="classification", labels=4)[0]
    for side in ("right", "left"):
        ids, mask = padded(rows_of(30522), side, room=1)
        with torch.no_grad():
            a = ours(ids, mask).states
            out = theirs(ids, attention_mask=mask, position_ids=positions(mask))
            close(a[mask.bool()], out.last_hidden_state[mask.bool()])
            if side == "right":  # the pooler of the folder is the one of our head
                close(
                    classify.head.pooler(classify(ids, mask).states[:, 0]).tanh(), out.pooler_output
                )


@pytest.mark.assets
def test_bart_g2p(asset):
    folder = asset("checkpoints/bart-g2p-en-us")
    ours = tt.load(folder)[0]
    theirs = hf.BartForConditionalGeneration.from_pretrained(folder).eval()
    rows = rows_of(63, 4)
    targets, kept = padded([row[:-2] for row in rows], "right")
    labels = targets.masked_fill(kept == 0, -100)
    ids, mask = padded(rows, "right", room=1)
    with torch.no_grad():
        a = ours(ids, mask, labels=labels)
        b = theirs(input_ids=ids, attention_mask=mask, labels=labels)
        close(a.logits, b.logits)
        close(a.loss, b.loss)
        ids, mask = padded(rows, "left", room=1)  # transformers cannot count these for BART,
        left = ours(ids, mask, labels=labels).logits  # so against ourselves; logits reach 29
        close(left, a.logits)


@pytest.mark.assets
@pytest.mark.parametrize("name", ["capp-gpt2", "all-minilm-l6-v2", "bart-g2p-en-us"])
def test_a_real_folder_saved_here_holds_the_same_bits(asset, name, tmp_path):
    """Every tensor of the trunk under its own name, and transformers opens it."""
    folder = asset(f"checkpoints/{name}")
    head = "classification" if "minilm" in name else "language"
    ours, _ = tt.load(folder, head=head, labels=2)
    tt.save(ours, None, tmp_path)
    before, after = (
        load_file(folder / "model.safetensors"),
        load_file(tmp_path / "model.safetensors"),
    )
    prefix = "bert." if "minilm" in name else ""
    for key, value in before.items():
        if "position_ids" in key or key in ("lm_head.weight", "model.encoder.embed_tokens.weight"):
            continue
        assert torch.equal(after[prefix + key].reshape(value.shape), value), key
    again, _ = tt.load(tmp_path, head=head)
    same_bits(ours, again)
    layout = json.loads((tmp_path / "config.json").read_text())["model_type"]
    _, loading = CLASSES[layout, head].from_pretrained(tmp_path, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]


# Words


def spell(folder: Path, texts: list[str]) -> list[Tensor]:
    """Words -> ids of bart-g2p-en-us, whose characters stand in its config.json."""
    letters = json.loads((folder / "config.json").read_text())["grapheme_chars"]
    return [torch.tensor([1, *(letters.index(c) for c in text), 2]) for text in texts]


G2P = ["hello", "transformer", "gradient", "a", "Friday", "knight", "colonel", "rhythm", "queue"]


def texts(ids: Tensor, begin: int, end: int) -> list[list[int]]:
    """New ids of each row up to the end token; what fills the rest is not text.

    (transformers fills with the end token where the padding token is number 0.)
    """
    rows = ids[:, begin:].tolist()
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


SEARCHES = {
    "greedy": ({}, {}),
    "beams": ({"beams": 4}, {"num_beams": 4, "early_stopping": True}),
    "beams, short": (
        {"beams": 3, "length_penalty": 0.0},
        {"num_beams": 3, "early_stopping": True, "length_penalty": 0.0},
    ),
    "beams, long": (
        {"beams": 5, "length_penalty": 2.0},
        {"num_beams": 5, "early_stopping": True, "length_penalty": 2.0},
    ),
}


@pytest.mark.assets
@pytest.mark.parametrize("search", SEARCHES)
def test_bart_g2p_writes_the_same_phonemes(asset, search):
    folder = asset("checkpoints/bart-g2p-en-us")
    ours = tt.load(folder)[0]
    theirs = hf.BartForConditionalGeneration.from_pretrained(folder).eval()
    ids, mask = padded(spell(folder, G2P), "right")
    our_options, their_options = SEARCHES[search]
    a = tt.generate(ours, ids, mask, max_new_tokens=40, **our_options)
    b = theirs.generate(
        ids, attention_mask=mask, max_new_tokens=40, do_sample=False, **their_options
    )
    assert all(text[-1] == 2 for text in texts(a, 1, 2))  # every word ended before the limit
    assert texts(a, 1, 2) == texts(b, 1, 2)


@pytest.mark.assets
@pytest.mark.parametrize("search", SEARCHES)
def test_capp_gpt2_writes_the_same_steps(asset, search):
    folder = asset("checkpoints/capp-gpt2")
    ours, theirs = tt.load(folder)[0], hf.GPT2LMHeadModel.from_pretrained(folder).eval()
    ids, mask = padded(rows_of(51), "left")
    ids = ids.masked_fill(mask == 0, 52)
    our_options, their_options = SEARCHES[search]
    a = tt.generate(ours, ids, mask, max_new_tokens=30, **our_options)
    b = theirs.generate(
        ids, attention_mask=mask, max_new_tokens=30, do_sample=False, **their_options
    )
    assert texts(a, ids.shape[1], 51) == texts(b, ids.shape[1], 51)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("layout", ["gpt2", "bart"])
def test_random_models_write_the_same_words(layout, search, tmp_path):
    """Where nothing ends before the limit, and where rows end early and at different times."""
    our_options, their_options = SEARCHES[search]
    lengths = set()
    for seed in range(3):
        ours = scrambled(layout, seed=seed)
        with torch.no_grad():
            for name, parameter in ours.named_parameters():
                parameter *= 6.0 if "positions" in name else 2.0 if parameter.ndim == 2 else 1.0
        tt.save(ours, None, tmp_path / str(seed))
        theirs = CLASSES[layout, "language"].from_pretrained(tmp_path / str(seed)).eval()
        ids, mask = padded(ROWS, "left" if layout == "gpt2" else "right")
        begin = ids.shape[1] if layout == "gpt2" else 1
        free = tt.generate(ours, ids, mask, max_new_tokens=12, eos_token_id=49)[:, begin:]
        for end in (free[0, 3].item(), free[1, 6].item()):  # words that will be written
            a = tt.generate(ours, ids, mask, max_new_tokens=12, eos_token_id=end, **our_options)
            b = theirs.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=12,
                do_sample=False,
                eos_token_id=end,
                pad_token_id=0,
                **their_options,
            )
            assert texts(a, begin, end) == texts(b, begin, end)
            lengths |= {len(text) for text in texts(a, begin, end)}
    assert len(lengths) > 2


# The tokenizer

WORDS = ["anna", "likes", "paris", "7", "été", "straße", "οδοσ", ".", ",", "?", "=", ">", "a_b"]
PIECES = st.one_of(
    st.sampled_from(WORDS),
    st.sampled_from(SPECIAL),
    st.sampled_from([word.upper() for word in (*WORDS, *SPECIAL)]),
    st.sampled_from(
        ["Zürich", "²", "½", "x\u0301", "ΟΔΟΣ", "İ", "\u00a0", "\x1c", "\u200b", "日本"]
    ),
    st.text(max_size=6),
)
TEXT = st.builds(
    lambda pieces, gaps: "".join(piece + gap for piece, gap in zip(pieces, gaps, strict=False)),
    st.lists(PIECES, max_size=10),
    st.lists(st.sampled_from([" ", "", "  ", "\n", "\t"]), min_size=10, max_size=10),
)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """(ours, transformers') for a decoder and for an encoder."""
    pairs = []
    for ends, side in ((False, "left"), (True, "right")):
        folder = tmp_path_factory.mktemp("tokenizer")
        ours = tt.WordTokenizer(WORDS, ends, side)
        ours.save(folder)
        (folder / "config.json").write_text('{"model_type": "gpt2"}')
        pairs.append((ours, hf.AutoTokenizer.from_pretrained(folder)))
    return pairs


def same_batch(ours: dict, theirs: dict) -> None:
    assert set(theirs) == set(ours) == {"input_ids", "attention_mask"}
    for name in ours:
        assert ours[name].tolist() == theirs[name].tolist(), name


@given(rows=st.lists(TEXT, min_size=1, max_size=4), side=st.sampled_from(["left", "right", None]))
@settings(max_examples=60)
def test_the_same_ids_and_masks(tokenizers, rows, side):
    for ours, theirs in tokenizers:
        a = ours(rows, padding_side=side)
        b = theirs(rows, padding=True, padding_side=side, return_tensors="pt")
        same_batch(a, b)
        for special in (True, False):
            ids = [ours.encode(row, add_special_tokens=special) for row in rows]
            assert ids == theirs(rows, add_special_tokens=special)["input_ids"]
        for ids in a["input_ids"]:
            for skip in (True, False):
                assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip)


@given(one=TEXT, two=TEXT, special=st.booleans())
def test_the_same_pairs(tokenizers, one, two, special):
    for ours, theirs in tokenizers:
        a = ours(one, two, add_special_tokens=special, return_tensors=None)
        b = theirs(one, two, add_special_tokens=special)
        assert a["input_ids"] == b["input_ids"]


@given(text=TEXT, longest=st.integers(2, 9))
def test_the_same_truncation(tokenizers, text, longest):
    for ours, theirs in tokenizers:
        a = ours(text, truncation=True, max_length=longest)
        b = theirs(text, truncation=True, max_length=longest, return_tensors="pt")
        same_batch(a, b)


def test_the_same_idea_of_a_word_in_all_of_unicode(tokenizers):
    """Each character alone between two words: a part of a word, a word, or a space.

    Characters that this Python's Unicode does not know yet are left out.
    """
    ours, theirs = tokenizers[0]
    known = [chr(n) for n in range(0x20000) if unicodedata.category(chr(n)) not in ("Cn", "Cs")]
    assert len(known) > 80_000
    for begin in range(0, len(known), 500):
        text = " ".join(f"anna{c}paris" for c in known[begin : begin + 500])
        assert ours.encode(text) == theirs(text)["input_ids"], hex(ord(known[begin]))


def test_the_same_names(tokenizers):
    for ours, theirs in tokenizers:
        assert len(ours) == len(theirs) and ours.vocab == theirs.get_vocab()
        for name in ("pad", "bos", "eos", "unk", "mask", "sep"):
            assert getattr(ours, f"{name}_token") == getattr(theirs, f"{name}_token")
            assert getattr(ours, f"{name}_token_id") == getattr(theirs, f"{name}_token_id")
        assert ours.padding_side == theirs.padding_side


@pytest.mark.parametrize("layout", ["gpt2", "bert", "bart"])
def test_their_tokenizer_feeds_their_model_from_our_folder(layout, tmp_path):
    """The whole way a stranger goes: AutoTokenizer, AutoModel, model(**batch)."""
    tokenizer = tt.WordTokenizer(WORDS, ends=layout != "gpt2")
    ours = scrambled(layout, vocab_size=len(tokenizer))
    tt.save(ours, tokenizer, tmp_path)
    texts = ["Anna likes Paris.", "7 <sep> <gap0>"]
    batch = hf.AutoTokenizer.from_pretrained(tmp_path)(texts, padding=True, return_tensors="pt")
    theirs = CLASSES[layout, "language"].from_pretrained(tmp_path).eval()
    targets = {"labels": batch["input_ids"]} if layout == "bart" else {}
    again, tokenizer = tt.load(tmp_path)
    with torch.no_grad():
        a = again(**tokenizer(texts), **targets).logits
        b = theirs(**batch, **targets).logits
    real = batch["attention_mask"].bool()
    close(a[real], b[real])


# Folders that are not ours to open


def refuse(folder: Path, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        tt.load(folder)
    assert re.fullmatch(r"[^\n]*\.", str(caught.value))


@pytest.mark.parametrize(
    "model, sentence",
    [
        (lambda: hf.GPT2Config(tie_word_embeddings=False, **GPT2), "tie_word_embeddings=False"),
        (lambda: hf.GPT2Config(scale_attn_weights=False, **GPT2), "scale_attn_weights=False"),
        (
            lambda: hf.GPT2Config(scale_attn_by_inverse_layer_idx=True, **GPT2),
            "scale_attn_by_inverse_layer_idx=True",
        ),
        (lambda: hf.BertConfig(is_decoder=True, **BERT), "is_decoder=True"),
        (lambda: hf.BertConfig(hidden_act="silu", **BERT), "activation 'silu' is not one of"),
        (
            lambda: hf.BartConfig(decoder_attention_heads=8, **BART),
            "decoder_attention_heads differs",
        ),
        (lambda: hf.BartConfig(decoder_ffn_dim=8, **BART), "decoder_ffn_dim differs"),
        (lambda: hf.LlamaConfig(vocab_size=V), "model_type 'llama' is not one of gpt2, bert, bart"),
        (lambda: hf.RobertaConfig(vocab_size=V), "model_type 'roberta' is not one of"),
    ],
)
def test_variants_that_are_not_built_here_are_refused(model, sentence, tmp_path):
    model().save_pretrained(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    refuse(tmp_path, sentence)


def test_fields_that_a_config_leaves_out_mean_what_transformers_takes():
    from tiny_transformer.hugging_face import FIELDS, config_from_hugging_face

    configs = {"gpt2": hf.GPT2Config, "bert": hf.BertConfig, "bart": hf.BartConfig}
    for layout, config in configs.items():
        short = config_from_hugging_face({"model_type": layout})
        assert short == config_from_hugging_face(config().to_dict())
        assert short.kind in FIELDS
