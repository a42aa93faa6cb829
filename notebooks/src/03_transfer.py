# ---
# jupyter:
#   minipeft:
#     title: Transfer
#     question: How much of a pretrained model must change for a new task, and what does it forget on the way?
#     minutes: 4
#     sitting: 80
#     attempts: 3
# ---

# %% [markdown] tags=["slide"]
# **Transfer** means: do not start from random numbers. Take a model that has learnt something else, and go on
# from there. Before the methods of this course there were three ways to do it, and they are still what all
# later ones are compared with: train the **head** only, train the **top k layers**, or train **everything**.

# %% tags=["hide-input", "slide"]
import minipeft as mp
import tiny_transformer as tt
from minipeft.course import transfer_lesson as lesson

base, tokenizer = tt.load("tiny-decoder-0.4m")
METHODS = {
    "head only": mp.HeadOnly(),
    **{f"top {k}": mp.TopLayers(k) for k in (1, 2, 3, 4)},
    "full": mp.FullFineTuning(),
}
figure = lesson.stacks(base, METHODS)

# %% [markdown]
# The new task's loss is made small, starting from the pretrained numbers $\theta_0$:
#
# $$ \min_\theta \; -\frac{1}{N}\sum_{(x,\,y)} \log p_\theta(y \mid x), \qquad
#    \theta \leftarrow \theta_0 \text{ at the start}, \qquad
#    \theta_i = \theta_{0,i} \text{ for every frozen } i $$
#
# In PyTorch "frozen" is one flag of a parameter, `requires_grad`. No gradient is computed for a frozen one, and
# below the lowest trained part the backward pass need not go at all.
#
# ### Exercise: freeze by hand
#
# The function gets the parts of a model, from input to output, and a count. The last `count` parts are to be trained,
# also where they were frozen before; all others are to be frozen. It returns a list of the parameters in training, each
# once. A parameter that a frozen part uses as well stays frozen and is not in the list: that happens where a head shares
# its matrix with the embedding. A count below 0 or above the number of parts is a `ValueError`.
#
# <details><summary>Hint</summary>
#
# Try a count of 0 with your slice. For shared matrices, collect the parameters of the frozen parts in a set
# and ask whether a parameter is in it (parameters are compared by identity there, not by value).
# </details>

# %% exercise="minipeft.course.transfer:train_top" difficulty=2 minutes=10
# train_top: requires_grad of every parameter of every part, and a list

# %%
from minipeft import checks

checks.train_top(train_top)

# %% [markdown]
# The cells below use your function, or that of the library until yours is written.
#
# An *arm* is one of the ways that a comparison compares. All arms get the same steps, at least three learning rates (more
# where the best is at the edge) and the same seeds; which rate is best is decided on *dev*, examples that are neither
# trained on nor scored at the end. A difference that surely lies within **3 points** counts as equal; that margin was
# chosen before the run. *Surely*, and every ±, is the 95 % interval of a mean over the seeds (Student's t); with three
# seeds it is wide.

# %% fast="STEPS, LONG, SEEDS, ROWS, KNOWN, DIGITS, CNN_STEPS, SIZES, REAL_STEPS, QUICK = 2, 3, [0, 1], 8, 8, 5, 3, [20, 100], 1, True; RATES = {arm: rates[:1] for arm, rates in RATES.items()}; SPEEDS = SPEEDS[:2]"
STEPS, LONG, BATCH, SEEDS, ROWS, MARGIN = 60, 240, 32, [0, 1, 2], 200, 0.03
KNOWN = 40  # questions of each kind about what is known
DIGITS, CNN_STEPS, SIZES = 500, 100, [20, 100, 1000]  # part 1
REAL_STEPS, QUICK = 40, False  # part 7
RATES = {
    "head only": [1e-2, 3e-2, 1e-1],
    "top 1": [3e-3, 1e-2, 3e-2],
    "top 2": [1e-3, 3e-3, 1e-2],
    "top 3": [1e-3, 3e-3, 1e-2],
    "top 4": [1e-3, 3e-3, 1e-2],
    "full": [1e-3, 3e-3, 1e-2],
    "pictures": [1e-3, 3e-3, 1e-2],
}
SPEEDS = [3e-4, 1e-3, 3e-3, 1e-2]  # part 5 looks at full fine-tuning more closely
ONE_RATE = 3e-3  # and compares all arms at one rate

