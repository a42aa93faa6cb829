# ---
# jupyter:
#   minipeft:
#     title: Capstone
#     question: Can you turn an equation you have never seen into a method that works?
#     minutes: 4
#     sitting: 65
#     attempts: 4
# ---

# %% [markdown]
# New methods come out every month. This lesson is about what you do then. You get the equation of a method that the course has
# not shown, you write it, and it is asked questions that you do not see before. At the end you choose a second one.
#
# The method is **VeRA**, vector-based random matrix adaptation (Kopiczko et al. 2024,
# [arXiv 2310.11454](https://arxiv.org/abs/2310.11454)). Its idea: LoRA trains two thin matrices $A$ and $B$ for every map. Must they be
# *trained*? Draw them once, at random. Freeze them, and let **every** map read the same two. Train only how loud each row of them is.

# %% tags=["hide-input", "slide"]
from minipeft.course import capstone

figure = capstone.picture()

# %% [markdown] tags=["slide"]
# {equations vera 2}
#
# $r$ may be larger than the width: it costs one number per map. $\mathrm{diag}(d)$ is the matrix with $d$ on its diagonal, so
# $\mathrm{diag}(d)\, z$ is $d$ times $z$, number by number. At the start $b = 0$, and every number of $d$ is 0.1.
#
# ## 1. What does it cost?
#
# ### Exercise: three counts
#
# A model of 7 billion numbers has 32 layers, and query and value maps of 4096 × 4096. How many numbers does `"LoRA"` train with $r = 16$
# on query and value? How many does `"VeRA"` train with $r = 256$? How many are `"frozen"`, in $A$ and $B$ together?

# %% exercise="minipeft.checks:vera_numbers" difficulty=1 minutes=6
# A dict with the keys "LoRA", "VeRA" and "frozen".
layers, maps, C = 32, 2, 4096
vera_numbers = {
    "LoRA": layers * maps * 16 * (C + C),  # A is (r, in), B is (out, r)
    "VeRA": layers * maps * (256 + C),  # d is (r,), b is (out,)
    "frozen": 256 * (C + C),  # once, for all maps
}

# %%
from minipeft import checks

checks.vera_numbers(vera_numbers)

# %% [markdown]
# LoRA's count is the width *times* the rank, VeRA's is the width *plus* the rank. The frozen numbers need memory, but no gradient and no
# optimizer state. Nor do they need to be in the file: a generator with the same **seed** makes them again.
#
# ## 2. One map
#
# ### Exercise: forward and delta
#
# In every pass the model calls a `Patch` with the input and the output of the map beside which it stands. Write `forward(x, y)`: `y` is already $W_0 x$. `x` is turned into the dtype of `self.d` first, then `self.dropout` acts on it, on its
# way into $A$. The result has the dtype of `y`. `self.A` (r, in) and `self.B` (out, r) are the parts that this map reads. `delta()`
# gives the matrix (out, in) that merging adds to $W_0$.

# %% exercise="minipeft.methods.vera:VeRAPatch" blank="forward,delta" difficulty=2 minutes=10
# forward: F.linear(x, A) is x A^T; a vector times a tensor multiplies its last axis
# delta: diag(d) A multiplies the rows of A, which are its first axis

# %%
checks.vera_patch(VeRAPatch)

# %% [markdown] tags=["slide"]
# ## 3. Which tensors move first?
#
# With $g = dL/dh$, the chain rule gives
#
# $$ \frac{dL}{db} = g \odot \big(B\, (d \odot A x)\big) \qquad \frac{dL}{dd} = \big(B^\top (b \odot g)\big) \odot A x $$
#
# ($\odot$: number by number; summed over all tokens.) **Predict:** $b = 0$ and $d = 0.1$. Which of the two gradients is zero at the first
# step? What would happen if $d$ were zero as well?
#
# Six colleagues wrote a VeRA. Here is what can be seen from outside.

# %%
capstone.patients_table()

# %% [markdown]
# ### Exercise: six VeRAs, six causes
#
# Each cause is used once: `"unshared"` (every map has an $A$ and a $B$ of its own), `"zero"` ($d$ is 0 at the start too), `"loud"` ($b$
# is 1 at the start), `"trained"` ($A$ and $B$ are trained as well), `"merge"` (delta forgets $d$), `"healthy"`.

# %% exercise="minipeft.checks:vera_patients" difficulty=2 minutes=7
# A dict from "A" to "F". Begin with the columns where only one of them differs.
vera_patients = {
    "A": "merge",
    "B": "unshared",
    "C": "zero",
    "D": "healthy",
    "E": "trained",
    "F": "loud",
}

