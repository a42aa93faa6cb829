"""The word tokenizer: text to ids and back, padding, pairs, files."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny_transformer as tt
from tiny_transformer.tokenizer import SPECIAL

WORDS = ["anna", "likes", "paris", "7", "été", ".", ",", "?", "=", ">", "snake_case"]
decoder = tt.WordTokenizer(WORDS, padding_side="left")
encoder = tt.WordTokenizer(WORDS, ends=True)
texts = st.lists(st.sampled_from(WORDS), max_size=12)


def test_special_tokens_have_their_places():
    assert decoder.convert_ids_to_tokens(list(range(14))) == list(SPECIAL)
    ids = [getattr(decoder, f"{n}_token_id") for n in ("pad", "bos", "eos", "unk", "mask", "sep")]
    assert ids == list(range(6))
    names = [getattr(decoder, f"{n}_token") for n in ("pad", "bos", "eos", "unk", "mask", "sep")]
    assert names == list(SPECIAL[:6])
    assert len(decoder) == decoder.vocab_size == 14 + len(WORDS)


@given(texts)
def test_decode_undoes_encode(text):
    for tokenizer in (decoder, encoder):
        ids = tokenizer.encode(" ".join(text))
        assert ids[0] == 1 and (ids[-1] == 2) == tokenizer.ends
        assert tokenizer.decode(ids) == " ".join(text)
        inner = tokenizer.encode(" ".join(text), add_special_tokens=False)
        assert inner == [14 + WORDS.index(word) for word in text]
        assert tokenizer.batch_decode(torch.tensor([ids, ids])) == [" ".join(text)] * 2


@given(texts.flatmap(lambda text: st.lists(st.sampled_from([*WORDS, *SPECIAL]))))
def test_special_tokens_in_a_text_stay_whole(text):
    for joined in (" ".join(text), "".join(f" {word} " for word in text)):
        assert decoder.tokenize(joined) == text
        ids = decoder.encode(joined, add_special_tokens=False)
        assert decoder.decode(ids, skip_special_tokens=False).split() == text
        assert decoder.decode(ids).split() == [word for word in text if word in WORDS]


def test_words_are_cut_by_the_pattern():
    assert decoder.tokenize("Anna likes Paris,7?") == ["anna", "likes", "paris", ",", "7", "?"]
    assert decoder.tokenize("snake_case ÉTÉ") == ["snake_case", "été"]
    assert decoder.tokenize("a<gap0>b<mask>") == ["a", "<gap0>", "b", "<mask>"]
    # capitals make no special token: the text is searched for them before it is lowered
    assert decoder.tokenize("<BOS>") == ["<", "bos", ">"]


def test_unknown_words():
    assert decoder.encode("anna hates paris") == [1, 14, 3, 16]
    assert decoder.convert_tokens_to_ids("hates") == 3
    assert decoder.decode([14, 3, 16]) == "anna paris"


@given(st.lists(texts, min_size=1, max_size=5), st.sampled_from(["left", "right", None]))
def test_padding(rows, side):
    for tokenizer in (decoder, encoder):
        batch = tokenizer([" ".join(row) for row in rows], padding_side=side)
        where = side or tokenizer.padding_side
        T = batch["input_ids"].shape[1]
        assert T == max(len(row) for row in rows) + 1 + tokenizer.ends
        for ids, mask, row in zip(*batch.values(), rows, strict=True):
            real = tokenizer.encode(" ".join(row))
            places = [0] * (T - len(real)) + [1] * len(real)
            assert mask.tolist() == (places if where == "left" else places[::-1])
            assert ids[mask.bool()].tolist() == real
            assert (ids[mask == 0] == 0).all()


@given(texts, texts)
def test_pairs_have_a_separator(one, two):
    ids = encoder([" ".join(one)], [" ".join(two)])["input_ids"][0].tolist()
    known = [14 + WORDS.index(word) for word in one], [14 + WORDS.index(word) for word in two]
    assert ids == [1, *known[0], 5, *known[1], 2]
    assert ids == encoder.encode(" ".join(one) + " <sep> " + " ".join(two))


@given(texts, st.integers(3, 8))
def test_truncation_keeps_the_ends(text, longest):
    for tokenizer in (decoder, encoder):
        whole = tokenizer.encode(" ".join(text))
        cut = tokenizer(" ".join(text), truncation=True, max_length=longest)["input_ids"][0]
        assert len(cut) == min(len(whole), longest)
        assert cut[0] == 1 and (cut[-1] == 2) == tokenizer.ends


def test_lists_instead_of_tensors():
    assert decoder("anna", return_tensors=None) == {"input_ids": [1, 14], "attention_mask": [1, 1]}
    both = decoder(["anna", "anna likes"], return_tensors=None)
    assert both["input_ids"] == [[1, 14], [1, 14, 15]]
    with pytest.raises(ValueError, match="use padding=True"):
        decoder(["anna", "anna likes"], padding=False)
    with pytest.raises(ValueError, match='"pt" or None'):
        decoder("anna", return_tensors="tf")
    with pytest.raises(ValueError):
        decoder(["anna", "likes"], ["paris"])


@pytest.mark.parametrize("word", ["two words", "Anna", "", "a-b", " x", "<pad>"])
def test_a_vocabulary_of_no_words_is_refused(word):
    with pytest.raises(ValueError, match="is not one lower-case word"):
        tt.WordTokenizer(["anna", word])


def test_a_word_twice_is_refused():
    with pytest.raises(ValueError, match="holds a word twice"):
        tt.WordTokenizer(["anna", "likes", "anna"])


@pytest.mark.parametrize("tokenizer", [decoder, encoder], ids=["decoder", "encoder"])
def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = tt.WordTokenizer.load(tmp_path)
    assert vars(again) == vars(tokenizer)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(written) == {"tokenizer.json", "tokenizer_config.json"}
    again.save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == written


def test_a_folder_without_a_tokenizer(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist; give a folder with a tokenizer"):
        tt.WordTokenizer.load(tmp_path)


def test_a_tokenizer_of_another_kind(tmp_path):
    other = {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(other))
    with pytest.raises(TypeError, match="open it with transformers"):
        tt.WordTokenizer.load(tmp_path)


def test_a_damaged_tokenizer(tmp_path):
    decoder.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="is damaged"):
        tt.WordTokenizer.load(tmp_path)