# %% [markdown]
# ## 1. Pictures
#
# Transfer became an everyday tool in computer vision: *take a network that was trained on many pictures, freeze the
# convolutions, and retrain the fully connected head.* Our network first learns digits (above), then it is asked for
# letters (below). Both are drawn by the program, leaning, shaken and noisy.

# %%
import torch

import minipeft.course.transfer as library
from minipeft.analysis import plots
from minipeft.course import vision

figure = lesson.glyphs()
freeze = lesson.written(train_top, library.train_top)


def batches(images, labels, seed):
    """step -> a batch of 32 pictures, drawn at random."""

    def batch(step):
        generator = torch.Generator().manual_seed(1_000_003 * seed + step)
        rows = torch.randint(len(images), (32,), generator=generator)
        return {"images": images[rows], "labels": labels[rows]}

    return batch


@torch.no_grad()
def accuracy(model, images, labels):
    """Share of pictures whose class has the highest logit."""
    return (model(images).logits.argmax(dim=-1) == labels).float().mean().item()


torch.manual_seed(0)
pretrained = vision.ConvNet(classes=10)
digits = vision.draw(vision.DIGITS, 3000, seed=2)
mp.train(pretrained, batches(*digits, 0), DIGITS, learning_rate=3e-3, progress=False)
print(f"new digits: {100 * accuracy(pretrained, *vision.draw(vision.DIGITS, 1000, 3)):.0f} % right")

# %% [markdown] tags=["slide"]
# Now the letters. A head for ten digits is of no use, so each arm gets a fresh one:
#
# | arm | convolutions start from | trained |
# |---|---|---|
# | from scratch | random numbers | everything |
# | head only | the digits | the head |
# | full | the digits | everything |
#
# **Predict:** which is best with 20 letters in all, two of each kind, and which with 1,000? With the figure comes a *claim*:
# a sentence that is heard or read about these methods, numbered through the course, with what we measured and a verdict by
# the rule beside it.

# %%
from minipeft.course.experiments import contest, difference, spread, trend

dev, test = vision.draw(vision.LETTERS, 300, 4), vision.draw(vision.LETTERS, 1000, 5)


def to_letters(arm, rate, seed):
    """Train on so many letters; a seed draws the letters, the fresh numbers and the batches."""
    start, size = arm
    torch.manual_seed(seed)
    model = vision.ConvNet(classes=10)
    if start != "from scratch":
        model.convolutions.load_state_dict(pretrained.convolutions.state_dict())
    freeze([model.convolutions, model.head], 1 if start == "head only" else 2)
    letters = vision.draw(vision.LETTERS, size, 100 + seed)
    mp.train(model, batches(*letters, seed), CNN_STEPS, learning_rate=rate, progress=False)
    with torch.no_grad():
        return {"dev": model(*dev).loss.item(), "test": accuracy(model, *test)}


STARTS = "from scratch", "head only", "full"
arms = {(start, size): RATES["pictures"] for start in STARTS for size in SIZES}
letters = contest(arms, to_letters, [*SEEDS, 3], label="letters")

# %% tags=["hide-input", "slide"]
from minipeft.course import claims

figure, axes = plots.figure()
for start in STARTS:
    plots.whiskers(axes, SIZES, [letters[start, size].values() for size in SIZES], start)
axes.set_xscale("log")
axes.set_xticks(SIZES, [f"{size:,}" for size in SIZES])
axes.minorticks_off()
recipe, thawed = (
    {n: difference(letters[a, n].values(), letters[b, n].values(), MARGIN) for n in SIZES}
    for a, b in (("head only", "from scratch"), ("full", "head only"))
)
gains = [n for n in SIZES if recipe[n].verdict == "better"]
costs = [n for n in SIZES if thawed[n].verdict == "better"]
plots.finish(
    axes,
    "letters to learn from",
    "accuracy on new letters",
    f"digits, then letters: {len(SEEDS) + 1} seeds, 95 % intervals",
    limits=(0, 1),
    chance=0.1,
    caption="The fewer the examples, the more a pretrained start is worth."
    if gains and max(gains) < max(SIZES)
    else "",
)
for sizes, said in (
    (gains, "the frozen convolutions surely beat a start from scratch"),
    (costs, "training everything surely beats the frozen convolutions"),
):
    print(f"{said} with {' and '.join(f'{n:,}' for n in sizes) or 'no number of'} letters")
