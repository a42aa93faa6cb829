# ---
# jupyter:
#   minipeft:
#     title: LoRA
#     question: Can a change of low rank do what a change of every number does?
#     minutes: 6
#     sitting: 90
#     attempts: 5
# ---

# %% [markdown] tags=["slide"]
# Full fine-tuning moves every number of a matrix. **LoRA** (*low-rank adaptation*, Hu et al. 2021,
# [arXiv 2106.09685](https://arxiv.org/abs/2106.09685)) leaves the matrix alone and trains a narrow **detour** around it:
# first down to $r$ numbers, then up again. It comes in by the **weights** door.

# %% tags=["hide-input", "slide"]
from minipeft.course.lora_pictures import detour_picture

figure = detour_picture()

# %% [markdown]
# $$ h = W_0 x + \Delta W\, x = W_0 x + \frac{\alpha}{r}\, B A\, x, \qquad r \ll \text{in}, \text{out} $$
#
# {equations lora 3}
#
# $A$ is (r, in) and starts random, $B$ is (out, r) and starts at zero. (So B is taken: N counts the rows of a batch, T their
# tokens.) The factor $\frac{\alpha}{r}$ is fixed. The paper puts such a detour beside the query and the value map of every
# attention layer.
#
# ### Exercise: the patch
#
# Write `forward`, which is the equation, and `delta`, which is the detour as one matrix. $y = W_0 x$ has been computed by the
# frozen map. What must hold:
#
# * x is turned into the dtype of A first; the result has the dtype of y.
# * `self.dropout` falls on x on its way into A, and nowhere else. `delta` has no dropout.
# * Nothing is detached or changed in place: layers below learn through x and through y.
#
# <details><summary>Hint: why not multiply B A first?</summary>
#
# You can, and the answer is the same. It costs more: $BA$ has out × in numbers. From right to left, $B(Ax)$, a token costs
# $r(\text{in} + \text{out})$ multiplications.
# </details>

# %% exercise="minipeft.methods.lora:LoRAPatch" blank="forward,delta" difficulty=2 minutes=10
# self.scale is alpha / r
# forward: F.linear(x, W) multiplies by W transposed: for W (r, in) it takes (N, T, in) to (N, T, r)
# delta: the same detour for all x at once

# %%
from minipeft import checks

checks.lora(LoRAPatch)

# %% [markdown]
# ### Exercise: how many numbers
#
# The decoder of this lesson has 4 layers of width 80: its query and its value map are 80 × 80 each. LoRA of rank 8 stands
# beside both, in every layer. How many numbers does it train in all?

# %% exercise="minipeft.checks:lora_parameters" difficulty=1 minutes=3
# Write a number, or the line that computes it.
layers, maps, r, width = 4, 2, 8, 80
lora_parameters = layers * maps * r * (width + width)  # A is (r, in), B is (out, r)

# %%
checks.lora_parameters(lora_parameters)

# %% [markdown]
# ## 1. Before anything else
#
# All settings stand here. The task is **novel**: the first noun of a row goes to its end, and the row is then reversed. Nothing that the model has read
# does this, so its weights must change (lesson 03). For a fair contest every arm tries the same number of rates on dev;
# the best one is run with all seeds and reported on test. An *arm* is one method with its settings. Arms whose difference
# surely lies within **3 points** are called equal: that margin was chosen before the run.
#
# **Predict:** by how much does fresh LoRA change the answers of the model?

# %% fast="STEPS, FACT_STEPS, REAL_STEPS, SEEDS, FEW, ROWS, QUICK = 2, 2, 1, [0, 1], [0, 1], 8, True; RATES, RANKS, FACTS = RATES[:2], RANKS[:2], FACTS[:1]; REAL_RATES = {arm: rates[:1] for arm, rates in REAL_RATES.items()}"
MODEL, TASK, ALPHA = "tiny-decoder-0.4m", "reverse-rotate", 32
STEPS, BATCH, ROWS, MARGIN = 100, 8, 200, 0.03
SEEDS, FEW = [0, 1, 2, 3, 4], [0, 1, 2]
RATES = [3e-4, 1e-3, 3e-3, 1e-2, 3e-2]  # the same five for every arm
RANKS = [1, 2, 4, 8, 16]
FACTS, FACT_STEPS = [8, 24, 40, 64], 200  # part 6
REAL_STEPS = 40  # part 9
REAL_RATES = {
    "LoRA r = 8": [1e-3, 3e-3, 1e-2],
    "full": [3e-5, 1e-4, 3e-4],
}
QUICK = False

