"""What lesson 08 uses: templates of written wordings, runs that ask the base itself, capitals."""

from collections import Counter

import pytest
import torch

import minipeft as mp
import tiny_transformer as tt
from minipeft import tasks
from minipeft.course import capitals, p_tuning
from minipeft.course.runs import attached
from minipeft.methods.p_tuning import PromptEncoder

CAPITAL = tasks.load("capital")


@pytest.fixture(scope="module")
def loaded():
    return tt.load("tiny-decoder-0.1m")


# ---- wordings and templates


def test_a_wording_becomes_a_template_that_ends_with_the_answer():
    template = p_tuning.as_template("the capital of {x} is {y} .")
    assert template == "the capital of {x} is {mask}"
    assert p_tuning.on_top(template, 2) == "[P][P] the capital of {x} is [P][P] {mask}"
    assert len(p_tuning.wordings(CAPITAL)) == 14


@pytest.mark.parametrize("wording", ["{y} is the capital of {x} .", "the capital of {x} ."])
def test_an_answer_that_is_not_last_is_refused(wording):
    with pytest.raises(ValueError, match="A decoder writes its answer last"):
        p_tuning.as_template(wording)


def test_a_template_scores_as_the_text_that_is_written_out(loaded):
    """In a template, and as a task whose inputs are written in its words: one answer."""
    base, tokenizer = loaded
    template = "the capital of {x} is in {mask}"
    batch = CAPITAL.batches("dev", tokenizer, batch_size=20)(0)
    ((loss, exact),) = p_tuning.scores_with(base, [template], batch, tokenizer)
    written = p_tuning.put_into(CAPITAL, template)
    assert written.dev[0].input == f"the capital of {CAPITAL.dev[0].input} is in"
    assert exact == pytest.approx(written.score(base, tokenizer, "dev")["accuracy"])
    same = written.batches("dev", tokenizer, batch_size=20)(0)
    with torch.no_grad():
        assert loss == pytest.approx(base(**same).loss.item(), abs=1e-4)


# ---- what a run does to the base


def test_the_base_is_asked_without_the_prompt(loaded):
    base, tokenizer = loaded
    asked = p_tuning.knowledge([tasks.load("language")])
    questions = [question for question, _ in asked][:30]
    before = p_tuning.without_prompt(base, tokenizer, questions)
    assert sum(a == b for a, (_, b) in zip(before, asked, strict=False)) > 25
    with attached(base, mp.PTuning.from_template(p_tuning.AROUND, tokenizer)):
        assert p_tuning.without_prompt(base, tokenizer, questions) == before
    with attached(base, mp.FullFineTuning()) as tuner:
        with torch.no_grad():
            tuner.anatomy.words().module.weight.zero_()
        assert p_tuning.without_prompt(base, tokenizer, questions) != before
    assert p_tuning.without_prompt(base, tokenizer, questions) == before


@pytest.mark.parametrize(
    ("kind", "settings", "same"),
    [
        (mp.PTuning, {}, True),
        (mp.PTuning, {"tune_model": True}, False),
        (p_tuning.WithEmbedding, {}, False),
    ],
)
def test_a_run_says_whether_the_base_has_moved_and_takes_it_back(loaded, kind, settings, same):
    base, tokenizer = loaded
    before = mp.fingerprint(base)
    method = kind.from_template(p_tuning.AROUND, tokenizer, **settings)
    asked = p_tuning.knowledge([tasks.load("currency")])[:20]
    run = p_tuning.measured(base, tokenizer, method, CAPITAL, 3e-2, 4, 0, asked)
    assert run["same"] == same
    assert same <= (run["forgotten"] == 0)
    assert mp.fingerprint(base) == before


def test_with_the_embedding_nothing_else_of_the_base_is_trained(loaded):
    base, tokenizer = loaded
    with attached(base, p_tuning.WithEmbedding.from_template(p_tuning.AROUND, tokenizer)) as tuner:
        trained = [p for p in base.parameters() if p.requires_grad]
        prompt = set(tuner.patches[0][1].parameters())
        assert [p for p in trained if p not in prompt] == [tuner.anatomy.words().module.weight]


def test_prompt_tuning_with_the_model_trains_all_of_both(loaded):
    base, _ = loaded
    method = p_tuning.TunedPromptTuning(length=2, start="vocabulary")
    numbers = sum(p.numel() for p in base.parameters())
    with attached(base, method) as tuner:
        assert tuner.report().trainable == numbers + 2 * base.config.width


def test_an_encoder_that_is_not_written_is_replaced_and_one_that_is_stays():
    class Mine(PromptEncoder):
        pass

    class Unwritten(PromptEncoder):
        def forward(self):
            raise NotImplementedError("PromptEncoder.forward is yours to write")

    assert p_tuning.yours_or_ours(Mine) is Mine
    assert p_tuning.yours_or_ours(Unwritten) is PromptEncoder


def test_only_the_lstm_couples_the_pseudo_tokens():
    torch.manual_seed(0)
    separate = p_tuning.coupling(PromptEncoder(4, 6, "mlp"))
    coupled = p_tuning.coupling(PromptEncoder(4, 6, "lstm"))
    off = ~torch.eye(4, dtype=torch.bool)
    assert (separate[off] == 0).all() and (separate.diagonal() > 0).all()
    assert (coupled > 0).all()


# ---- capitals in ordinary spelling


class Words:
    """A tokenizer whose tokens are the words, as many as there are."""

    bos_token_id = None

    def __init__(self):
        self.known = {}

    def __call__(self, text, **options):
        spaced = text.replace(capitals.START, f" {capitals.START} ")
        return {"input_ids": [self.known.setdefault(w, len(self.known)) for w in spaced.split()]}


def test_names_are_spelt_as_people_spell_them():
    assert capitals.spelt("new_zealand") == "New Zealand"
    assert capitals.spelt("port_au_prince") == "Port-au-Prince"
    assert len(set(capitals.WORDINGS)) == 11


def test_rows_are_the_countries_of_the_task():
    words = Words()
    rows = [capitals.questions(words, split) for split in ("train", "dev", "test")]
    assert list(map(len, rows)) == [80, 20, 50]
    names = {number: word for word, number in words.known.items()}
    country, answer = rows[0][0]
    first = CAPITAL.train[0]
    assert " ".join(names[i] for i in country) == capitals.spelt(first.input)
    assert names[answer] == capitals.spelt(first.target).split()[0]


def test_batches_have_rows_of_one_length_and_every_row_once_an_epoch():
    rows = capitals.questions(Words(), "train")
    batch_of = capitals.batches(rows, 16, seed=1)
    seen, step = [], 0
    while len(seen) < len(rows):
        batch = batch_of(step)
        assert batch["attention_mask"].all() and len(batch["input_ids"]) <= 16
        seen += [(tuple(ids[:-1]), ids[-1]) for ids in batch["input_ids"].tolist()]
        step += 1
    assert Counter(seen) == Counter((tuple(country), answer) for country, answer in rows)
    assert torch.equal(batch_of(0)["input_ids"], capitals.batches(rows, 16, 1)(0)["input_ids"])


def test_only_the_answer_is_asked_for():
    batch = capitals.together([([5, 6], 7), ([8], 9)])
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[-100, -100, 7], [-100, 9, -100]]


def test_a_text_begins_with_its_start_and_the_pseudo_tokens():
    words = Words()
    form = capitals.template("The capital of {x} is", words, n=2)
    start = words.known[capitals.START]
    assert form.pieces[:3] == (start, "P", "P") and form.pieces[-1] == "{mask}"
    assert form.pieces.count("{x}") == 1
