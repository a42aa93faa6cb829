# ---
# jupyter:
#   minipeft:
#     title: Adapters
#     question: How little of a model must be trained, if what we train stands inside it?
#     minutes: 6
#     sitting: 80
#     attempts: 7
# ---

# %% [markdown] tags=["slide"]
# Lesson 03 had a bad choice: train everything, and keep one whole copy of the model per task, or train the
# top layers, and learn little. **Adapters** (Houlsby et al. 2019) are the first way out. Inside every frozen layer
# stand two tiny networks, and these learn, together with the layer norms.

# %% tags=["hide-input", "slide"]
from minipeft.course import adapters

figure = adapters.block_with_adapters()

# %% [markdown]
# Attention (or feed-forward) gives back h. The adapter squeezes it from C to m numbers, bends them with a
# non-linear function φ, widens them to C again, and adds the result to h. Only then comes the residual sum.
#
# $$ h \leftarrow h + s\,\big( W_{up}\, \varphi(W_{down}\, h + b_{down}) + b_{up} \big), \qquad m \ll C $$
#
# {equations adapter 1}
#
# N is the number of rows, T that of tokens. The three shapes are those of the new h, of the m hidden features, and
# of what is added. $W_{down}$ is (m, C), $W_{up}$ is (C, m). m is the **bottleneck**; s is a fixed factor, 1 in the
# paper. In the library this is a patch in the *weights* door: it stands behind the last linear map of attention and
# behind that of the feed-forward layer.
#
# ### Exercise: write it
#
# Two methods. `change(h)` gives what is added, with the factor s. `forward(x, y)` gets x, which the frozen map has
# read, and y, which it gave back: y is our h. What must hold:
#
# * With `self.skip` the result is h plus the change. Without it the result is the change alone (for part 3).
# * y may have another dtype than the adapter's weights (half precision, for example). `change` turns its h into the
#   dtype of the weights, and its result keeps that one. The result of `forward` has the dtype of y again.
# * `self.dropout` falls on the m hidden features, after φ.
#
# <details><summary>Hint</summary>
#
# `self.down` and `self.up` are `nn.Linear` and have their biases. `self.phi` is the activation. Nothing may be
# changed in place, and nothing detached: the layers below learn through y.
# </details>

# %% exercise="minipeft.methods.adapter:AdapterPatch" blank="forward,change" difficulty=2 minutes=10
# change: down, phi, dropout, up, times s
# forward: x is not needed

# %%
from minipeft import checks

checks.adapter(AdapterPatch)

# %% [markdown]
# ### Exercise: how many numbers
#
# Our model has L = 4 layers of width C = 80. The bottleneck is m = 16. Adapters stand behind attention and
# behind feed-forward in every layer, with their biases. Every layer norm is trained too: two in each layer
# and one behind the last layer, each with a weight and a bias of C numbers. **How many numbers are trained?**

# %% exercise="minipeft.checks:adapter_parameters" difficulty=1 minutes=5
# Write a number, or the line that computes it.
L, C, m = 4, 80, 16
one = 2 * m * C + m + C  # two matrices and two biases
norms = (2 * L + 1) * 2 * C
adapter_parameters = 2 * L * one + norms

# %%
checks.adapter_parameters(adapter_parameters)

# %%
import minipeft as mp
import tiny_transformer as tt
from minipeft.course import claims

base, tokenizer = tt.load("tiny-decoder-0.4m")
before = mp.fingerprint(base)
tuner = mp.attach(base, mp.Adapter(bottleneck=16), name="counted", seed=0)
report = tuner.report()
patches = tuner.patches
norms = sum(
    p.numel() for path in tuner.anatomy.norms(None) for p in tuner.copies[path].parameters()
)
tuner.detach()
print("the library counts", report.trainable, "and you", adapter_parameters)
claims.record(
    5,
    f"{len(patches)} adapters in 4 layers; {report.trainable:,} numbers trained, of which "
    f"{norms:,} are layer norms; a task head, where there is one, is trained too",
    rule="count what is trained",
    verdict="true" if len(patches) == 8 and norms == 1440 else "false",
)

