"""Pronunciation: ids by hand, a split that keeps relatives together, a model that says words."""

import json
from types import SimpleNamespace

import pytest
import torch

from minipeft.tasks import metrics
from minipeft.tasks.pronunciation import BRITISH, Alphabet, Word, pairs, read_lexicon, split

SMALL = Alphabet("____abc", "____xyzw", {"q": "y"})


def test_ids_by_hand():
    assert SMALL.letters("cab") == [1, 6, 4, 5, 2]
    assert SMALL.letters("c?b") == [1, 6, 3, 5, 2]  # a letter that the model does not know
    assert SMALL.letters("_") == [1, 3, 2]  # the four special places are no letters
    assert SMALL.sounds("xqz") == [1, 4, 5, 6, 2]  # q has borrowed the id of y
    assert SMALL.text([1, 4, 5, 6, 2, 0]) == "xqz"
    assert SMALL.text([4, 99]) == "x"  # an id that stands for no phoneme


def test_a_batch_is_padded_and_the_padding_is_not_learnt():
    batch = SMALL.batch([Word("ab", "x", "x"), Word("c", "xqz", "x")])
    assert batch["input_ids"].tolist() == [[1, 4, 5, 2], [1, 6, 2, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert batch["labels"].tolist() == [[1, 4, 2, -100, -100], [1, 4, 5, 6, 2]]


def test_impossible_alphabets_are_refused():
    with pytest.raises(ValueError, match="no such phoneme"):
        Alphabet("____ab", "____xy", {"q": "k"})
    with pytest.raises(ValueError, match="need not borrow"):
        Alphabet("____ab", "____xy", {"x": "y"})
    with pytest.raises(ValueError, match="same id"):
        Alphabet("____ab", "____xy", {"q": "x", "r": "x"})
    with pytest.raises(ValueError, match="grapheme_chars"):
        Alphabet.of(SimpleNamespace())


def test_words_of_two_lexicons(tmp_path):
    us, gb = tmp_path / "us.json", tmp_path / "gb.json"
    us.write_text(json.dumps({"lot": "lˈɑt", "bow": {"NOUN": "bˈO"}, "at": "æt", "Bob": "bˈɑb"}))
    gb.write_text(
        json.dumps({"lot": "lˈɒt", "bow": "bˈQ", "at": "at", "Bob": "bˈɒb", "car": "kˈɑː"})
    )
    assert pairs(read_lexicon(us), read_lexicon(gb)) == [Word("lot", "lˈɒt", "lˈɑt")]


def test_lexicons_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no lexicon"):
        read_lexicon(tmp_path / "none.json")
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        read_lexicon(broken)
    broken.write_text("[]")
    with pytest.raises(ValueError, match="one JSON object"):
        read_lexicon(broken)


def made_up(count=400):
    stems = [f"{a}{b}and{c}" for a in "bcdfg" for b in "aeiou" for c in "klmnprst"]
    return [Word(stem + end, "x", "x") for stem in stems for end in ("s", "er", "ing")][:count]


def test_relatives_are_on_one_side_and_nothing_is_lost():
    words = made_up()
    train, test = split(words, share=0.3, stem=6)
    assert sorted(train + test) == sorted(words) and test and train
    assert not {w.spelling[:6] for w in train} & {w.spelling[:6] for w in test}
    assert 0.2 < len(test) / len(words) < 0.4


def test_the_split_depends_on_the_seed_only():
    words = made_up()
    train, test = split(words, share=0.3)
    assert split(words[::-1], share=0.3) == (train, test)
    fewer = [word for word in words if word.spelling[0] != "b"]
    assert set(split(fewer, share=0.3)[1]) <= set(test)  # others away: the rest stays where it was
    assert split(words, share=0.3, seed=1)[1] != test


def test_batches_show_every_word_once_and_differ_by_seed():
    words = [Word("abc"[i % 3] * (3 + i % 7), "xyz"[: 1 + i % 3], "x") for i in range(100)]
    alphabet = Alphabet("____abc", "____xyz")
    batches = alphabet.batches(words, size=8, seed=3)
    assert torch.equal(batches(5)["input_ids"], batches(5)["input_ids"])

    def rows(step):
        batch = batches(step)
        return [(tuple(ids), tuple(said)) for ids, said in zip(*_unpadded(batch), strict=True)]

    seen = sum((rows(step) for step in range(13)), [])  # 100 words, 8 at a time
    expected = [
        (tuple(alphabet.letters(word.spelling)), tuple(alphabet.sounds(word.phonemes)))
        for word in words
    ]
    assert sorted(seen) == sorted(expected)
    assert sorted(sum((rows(step) for step in range(13, 26)), [])) == sorted(expected)
    other = alphabet.batches(words, size=8, seed=4)
    assert any(not torch.equal(other(i)["labels"], batches(i)["labels"]) for i in range(3))


def test_batches_of_nothing_are_refused():
    alphabet = Alphabet("____abc", "____xyz")
    with pytest.raises(ValueError, match="There are no words"):
        alphabet.batches([])
    with pytest.raises(ValueError, match="size must be a whole number of at least 1"):
        alphabet.batches([Word("abc", "xyz", "x")], size=0)
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1"):
        alphabet.pronounce(None, ["abc"], batch_size=-1)  # that answered nothing to every word


def _unpadded(batch):
    ids = [[i for i in row if i != 0] for row in batch["input_ids"].tolist()]
    return ids, [[i for i in row if i != -100] for row in batch["labels"].tolist()]


@pytest.mark.assets
def test_the_real_model_says_american_words(asset):
    """The published model knows its own dialect; every British symbol has an id of its own."""
    from transformers import BartForConditionalGeneration

    model = BartForConditionalGeneration.from_pretrained(asset("checkpoints/bart-g2p-en-us"))
    us = read_lexicon(asset("corpora/g2p/us_gold.json"))
    gb = read_lexicon(asset("corpora/g2p/gb_gold.json"))
    test = split(pairs(us, gb))[1][:200]
    american = Alphabet.of(model.config)
    assert american.pronounce(model.train(), ["hat", "goat"]) == ["hˈæt", "ɡˈOt"]
    assert model.training  # pronounce gives the mode back
    said = american.pronounce(model, [word.spelling for word in test])
    assert metrics.accuracy(said, [word.before for word in test]) > 0.6
    british = Alphabet.of(model.config, BRITISH)
    for word in test:
        assert british.text(british.sounds(word.phonemes)) == word.phonemes
    labels = british.batch(test)["labels"]
    assert (labels != 3).all()  # nothing unknown
    with torch.no_grad():
        loss = model.eval()(**american.batch([Word("hat", "hˈæt", "")])).loss
    assert loss < 0.1  # the labels have the form that the model was trained on