claims.record(
    53,
    "; ".join(
        f"{n:,} letters: head only against from scratch {recipe[n].text}, full against head only "
        f"{thawed[n].text}"
        for n in SIZES
    ),
    rule="true, as a recipe, if head only beats a start from scratch at one size or more and loses "
    f"at none; false if it loses and never wins; {recipe[SIZES[0]].rule}",
    verdict="undecided"
    if bool(gains) == any(d.verdict == "worse" for d in recipe.values())
    else "true"
    if gains
    else "false",
)

# %% [markdown]
# So it is a recipe for few examples, and no law: where letters are many, features that were made for digits are not the
# best ones.
#
# ## 2. A language model
#
# From here on we train the decoder of Tinyland, on two tasks about rows of nouns:
#
# * **latent**: `reverse`. The model can reverse a row when the word `reverse` asks for it. Here the word is missing.
# * **novel**: `reverse-rotate`. The reverse of a rotated row. No text of Tinyland does this.

# %%
from minipeft import tasks

before = mp.fingerprint(base)  # a hash of every bit, for later
TASKS = {"latent": tasks.load("reverse"), "novel": tasks.load("reverse-rotate")}
asked = [("reverse : " + row, result) for row, result in TASKS["latent"].test]
for name, task in {**TASKS, "asked": tasks.make("asked", "generate", test=asked)}.items():
    example, exact = task.test[0], task.score(base, tokenizer, "test", limit=ROWS)["exact"]
    print(f"{name:<7} {example.input:<30} → {example.target:<24} base: {100 * exact:3.0f} % right")

# by hand and by the library: the same numbers
tuner = mp.attach(base, mp.TopLayers(2))
by_library = set(tuner.parameters())
by_hand = set(freeze(lesson.parts_of(base), 2))
tuner.detach()
print(f"{sum(p.numel() for p in by_hand):,} numbers; by hand the same:", by_hand == by_library)

batch = TASKS["novel"].batches("train", tokenizer, batch_size=BATCH)(0)
mp.sanity_ladder(base, METHODS["top 2"], batch, steps=STEPS)

# %% [markdown]
# The *sanity ladder* is a row of small tests that every method must pass before we believe a score of it. *One batch by
# heart*: can it learn anything? *Gradient census*: does every trained tensor get a gradient, and no frozen one? *Unplugged*:
# is the base back afterwards? *Identity at the start*: nothing has changed, since this method *is* the base. And it trains
# the base, so only a copy of its first numbers can give it back.
#
# **Predict:** everything is trained, with the same number of steps, on either task, and once from random numbers on the
# novel task, which is new to both. Who learns it?

# %%
from functools import cache

from minipeft.contexts import seeded
from minipeft.course.runs import Known, attached, tuned_task

known = Known(base, tokenizer, rows=KNOWN)  # what the base knows, for part 3


@cache  # a run that a later part needs again is not run again
def run(arm, rate, seed, steps=STEPS):
    """Train one arm once: dev, test, what is forgotten, how many numbers were trained."""
    task, method, *start = arm
    model, still = base, known
    if start:
        with seeded(seed):
            model, still = tt.Decoder(base.config), None
    return tuned_task(
        *((model, tokenizer), METHODS[method], TASKS[task], rate, steps, seed),
        **dict(batch_size=BATCH, rows=ROWS, known=still),
    )


BASES = ("latent", "full"), ("novel", "full"), ("novel", "full", "random start")
worth = contest({arm: RATES["full"] for arm in BASES}, run, SEEDS, label="pretraining")
for arm in BASES:
    print(f"{', '.join(arm):<28} test {spread(worth[arm].values())}")
print("pretrained against random:", difference(*(worth[a].values() for a in BASES[1:]), MARGIN))

# %% [markdown]
# The pretrained model knows what a row is, that `=>` asks for something, and how to fetch a word from one place and
# write it at another. The random one would first have to learn all of that.
#
# ### Exercise: four patients
#
# Four colleagues meant to train the top two parts (blocks 2 and 3, with the last norm) by hand, with AdamW, on one
# batch. Each made one mistake, and no program complained.

# %%
lesson.patients_table(base, known, batch, steps=30)

