# ---
# jupyter:
#   minipeft:
#     title: Inside LoRA
#     question: What does a change of low rank look like from inside?
#     minutes: 3
# ---

# %% [markdown]
# Lesson 10 asked what LoRA *does*. This one opens the matrices. It is outside the main path: for those who like singular
# values. Every part ends in its conclusion, which is worded by what was measured. Most of the questions are those of section 7 of the
# paper (Hu et al. 2021, [arXiv 2106.09685](https://arxiv.org/abs/2106.09685)).
#
# A matrix is $U \,\mathrm{diag}(\sigma)\, V^\top$: it *reads* the directions $v_i$ of its input, stretches each by $\sigma_i$, and *writes*
# it to the direction $u_i$ of its output.
#
# The same base and task as in lesson 10; the rates are those that it chose on dev. LoRA stands beside query and value.

# %% fast="STEPS, HEAT_STEPS, ROWS, SEEDS = 2, 2, 8, [0, 1]; HEAT_RATES, ALPHAS, HEAT_RANKS = HEAT_RATES[:3], ALPHAS[:2], HEAT_RANKS[:2]"
MODEL, TASK, ALPHA, SEEDS = "tiny-decoder-0.4m", "reverse-rotate", 32, [0, 1, 2]
STEPS, BATCH, ROWS = 100, 8, 200
RATES = {1: 1e-2, 4: 1e-2, 8: 1e-2, 16: 1e-2}  # rank: rate
FULL_RATE = 1e-3
HEAT_STEPS = 40
HEAT_RATES = [1e-3, 2.5e-3, 6.3e-3, 1.6e-2, 4e-2, 1e-1]
ALPHAS, HEAT_RANKS = [2, 8, 32, 128], [1, 4, 16, 64]

# %%
import torch

import tiny_transformer as tt
from minipeft import tasks
from minipeft.analysis import plots, spectra
from minipeft.course import claims, runs
from minipeft.course import inside_lora as inside
from minipeft.methods import LoRA
from minipeft.report import Table

base, tokenizer = tt.load(MODEL)
task, C = tasks.load(TASK), base.config.width
pair, given = (base, tokenizer), dict(batch_size=BATCH, rows=ROWS)
loras = {r: LoRA(r, ALPHA) for r in RATES}
jobs = [(r, rate, seed) for r, rate in RATES.items() for seed in SEEDS]
results = runs.side_by_side(pair, loras, task, STEPS, **given)(jobs)
changes = {r: [] for r in RATES}  # rank -> the changes of every seed
for (r, _, _), result in zip(jobs, results, strict=True):
    changes[r].append(result["deltas"])
maps = list(changes[8][0])
weights = {path: base.get_submodule(path).weight.detach() for path in maps}
full = [
    inside.full_changes(base, tokenizer, task, FULL_RATE, STEPS, seed, maps, BATCH)
    for seed in SEEDS
]
print(f"{len(maps)} maps of {C} x {C}, {len(SEEDS)} seeds")

# %% [markdown] tags=["slide"]
# ## 1. How many directions does full fine-tuning use?
#
# Full fine-tuning was free to use all 80 directions of every map. **Predict:** which share of its change do the strongest 8
# hold? (The *effective rank*, printed below, is a soft count of directions: $k$ equal singular values give $k$.)

# %%
held = {
    "full": [inside.energies(one)[:32] for one in full],
    "base": [inside.energies(weights)[:32]],
    "random": [inside.energies({n: torch.randn(C, C) for n in maps})[:32]],
}

# %% tags=["hide-input", "slide"]
figure, (left, right) = plots.figure(columns=2)
one_map = "blocks.1.attention.value"
matrices = {
    "base": weights[one_map],
    "full": full[0][one_map],
    "LoRA r = 16": changes[16][0][one_map],
    "LoRA r = 4": changes[4][0][one_map],
}
for (name, matrix), style in zip(matrices.items(), ("--", "-", "-", ":"), strict=True):
    values = spectra.singular_values(matrix)
    values = values[values > 1e-4]
    colour = plots.look(name)[0]
    left.plot(range(1, len(values) + 1), values, style, color=colour, label=name)