# %%
checks.vera_patients(vera_patients)

# %% [markdown]
# The prediction: at $b = 0$ the gradient of $d$ is zero and that of $b$ is not, so $b$ moves first. With $d = 0$ as well both are zero,
# for ever: that is C. B is the one that would pass every test of a single map. What is wrong with it can be seen only in the whole model.
#
# ## 4. The whole method
#
# ### Exercise: install
#
# `install(tuner)` is called by `mp.attach`. What you need:
#
# * `tuner.find(self.targets, self.layers)` gives a list of places. A place has `in_features` and `out_features`.
# * `tuner.add(place, patch)` puts a patch there.
# * `SharedMatrices(in_features, out_features, rank, seed, persistent)` draws $A$ and $B$ from a generator with that seed. It must be as large
#   as the **largest** map needs; a smaller map reads the first columns of $A$ and the first rows of $B$. Make it anew in every call of `install`.
# * `VeRAPatch(in_features, out_features, matrices, initial, dropout)` is yours.
# * The settings are `self.rank`, `self.seed`, `self.initial` (for $d$), `self.dropout`, and `self.store_matrices` (are $A$ and $B$ part
#   of a file?). All of them are to be handed on.
#
# Then your method is attached to small models and asked questions: identity at the start, first gradients, count, sharing, seed,
# merging, file, base.

# %% exercise="minipeft.methods.vera:VeRA" blank="install" difficulty=3 minutes=15
# install: one SharedMatrices for all places, one VeRAPatch for each of them

# %%
checks.vera(VeRA)

# %% [markdown]
# These are the questions, in the words of the sanity ladder, put to the VeRA of the package. Every method in the weights door must be
# able to answer them.

# %% fast="STEPS, SEEDS, ROWS, REAL_STEPS, QUICK = 2, [0, 1], 8, 1, True; ARMS = {arm: ARMS[arm] for arm in list(ARMS)[:2]}; PARTS = PARTS[:1]; RATES = {kind: rates[:1] for kind, rates in RATES.items()}"
import minipeft as mp

STEPS, SEEDS, ROWS, REAL_STEPS, QUICK = 100, [0, 1, 2], 100, 40, False
MARGIN = 0.05  # five points make no difference
ARMS = {  # 160, 160, 320, 320 and 480 numbers for each map of this model
    "LoRA, r = 1": mp.LoRA(1, alpha=32),
    "VeRA, r = 80": mp.VeRA(80),
    "LoRA, r = 2": mp.LoRA(2, alpha=32),
    "VeRA, r = 240": mp.VeRA(240),
    "VeRA, r = 400": mp.VeRA(400),
}
PARTS = ["only b", "only d", "unshared"]
RATES = {"LoRA": [3e-3, 1e-2, 3e-2], "VeRA": [3e-2, 1e-1, 3e-1]}

# %%
from IPython.display import display

display(capstone.examine(mp.VeRA(rank=12)))

# %% [markdown] tags=["slide"]
# ## 5. Does it learn?
#
# The base is a decoder of width 80. There VeRA's count, $r + 80$ for each map, is no smaller than LoRA's $160\, r$ unless we take $r$
# small too: with $r = 80$ it trains as many numbers as LoRA with $r = 1$, with $r = 240$ as many as $r = 2$. So this is a contest at
# **equal counts**. Two tasks: `reverse` (latent: the base knows how, nobody asks) and `reverse-rotate` (novel). Three rates each, more
# where the best is at an edge; dev chooses, test tells; three paired seeds.
#
# **Predict:** random matrices against trained ones, at the same count: who wins, and by how much? What does a larger $r$ do?

# %%
from functools import cache

from minipeft.course import claims, runs
from minipeft.course.experiments import contest, difference, spread, table

pair = runs.base("tiny-decoder-0.4m")
VARIANTS = {
    "only b": capstone.OnlyB(80),
    "only d": capstone.OnlyD(80),
    "unshared": capstone.Unshared(80),
}


@cache
def run(arm, rate, seed):
    task, name = arm.split(": ")
    method = (ARMS | VARIANTS)[name]
    return runs.tuned_task(pair, method, task, rate, STEPS, seed, batch_size=8, rows=ROWS)


TASKS = ("reverse", "reverse-rotate")
grid = {f"{task}: {arm}": RATES[arm[:4]] for task in TASKS for arm in ARMS}
outcomes = contest(grid, run, SEEDS)
table(outcomes)

# %% tags=["hide-input", "slide"]
from minipeft import plots