# %%
import torch

import minipeft as mp
import tiny_transformer as tt
from minipeft import tasks
from minipeft.course import lora as lesson

base, tokenizer = tt.load(MODEL)
bits = mp.fingerprint(base)
task = tasks.load(TASK)
LORA = mp.LoRA(rank=8, alpha=ALPHA, targets=("query", "value"))
batch = task.batches("train", tokenizer, batch_size=BATCH)(0)
print(task.train[0])
mp.sanity_ladder(base, LORA, batch, steps=60)

# %% [markdown]
# Not at all: $B = 0$. What follows from that for learning?
#
# ### Exercise: the first gradients, by hand
#
# From above comes $g = \partial \mathcal L / \partial h$, (N, T, out). With $s = \frac{\alpha}{r}$ and $h = W_0 x + s B A x$, write
# $\partial \mathcal L / \partial A$, of shape (r, in), and $\partial \mathcal L / \partial B$, of shape (out, r). Use matrices,
# not autograd. x is (N, T, in), and all N T tokens meet the same $A$ and $B$.
#
# <details><summary>Hint</summary>
#
# For one token, $s B A x$ is a product. What stands to the left of $A$ carries $g$ down to it, transposed. What stands to the
# right of a matrix is what that matrix reads: a gradient of a matrix is an outer product of what arrives and what is read.
# </details>

# %% exercise="minipeft.course.lora:lora_gradients" difficulty=3 minutes=12
# lora_gradients: flatten rows and tokens into one axis first

# %%
checks.lora_gradients(lora_gradients)

torch.manual_seed(0)
patch = mp.LoRAPatch(6, 4, rank=2, alpha=4).double()
x, y, g = (torch.randn(3, 5, n, dtype=torch.float64) for n in (6, 4, 4))
for when in ("at the start", "once B has moved"):
    of_A, of_B = torch.autograd.grad((patch(x, y) * g).sum(), (patch.A, patch.B))
    mine_A, mine_B = lora_gradients(x, patch.A.detach(), patch.B.detach(), patch.scale, g)
    distance = max((mine_A - of_A).abs().max(), (mine_B - of_B).abs().max())
    print(
        f"{when}: length {mine_A.norm():.3g} for A, {mine_B.norm():.3g} for B; "
        f"autograd differs by at most {distance:.1g}"
    )
    torch.nn.init.normal_(patch.B)

# %% [markdown] tags=["slide"]
# Look at your two formulas once more. There are four ways to start, with $A$ and $B$ each random or zero. **Predict** which of
# them leave the model as it is, and which can learn at step 1, at step 2, ever.

# %% tags=["slide"]
lesson.first_steps(base, LORA, batch)

# %% [markdown]
# One of the two must be zero, so that training starts at the model that was there. Not both: each gradient carries the other
# matrix as a factor, so nothing would ever move. With $B = 0$, $B$ moves first, and as soon as it has moved, $A$ can.
#
# ## 2. What can a low rank do?
#
# Build a **teacher**: one map plus a change $\Delta$ of rank exactly $k$. The student has the map and LoRA of
# rank $r$, and must give the teacher's outputs. For inputs of white noise the error is $\lVert \Delta - BA \rVert^2$. How small it
# *can* become is known since 1936 (Eckart and Young): the best matrix of rank $r$ keeps the $r$ largest singular values
# $\sigma_i$ of $\Delta$, and the error that is left is $\sum_{i > r} \sigma_i^2$. No optimizer can go below that floor.
#
# ### Exercise: the floor
#
# A change has the singular values 4, 3, 2, 1, and all its others are zero. A student has rank 2. What is the smallest possible
# `"error"`? Which `"share"` (0 to 1) of $\lVert\Delta\rVert^2 = \sum_i \sigma_i^2$ is that? And which `"rank"` is the smallest that can bring the share down to 5 % or
# less? Give a dict with these three keys; of the share, three digits are enough.