# %% [markdown]
# Give each of `"A"` to `"D"` one cause. One of the five causes is nobody's:
#
# * `"lowest"`: the two lowest parts were trained (embeddings and block 0).
# * `"decay"`: frozen numbers were given gradients of zero, and weight decay shrank them.
# * `"again"`: an earlier run had not been undone.
# * `"idle"`: the optimizer held the numbers of another copy of the model.
# * `"random"`: the pretrained numbers were never loaded.

# %% exercise="minipeft.checks:transfer_patients" difficulty=2 minutes=8
# Compare each row with the healthy one, column by column.
transfer_patients = {"A": "idle", "B": "again", "C": "lowest", "D": "decay"}

# %%
checks.transfer_patients(transfer_patients)

# %% [markdown]
# Look at the losses again: only A's stands still. The others end as low as the healthy one, so the end of a training curve
# hides three mistakes of four.
#
# ## 3. What is forgotten
#
# ### Exercise: measure it
#
# "50 of 100 were right, now 40" can mean that 10 right answers were lost, or all 50, with 40 new ones in their place.
# So we count question by question:
#
# $$ \text{forgotten} =
#    \frac{|\{\text{right before, wrong after}\}|}{|\{\text{right before}\}|} $$
#
# An answer is right if it equals the target after `normal`, which takes away capitals, spare spaces and the full stop. Two
# cases have no answer and are a `ValueError`: lists of different length, and nothing right before.
#
# <details><summary>Hint</summary>
#
# Go through the three lists together. Keep the questions whose first answer was right; among these count
# the second answers that are wrong.
# </details>

# %% exercise="minipeft.course.transfer:forgotten" difficulty=1 minutes=8

# %%
checks.forgotten(forgotten)

# %% [markdown] tags=["slide"]
# The base knows capitals, and four string functions that are called by name. We train everything on the novel task, once,
# and ask again. **Predict:** the task has no country in it; what becomes of the capitals?

# %% tags=["slide"]
share_lost = lesson.written(forgotten, library.forgotten)
with attached(base, METHODS["full"], seed=0):
    feed = TASKS["novel"].batches("train", tokenizer, batch_size=BATCH, seed=0)
    mp.train(base, feed, STEPS, learning_rate=worth[BASES[1]].rate, progress=False)
    after = known.answers(base)
for kind, probe in known.probes.items():
    then, now = known.before[kind], after[kind]
    share = share_lost(then, now, [target for _, target in probe.test])
    example = next((i for i, answer in enumerate(now) if answer != then[i]), 0)
    print(f"{kind}: {100 * share:.0f} % forgotten")
    print(f"  {probe.test[example].input!r}: {then[example]!r} became {now[example]!r}")

# %% [markdown] tags=["slide"]
# Nobody asked the model to forget. But the numbers that held the capitals were moved to do something else, and nothing
# pulled them back. This is **catastrophic forgetting**, and one reason to leave the base alone. (Whether a capital is
# gone, or only not said any more, these questions cannot tell.) From here on, *forgotten* is the mean of both kinds.
#
# ## 4. How much must be trained?
#
# Every arm of the first figure, on both tasks, at its own best rate.
#
# **Predict:** draw two curves on paper, exact match over the arms from head only to full. Which task needs less?

# %%
arms = {(task, method): RATES[method] for method in METHODS for task in TASKS}
ladder = contest(arms, run, SEEDS, label="how much must be trained")

# %% tags=["hide-input", "slide"]
from minipeft.report import Table

trained = {method: ladder["novel", method].runs[0]["trained"] for method in METHODS}
claims.show(
    Table(
        "Exact match on test, and what is forgotten, each arm at its own rate",
        ("", "trained", "latent", "novel", "rate", "forgotten (novel)"),
        [
            (
                method,
                f"{trained[method]:,}",
                *(spread(ladder[task, method].values()) for task in TASKS),
                f"{ladder['novel', method].rate:g}" + " (edge)" * ladder["novel", method].edge,
                spread(ladder["novel", method].values("forgotten")),
            )
            for method in METHODS
        ],
        [
            f"Mean and 95 % interval over {len(SEEDS)} seeds, {STEPS} steps; the rate is that for novel."
        ],
    )
)
places, ticks = range(len(METHODS)), [f"{m}\n{n / 1000:.0f} k" for m, n in trained.items()]
LOOK = {"latent": ("#1f2937", "s"), "novel": ("#be185d", "o"), "forgotten": ("#2563a8", "v")}
figure, axes = plots.figure(width=8.2)
for task in TASKS:
    values = [ladder[task, method].values() for method in METHODS]
    plots.whiskers(axes, places, values, f"{task}: {TASKS[task].name}", *LOOK[task])