# %% [markdown]
# ## 1. The sanity ladder
#
# The task of all experiments is the **novel** one of lesson 03: reverse a row of nouns that has been rotated. No text
# of Tinyland does this.
#
# **Predict:** by how much do fresh adapters move the logits of the model?

# %%
from minipeft import tasks
from minipeft.analysis.sanity import sanity_ladder

task = tasks.load("reverse-rotate")
print(task.train[0])
batch = task.batches("train", tokenizer, batch_size=32)(0)
sanity_ladder(base, mp.Adapter(bottleneck=16), batch, steps=60)

# %% [markdown] tags=["slide"]
# Near the identity, but not the identity: the first weights are small random numbers (standard deviation
# σ = 0.01). With `sigma=0`, $W_{up}$ starts at zero and the logits do not move at all.
#
# ## 2. Quality against parameters
#
# Now the figure that made adapters known. The arms train the top k layers (k = 1, 2, 3), everything, adapters with
# m = 1, 4, 16, 64, or **the layer norms alone**: since adapters train these too, what do the adapters add? As in lesson
# 03, all arms are tuned alike, and *equal* means surely within **3 points**.
#
# **Predict:** how good is m = 1, an adapter that squeezes 80 numbers into a single one? Better or worse than the
# top layer with twenty times as many numbers?

# %% fast="STEPS, LONG, SEEDS, ROWS, FEW, REAL_STEPS, QUICK = 2, 3, [0, 1], 8, 6, 1, True; RATES = {arm: rates[:1] for arm, rates in RATES.items()}; SPEEDS, SIGMAS = SPEEDS[:2], SIGMAS[:2]"
MODEL, TASK, BATCH, ROWS = "tiny-decoder-0.4m", "reverse-rotate", 32, 200
STEPS, LONG, SEEDS, MARGIN = 60, 240, [0, 1, 2], 0.03
FEW = 32  # part 6: so many examples, again and again
REAL_STEPS, QUICK = 40, False
RATES = {
    "top 1": [3e-3, 1e-2, 3e-2],
    "top 2": [1e-3, 3e-3, 1e-2],
    "top 3": [1e-3, 3e-3, 1e-2],
    "full": [1e-3, 3e-3, 1e-2],
    "layer norms": [3e-2, 1e-1, 3e-1],
    **{f"adapter m = {m}": [1e-2, 3e-2, 1e-1] for m in (1, 4, 16, 64)},
}
SPEEDS = [3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1]  # part 4
SIGMAS = [0.001, 0.01, 0.1, 0.3, 1.0]  # part 3

# %%
from functools import cache

from minipeft.analysis import plots
from minipeft.course.experiments import contest, difference, spread, table, trend
from minipeft.course.runs import Known, attached, quality, tuned_task

METHODS = {
    **{f"top {k}": mp.TopLayers(k) for k in (1, 2, 3)},
    "full": mp.FullFineTuning(),
    "layer norms": adapters.NormsOnly(),
    **{f"adapter m = {m}": mp.Adapter(bottleneck=m) for m in (1, 4, 16, 64)},
}


@cache  # a run that a later part needs again is not run again
def run(arm, rate, seed, steps=STEPS):
    """Train one arm once; dev, test, how many numbers were trained."""
    given = ((base, tokenizer), METHODS[arm], TASK, rate, steps, seed)
    return tuned_task(*given, batch_size=BATCH, rows=ROWS)


ladder = contest(RATES, run, SEEDS, label="quality against parameters")
trained = {arm: outcome.runs[0]["trained"] for arm, outcome in ladder.items()}
table(ladder)

# %% tags=["hide-input", "slide"]
captions = (
    "Here, a little everywhere does not beat the top.",
    "A little everywhere beats much at the top.",
)
first = difference(ladder["adapter m = 1"].values(), ladder["top 1"].values(), MARGIN)
figure, axes = plots.figure()
tops = ["top 1", "top 2", "top 3", "full"]
sizes = [arm for arm in ladder if arm.startswith("adapter")]
for label, arms, look in (
    ("top k, then full", tops, "top"),
    ("adapter, m = 1, 4, 16, 64", sizes, "adapter"),
    ("layer norms alone", ["layer norms"], "base"),
):
    plots.whiskers(
        axes,
        [trained[arm] for arm in arms],
        [ladder[arm].values() for arm in arms],
        label,
        plots.COLOURS[look],
        "o" if look == "base" else plots.MARKERS[look],
    )