figure, (left, right) = plots.figure(2, height=3.8)
numbers = {name: outcomes[f"reverse: {name}"].runs[0]["trained"] for name in ARMS}
for axes, task in zip((left, right), TASKS, strict=True):
    for kind in RATES:
        arms = [name for name in ARMS if name.startswith(kind)]
        if arms:
            values = [outcomes[f"{task}: {name}"].values() for name in arms]
            plots.whiskers(axes, [numbers[name] for name in arms], values, kind)
    axes.set_xticks(sorted(set(numbers.values())))
    plots.finish(axes, "numbers trained", "exact match, test", task, limits=(0, 1))
equal = {
    task: difference(
        outcomes[f"{task}: VeRA, r = 80"].values(),
        outcomes[f"{task}: LoRA, r = 1"].values(),
        MARGIN,
    )
    for task in TASKS
}
plots.add_caption(
    figure,
    "VeRA minus LoRA with 160 numbers per map: "
    + "; ".join(f"{task} {d.text}" for task, d in equal.items())
    + ".",
)
for task, d in equal.items():
    print(f"{task}: {d.text} ({d.rule})")
for name in ("VeRA, r = 240", "VeRA, r = 400"):
    if name in ARMS:
        larger = difference(
            outcomes[f"reverse-rotate: {name}"].values(),
            outcomes["reverse-rotate: VeRA, r = 80"].values(),
            MARGIN,
        )
        print(f"reverse-rotate, {name} minus r = 80: {larger.text}")

# %% [markdown] tags=["slide"]
# How can random directions be worth anything? The paper's idea: there are many of them, and $d$ chooses which to listen to.
# The next part tests that.
#
# ## 6. Which part does the work?
#
# Three VeRAs on the novel task, $r = 80$, that lack a part. **only b**: $d$ stays at 0.1. **only d**: $b$ is 1 and stays so, $d$ starts
# at 0. **unshared**: every map draws its own $A$ and $B$, so sharing costs nothing any more. **Predict:** which of the three loses most?

# %%
grid = {f"reverse-rotate: {part}": RATES["VeRA"] for part in PARTS}
parts = contest(grid, run, SEEDS)
table(parts)

# %% tags=["hide-input", "slide"]
whole = outcomes["reverse-rotate: VeRA, r = 80"].values()
bars = {"whole": whole} | {name.partition(": ")[2]: one.values() for name, one in parts.items()}
lost = {name: difference(values, whole, MARGIN) for name, values in list(bars.items())[1:]}
axes = plots.bars(
    bars, ylabel="exact match, test", title=f"reverse-rotate, {STEPS} steps", limits=(0, 1)
)
plots.add_caption(
    axes.figure, "Minus the whole: " + "; ".join(f"{k} {d.text}" for k, d in lost.items()) + "."
)
for name, d in lost.items():
    print(f"{name:9} {spread(bars[name])}; minus the whole: {d.text}")
worst = min(lost, key=lambda name: lost[name].mean)
print(f"By the means the largest loss is that of {worst!r}.")
if "unshared" in lost:
    said = {"equal": "sharing costs nothing here", "better": "sharing costs something here",
            "worse": "shared matrices did better here"}  # fmt: skip
    print("A and B shared or not:", said.get(lost["unshared"].verdict, "undecided"))

# %% [markdown]
# ## 7. A real model
#
# all-MiniLM-L6-v2, width 384. There the counts differ as the paper means it. The task is that of lesson 10: is a word of the
# VADER lexicon positive or negative? **Predict:** what is lost with a tenth of the numbers?

# %% tags=["hide-input"]
from minipeft.course import real

words = real.vader()
loaded = words and real.load("minilm", head="classification", labels=2)
REAL = {
    "head only": (mp.HeadOnly(), [3e-3, 1e-2, 3e-2]),
    "LoRA": (mp.LoRA(8, alpha=32), [1e-3, 3e-3, 1e-2]),
    "VeRA": (mp.VeRA(256, store_matrices=False), [1e-2, 3e-2, 1e-1]),
}


def run_real(arm, rate, seed):
    model = real.load("minilm", head="classification", labels=2, seed=seed)
    given = dict(batch_size=32, head="classification", rows=2 * ROWS)
    return runs.tuned_task(model, REAL[arm][0], words, rate, REAL_STEPS, seed, **given)