axes.set_xticks(places, ticks)
enough = {}  # the first arm that is not worse than everything, within the margin
for task in TASKS:
    whole = ladder[task, "full"].values()
    against = {m: difference(ladder[task, m].values(), whole, MARGIN) for m in METHODS}
    enough[task] = next(
        m for m in METHODS if m == "full" or against[m].verdict in ("equal", "better")
    )
    for m in list(METHODS)[-3:-1]:
        print(f"{task}: {m} against full {against[m]}")
print(
    "The first arm below full that is surely as good: "
    + "; ".join(f"{task}: {'none' if arm == 'full' else arm}" for task, arm in enough.items())
)
mean = {
    task: [
        sum(seed) / len(METHODS)
        for seed in zip(*(ladder[task, m].values() for m in METHODS), strict=True)
    ]
    for task in TASKS
}
print("mean of all arms, latent against novel:", difference(*mean.values(), MARGIN))
plots.finish(
    axes,
    "what is trained (thousands of numbers)",
    "exact match, test",
    f"{STEPS} steps, {len(SEEDS)} seeds, 95 % intervals",
    limits=(0, 1),
    caption="The top alone does not do it: here nearly every block must be trained."
    if all(trained[method] > 0.5 * trained["full"] for method in enough.values())
    else "Part of the model is enough.",
)
climb, loss_of_old = (
    trend(list(places), [ladder["novel", method].values(key) for method in METHODS], MARGIN)
    for key in ("test", "forgotten")
)
claims.record(
    4,
    f"from head only to full, each at its own rate: exact match {climb.text}; "
    f"forgotten {loss_of_old.text}",
    rule="true if the new task rises over the sweep and what is forgotten does not, misleading if "
    "both rise, false if the new task falls, undecided otherwise",
    verdict="undecided"
    if "undecided" in (climb.verdict, loss_of_old.verdict)
    else {"rises": "misleading" if loss_of_old.verdict == "rises" else "true"}.get(
        climb.verdict, "false"
    ),
)

# %% [markdown]
# A top block can only work with what reaches it, and what reaches it was made for other questions. Or is the top just
# slow? It gets four times as many steps:

# %%
top = ladder["novel", "top 1"]
long = [run(("novel", "top 1"), top.rate, seed, steps=LONG)["test"] for seed in SEEDS]
gap = difference(long, ladder["novel", "full"].values(), MARGIN)
print(f"top 1: {spread(top.values())} after {STEPS} steps, {spread(long)} after {LONG}")
print(f"top 1 after {LONG} steps against everything after {STEPS}: {gap}")
slow = difference(long, top.values(), MARGIN).verdict == "better"
print(
    "It was slow," if slow else "It was not surely slow,",
    {
        "worse": f"and {LONG // STEPS} times as many steps do not catch up.",
        "undecided": f"and whether {LONG // STEPS} times as many steps catch up is not decided.",
    }.get(gap.verdict, f"and {LONG // STEPS} times as many steps catch up."),
)

# %% [markdown]
# (In Houlsby et al. 2019, the best k for each of 17 tasks even beat full fine-tuning slightly: 74.0 against 73.7.)
#
# ## 5. Who forgets most?
#
# First the learning rate: full fine-tuning on the novel task, everything else equal. **Predict:** is there a rate that is
# as good as the best on the task *and* keeps the old skills?

# %% tags=["hide-input"]
swept = {rate: [run(("novel", "full"), rate, seed) for seed in SEEDS] for rate in SPEEDS}


def column(runs, key):
    """One number per seed."""
    return [one[key] for one in runs]


figure, axes = plots.figure()
for key, label, look in (
    ("test", "novel task: exact match", "novel"),
    ("forgotten", "old skills forgotten", "forgotten"),
):
    rows = [column(swept[rate], key) for rate in SPEEDS]
    plots.whiskers(axes, SPEEDS, rows, label, *LOOK[look])
