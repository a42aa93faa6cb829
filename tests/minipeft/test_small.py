"""Imports, plots, the sanity ladder."""

import json
import math
import statistics
import subprocess
import sys

import pytest
import torch
import zoo

import minipeft as mp


def test_import_is_light():
    code = "import json, sys, minipeft; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    heavy = {
        "transformers",
        "peft",
        "matplotlib",
        "jupyter",
        "IPython",
        "pandas",
        "scipy",
        "nbformat",
    }
    assert not loaded & heavy


def t_density(x: float, freedom: int) -> float:
    """Student 1908: the density of t."""
    log = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    log -= 0.5 * math.log(freedom * math.pi) + (freedom + 1) / 2 * math.log1p(x * x / freedom)
    return math.exp(log)


def reach(n: int) -> float:
    """How many standard errors the interval of n values reaches to each side."""
    values = [float(i) for i in range(n)]
    return mp.interval(values)[1] / (statistics.stdev(values) / math.sqrt(n))


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 17, 30, 31, 60, 500])
def test_students_quantile_leaves_two_and_a_half_percent(freedom):
    end, n = reach(freedom + 1), 4000
    h = end / n  # Simpson's rule from 0 to the quantile
    inner = sum((4 if i % 2 else 2) * t_density(i * h, freedom) for i in range(1, n))
    inside = (t_density(0, freedom) + inner + t_density(end, freedom)) * h / 3
    assert 0.5 - inside == pytest.approx(0.025, abs=2e-5)


def test_interval():
    mean, half = mp.interval([1.0, 2.0, 3.0])
    assert mean == 2.0 and half == pytest.approx(4.302653 * 1.0 / math.sqrt(3))
    mean, half = mp.interval([5.0])
    assert mean == 5.0 and math.isnan(half)
    with pytest.raises(ValueError, match="no values"):
        mp.interval([])


def test_the_interval_covers_the_truth_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for row in torch.randn(4000, 3, generator=generator).tolist():
        mean, half = mp.interval(row)
        hits += abs(mean) <= half
    assert hits / 4000 == pytest.approx(0.95, abs=0.012)


@pytest.fixture
def axes():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    yield pyplot.subplots()[1]
    pyplot.close("all")


def test_curves_draw_the_mean_and_its_band(axes):
    mp.plots.curves({"a": [[1, 2, 3], [3, 4, 5]], "b": [[0, 0, 0]]}, axes=axes, ylabel="y")
    assert list(axes.lines[0].get_ydata()) == [2, 3, 4]
    low, high = axes.collections[0].get_datalim(axes.transData).intervaly
    assert (low, high) == pytest.approx((2 - 12.706205, 4 + 12.706205))
    assert axes.get_ylabel() == "y"


def test_bars_heat_and_singular_values(axes):
    mp.plots.bars({"a": [1.0, 2.0], "b": [4.0]}, axes=axes, reference={"chance": 0.5})
    assert [bar.get_height() for bar in axes.patches] == [1.5, 4.0]
    heat = mp.plots.heat([[1, 2], [3, 4]], rows=["r", "s"], columns=["c", "d"])
    assert [t.get_text() for t in heat.texts] == ["1", "2", "3", "4"]
    half = mp.plots.heat([[1, 2], [float("nan"), 4]])
    assert [t.get_text() for t in half.texts] == ["1", "2", "4"]
    torch.manual_seed(0)
    low = torch.randn(6, 2) @ torch.randn(2, 6)
    line = mp.plots.singular_values({"BA": low}).lines[0].get_ydata()
    assert line[1] > 0.1 and all(value < 1e-6 for value in line[2:])


def test_history_plots_itself(axes):
    model = zoo.build("tiny-decoder")
    mp.attach(model, mp.LoRA())
    data = [zoo.batch("tiny-decoder")]
    history = mp.train(model, data, 3, evaluate=lambda m: 0.5, evaluate_every=1, progress=False)
    drawn = history.plot(axes)
    assert list(drawn.lines[-1].get_ydata()) == pytest.approx(history.losses)


@pytest.mark.parametrize(
    "name, head, method",
    [
        ("tiny-decoder", "language", mp.LoRA(rank=4, alpha=16, targets=("qkv", "up", "down"))),
        ("tiny-encoder", "classification", mp.LoRA(rank=4)),
        ("gpt2", "language", mp.LoRA(rank=4, alpha=16, targets=("qkv", "up", "down"))),
        ("tiny-decoder", "language", mp.FullFineTuning()),
    ],
)
def test_the_ladder_holds(name, head, method):
    model, batch = zoo.build(name, head), zoo.batch(name, head, rows=2, tokens=6)
    with torch.no_grad():  # random words are so short that a frozen head could not say anything
        words = model.transformer.wte if name == "gpt2" else model.embeddings.words
        words.weight.mul_(25)
    before = mp.fingerprint(model)
    ladder = mp.sanity_ladder(model, method, batch, steps=120, learning_rate=2e-2)
    assert ladder.passed, str(ladder)
    assert [row[0] for row in ladder.rows] == [
        "loss of an untrained model",
        "identity at the start",
        "one batch by heart",
        "gradient census",
        "base unchanged",
        "unplugged",
    ]
    assert mp.fingerprint(model) == before and "All rungs hold" in str(ladder)


PROMPTS = [
    mp.PromptTuning(length=3),
    mp.PTuning(template=("P", "{x}", "P", "P")),
    mp.PTuning(length=2, encoder=None),
]


@pytest.mark.parametrize("method", PROMPTS, ids=lambda method: method.describe())
@pytest.mark.parametrize(
    "name, head",
    [
        ("tiny-decoder", "language"),
        ("gpt2", "language"),
        ("t5", "language"),
        ("tiny-encoder", "classification"),
        ("tiny-encoder", "tagging"),
    ],
)
def test_the_ladder_is_climbed_with_prompts(name, head, method):
    """A prompt makes rows longer: the start is compared where something is asked."""
    model, batch = zoo.build(name, head), zoo.batch(name, head, rows=2, tokens=6)
    ladder = mp.sanity_ladder(model, method, batch, steps=2)
    marks = {row[0]: row[3] for row in ladder.rows}
    assert float(ladder.rows[1][2]) > 0 and marks["identity at the start"] == "ok"
    assert marks["base unchanged"] == marks["unplugged"] == "ok"


class NotIdentity(mp.LoRA):
    def install(self, tuner):
        super().install(tuner)
        zoo.shake(tuner)


class NoGradient(mp.LoRA):
    def install(self, tuner):
        super().install(tuner)
        tuner.patches[0][1].B.requires_grad_(False)


class WritesTheBase(mp.LoRA):
    def after_step(self, tuner, step, steps):
        with torch.no_grad():
            tuner.patches[0][0].module.weight[0, 0] += 1e-3


@pytest.mark.parametrize(
    "method, rung",
    [
        (NotIdentity(), "identity at the start"),
        (NoGradient(), "gradient census"),
        (WritesTheBase(), "base unchanged"),
    ],
)
def test_the_ladder_breaks_where_it_should(method, rung):
    model = zoo.build("tiny-decoder")
    ladder = mp.sanity_ladder(model, method, zoo.batch("tiny-decoder"), steps=3)
    assert not ladder.passed
    assert {row[0] for row in ladder.rows if row[3] == "FAILED"} >= {rung}