left.set(yscale="log", ylim=(1e-3, None))
for name, label in (("full", "full"), ("base", "base"), ("random", "random matrix")):
    middle = torch.stack(held[name]).mean(dim=0)
    right.plot(range(1, len(middle) + 1), middle, color=plots.COLOURS[name], label=label)
right.axvline(8, color=plots.GREY, ls=":")
top = {name: torch.stack(rows)[:, 7].tolist() for name, rows in held.items()}
share, half = plots.interval(top["full"])
plots.finish(left, "number", "singular value", f"{one_map}, seed {SEEDS[0]}", legend=False)
plots.finish(
    right,
    "strongest directions",
    "share of the squared length",
    f"mean over {len(maps)} maps",
    limits=(0, 1),
    caption=f"Eight of {C} directions hold {100 * share:.0f} % of what full fine-tuning changed "
    f"(of a random matrix {100 * top['random'][0]:.0f} %). The rest is a long tail.",
)
used = [inside.over_maps(spectra.effective_rank, one).item() for one in full]
print(f"held by 8 directions: {100 * share:.1f} ± {100 * half:.1f} %; effective rank of full's change: "
      f"{plots.interval(used)[0]:.0f} of {C}")  # fmt: skip
inside.conclude(
    "full fine-tuning's change has "
    + ("few strong directions and a tail." if share > 0.5 else "no few strong directions."),
    "That LoRA solves the task with fewer says that it need not copy this change.",
)

# %% [markdown] tags=["slide"]
# ## 2. Do two runs find the same directions?
#
# The paper's equation 4 compares the subspace of the $i$ strongest directions of one change with the $j$ strongest of another:
#
# $$ \phi(i, j) = \frac{\lVert U_i^\top V_j \rVert_F^2}{\min(i, j)} \in [0, 1] $$
#
# $U_i$ (n, i) has these directions as columns, $V_j$ (n, j) those of the other; $\lVert \cdot \rVert_F^2$ is the sum of
# the squares of all numbers of a matrix. 1: one contains the other. 0: they are orthogonal.
#
# ### Exercise: write it
#
# `directions(matrix, count, side)` gives the strongest `count` directions as columns: what the matrix reads for `side="in"`, what it
# writes for `"out"`. Give $\phi(i, j)$ as a number.

# %% exercise="minipeft.analysis.spectra:similarity" difficulty=2 minutes=6
# similarity: i directions of the first update, j of the second, of the same side

# %%
from minipeft import checks

checks.similarity(similarity)

path = "blocks.1.attention.value"
for side in ("in", "out"):
    print(f"{side}: {similarity(changes[8][0][path], changes[8][1][path], 4, 4, side):.2f}")

# %% [markdown]
# ### Exercise: what the numbers mean
#
# In a space of 80 dimensions, $i = 2$ and $j = 8$. What is $\phi$ if both of the two directions lie within the space of the eight
# (`"contained"`)? If one of them does and the other is orthogonal to it (`"half"`)? And which value has it on average if the two are drawn by
# `"chance"`? Give a dict with these three keys.
#
# <details><summary>Hint</summary>A random direction of length 1 has the same share of its squared length in every dimension.</details>

# %% exercise="minipeft.checks:overlaps" difficulty=2 minutes=5
i, j, n = 2, 8, 80
overlaps = {"contained": 2 / min(i, j), "half": 1 / min(i, j), "chance": i * (j / n) / min(i, j)}

# %%
checks.overlaps(overlaps)

# %% [markdown] tags=["slide"]
# Now for all maps. Two seeds differ in the first $A$ and in the order of the data. (With the *same* seed, $A$ would be equal from the
# start, and a high $\phi$ would mean nothing.) **Predict:** which is larger, the similarity of what two runs *read* (rows of $A$, random at
# the start) or of what they *write* (columns of $B$, zero at the start)?