axes.set_xscale("log")
plots.finish(
    axes,
    "numbers trained",
    "exact match, test",
    f"{STEPS} steps, {len(SEEDS)} seeds, 95 % intervals",
    limits=(0, 1),
    caption=captions[first.verdict == "better"],
)
best = min(sizes, key=lambda arm: ladder[arm].tried[ladder[arm].rate])  # on dev
print(
    f"m = 1 against the top layer, with {trained['top 1'] / trained[sizes[0]]:.0f} times its numbers: {first}"
)
for a, b in ((sizes[0], "layer norms"), (best, "layer norms"), (best, "full")):
    print(f"{a} against {b}: {difference(ladder[a].values(), ladder[b].values(), MARGIN)}")
of_m = trend([1, 4, 16, 64], [ladder[a].values() for a in sizes], log=True)
print(f"adapters, m from 1 to 64: {of_m}")

# %% [markdown]
# A top layer can only work with what reaches it; adapters stand in every layer. But they train the layer norms too, the
# grey point: the lines above say what is left for the adapters.
#
# Are the adapters behind full fine-tuning for good, or only slower? m = 16 (5.8 % of the numbers; the paper has 3.6 %) and
# full fine-tuning, both at the rate that dev chose, four times as long:

# %% tags=["hide-input", "slide"]
near = "adapter m = 16"
long = {
    arm: [run(arm, ladder[arm].rate, seed, steps=LONG) for seed in SEEDS] for arm in (near, "full")
}
short_gap = difference(ladder[near].values(), ladder["full"].values(), MARGIN)
gap = difference([r["test"] for r in long[near]], [r["test"] for r in long["full"]], MARGIN)
share = trained[near] / trained["full"]
if short_gap.verdict == "worse":
    closed = 1 - gap.mean / short_gap.mean
    print(f"four times the steps close {100 * closed:.0f} % of the distance: so much was speed")
VERDICTS = {"equal": "true", "better": "true", "worse": "not reproduced at this size"}
claims.record(
    1,
    f"{near} ({100 * share:.1f} % of the numbers) against full fine-tuning: {short_gap.text} after "
    f"{STEPS} steps, {gap.text} after {LONG}",
    rule=f"after {LONG} steps; {gap.rule}",
    verdict=VERDICTS.get(gap.verdict, "undecided"),
)

small = spread(ladder[sizes[0]].values())
goal = plots.interval(ladder[sizes[0]].values())[0]
reached = [arm for arm in tops if plots.interval(ladder[arm].values())[0] >= goal]
ratio = trained[reached[0]] / trained[sizes[0]] if reached else float("nan")
claims.record(
    3,
    f"{sizes[0]} reaches {small} with {trained[sizes[0]]:,} numbers; of the arms from the top "
    f"{reached[0] if reached else 'none'} is the first to be as good, with "
    f"{ratio:.0f} times as many (this model has {trained['full'] / trained[sizes[0]]:.0f} times)",
    rule="true from 100 times as many on, not reproduced from 10 to 100 times, false below",
    verdict="true" if ratio >= 100 else "not reproduced at this size" if ratio >= 10 else "false",
    ratio=ratio,
)
steps_up = [
    difference(ladder[b].values(), ladder[a].values(), MARGIN)
    for a, b in zip(tops, tops[1:], strict=False)
]
beaten = difference(ladder[best].values(), ladder["top 3"].values(), MARGIN)
rising = all(step.verdict == "better" for step in steps_up)
claims.record(
    4,
    "thawing from the top, "
    + ", ".join(f"{b}: {step.text}" for b, step in zip(tops[1:], steps_up, strict=True))
    + f"; but {best} against top 3, with fewer numbers: {beaten.text}",
    rule="true if every step up is better and no arm with fewer numbers beats one with more",
    verdict="true"
    if rising and beaten.verdict != "better"
    else "misleading"
    if beaten.verdict == "better"
    else "undecided",
)