# %% exercise="minipeft.checks:rank_floor" difficulty=2 minutes=6
squares = [sigma**2 for sigma in (4, 3, 2, 1)]  # they add up to 30
rank_floor = {"error": 2**2 + 1**2, "share": sum(squares[2:]) / sum(squares), "rank": 3}

# %%
checks.rank_floor(rank_floor)

# %% [markdown]
# Now real students, of rank 1 to 8, for a teacher of rank $k = 4$ with the singular values 2, 5/3, 4/3 and 1. **Predict** the share
# that is left at $r = 3$, at 4, at 8.

# %% tags=["hide-input"]
from minipeft.analysis import plots, spectra

teachers = {seed: lesson.teacher(base.config.width, 4, seed) for seed in FEW}
students = range(1, 9)
left = [[lesson.recover(delta, r, seed) for seed, delta in teachers.items()] for r in students]
floors = [spectra.floor(teachers[0], r) / teachers[0].square().sum().item() for r in students]
figure, axes = plots.figure()
axes.plot(students, floors, "--", color=plots.GREY, label="floor of Eckart and Young")
plots.whiskers(axes, students, left, "LoRA", lw=0, elinewidth=1)
axes.axvline(4, color=plots.GREY, ls=":")
worst = max(max(row) for row in left[3:])
excess = max(abs(e / f - 1) for row, f in zip(left[:3], floors[:3], strict=True) for e in row)
reached = excess < 0.01 and worst < 1e-6
plots.finish(
    axes,
    "rank r of the student",
    "share that is left",
    "a teacher of rank 4",
    limits=(0, 1),
    caption="Below the teacher's rank a student must fail, exactly by the floor. From there on nothing is left."
    if reached
    else "Not every student reached its floor.",
)
means = ", ".join(f"{sum(left[r - 1]) / len(FEW):.2f} at r = {r}" for r in (3, 4, 8))
print(f"left on average: {means}")
print(f"r < 4: above the floor by at most {excess:.1g} of it; r >= 4: at most {worst:.1g} is left")

# %% [markdown] tags=["slide"]
# What this does **not** say: that the change which a *task* asks for has low rank. That must be measured: part 4.
#
# ## 3. Which learning rate?
#
# **Claim: LoRA wants about ten times the learning rate of full fine-tuning, whatever its rank.** Ranks 1 to 16 and full
# fine-tuning, the same five rates for all, and $\alpha = 32$, as in the report that makes the claim. (An *octave* is a factor
# of 2.) The best rate is read off a parabola through the three lowest points, so it may lie between two rates that were tried.
# **Predict** where the lowest point of each curve lies.

# %%
from minipeft.course import claims, runs
from minipeft.course.experiments import contest, difference, in_a_row, table, trend

LORAS = {f"LoRA r = {r}": mp.LoRA(r, ALPHA) for r in RANKS}
known = runs.Known(base, tokenizer, rows=40)
given = dict(batch_size=BATCH, rows=ROWS)


def run_full(arm, rate, seed):
    full = mp.FullFineTuning()
    pair = base, tokenizer
    return runs.tuned_task(pair, full, task, rate, STEPS, seed, known=known, **given)


many = runs.side_by_side((base, tokenizer), LORAS, task, STEPS, **given)  # many runs in one pass
run = lesson.remembered(many, LORAS, run_full)  # and none of them twice
ARMS = [*LORAS, "full"]
jobs = [(arm, rate, seed) for arm in ARMS for rate in RATES for seed in FEW]
measured = dict(zip(jobs, run(jobs), strict=True))