# %%
COMPARED = {
    "r = 8, two seeds": (changes[8], changes[8]),
    "r = 4 and r = 16": (changes[4], changes[16]),
    "r = 8 and full": (changes[8], full),
}
similar = {
    (name, side): [
        inside.similarities(one[s], other[(s + 1) % len(SEEDS)], 8, side) for s in range(len(SEEDS))
    ]
    for name, (one, other) in COMPARED.items()
    for side in ("in", "out")
}

# %% tags=["hide-input", "slide"]
figure, panels = plots.figure(columns=3, rows=2, height=3.0)
for row, side in zip(panels, ("in", "out"), strict=True):
    for axes, name in zip(row, COMPARED, strict=True):
        table = torch.stack(similar[name, side]).mean(dim=0)[:4, :8]  # rank 4 has four directions
        image = axes.imshow(
            table, vmin=0, vmax=1, origin="lower", extent=(0.5, 8.5, 0.5, 4.5), aspect="auto"
        )
        word = "reads" if side == "in" else "writes"
        plots.finish(axes, "j", "i", f"{name}: {word}", legend=False)
        axes.set_yticks(range(1, 5))
figure.colorbar(image, ax=list(panels.flat), shrink=0.7, label=r"$\phi(i, j)$")
both = {
    side: [table[3, 3].item() for table in similar["r = 8, two seeds", side]]
    for side in ("in", "out")
}
by_chance = spectra.chance(4, 4, C)
plots.readable(figure)
plots.add_caption(
    figure,
    f"Four strongest directions of two seeds: phi is {plots.interval(both['in'])[0]:.2f} for what they read, "
    f"{plots.interval(both['out'])[0]:.2f} for what they write; {by_chance:.2f} by chance.",
)
for name in COMPARED:
    words = [
        f"{side}put {plots.interval([t[0, 0].item() for t in similar[name, side]])[0]:.2f} for the strongest "
        f"one, {plots.interval([t[3, 3].item() for t in similar[name, side]])[0]:.2f} for four"
        for side in ("in", "out")
    ]
    print(f"{name:<18} {'; '.join(words)} (chance {1 / C:.2f}, {by_chance:.2f})")
gap = [a - b for a, b in zip(both["out"], both["in"], strict=True)]
mean, half = plots.interval(gap)
sides = ["in what they write than in what they read", "in what they read than in what they write"]
inside.conclude(
    f"two runs agree more {sides[mean < 0]}"
    if abs(mean) > half
    else "in reading and in writing two runs agree equally, as far as three seeds tell",
    f"({mean:+.2f} ± {half:.2f} at four directions).",
)

# %% [markdown]
# ## 3. Does LoRA turn up what was faint?
#
# The paper's table 7 projects $W_0$ on the directions of the update, $U^\top W_0 V$: $U$ has the $r$ strongest that the update
# writes, $V$ those that it reads. If that is small while the update is large, LoRA has
# turned up something that was there, but faint. Its factor: $\lVert \Delta W \rVert / \lVert U^\top W_0 V \rVert$, 21.5 at $r = 4$ on GPT-3, about
# 2 at $r = 64$. **Predict:** larger or smaller in a model of 0.4 million parameters, and how does it change with $r$?

# %%
amplified = {
    r: [
        inside.amplification(one, weights, r, seed)
        for seed, one in zip(SEEDS, changes[r], strict=True)
    ]
    for r in RATES
}
columns = ("update", "by update", "by base", "by noise", "factor")
rows = [
    (f"r = {r}", *(f"{plots.interval([one[c] for one in runs_of])[0]:.2f}" for c in columns))
    for r, runs_of in amplified.items()
]
claims.show(
    Table(
        f"Amplification, mean over {len(maps)} maps and {len(SEEDS)} seeds",
        ("", "‖ΔW‖", "‖UᵀW₀V‖, of ΔW", "of W₀", "of noise", "factor"),
        rows,
        ["Of ΔW, of W₀, of noise: whose directions U and V are. Factor: worked out map by map."],
    )
)
factors = {r: plots.interval([one["factor"] for one in all_]) for r, all_ in amplified.items()}
low, high = (factors[r][0] for r in (4, 16))
faint = [one["by update"] / one["by base"] for one in amplified[4]]
times = 1 / plots.interval(faint)[0]
inside.conclude(
    f"the factor is {low:.1f} ± {factors[4][1]:.1f} at r = 4 and {high:.1f} ± {factors[16][1]:.1f}",
    "at r = 16: it falls with the rank, as in the paper."
    if high < low
    else "at r = 16: it does not fall with the rank.",
    f"W₀ is {times:.1f} times as strong along its own directions as along the update's:",
    "LoRA amplifies what was faint." if times > 2 else "LoRA works where the base was strong.",
)