axes.set_xscale("log")
axes.set_xticks(SPEEDS, [f"{rate:g}" for rate in SPEEDS])
axes.minorticks_off()
best = min(SPEEDS, key=lambda rate: sum(column(swept[rate], "dev")))
kept = {
    rate: [
        difference(column(swept[rate], key), column(swept[best], key), MARGIN, lower_is_better=low)
        for key, low in (("test", False), ("forgotten", True))
    ]
    for rate in SPEEDS
    if rate != best
}
plots.finish(
    axes,
    "peak learning rate",
    "share",
    f"full fine-tuning, {STEPS} steps, {len(SEEDS)} seeds",
    limits=(0, 1),
    caption="A lower rate forgets less."
    if any(rate < best and kept[rate][1].verdict == "better" for rate in kept)
    else "",
)
print(f"against the rate that dev chooses, {best:g}:")
for rate, (task, old) in kept.items():
    print(f"  {rate:<7g} task {task.text:<40} old skills {old.text}")
free = [rate for rate, (t, o) in kept.items() if t.verdict == "equal" and o.verdict == "better"]
print("as good on the task and gentler:", ", ".join(f"{rate:g}" for rate in free) or "none, surely")

# %% [markdown] tags=["slide"]
# A search for the best dev score does not see the second curve. Now the arms, all at one rate (left) and each at its own
# best rate (right). **Predict:** is it a law that whoever trains less forgets less?

# %% tags=["hide-input", "slide"]
even = {m: [run(("novel", m), ONE_RATE, seed) for seed in SEEDS] for m in METHODS}
figure, panels = plots.figure(2, sharey=True)
rise = {}
for axes, title, runs in (
    (panels[0], f"all at rate {ONE_RATE:g}", even),
    (panels[1], "each at its own rate", {m: ladder["novel", m].runs for m in METHODS}),
):
    for key, label, look in (
        ("test", "novel task: exact match", "novel"),
        ("forgotten", "old skills forgotten", "forgotten"),
    ):
        rows = [column(runs[m], key) for m in METHODS]
        plots.whiskers(axes, places, rows, label, *LOOK[look])
    rise[title] = trend(list(places), rows, MARGIN)
    steps = [difference(b, a, MARGIN).verdict for a, b in zip(rows, rows[1:], strict=False)]
    print(f"{title}, a line through what all arms forget: {rise[title].text}")
    print(
        f"  of {len(steps)} steps up the ladder, {steps.count('better')} surely forget more and "
        f"{steps.count('worse')} surely less"
    )
    axes.set_xticks(places, METHODS, rotation=30, ha="right")
    plots.finish(axes, "", "share" * (axes is panels[0]), title, limits=(0, 1))
print(
    "So it is no law: a step up the ladder can forget less."
    if "worse" in steps
    else "No step up the ladder surely forgets less."
)
if all(change.verdict == "rises" for change in rise.values()):
    plots.add_caption(figure, "Who learns the new task forgets the old: compare at equal quality.")
print(run.cache_info().currsize, "runs of one model; the same bits as at the start:",
      mp.fingerprint(base) == before)  # fmt: skip

# %% [markdown]
# Two forces pull against each other. Who may move many numbers disturbs many; who may move few has to move them far. So
# compare at equal quality on the task.
#
# `detach` undid each of these runs with the copy that `attach` had made: for full fine-tuning, a second model in memory.
# The methods of the next lessons get this for nothing.
#
# ## 6. What it costs
#
# What lies in memory while Adam trains, activations left out? N numbers are in the model, n of them are trained, a number
# has e bytes:
#
# $$ \underbrace{e\,N}_{\text{weights}} + \underbrace{e\,n}_{\text{gradients}}
#    + \underbrace{2\,e\,n}_{\text{Adam: means of the gradient and of its square}} $$
#
# ### Exercise: how many bytes
#
# Our model has 390,000 numbers in float32. *Top 1* trains 78,000 of them. *Head only* trains the head's matrix, 885 words by
# 80 features. But this matrix is the word embedding too, which has to stay frozen. So the library trains a *copy* of it. How
# many bytes does each of the three need? Write a dict, `{"full": .., "top 1": .., "head only": ..}`.

# %% exercise="minipeft.checks:adam_bytes" difficulty=1 minutes=6
# Numbers, or the lines that compute them.
e, N, top, head = 4, 390_000, 78_000, 885 * 80
adam_bytes = {
    "full": e * N + 3 * e * N,
    "top 1": e * N + 3 * e * top,
    "head only": e * (N + head) + 3 * e * head,
}