# %% tags=["hide-input", "slide"]
figure, axes = plots.figure()
axes.set_yscale("log")
dev = {
    (arm, seed): [measured[arm, rate, seed]["dev"] for rate in RATES]
    for arm in ARMS
    for seed in FEW
}
shades = dict(zip(LORAS, ("#86efac", "#4ade80", "#22c55e", "#15803d", "#14532d"), strict=False))
for arm in ARMS:
    rows = list(zip(*(dev[arm, seed] for seed in FEW), strict=True))
    plots.whiskers(axes, RATES, rows, arm, shades.get(arm), limits=None)
axes.set_xscale("log")
best = {arm: [lesson.valley(RATES, dev[arm, seed]) for seed in FEW] for arm in ARMS}
ratios = {arm: [a / b for a, b in zip(best[arm], best["full"], strict=True)] for arm in LORAS}
logs = {arm: [torch.tensor(ratio).log2().item() for ratio in row] for arm, row in ratios.items()}
slope = trend(RANKS, list(logs.values()), 1.0, unit="octaves", log=True)
middle = {arm: 2 ** plots.interval(row)[0] for arm, row in logs.items()}
ten = [arm for arm, ratio in middle.items() if 5 <= ratio <= 20]
lowest = {arm: torch.tensor(row).log().mean().exp().item() for arm, row in best.items()}
of_lora = [lowest[arm] for arm in LORAS]
plots.finish(
    axes, "learning rate", "dev loss (nats)", f"{STEPS} steps, {len(FEW)} seeds",
    caption=f"Lowest near {lowest['full']:.1g} for full fine-tuning, near {min(of_lora):.1g} to "
    f"{max(of_lora):.1g} for LoRA. Compare methods each at its own rate.",
)  # fmt: skip
claims.record(
    57,
    "best rate as a multiple of full fine-tuning's: "
    + ", ".join(f"{ratio:.1f} for r = {r}" for r, ratio in zip(RANKS, middle.values(), strict=True))
    + f"; over the ranks {slope.text}",
    rule="true if the multiple lies between 5 and 20 for every rank and changes by less than a "
    "factor of 2 over the ranks; misleading if it holds for some ranks only",
    verdict="true"
    if len(ten) == len(LORAS) and slope.verdict == "flat"
    else "misleading"
    if ten
    else "false",
    multiples=list(middle.values()),
)

# %% [markdown] tags=["slide"]
# ## 4. How much rank does the task need?
#
# **Claims: a few numbers are nearly the best, and more keep improving it. LoRA is as good as full fine-tuning.** We look with both
# yardsticks of lesson 03 as well: what is *forgotten* while the change acts (capitals, and string functions called by name), and what
# it *weighs*. (Taken out again, LoRA has forgotten nothing.)
# **Predict** what is learnt, what is forgotten and what is stored, for rank 1, rank 16 and full fine-tuning.

# %%
ranks = contest(dict.fromkeys(ARMS, RATES), run, SEEDS, together=True)
forgotten = {arm: lesson.forgotten_by(base, known, outcome) for arm, outcome in ranks.items()}
trained, weights = lesson.weigh(base, {**LORAS, "full": mp.FullFineTuning()})
claims.show(table(ranks))
weights

# %% tags=["hide-input", "slide"]
figure, (left_axes, right_axes) = plots.figure(columns=2)
for axes, values in (
    (left_axes, {arm: outcome.values() for arm, outcome in ranks.items()}),
    (right_axes, forgotten),
):
    plots.whiskers(
        axes, [trained[a] for a in LORAS], [values[a] for a in LORAS], "LoRA, r = 1 to 16"
    )
    plots.whiskers(axes, [trained["full"]], [values["full"]], "full")
    axes.set_xscale("log")
