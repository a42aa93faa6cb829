"""What lesson 10 measures with: merged changes, four starts, a teacher's floor, facts by heart."""

import math

import pytest
import torch
from closeness import close

import minipeft as mp
import tiny_transformer as tt
from minipeft import tasks
from minipeft.analysis import spectra
from minipeft.course import lora, runs
from minipeft.course.experiments import Outcome, contest
from minipeft.training.gradients import Diverged


@pytest.fixture(scope="module")
def pair():
    return tt.load("tiny-decoder-0.1m")


@pytest.fixture(scope="module")
def batch(pair):
    return tasks.load("reverse-rotate").batches("train", pair[1], batch_size=4)(0)


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits.clone()


def test_changes_act_as_the_detours_do_and_leave_the_old_bits(pair, batch):
    model = tt.load("tiny-decoder-0.1m")[0].double()
    bits = mp.fingerprint(model)
    tuner = mp.attach(model, mp.LoRA(rank=3), seed=1)
    with torch.no_grad():
        for parameter in tuner.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, dtype=parameter.dtype)
    deltas = {place.path: patch.delta().detach() for place, patch in tuner.patches}
    wanted = logits(model, batch)
    tuner.detach()
    with pytest.raises(RuntimeError), lora.changed(model, deltas):
        close(logits(model, batch), wanted)
        raise RuntimeError
    assert mp.fingerprint(model) == bits


def test_what_is_forgotten_is_asked_of_the_changed_model(pair):
    model, tokenizer = pair
    known = runs.Known(model, tokenizer, rows=8)
    path = "blocks.0.attention.value"
    noise = 5 * torch.randn(model.get_submodule(path).weight.shape)
    kept = [{"deltas": {path: noise}}, {"deltas": {}}, {"forgotten": 0.25}]
    outcome = Outcome("arm", 1e-3, {1e-3: 1.0}, tuple(kept), False)
    broken, same, measured = lora.forgotten_by(model, known, outcome)
    assert broken > 0.5 and same == 0 and measured == 0.25


def test_the_four_starts_show_what_the_formulas_say(pair, batch):
    rows = {row[0]: [float(x) for x in row[1:]] for row in _starts(pair, batch).rows}
    moved, a1, b1, a2, b2 = rows["A random, B = 0 (the paper)"]
    assert moved == 0 and a1 == 0 and b1 > 0 and a2 > 0 and b2 > 0
    moved, a1, b1, a2, b2 = rows["A = 0, B random"]
    assert moved == 0 and a1 > 0 and b1 == 0 and a2 > 0 and b2 > 0
    assert rows["both zero"] == [0, 0, 0, 0, 0]
    assert min(rows["both random"]) > 0


def _starts(pair, batch):
    bits = mp.fingerprint(pair[0])
    table = lora.first_steps(pair[0], mp.LoRA(4), batch)
    assert mp.fingerprint(pair[0]) == bits
    return table


@pytest.mark.parametrize("rank", [1, 2, 3, 5])
def test_a_student_reaches_the_floor_and_not_more(rank):
    delta = lora.teacher(12, 3, seed=0).double()
    values = torch.linalg.svdvals(delta)
    assert values[:3].tolist() == pytest.approx([2, 1.5, 1], abs=1e-6)
    assert values[3:].max() < 1e-6  # the teacher is made in float32
    floor = spectra.floor(delta, rank) / delta.square().sum().item()
    assert lora.recover(delta, rank, seed=0) == pytest.approx(floor, rel=1e-3, abs=1e-9)


def test_a_run_is_remembered_and_one_that_diverges_counts_as_failed():
    asked = []

    def together(jobs):
        asked.extend(jobs)
        return [{"dev": rate, "test": 0.5} for _, rate, _ in jobs]

    def alone(name, rate, seed):
        asked.append((name, rate, seed))
        if rate > 1:
            raise Diverged("The loss is nan.")
        return {"dev": rate, "test": 0.25}

    run = lora.remembered(together, {"lora"}, alone)
    arms = {"full": [0.1, 2.0, 0.5], "lora": [0.2, 0.1]}
    first = contest(arms, run, [0, 1], extend=0, together=True)
    again = contest(arms, run, [0, 1], extend=0, together=True)
    assert len(asked) == len(set(asked)) == 7
    assert first == again and first["full"].tried[2.0] == math.inf
    assert first["lora"].values() == [0.5, 0.5] and first["full"].values() == [0.25, 0.25]


def test_the_valley_is_the_parabolas_lowest_point():
    rates = [1e-3, 3e-3, 1e-2, 3e-2, 1e-1]
    best = 7e-3
    losses = [math.exp(0.3 * math.log(rate / best) ** 2) for rate in rates]
    assert lora.valley(rates, losses) == pytest.approx(best)
    assert lora.valley(rates, [1.0, 2, 3, 4, math.nan]) == 1e-3
    assert lora.valley(rates, [math.inf, 5, 4, 3, 2.0]) == 1e-1


def test_random_facts_differ_are_asked_as_learnt_and_depend_on_the_seed():
    facts = lora.random_facts(50, seed=3)
    assert len({example.input for example in facts.train}) == len(facts.train) == 50
    assert facts.train == facts.dev == facts.test
    assert all(example.target.isalpha() for example in facts.train)
    assert facts.train == lora.random_facts(50, seed=3).train != lora.random_facts(50, seed=4).train


def test_bytes_and_operations(pair, batch):
    model, bits = pair[0], mp.fingerprint(pair[0])
    trained, table = lora.weigh(model, {"r": mp.LoRA(4), "full": mp.FullFineTuning()})
    whole = sum(p.numel() for p in model.parameters())
    assert trained == {"r": 4 * 2 * 4 * 64, "full": whole}
    rows = {row[0]: row[2:] for row in table.rows}
    assert rows["full"][1] == pytest.approx(16 * whole / 1000, abs=1)
    assert rows["r"][2] == pytest.approx(4 * trained["r"] / 1000, abs=1)
    bare = lora.operations(model, batch)
    tuner = mp.attach(model, mp.LoRA(4), seed=0)
    tokens = batch["input_ids"].numel()
    assert lora.operations(model, batch) - bare == 2 * tokens * trained["r"]
    tuner.merge()
    assert lora.operations(model, batch) == bare
    tuner.unmerge()
    tuner.detach()
    assert mp.fingerprint(model) == bits


def test_the_file_is_opened_by_peft(pair, capsys):
    pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        **dict(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2),
        **dict(intermediate_size=32, max_position_embeddings=16, num_labels=2),
    )
    model = transformers.BertForSequenceClassification(config).eval()
    task = tasks.make("words", "classify", ("a", "b"), test=[("x", "a"), ("y", "b")])

    def tokenizer(texts, **options):
        ids = torch.arange(3 * len(texts)).view(len(texts), 3)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    lora.opened_elsewhere(model, tokenizer, mp.LoRA(2), task)
    said = capsys.readouterr().out
    assert "opened by PEFT" in said and float(said.rsplit(" ", 1)[1]) < 1e-5