# %% [markdown] tags=["slide"]
# ## 4. Is it a rotation?
#
# **Claim: LoRA is a rotation along eigenvectors.** A rotation would be $W_0 + \Delta W = R W_0$ (or $W_0 R$) with an orthogonal $R$. The best $R$ is
# known in closed form (Procrustes), so we can ask which share of the update *no* rotation explains. And "along eigenvectors"? We ask whether the
# update reads the strong directions of $W_0$. **Predict:** which share is left? A random update of the same rank and length stands beside it.

# %% tags=["slide"]
turned = [
    inside.rotation(one, weights, 8, seed) for seed, one in zip(SEEDS, changes[8], strict=True)
]
left_over, of_noise, along = (
    plots.interval([one[key] for one in turned]) for key in ("left", "left of noise", "along")
)
claims.record(
    41,
    f"no rotation explains {100 * left_over[0]:.0f} ± {100 * left_over[1]:.0f} % of the update's "
    f"length (random: {100 * of_noise[0]:.0f} %); overlap of what it reads with W0's 8 strongest "
    f"directions {along[0]:.2f} ± {along[1]:.2f}, by chance {8 / C:.2f}",
    rule="true if under 10 % is left and the overlap is above 0.5; false if over half is left; "
    "else misleading",
    verdict="true"
    if left_over[0] < 0.1 and along[0] > 0.5
    else "false"
    if left_over[0] - left_over[1] > 0.5
    else "misleading",
)

# %% [markdown] tags=["slide"]
# What is true in the sentence: every matrix of rank $r$ has $r$ singular directions, also $BA$. They are directions of $BA$, not
# eigenvectors of $W_0$, and nothing in the equation keeps lengths.
#
# ## 5. Four starts, trained
#
# Lesson 10 looked at the first two steps of four starts. **Predict** the curves, and which of the first two is better.

# %%
from minipeft.course.experiments import contest, difference
from minipeft.course.lora import STARTS

four = {name: (loras[8], start) for name, start in STARTS.items()}
run = runs.side_by_side(pair, four, task, STEPS, **given)
started = contest(dict.fromkeys(four, [3e-3, 1e-2, 3e-2]), run, SEEDS, together=True)

# %% tags=["hide-input", "slide"]
figure, axes = plots.figure()
axes.set_yscale("log")
colours = (plots.COLOURS["LoRA"], plots.COLOURS["PiSSA"], plots.GREY, plots.COLOURS["full"])
for (name, outcome), colour, style in zip(
    started.items(), colours, ("-", "--", ":", "-."), strict=True
):
    curves = torch.tensor([one["losses"] for one in outcome.runs])
    smooth = curves.unfold(1, min(5, curves.shape[1]), 1).mean(dim=(0, 2))
    axes.plot(range(1, len(smooth) + 1), smooth, style, color=colour, label=name)
paper, other = list(started)[:2]
change = difference(started[paper].values(), started[other].values(), 0.03)
zero = started["both zero"].runs[0]["losses"]
plots.finish(
    axes,
    "step",
    "training loss (nats)",
    f"mean of {len(SEEDS)} seeds, over 5 steps",
    caption=f"The paper's start against the other way round, exact match on test: {change}.",
)
inside.conclude(
    "with both at zero nothing is learnt, for ever; with both random the model that was there is "
    "lost at step 1.",
    "Which of the two is zero does not matter here."
    if change.verdict == "equal"
    else f"The paper's choice against the other way round: {change}.",
)