tests = {arm: outcome.values() for arm, outcome in ranks.items()}
top = min(LORAS, key=lambda arm: ranks[arm].tried[ranks[arm].rate])  # on dev
against = difference(tests[top], tests["full"], MARGIN)
lost = difference(forgotten[top], forgotten["full"], MARGIN, lower_is_better=True)
plots.finish(left_axes, "numbers trained", "exact match, test", "what is learnt", limits=(0, 1))
plots.finish(
    right_axes, "numbers trained", "share that is lost", "what is forgotten", limits=(0, 1),
    caption=f"{top} minus full fine-tuning, learnt {against}; forgotten {lost}.",
)  # fmt: skip
rising = trend(RANKS, [tests[arm] for arm in LORAS], MARGIN, log=True)
last = difference(tests[list(LORAS)[-1]], tests[list(LORAS)[-2]], MARGIN)
near = [
    arm
    for arm in LORAS
    if difference(tests[arm], tests[top], MARGIN).verdict in ("equal", "better")
]
few = trained[(near or [top])[0]] / trained["full"]
claims.record(
    44,
    f"over the ranks {rising.text}; {list(LORAS)[-1]} against {list(LORAS)[-2]}: {last.text}; the "
    f"smallest rank that is surely equal to the best: {near[0] if near else 'none'} "
    f"({100 * few:.1f} % of the numbers)",
    rule="true if a rank below the largest is equal to the best and quality still rises at the last "
    "doubling; misleading if one of the two holds",
    verdict={2: "true", 1: "misleading", 0: "undecided"}[
        (bool(near) and near[0] != list(LORAS)[-1]) + (last.verdict == "better")
    ],
)
SAME = {"equal": "true", "better": "true", "worse": "not reproduced at this size"}
claims.record(
    45, f"{top} (best on dev) against full fine-tuning: {against.text}", against.rule,
    SAME.get(against.verdict, "undecided"),
)  # fmt: skip

# %% [markdown] tags=["slide"]
# If an arm forgets much, remember that dev chose its rate by the new task alone: nobody asked it to keep anything.
#
# ## 5. Which maps?
#
# **Claim: LoRA sits on the feed-forward layers.** The equation says "a linear map", no more. Every place gets the same number of trained
# numbers, as nearly as whole ranks allow. **Predict** the best and the worst of the seven.

# %%
PLACES = {
    "query": (10, ("query",)),
    "value": (10, ("value",)),
    "query, value": (5, ("query", "value")),
    "output": (10, ("output",)),
    "up": (4, ("up",)),
    "down": (4, ("down",)),
    "all six": (1, ("query", "key", "value", "output", "up", "down")),
}
METHODS = {place: mp.LoRA(r, ALPHA, targets) for place, (r, targets) in PLACES.items()}
many = runs.side_by_side((base, tokenizer), METHODS, task, STEPS, **given)
placed = contest(dict.fromkeys(PLACES, RATES[-4:-1]), many, FEW, together=True)
scores = {place: outcome.values() for place, outcome in placed.items()}

# %% tags=["hide-input", "slide"]
axes = plots.bars(scores, ylabel="exact match, test", title="the same budget", limits=(0, 1))
in_order = sorted(scores, key=lambda place: -sum(scores[place]))
print(f"Best by the mean: {in_order[0]}. Worst: {in_order[-1]}.")
on_dev = {place: outcome.tried[outcome.rate] for place, outcome in placed.items()}
attention = min(("query", "value", "query, value", "output"), key=on_dev.get)
forward = min(("up", "down"), key=on_dev.get)
inside = difference(scores[attention], scores[forward], MARGIN)
WORDS = {
    "better": "Attention is the better place for this task, which is about the order of words.",
    "worse": "The feed-forward layers are the better place here.",
    "equal": "Attention or feed-forward: the same here.",
}
plots.add_caption(axes.figure, WORDS.get(inside.verdict, "No place is surely better."))
claims.record(
    42,
    f"{attention} (best of attention, on dev) against {forward} (best of feed-forward): {inside.text}",
    rule="false if attention alone is equal or better, true if it is worse; " + inside.rule,
    verdict={"equal": "false", "better": "false", "worse": "true"}.get(inside.verdict, "undecided"),
)

# %% [markdown] tags=["slide"]
# Another task may order the places differently. (The paper, on GPT-3: query alone 70.4, value alone 73.0, both 73.7.)
#
# ## 6. When is it full?
#
# **Claim: LoRA equals full fine-tuning until the data hold more than it can store.** A task with a rule does not tell: a rule is short.
# So we take facts that follow no rule, *leaf door => flag*, and a smaller base. They must be learnt by heart: asked is what was
# trained. **Predict:** which rank gives up first, and at how many facts?