# %%
checks.adam_bytes(adam_bytes)

# %%
# The library takes one real step with each and adds up every tensor that is there.
lesson.ledger(base, {name: METHODS[name] for name in ("full", "top 1", "head only")}, batch)

# %% [markdown] tags=["slide"]
# Most of it is gradients and Adam's two means, and these belong to the *trained* numbers. Freezing saves them. It does not
# save the weights: the frozen model must be there, and its forward pass be run. And fifty tasks with full fine-tuning are
# fifty models on disk.
#
# ## 7. A real model
#
# all-MiniLM-L6-v2 is an encoder with 22.7 million parameters. Its task: is a word of the VADER lexicon positive or negative
# (*happily*, *grim*)? Words with the same first letters are on one side of the split, so nothing can be copied. Either the
# model is pretrained or it gets random numbers; either a fresh head is trained or everything.
#
# **Predict:** can a head learn anything on top of a *random* transformer that never moves?

# %%
from minipeft.course import real

words = real.vader()
loaded = words and real.load("minilm", head="classification", labels=2)
REAL = {
    "head only,\nrandom": [3e-2, 1e-1, 3e-1],
    "full,\nrandom": [1e-4, 3e-4, 1e-3],
    "head only,\npretrained": [3e-2, 1e-1, 3e-1],
    "full,\npretrained": [3e-5, 1e-4, 3e-4],
}


@cache
def minilm(start, seed):
    """The model and a head drawn from the seed."""
    model, tokenizer = real.load("minilm", head="classification", labels=2, seed=seed)
    if start == "random":
        with seeded(seed):
            model = type(model)(model.config).eval()
    return model, tokenizer


def run_real(arm, rate, seed):
    method, start = arm.split(",\n")
    given = (minilm(start, seed), METHODS[method], words, rate, REAL_STEPS, seed)
    return tuned_task(*given, batch_size=BATCH, head="classification", rows=2 * ROWS)


if loaded:
    arms = {arm: rates[: 1 if QUICK else 3] for arm, rates in list(REAL.items())[2 * QUICK :]}
    outcomes = contest(arms, run_real, SEEDS, label="MiniLM")
    print({arm.replace("\n", " "): f"rate {outcome.rate:g}" for arm, outcome in outcomes.items()})

# %% tags=["hide-input", "slide"]
if loaded:
    labels = [row.target for row in words.train]
    usual = max(words.labels, key=labels.count)
    rows = words.test[: 2 * ROWS]
    guess = sum(row.target == usual for row in rows) / len(rows)
    axes = plots.bars(
        {arm: outcome.values() for arm, outcome in outcomes.items()},
        ylabel="accuracy, test",
        title=f"words, {REAL_STEPS} steps, {len(SEEDS)} seeds",
        limits=(0, 1),
    )
    axes.axhline(guess, color=plots.GREY, ls=":")
    axes.set_ylim(0, 1)
    plots.add_caption(axes.figure, f"Dotted: always {usual!r}, which is more frequent in training.")
    over = {
        arm: difference(outcome.values(), [guess] * len(SEEDS), MARGIN)
        for arm, outcome in outcomes.items()
    }
    for arm, gain in over.items():
        print(f"{arm.replace(chr(10), ' '):<24} against always {usual!r}: {gain}")
    a, b = (outcomes[f"{method},\npretrained"].values() for method in ("full", "head only"))
    print("pretrained, full against head only:", difference(a, b, MARGIN))
    learnt = [a.split(",")[0] for a in over if "random" in a and over[a].verdict == "better"]
    print(
        f"surely better than always {usual!r} after {REAL_STEPS} steps on random numbers:",
        ", ".join(learnt) or "neither",
    )

# %% [markdown]
# ## What this lesson showed, and what it did not
#
# * Transfer is a starting point. What it is worth depends on what the base knows (parts 1, 2, 7) and how few examples there are.
# * A frozen bottom limits what the top can learn (part 4). Adapters (lesson 05) put a few numbers into *every* block
#   instead.
# * The learning rate decides about forgetting, as the choice of layers does: a comparison needs both (part 5).
# * A finished training curve does not show what went wrong: count gradients and changes, and ask old questions.
# * *Not shown:* that these curves hold for large models. Ours has four blocks and its tasks are clean; at equal steps, slow
#   arms look worse than they would at the end. And one real model on one task is an example.
