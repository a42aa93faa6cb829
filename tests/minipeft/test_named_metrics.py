"""Scores by name: known values, the libraries' own counts, and one sentence for each wrong use."""

import random
import sys
import warnings

import pytest
import torch
from seqeval.metrics.sequence_labeling import get_entities
from tiny_models import fresh

import minipeft as mp
import tiny_transformer as tt
from minipeft.tasks import metrics, named_metrics, scoring
from minipeft.tasks.encoding import Encoding, Example, join


def score(name, predictions, targets, inputs=None):
    inputs = inputs or [str(i) for i in range(len(targets))]
    return named_metrics.scores([name], predictions, targets, inputs)[name]


def test_matthews_of_a_table_of_counts():
    """(TP TN - FP FN) / sqrt((TP + FP)(TP + FN)(TN + FP)(TN + FN)) with 3, 2, 1, 2."""
    predictions = ["1"] * 3 + ["0"] * 2 + ["1"] + ["0"] * 2
    targets = ["1"] * 3 + ["0"] * 2 + ["0"] + ["1"] * 2
    assert score("matthews", predictions, targets) == pytest.approx(4 / (4 * 5 * 3 * 4) ** 0.5)
    assert score("matthews", ["1"] * 8, targets) == 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert score("matthews", ["1"] * 8, ["1"] * 8) == 0.0  # one class alone: no correlation


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_correlations(name):
    assert score(name, ["1", "2", "3"], ["2", "4", "6"]) == pytest.approx(1)
    assert score(name, ["1", "2", "3"], ["3", "2", "1"]) == pytest.approx(-1)
    assert score(name, ["1", "1", "1"], ["3", "2", "1"]) == 0.0
    bent = score(name, ["1", "2", "3", "4"], ["1", "8", "27", "64"])
    assert (bent == pytest.approx(1)) == (name == "spearman")


def test_the_correlation_that_needs_no_library_is_scipys():
    draw = random.Random(0)
    rows = [[str(draw.gauss(0, 1)) for _ in range(20)] for _ in range(2)]
    assert metrics.correlation(*rows) == pytest.approx(score("pearson", *rows), abs=1e-12)
    assert metrics.squared(["1", "3"], ["2", "1"]) == 2.5
    with pytest.raises(ValueError, match="'many' is not a number"):
        metrics.squared(["1"], ["many"])


def test_entities_are_counted_as_seqeval_counts_them():
    """2,000 rows of tags of two schemes, sensible or not."""
    draw = random.Random(0)
    for marks in ("BIO", "BIESO"):
        for _ in range(1000):
            tags = [m if (m := draw.choice(marks)) == "O" else f"{m}-{draw.choice('xy')}"
                    for _ in range(draw.randint(1, 9))]  # fmt: skip
            assert metrics.spans(tags) == get_entities(tags), tags
    predictions, targets = ["B-x E-x O S-y", "O O"], ["B-x E-x O O", "S-y O"]
    assert score("entity_f1", predictions, targets) == pytest.approx(0.5)
    task = mp.tasks.make("t", "tag", train=[("a b c d", "B-x E-x O S-y"), ("a b", "O O")])
    assert scoring.scores(task, predictions, targets)["f1"] == pytest.approx(0.5)


def test_texts_with_one_input_are_references_of_one_another():
    said = ["the cat sat on the mat", "the cat sat on the mat", "a dog ran far away today"]
    wanted = ["a cat was there on mats", "the cat sat on the mat", "a dog ran far away today"]
    inputs = ["one", "one", "two"]
    for name in ("bleu", "rouge1", "rouge2", "rougeL"):
        assert score(name, said, wanted, inputs) == pytest.approx(1)
        assert score(name, said, wanted) < 0.9


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [("matthews", "sklearn.metrics", "scikit-learn"), ("bleu", "sacrebleu.metrics", "sacrebleu"),
     ("entity_f1", "seqeval.metrics", "seqeval"), ("rougeL", "rouge_score.rouge_scorer", "rouge")],
)  # fmt: skip
def test_without_the_package_a_sentence_says_what_to_install(monkeypatch, name, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"{package}.*pip install .minipeft\[metrics\]"):
        score(name, ["a"], ["a"])
    kind = named_metrics.METRICS[name][0][0]
    with pytest.raises(ValueError, match=rf"{package}.*pip install"):  # before a training
        named_metrics.check([name], kind, ["O", "B-x"])


@pytest.mark.parametrize("name", named_metrics.METRICS)
def test_a_name_that_fits_is_not_refused(name, recwarn):
    for kind in named_metrics.METRICS[name][0]:
        named_metrics.check([name], kind, ["O", "B-x"] if kind == "tag" else None)
    assert not recwarn.list


def test_a_name_that_is_none_and_one_for_another_kind():
    with pytest.raises(ValueError, match="macrof1 is not a score .* accuracy, macro_f1, matthews"):
        named_metrics.check(["macrof1"], "classify")
    with pytest.raises(ValueError, match="bleu does not fit: .* pearson, spearman"):
        named_metrics.check(["bleu"], "regress")