if loaded:
    arms = {arm: rates[: 1 if QUICK else 3] for arm, (_, rates) in REAL.items()}
    minilm = contest(arms, run_real, SEEDS, extend=1, label="MiniLM")
    claims.show(table(minilm))
    head = minilm["head only"].runs[0]["trained"]
    for arm in ("LoRA", "VeRA"):
        one = minilm[arm].runs[0]
        print(f"{arm}: {one['trained'] - head:,} numbers beside the head")
    gap = difference(minilm["VeRA"].values(), minilm["LoRA"].values(), 0.03)
    print(f"VeRA minus LoRA: {gap.text} ({gap.rule})")
    gain = difference(minilm["VeRA"].values(), minilm["head only"].values(), 0.03)
    print(f"VeRA minus the head alone: {gain.text}")

# %% [markdown]
# ## 8. One of your choice
#
# Now without help. Choose a method, find its equation, write a patch and a method of your own, and let `capstone.examine` ask. Three
# proposals, from easy to hard:
#
# | method | what is added to $W_0$ | watch out |
# |---|---|---|
# | rsLoRA | $\frac{\alpha}{\sqrt r} B A$ | the smallest change to lesson 10 |
# | LoHa | $(B_1 A_1) \odot (B_2 A_2)$ | four factors: how many may be zero? its rank is up to $r^2$ |
# | LoKr | $C \otimes (B A)$, a Kronecker product | `torch.kron`; the sizes must be divided |
#
# A patch needs `forward(x, y)`, and `delta()` if it can be merged. A method needs `install(tuner)`. Below is the skeleton; nothing
# breaks if you leave it.

# %%
import torch
from torch import nn
from torch.nn import functional as F

from minipeft.doors.patch import Patch


# %% tags=["student-only"]
class MyPatch(Patch):
    def __init__(self, in_features, out_features):
        super().__init__()
        # your nn.Parameters

    def forward(self, x, y):
        """x (N, T, in), y = W0 x (N, T, out)."""
        raise NotImplementedError("MyPatch.forward is yours to write")

    def delta(self):
        """(out, in)"""
        raise NotImplementedError("MyPatch.delta is yours to write")


class MyMethod(mp.LoRA):  # settings as LoRA: rank, alpha, targets, layers
    def install(self, tuner):
        for place in tuner.find(self.targets, self.layers):
            tuner.add(place, MyPatch(place.in_features, place.out_features))


mine = MyMethod(rank=2)


# %% tags=["solution-only"]
class LoHaPatch(Patch):
    """h = W0 x + (alpha / r) ((B1 A1) * (B2 A2)) x; B2 = 0 at the start, one factor of four."""

    def __init__(self, in_features, out_features, rank, alpha):
        super().__init__()
        self.A1 = nn.Parameter(torch.randn(rank, in_features))
        self.A2 = nn.Parameter(torch.randn(rank, in_features))
        self.B1 = nn.Parameter(0.1 * torch.randn(out_features, rank))
        self.B2 = nn.Parameter(torch.zeros(out_features, rank))
        self.scale = alpha / rank

    def delta(self):
        return self.scale * (self.B1 @ self.A1) * (self.B2 @ self.A2)  # (out, in)

    def forward(self, x, y):
        return (y + F.linear(x.to(self.A1.dtype), self.delta())).to(y.dtype)


class LoHa(mp.LoRA):
    def install(self, tuner):
        for place in tuner.find(self.targets, self.layers):
            size = (place.in_features, place.out_features)
            tuner.add(place, LoHaPatch(*size, self.rank, self.alpha))


mine = LoHa(rank=2)


# %%
try:
    display(capstone.examine(mine))
except NotImplementedError as unfinished:
    print(unfinished)

# %% [markdown]
# A ✓ in every line means that the method is *sound*, not that it is good. Whether it is good is a contest: equal tuning, paired seeds, a
# margin stated before.
#
# ## Passport of VeRA

# %%
from minipeft.course.passport import passport

passport(mp.VeRA(240, store_matrices=False), rates=[3e-2, 1e-1, 3e-1], name="VeRA", quick=QUICK)

# %% [markdown] tags=["slide"]
# ## What this lesson showed, and what it did not
#
# * A method is an equation, a start, and an `install`. The start decides which tensor moves first; `install` decides what is shared.
# * Some faults cannot be seen in one map: sharing, seeds, files and counts are properties of the whole model.
# * Frozen random matrices can carry what is learnt. What that costs at equal counts stands in part 5, what each part adds in part 6.
# * VeRA's count is a sum, LoRA's a product: it saves numbers where the model is wide. At width 80 it saves hardly any.
# * *Not shown:* the paper's models and tasks. No claim of the list is answered here; margins were stated before the run.
#
# **Next:** lesson 19 changes the *data*: from one task to many, and from answers to preferences.