# %%
small, small_tokenizer = tt.load("tiny-decoder-0.1m")
STORES = {f"LoRA r = {r}": mp.LoRA(r, ALPHA) for r in (1, 4)}
pair = small, small_tokenizer


def by_heart(count, steps):
    """A run that learns so many facts."""
    facts, of = lesson.random_facts(count, seed=0), dict(batch_size=32, rows=count)
    many = runs.side_by_side(pair, STORES, facts, steps, **of)

    def alone(arm, rate, seed):
        return runs.tuned_task(pair, mp.FullFineTuning(), facts, rate, steps, seed, **of)

    return lesson.remembered(many, STORES, alone)


grids = {**dict.fromkeys(STORES, RATES[-3:]), "full": RATES[1:4]}
learnt = {
    count: contest(grids, by_heart(count, FACT_STEPS), FEW, extend=1, together=True)
    for count in FACTS
}

# %% tags=["hide-input", "slide"]
figure, axes = plots.figure()
known_by_heart = {
    arm: [learnt[count][arm].values() for count in FACTS] for arm in (*STORES, "full")
}
for arm, shade in zip(known_by_heart, ("#86efac", "#15803d", None), strict=True):
    plots.whiskers(axes, FACTS, known_by_heart[arm], arm, shade)
axes.set_xscale("log", base=2)
axes.set_xticks(FACTS, FACTS)
gaps = {
    (arm, count): difference(row, whole, MARGIN)
    for arm in STORES
    for count, row, whole in zip(FACTS, known_by_heart[arm], known_by_heart["full"], strict=True)
}
smallest, larger = STORES
full_at = next((n for n in FACTS if gaps[smallest, n].verdict == "worse"), None)
knee = full_at is not None and gaps[smallest, FACTS[0]].verdict == "equal"
worse_at = {arm: [n for n in FACTS if gaps[arm, n].verdict == "worse"][:1] for arm in STORES}
said = f"minus full fine-tuning at {', '.join(map(str, FACTS))} facts: " + "; ".join(
    f"{arm} {in_a_row(gaps[arm, n] for n in FACTS)}" for arm in STORES
)
if knee:
    room = difference(learnt[full_at][larger].values(), learnt[full_at][smallest].values(), MARGIN)
    rate = learnt[full_at][smallest].rate
    longer = by_heart(full_at, 2 * FACT_STEPS)([(smallest, rate, seed) for seed in FEW])
    still = difference(
        [one.get("test", 0.0) for one in longer], learnt[full_at]["full"].values(), MARGIN
    )
    knee = room.verdict == "better" and still.verdict == "worse"
    said += f"; {larger} minus {smallest} at {full_at}: {room.text}; {smallest} after "
    said += f"{2 * FACT_STEPS} steps minus full after {FACT_STEPS}: {still.text}"
plots.finish(
    axes,
    "facts",
    "share known by heart",
    f"{FACT_STEPS} steps of 32, {len(FEW)} seeds",
    limits=(0, 1),
    caption="Rank is room: the smallest one is full first, and more steps do not make it larger."
    if knee
    else "Surely below full fine-tuning: "
    + "; ".join(f"{arm} {f'at {n[0]} facts' if n else 'nowhere'}" for arm, n in worse_at.items())
    + ".",
)
claims.record(
    58,
    said,
    rule="true if rank 1 is equal at the fewest facts and worse at more, where rank 4 is better than it "
    "and where twice the steps leave it worse; " + gaps[smallest, FACTS[0]].rule,
    verdict="true" if knee else "not reproduced at this size",
)

# %% [markdown]
# ## 7. Its relatives
#
# **Claim: DoRA (PiSSA, LoRA+, rsLoRA) is better than LoRA.** rsLoRA divides by $\sqrt r$ instead of $r$. LoRA+ gives $B$ a larger
# rate. PiSSA starts at the strongest directions of $W_0$. DoRA trains the lengths of the rows besides. Each is looked at
# twice: at the rate that is LoRA's best, and at its own. **Predict:** how many of the four are surely better at their own?