def test_one_answer_for_everything_is_noticed():
    task = mp.tasks.make("t", "classify", train=[("a", "x"), ("b", "y")])
    assert scoring.one_answer(task, ["x", "x"], ["x", "y"]) == "x"
    assert scoring.one_answer(task, ["x", "y"], ["x", "y"]) is None
    assert scoring.one_answer(task, ["x", "x"], ["x", "x"]) is None
    tags = mp.tasks.make("t", "tag", train=[("a b", "O B-x")])
    assert scoring.one_answer(tags, ["O O"], ["O B-x"]) == "O"


# -- numbers and pairs


@pytest.mark.parametrize("layout", ["bert", "gpt2", "bart"])
def test_a_head_of_one_number_learns_by_squared_error(layout):
    """The loss is the mean squared error, and a model that knows one word's number learns it."""
    _, tokenizer = tt.load("tiny-decoder-0.4m")
    model = fresh(layout, "classification", labels=1, vocab_size=len(tokenizer))
    rows = [("the cat", "2.5"), ("the dog", "-1"), ("a cat", "2.5"), ("a dog", "-1")]
    task = mp.tasks.make("t", "regress", train=rows, test=rows)
    kind = model.config.kind
    batch = task.batches("train", tokenizer, kind, batch_size=4)(0)
    assert batch["labels"].dtype == torch.float32
    output = model.eval()(**batch)
    expected = ((output.logits[:, 0] - batch["labels"]) ** 2).mean()
    torch.testing.assert_close(output.loss.double(), expected)
    assert output.logits.shape == (4, 1)
    tuner = mp.attach(model, mp.LoRA(rank=2))
    mp.train(model, task.batches("train", tokenizer, kind, batch_size=4), 60, 2e-2, progress=False)
    scores = task.score(model, tokenizer, "test")
    assert scores["mse"] < 0.5 and scores["pearson"] > 0.9
    tuner.detach()


def test_a_task_of_numbers_has_no_other_head():
    task = mp.tasks.make("t", "regress", train=[("a", "1")])
    with pytest.raises(ValueError, match="classification head of one label"):
        Encoding(task, None, "decoder", "language")


class Pairs:
    """A tokenizer like BERT's, of letters."""

    pad_token_id, cls_token_id, sep_token_id, eos_token_id = 0, 1, 2, None

    def __call__(self, *texts, add_special_tokens=True, return_tensors=None):
        ids, types = [1] * add_special_tokens, [0] * add_special_tokens
        for number, text in enumerate(texts):
            row = [ord(sign) for sign in text] + [2] * add_special_tokens
            ids, types = ids + row, types + [number] * len(row)
        return {"input_ids": ids, "token_type_ids": types}


def test_a_pair_is_encoded_as_the_tokenizer_encodes_pairs():
    task = mp.tasks.make("t", "classify", train=[(join("ab", "c"), "x"), ("de", "y")])
    batch = Encoding(task, Pairs(), "encoder").batch(task.train)
    assert batch["input_ids"].tolist() == [[1, 97, 98, 2, 99, 2], [1, 100, 101, 2, 0, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1], [0] * 6]
    single = Encoding(task, Pairs(), "encoder").batch([Example("de", "y")])
    assert "token_type_ids" not in single  # as before there were pairs


SCHEMES = {  # tags, their scheme in seqeval, and the one letter that it spells otherwise
    "IOB1": ("I-x I-x O I-y", {}),
    "BILOU": ("U-x U-x O B-x I-x L-x", {}),
    "IOBES": ("B-x M-x E-x S-y S-y", {"M": "I"}),
}


@pytest.mark.parametrize("name", SCHEMES)
def test_entities_of_other_schemes_are_those_of_the_scheme(name):
    """seqeval's strict reading of the scheme; its plain one merges the two U-x."""
    from seqeval import scheme

    tags, letters = SCHEMES[name]
    strict = [letters.get(tag[0], tag[0]) + tag[1:] for tag in tags.split()]
    entities = scheme.Entities([strict], getattr(scheme, name)).entities[0]
    assert metrics.spans(tags.split()) == [(e.tag, e.start, e.end - 1) for e in entities]
    task = mp.tasks.make("t", "tag", train=[("w " * len(strict), tags)])
    wrong = " ".join([*tags.split()[1:], "O"])
    for said in (tags, wrong):
        value = scoring.scores(task, [said], [tags])["f1"]
        assert value == pytest.approx(score("entity_f1", [said], [tags]))
        assert (value == 1) == (said == tags)


def test_words_with_a_hyphen_are_no_entities():
    assert not metrics.are_entities(["O", "person", "e-mail"])
    assert not metrics.are_entities(["other", "I"]) and not metrics.are_entities(["O"])
    with pytest.raises(ValueError, match="a tag here is 'person': take --metric f1"):
        named_metrics.check(["entity_f1"], "tag", ["O", "person"])
    assert score("f1", ["O person"], ["place person"]) == pytest.approx(2 / 3)


def test_macro_f1_of_a_class_that_is_said_and_never_right():
    predictions, targets = ["a", "c", "b"], ["a", "b", "b"]
    ours = metrics.macro_f1(predictions, targets, ("a", "b", "c", "d"))
    assert ours == pytest.approx(score("macro_f1", predictions, targets)) == (1 + 2 / 3 + 0) / 3