# %% [markdown] tags=["slide"]
# ## 3. What is the skip for?
#
# A common answer: *against vanishing gradients*, as in a deep ResNet. The paper says something else: it makes the
# adapter **nearly the identity** at the start. Both can be measured before any training: how far do the logits
# move, and how long is the gradient, as a vector, that reaches the lowest adapters?
#
# **Predict** both, with the skip and without. And first, with your adapter: how long is what it gives back,
# compared with h?

# %%
import torch

torch.manual_seed(0)
h = torch.randn(2, 5, 80)
try:
    for skip in (True, False):
        passed = AdapterPatch(80, 16, skip=skip)(h, h).norm() / h.norm()
        print(f"your adapter, fresh, skip={skip}: gives back {passed:.4f} times the length of h")
except NotImplementedError as missing:
    print(missing)

starts = {
    (skip, sigma): adapters.at_the_start(base, mp.Adapter(16, sigma=sigma, skip=skip), batch)
    for skip in (True, False)
    for sigma in SIGMAS
}
for skip in (True, False):
    print("with the skip" if skip else "without it")
    for sigma in SIGMAS:
        now = starts[skip, sigma]
        print(
            f"  sigma {sigma:<6g} logits moved by {now['moved']:6.3f}   gradient {now['gradient']:.1f}"
        )

# and then train: each arm tries two rates on dev with the first seed
CLIFF = [(True, sigma) for sigma in SIGMAS] + [(False, sigma) for sigma in SIGMAS[1::2]]
METHODS |= {arm: mp.Adapter(16, sigma=arm[1], skip=arm[0]) for arm in CLIFF}
rates = RATES["adapter m = 16"][:2]
cliff = contest({arm: rates for arm in CLIFF}, run, SEEDS, extend=0, label="the start")

# %% tags=["hide-input", "slide"]
figure, axes = plots.figure()
for skip, label, look in ((True, "with the skip", "adapter"), (False, "without it", "base")):
    arms = [arm for arm in CLIFF if arm[0] is skip]
    plots.whiskers(
        axes,
        [sigma for _, sigma in arms],
        [cliff[arm].values() for arm in arms],
        label,
        plots.COLOURS[look],
        plots.MARKERS["adapter"] if skip else "x",
    )
axes.set_xscale("log")
plots.finish(
    axes,
    "sigma, the size of the first weights",
    "exact match, test",
    "m = 16: how the adapter starts",
    limits=(0, 1),
    caption="What matters is to start near the model that was there. The skip makes that possible.",
)
healthy, bare = cliff[True, SIGMAS[1]], cliff[False, SIGMAS[1]]
lost = difference(bare.values(), healthy.values(), MARGIN)
arrives = starts[False, SIGMAS[1]]["gradient"] / starts[True, SIGMAS[1]]["gradient"]
large = difference(cliff[True, SIGMAS[-1]].values(), healthy.values(), MARGIN)
claims.record(
    6,
    f"without the skip the gradient at the lowest adapters is {arrives:.1f} times that with it, yet "
    f"nothing is learnt ({lost.text}); and with the skip, sigma = {SIGMAS[-1]:g} fails as well "
    f"({large.text})",
    rule="misleading if the gradient does not vanish (at least half as long) and learning still fails",
    verdict="misleading"
    if arrives > 0.5 and lost.verdict == "worse"
    else "true"
    if arrives < 0.1
    else "undecided",
    gradient_ratio=arrives,
)

# %% [markdown]
# The gradient has another way down: the block's own residual path, outside the adapter. What is lost without the skip
# is the *model*. An adapter with small weights and no skip gives back nearly zero, so every attention and every
# feed-forward layer is cut out.
#
# ### Exercise: four patients
#
# Four adapters with m = 16, each with one fault. *Length of h* is that of what the lowest adapter gives back at the
# start, compared with what it gets. The *loss* is that of the last step, in nats.