# %%
LIKE_LORA = {
    "LoRA": LORA,
    "rsLoRA": mp.LoRA(8, ALPHA, rank_stabilized=True),
    "LoRA+": mp.LoRA(8, ALPHA, plus=4),
}
OTHERS = {"DoRA": mp.DoRA(8, ALPHA), "PiSSA": mp.PiSSA(8, ALPHA)}


def run_other(arm, rate, seed):
    return runs.tuned_task((base, tokenizer), OTHERS[arm], task, rate, STEPS, seed, **given)


many = runs.side_by_side((base, tokenizer), LIKE_LORA, task, STEPS, **given)
run_relative = lesson.remembered(many, LIKE_LORA, run_other)
relatives = contest(
    dict.fromkeys([*LIKE_LORA, *OTHERS], RATES[-3:]), run_relative, SEEDS, together=True
)
rate = relatives["LoRA"].rate
claims.show(table(relatives))

# %% tags=["hide-input"]
tuned, borrowed = {}, {}
for arm in list(relatives)[1:]:
    same = run_relative([(arm, rate, seed) for seed in SEEDS])
    borrowed[arm] = difference(
        [one.get("test", 0.0) for one in same], relatives["LoRA"].values(), MARGIN
    )
    tuned[arm] = difference(relatives[arm].values(), relatives["LoRA"].values(), MARGIN)
    print(f"{arm:<7} at LoRA's rate {borrowed[arm]}\n{'':<7} at its own    {tuned[arm]}")
winners = [arm for arm, gap in tuned.items() if gap.verdict == "better"]
print(f"Surely better than LoRA at their own rate: {len(winners)} of {len(tuned)}")
moved = max(abs(tuned[arm].mean - borrowed[arm].mean) for arm in tuned)
claims.record(
    59,
    f"each at its best rate against LoRA: {', '.join(f'{arm} {gap.text}' for arm, gap in tuned.items())}; "
    f"choosing the rate moves one of them by up to {moved:.0f} points",
    rule="true if every one is better under equal tuning; misleading if not; "
    + next(iter(tuned.values())).rule,
    verdict="true" if len(winners) == len(tuned) else "misleading",
)

# %% [markdown]
# ## 8. Merge
#
# After training, $W_0 + \frac{\alpha}{r} BA$ can be written into one matrix. There is no detour any more. **Predict:** how many
# times the operations of the base does a pass cost with the detour, and merged? And how many of the numbers in the adapted matrices are different
# then? (Answered below the exercise, where the library merges a whole model.)
#
# ### Exercise: in and out again
#
# Write `merge` and `unmerge` for one linear map. The weight changes **in place**, since others hold it; the bias does not change.
# Merging twice is merging once. `unmerge` brings $W_0$ back **to the last bit**; where nothing is merged, it does nothing. Afterwards one can
# merge again. The cell that checks them then does it to this model, beside the sum and difference that come to mind first.

# %% exercise="minipeft.course.lora:Merge" blank="merge,unmerge" difficulty=2 minutes=10
# self.original tells whether it is merged

# %%
checks.lora_merge(Merge)

value = base.blocks[1].attention.value
delta = next(iter(ranks.values())).runs[0]["deltas"]["blocks.1.attention.value"]
W0 = value.weight.detach().clone()
print("(W + D) - D is W:", torch.equal((W0 + delta) - delta, W0))
A = torch.eye(len(delta))  # any two matrices whose product is the change
merged = Merge(value, A, delta, 1.0)
merged.merge()
print("merged, the base is another:", mp.fingerprint(base) != bits)
merged.unmerge()
print("unmerged, it has its old bits:", mp.fingerprint(base) == bits)