# %% [markdown] tags=["slide"]
# (Hayou et al. 2024, [arXiv 2406.08447](https://arxiv.org/abs/2406.08447), argue that in very wide models the paper's choice stands
# larger rates.)
#
# ## 6. α, r and the learning rate
#
# Three numbers multiply one detour. The paper divides $\alpha$ by $r$, "to reduce the need to retune"; rsLoRA divides by
# $\sqrt r$. **Predict:** what happens to the best rate when $\alpha$ is multiplied by 4? In which of the other two pictures does the best column
# stay in place while the rank goes from 1 to 64?

# %%
SCALES = {
    "α, at r = 4": {alpha: LoRA(4, alpha) for alpha in ALPHAS},
    "r, scale α / r, α = 32": {r: LoRA(r, 32) for r in HEAT_RANKS},
    "r, scale α / √r, α = 16": {r: LoRA(r, 16, rank_stabilized=True) for r in HEAT_RANKS},
}
heat = {}
for title, methods in SCALES.items():
    grid = [(value, rate, seed) for value in methods for rate in HEAT_RATES for seed in SEEDS]
    results = runs.side_by_side(pair, methods, task, HEAT_STEPS, **given)(grid)
    heat[title] = {job: result["dev"] for job, result in zip(grid, results, strict=True)}

# %% tags=["hide-input", "slide"]
from minipeft.course.experiments import trend
from minipeft.course.lora import valley

figure, panels = plots.figure(columns=3, height=3.4)
said, trends = [], []
for axes, (title, methods) in zip(panels, SCALES.items(), strict=True):
    losses = {v: [[heat[title][v, rate, s] for rate in HEAT_RATES] for s in SEEDS] for v in methods}
    table = torch.tensor([torch.tensor(rows).mean(dim=0).tolist() for rows in losses.values()])
    table = table.nan_to_num(99.0, posinf=99.0).clamp(max=99.0)
    image = axes.imshow(table.log10(), aspect="auto", cmap="viridis_r", vmin=-1, vmax=1)
    for i, row in enumerate(table):
        axes.plot(int(row.argmin()), i, "s", ms=16, mfc="none", mec="#b91c1c", mew=2)
    axes.set_xticks(range(len(HEAT_RATES)), [f"{rate:g}" for rate in HEAT_RATES], rotation=60)
    axes.set_yticks(range(len(methods)), list(methods))
    plots.finish(
        axes, "learning rate", title.partition(",")[0], title.partition(", ")[2], legend=False
    )
    rates = [
        [torch.tensor(valley(HEAT_RATES, row)).log2().item() for row in losses[v]] for v in methods
    ]
    moved = trend(list(methods), rates, 1.0, unit="octaves", log=True)
    trends.append(moved)
    said.append(
        f"{title}: the best rate moves by {moved.mean:+.1f} ± {moved.half:.1f} octaves ({moved.verdict})"
    )
figure.colorbar(image, ax=list(panels), label="log10 of dev loss (nats)")
plots.readable(figure)
of_alpha, plain, root = trends
kept = [name for name, one in (("α / r", plain), ("α / √r", root)) if one.verdict == "flat"]
conclusion = (
    "α and the rate do the same work: tune one of them."
    if of_alpha.verdict == "falls"
    else "The best rate does not surely fall as α grows."
)
conclusion += " To within an octave, all ranks want the same rate with " + (
    " and with ".join(kept) + "." if kept else "neither scale."
)
plots.add_caption(figure, f"Red: the best rate of a row, after {HEAT_STEPS} steps. {conclusion}")
print("\n".join(said))
inside.conclude(conclusion)

# %% [markdown] tags=["slide"]
# ## What this lesson showed, and what it did not
#
# * A change of low rank is a handful of directions that are read and written; what full fine-tuning changes is a handful and a long tail.
# * Whether two runs find the same directions, how much is amplified, and that no rotation explains it: the conclusions of parts 2 to 4.
# * One of $A$ and $B$ is zero, not both. $\alpha$ and the rate do much of the same work.
# * *Not shown:* that any of these numbers holds for a large model. They are means over eight small maps, one task and three seeds.