# %%
adapters.symptoms(base, batch, steps=STEPS // 2)

# %% [markdown]
# The faults, and one more that nobody has:
#
# | | fault |
# |---|---|
# | a | the layer norms are frozen |
# | b | the skip is missing |
# | c | one adapter per block: the one behind attention is missing |
# | d | $W_{down}$ and $W_{up}$ both start at zero |
# | e | the first weights are far too large |
#
# Which patient has which? Answer like this: `{"A": "e", "B": "e", "C": "e", "D": "e"}`.
#
# <details><summary>Hint</summary>
#
# Your count from the second exercise tells two of them. b and e both move the logits far: what does each do to the
# length of h? A matrix gets a gradient only if what is multiplied with it is not zero.
# </details>

# %% exercise="minipeft.checks:adapter_faults" difficulty=2 minutes=8
adapter_faults = {"A": "c", "B": "d", "C": "b", "D": "a"}

# %%
checks.adapter_faults(adapter_faults)

# %% [markdown] tags=["slide"]
# Look at the losses once more: most learn, only less, and none crashes. So such faults stay in a program.
#
# ## 4. How much does the learning rate matter?
#
# The paper finds adapters good over a wide range of rates. **Predict:** whose range is wider, that of m = 16 or that of
# full fine-tuning? Counted are the rates whose exact match is at least nine tenths of the best one's.

# %% tags=["hide-input", "slide"]
pair = ["full", "adapter m = 16"]
swept = {arm: [[run(arm, rate, seed)["test"] for seed in SEEDS] for rate in SPEEDS] for arm in pair}
figure, axes = plots.figure()
for arm in pair:
    plots.whiskers(axes, SPEEDS, swept[arm], arm)
axes.set_xscale("log")
plots.finish(
    axes,
    "learning rate",
    "exact match, test",
    f"{STEPS} steps, {len(SEEDS)} seeds",
    limits=(0, 1),
    caption="Each method has its own range of rates. Compare methods at their best, never at one rate.",
)
good = {}
for arm in pair:
    means = [plots.interval(values)[0] for values in swept[arm]]
    good[arm] = [rate for rate, mean in zip(SPEEDS, means, strict=True) if mean >= 0.9 * max(means)]
    print(f"{arm}: within a tenth of its best at {', '.join(f'{rate:g}' for rate in good[arm])}")
wide = {arm: max(rates) / min(rates) for arm, rates in good.items()}
wider = "neither" if wide["full"] == wide[pair[1]] else max(wide, key=wide.get)
print("the wider of the two, on this grid:", wider)
claims.record(
    8,
    f"rates within a tenth of the best: full fine-tuning {min(good['full']):g} to "
    f"{max(good['full']):g}, adapters {min(good[pair[1]]):g} to {max(good[pair[1]]):g}",
    rule="true if the adapters' range is wider by a step of the grid or more",
    verdict="true" if wide[pair[1]] > 2 * wide["full"] else "not reproduced at this size",
    widths=list(wide.values()),
)

# %% [markdown]
# (The passport judges rates by dev loss after more steps. That is milder, so its ranges are wider.)
#
# ## 5. Plug in, plug out
#
# Two tasks, each with its own adapters on the *same* base. For comparison: full fine-tuning on the first task, then on
# the second. We measure exact match on both tasks, and the share of the old skills (lesson 03) that is lost.
#
# **Predict** these three numbers with each task's adapters plugged in, with them switched off, and after each
# fine-tuning.

# %%
known = Known(base, tokenizer, rows=40)
TWO = {name: tasks.load(name) for name in (TASK, "swap-double")}
measured, ablations = {}, []


def learn(name, rate, seed):
    """Train what is attached on one task."""
    batches = TWO[name].batches("train", tokenizer, batch_size=BATCH, seed=seed)
    mp.train(base, batches, STEPS, learning_rate=rate, seed=seed, progress=False)


def note(row):
    """Exact match on both tasks, and the share of the old skills that is lost, as things are now."""
    tests = [quality(base, tokenizer, two, "test", rows=ROWS) for two in TWO.values()]
    measured.setdefault(row, []).append([*tests, known.forgotten(base)["forgotten"]])


for seed in SEEDS:
    for name in TWO:
        with attached(base, mp.Adapter(16), name=name, seed=seed) as tuner:
            learn(name, ladder["adapter m = 16"].rate, seed)
            note(f"adapters of {name}")
            with tuner.disabled():
                note(f"{name} switched off")
            if name == TASK:
                ablations.append(
                    adapters.spans(tuner, 4, lambda: quality(base, tokenizer, TWO[TASK], "test"))
                )
            tuner.save(f"runs/{name}")
    with attached(base, mp.FullFineTuning(), seed=seed):
        for name in TWO:
            learn(name, ladder["full"].rate, seed)
            note(f"full, after {name}")

# %% tags=["hide-input"]
from pathlib import Path

from minipeft.course.transfer import training_bytes
from minipeft.report import Table

columns = {row: list(zip(*runs, strict=True)) for row, runs in measured.items()}
table_of_two = Table(
    "What is plugged in decides (exact match; share of old skills lost)",
    ("", *TWO, "old skills lost"),
    [(row, *(spread(values) for values in three)) for row, three in columns.items()],
    [f"Mean and 95 % interval over {len(SEEDS)} seeds."],
)
claims.show(table_of_two)

whole = training_bytes(base)["weights"]
one_task = sum(file.stat().st_size for file in Path("runs", TASK).iterdir())
untouched = mp.fingerprint(base) == before
exact = adapters.at_the_start(base, mp.Adapter(16, sigma=0), batch)["moved"]
same = "the same bits" if untouched else "other bits"
harm = columns[f"adapters of {TASK}"][2]
yes = "true" if untouched else "false"
claims.record(9, f"after all these trainings the base has {same}", "its SHA-256", yes)
claims.record(
    10,
    f"unplugged, the base has {same}; a task takes {one_task:,} bytes, the base {whole:,}",
    rule="true if the bits are equal and a task takes less than a tenth of the base",
    verdict=yes if one_task < whole / 10 else "misleading",
)
claims.record(
    12,
    f"50 tasks: {(whole + 50 * one_task) / 1e6:.0f} MB with adapters on one base, "
    f"{50 * whole / 1e6:.0f} MB as full copies",
    rule="false if one base serves all tasks: it did, above",
    verdict="false" if untouched else "undecided",
)
claims.record(
    7,
    f"with sigma = 0 fresh adapters move the logits by {exact:g}; once trained and plugged in, "
    f"{spread(harm)} of the old skills are lost",
    rule="true if nothing moves at the start and nothing is lost later; misleading if only the first",
    verdict="false"
    if exact
    else "misleading"
    if difference(harm, [0] * len(harm), MARGIN).verdict == "better"
    else "undecided",
)

# %% [markdown]
# The base is safe. But while adapters are plugged in, the old skills pay for it (the last column). The difference to full
# fine-tuning is that adapters come out again.
#
# ### Which layers matter?
#
# The trained adapters of layers first to last are left out, and the rest works on (figure 6 of the paper).
# **Predict:** which single layer can go at the lowest price?

# %% tags=["hide-input"]
import math

means = [
    [
        plots.interval([scores[a][b] for scores in ablations])[0] if b >= a else math.nan
        for b in range(4)
    ]
    for a in range(4)
]
axes = plots.heat(
    means,
    [f"from {i}" for i in range(4)],
    [f"to {i}" for i in range(4)],
    xlabel="layers left out",
    title="without adapters in these layers",
    limits=(0, 1),
    unit="exact match, test",
)
intact = plots.interval(columns[f"adapters of {TASK}"][0])[0]
single = [means[layer][layer] for layer in range(4)]
print(f"nothing left out: {100 * intact:.0f} %")
print(f"every adapter left out, the trained layer norms alone: {100 * means[0][3]:.0f} %")
for layer, mean in enumerate(single):
    print(f"without layer {layer} alone: {100 * mean:.0f} %")
cheap = max(single)
print(
    f"the cheapest layer, {single.index(cheap)}, costs {100 * (intact - cheap):.0f} points: "
    + ("at most 2, as in the paper" if intact - cheap <= 0.02 else "more than the paper's 2 points")
)
needed = "Trained together, they are needed together.", "One layer's adapters can be spared."
plots.add_caption(axes.figure, needed[intact - cheap <= 0.02])

# %% [markdown]
# In the paper's 12 layers, the lowest adapters hardly matter. A model of 4 layers has less to spare.
#
# ## 6. Too few numbers to over-fit?
#
# 32 examples, other ones for each seed, are seen again and again. An arm over-fits if its loss on dev is surely more than
# 0.1 nats above that on the 32. **Predict:** which of m = 1, m = 64 and full over-fit?

# %% tags=["hide-input"]
from dataclasses import replace


def run_few(arm, seed):
    """FEW examples, which the seed chooses; the rate is that of part 2."""
    few = {"train": task.train[FEW * seed : FEW * (seed + 1)]}
    small_task = replace(task, splits={**task.splits, **few})
    given = ((base, tokenizer), METHODS[arm], small_task, ladder[arm].rate, STEPS, seed)
    return tuned_task(*given, batch_size=BATCH, rows=ROWS)


gaps = {}
for arm in ("adapter m = 1", "adapter m = 64", "full"):
    runs = [run_few(arm, seed) for seed in SEEDS]
    losses = [sum(r["history"].losses[-5:]) / 5 for r in runs]
    gaps[arm] = [r["dev"] - loss for r, loss in zip(runs, losses, strict=True)]
    print(
        f"{arm:<15} nats: on the {FEW} examples {spread(losses, 'nats'):<16} "
        f"on dev {spread([r['dev'] for r in runs], 'nats'):<16} test {spread([r['test'] for r in runs])}"
    )
over = difference(gaps["adapter m = 64"], [0] * len(SEEDS), 0.1, unit="nats")
sure = [a for a in gaps if difference(gaps[a], [0.1] * len(SEEDS), 0.0).verdict == "better"]
print("over-fits:", ", ".join(sure) or "none surely")
claims.record(
    11,
    f"{FEW} examples, m = 64: dev loss minus training loss {over.mean:+.2f} ± {over.half:.2f} nats",
    rule="misleading if the gap is surely above 0.1 nats, true if it lies within 0.1",
    verdict="misleading"
    if "adapter m = 64" in sure
    else "true"
    if over.verdict == "equal"
    else "undecided",
)

# %% [markdown]
# ## 7. What it costs
#
# The adapters are a few per cent of the numbers. Is the *cost* a few per cent?
#
# ### Exercise: the work of a step
#
# Forward, a linear map with n weights costs n products of two numbers for each token. Backward it costs n for the gradient of
# its input, and n more for the gradient of its weights, where these are trained. Count the model's linear maps only, not the
# adapters themselves, and suppose that all of these maps stand above the lowest adapter. **Which share** of the products of
# full fine-tuning does a step with adapters need? (A number between 0 and 1.)

# %% exercise="minipeft.checks:adapter_work" difficulty=1 minutes=5
# Write a number, or the line that computes it.
# adapter_work: where must the gradient go, to reach the lowest adapter?
forward, of_inputs, of_weights = 1, 1, 1  # products for each weight of a map
adapter_work = (forward + of_inputs) / (forward + of_inputs + of_weights)

# %%
checks.adapter_work(adapter_work)

# %%
of_full, of_adapters = adapters.costs(base, [METHODS[arm] for arm in pair], batch)
ratios = {what: of_adapters[what] / of_full[what] for what in of_full}
for what, ratio in ratios.items():
    print(f"{what:<48} {100 * ratio:5.1f} % of full fine-tuning")
numbers, work = ratios["numbers trained"], ratios["products of a step, forward and backward"]
claims.record(
    2,
    f"{100 * numbers:.1f} % of the numbers, but {100 * work:.0f} % of the computation and "
    f"{100 * ratios['weights, gradients and Adam, bytes']:.0f} % of the bytes of weights, gradients "
    "and Adam",
    rule="true if computation and memory shrink as the numbers do, to within a factor of 3",
    verdict="misleading" if work > 3 * numbers else "true",
)

# %% [markdown] tags=["slide"]
# The gradient passes backward through every frozen layer down to the lowest adapter. (More than your share is counted,
# since the adapters' own products and those inside attention come in.) Saved are the gradients of the frozen weights and
# Adam's two means of them; lesson 13 counts the rest. The seconds may shrink less: in so small a model, sixteen small
# matrix products more take time, too.
#
# ## 8. A real model
#
# From lesson 03 we know all-MiniLM-L6-v2, an encoder of the BERT kind with 22.7 million parameters, and its task: is a
# word positive or negative (*happily*, *grim*)? A fresh head is trained in every arm.
#
# **Predict:** do adapters reach full fine-tuning in a model that is sixty times as large?

# %%
from minipeft.course import real

words = real.vader()
loaded = words and real.load("minilm", head="classification", labels=2)
REAL = {
    "head only": (mp.HeadOnly(), [1e-2, 3e-2, 1e-1]),
    "top 1": (mp.TopLayers(1), [1e-3, 3e-3, 1e-2]),
    "top 3": (mp.TopLayers(3), [3e-4, 1e-3, 3e-3]),
    "adapter m = 16": (mp.Adapter(16), [3e-3, 1e-2, 3e-2]),
    "full": (mp.FullFineTuning(), [3e-5, 1e-4, 3e-4]),
}


@cache
def minilm(seed):
    """The model with a fresh head, drawn from the seed."""
    return real.load("minilm", head="classification", labels=2, seed=seed)


def run_real(arm, rate, seed):
    method = REAL[arm][0]
    given = dict(batch_size=BATCH, head="classification", rows=ROWS * 2)
    return tuned_task(minilm(seed), method, words, rate, REAL_STEPS, seed, **given)


if loaded:
    arms = {arm: rates[: 1 if QUICK else 3] for arm, (_, rates) in REAL.items()}
    arms = dict(list(arms.items())[3:]) if QUICK else arms
    outcomes = contest(arms, run_real, SEEDS, extend=1, label="MiniLM")
    claims.show(table(outcomes))

# %% tags=["hide-input", "slide"]
if loaded:
    counts = {arm: outcome.runs[0]["trained"] for arm, outcome in outcomes.items()}
    named = {f"{arm}\n{counts[arm]:,}": outcome.values() for arm, outcome in outcomes.items()}
    majority = max(
        sum(example.target == label for example in words.test[: 2 * ROWS]) for label in words.labels
    ) / min(2 * ROWS, len(words.test))
    axes = plots.bars(
        named, ylabel="accuracy, test", title=f"MiniLM, {REAL_STEPS} steps", limits=(0, 1)
    )
    axes.axhline(majority, color=plots.GREY, ls=":")
    plots.add_caption(
        axes.figure, "Dotted: always the more frequent answer. Below the names: numbers trained."
    )
    against = difference(outcomes["adapter m = 16"].values(), outcomes["full"].values(), MARGIN)
    claims.record(
        1,
        f"MiniLM on words of the VADER lexicon, adapters with "
        f"{100 * counts['adapter m = 16'] / counts['full']:.1f} % of the numbers, head included: "
        f"{against.text}",
        rule=against.rule,
        verdict=VERDICTS.get(against.verdict, "undecided"),
    )

# %% [markdown]
# ## Passport
#
# The same questions are put to every method, so that lesson 15 can lay the answers side by side. *Latent* is `reverse` without
# its word, *novel* is `reverse-rotate`. *Out of domain*: longer rows than those that were trained on. *Forgotten*: the share
# of old skills lost while the adapters are plugged in.

# %%
from minipeft.course.passport import passport

passport(mp.Adapter(16), RATES["adapter m = 16"], name="adapter", quick=QUICK)

# %% [markdown] tags=["slide"]
# ## What this lesson showed, and what it did not
#
# * An adapter is two small matrices with a bend between them, inside every layer; the base keeps its bits.
# * A little everywhere against much at the top: part 2 measures it, and the share of the layer norms in it.
# * The skip is for the start: near the model that was there. The gradient did not need it.
# * Fewer numbers trained is not as many fewer operations.
# * *Not shown:* parity as a law. Three seeds, two tasks for one model and one for the other, and few steps. The paper
#   has 26 tasks and larger models; what its claim became at this size stands under part 2 and part 8.
# * *Not shown:* a way around the slower pass that the passport measures. Lesson 10 has a method that can be merged.