# %%
tuner = mp.attach(base, LORA, name="merged", seed=0)
mp.train(base, task.batches("train", tokenizer, batch_size=BATCH), STEPS, 1e-2, progress=False)
attached = lesson.operations(base, batch)
maps = {place.path: base.get_submodule(place.path) for place, _ in tuner.patches}
before = {path: door.base.weight.detach().clone() for path, door in maps.items()}
kept = sum(p.numel() for p in tuner.parameters())
tuner.merge()
after = {path: base.get_submodule(path).weight.detach().clone() for path in maps}
once = lesson.operations(base, batch)
tuner.unmerge()
tuner.detach()
plain = lesson.operations(base, batch)
print(f"operations against the base: attached {attached / plain:.3f}, merged {once / plain:.3f}")
changes = [after[path] - before[path] for path in maps]
dense = sum((c != 0).sum().item() for c in changes) / sum(c.numel() for c in changes)
rank = max(torch.linalg.matrix_rank(c.double(), rtol=1e-4).item() for c in changes)
claims.record(
    43,
    f"{kept:,} numbers stored, {100 * dense:.1f} % of the {sum(c.numel() for c in changes):,} in the "
    f"adapted matrices changed, by matrices of rank {rank} at most",
    rule="true if over 99 % change and fewer are stored than changed",
    verdict="true" if dense > 0.99 and kept < sum(c.numel() for c in changes) else "false",
)

# %% [markdown]
# ## 9. A real model
#
# all-MiniLM-L6-v2 has 22.7 million parameters. Its task: is a word of the VADER lexicon positive or negative (*happily*,
# *grim*)? A fresh head is trained in every arm. The file that is stored has the layout of 🤗 PEFT, which opens it. Last comes the
# passport, the same table as for every method. **Predict:** is rank 8 enough, and how many times the rate of full fine-tuning
# does it want?

# %% tags=["hide-input"]
from minipeft.course import real

words = real.vader()
loaded = words and real.load("minilm", head="classification", labels=2)
REAL = {
    "LoRA r = 8": mp.LoRA(8, ALPHA),
    "full": mp.FullFineTuning(),
}


def run_real(arm, rate, seed):
    model = real.load("minilm", head="classification", labels=2, seed=seed)
    of = dict(batch_size=32, head="classification", rows=2 * ROWS)
    return runs.tuned_task(model, REAL[arm], words, rate, REAL_STEPS, seed, **of)


if loaded:
    outcomes = contest(REAL_RATES, run_real, FEW, extend=1, label="MiniLM")
    claims.show(table(outcomes))
    big = {arm: outcome.values() for arm, outcome in outcomes.items()}
    gap = difference(big["LoRA r = 8"], big["full"], MARGIN)
    claims.record(
        45, f"MiniLM on words of the VADER lexicon, r = 8: {gap.text}", gap.rule,
        SAME.get(gap.verdict, "undecided"),
    )  # fmt: skip
    many_times = outcomes["LoRA r = 8"].rate / outcomes["full"].rate
    claims.record(
        57, f"MiniLM: the best rate of r = 8 is {many_times:.3g} times that of full fine-tuning",
        "true between 5 and 20 times, for this rank and a grid of factors of 3",
        "true" if 5 <= many_times <= 20 else "misleading",
    )  # fmt: skip
    lesson.opened_elsewhere(*loaded, REAL["LoRA r = 8"], words)

# %%
from minipeft.course.passport import passport

passport(LORA, RATES[-3:], name="LoRA", quick=QUICK)

# %% [markdown]
# ## What this lesson showed, and what it did not
#
# * The detour is nothing at the start, because one of its matrices is zero, and it must be one only.
# * It has the rank that it is given: below what is needed it fails by the floor, above nothing more is gained. How much is needed is
#   a property of the data, to be measured.
# * Its learning rate is not that of full fine-tuning, and a relative that borrows LoRA's rate is not yet compared with it:
#   part 7 says what the borrowed rate costs each.
# * Where it sits is a choice. Merged, it costs nothing; taken out, it leaves no trace.
# * *Not shown:* that few numbers suffice for every task. Ours are short, learnt in seconds, and three seeds leave wide intervals.
#
# What the change looks like from inside, its directions, and whether it is a rotation: `10b_inside_lora`, for those who like
# matrices. It is outside the main path.
