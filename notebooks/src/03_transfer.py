# ---
# jupyter:
#   minipeft:
#     title: Transfer
#     question: How much of a pretrained model must change for a new task, and what does it forget on the way?
#     minutes: 4
# ---

# %% [markdown]
# **Transfer** means: do not start from random numbers. Take a model that has learnt something else, and go
# on from there. Before the methods of this course there were three ways to do it, and they are still
# the yardstick for all that come later: train the **head** only, train the **top k layers**, or train
# **everything**.

# %%
import matplotlib.pyplot as plt

from minipeft.course.pictures import EDGE, FROZEN

TRAINED = "#b91c1c"  # base weights in training: red, in every lesson


def stacks(columns, parts):
    """One stack of parts per column, the input below; what trains is red."""
    figure, axes = plt.subplots(figsize=(8, 2.7), dpi=90)
    for x, (name, trained) in enumerate(columns.items()):
        for y, part in enumerate(parts):
            on = y >= len(parts) - trained
            axes.barh(y, 0.8, 0.8, x - 0.4, color=TRAINED if on else FROZEN, edgecolor=EDGE)
            axes.text(x, y, part, ha="center", va="center", fontsize=8, color="w" if on else "k")
        axes.text(x, -0.95, name, ha="center", fontsize=10)
    axes.set_ylim(-1.2, len(parts) - 0.4)
    axes.set_title("grey: frozen    red: trained    (input at the bottom)", fontsize=9)
    axes.axis("off")


parts = ["embedding", *(f"block {i}" for i in range(1, 5)), "head"]
stacks({"head only": 1, "top 1": 2, "top 2": 3, "top 4": 5, "full": 6}, parts)

# %% [markdown]
# In one equation: the loss of the new task is made small, from the pretrained numbers $\theta_0$ on, and
# the frozen ones stay what they are.
#
# $$ \min_\theta \; -\frac{1}{N}\sum_{(x,\,y)} \log p_\theta(y \mid x), \qquad
#    \theta \leftarrow \theta_0 \text{ at the start}, \qquad
#    \theta_i = \theta_{0,i} \text{ for every frozen } i $$
#
# In PyTorch "frozen" is one flag, `requires_grad = False`. No gradient is computed for such a number, no
# optimizer moves it, and below the lowest trained part the backward pass need not go at all.
#
# Every number of steps, seeds and learning rates of this lesson stands in the next two cells.

# %% fast="CNN_STEPS, CNN_SIZES, CNN_SEEDS, STEPS, SEEDS, TESTS = 3, [20], [0, 1], 3, [0, 1], 8"
MODEL = "tiny-decoder-0.4m"  # any decoder of the project; the larger ones take longer
CNN_STEPS, CNN_SIZES, CNN_SEEDS = 100, [20, 100, 1000], [0, 1, 2, 3]
STEPS, BATCH, SEEDS, TESTS = 50, 16, [0, 1, 2], 100

# %% fast="RATES = {name: rates[:1] for name, rates in RATES.items()}; SWEEP = SWEEP[:2]"
# Every method tries three learning rates, around its best one in a wider search (four rates, a factor of
# three apart, seed 0, 60 steps, the novel task of part 2). The random model tries three as well.
RATES = {
    "head only": [1e-2, 3e-2, 1e-1],
    "top 1": [3e-3, 1e-2, 3e-2],
    "top 2": [2e-3, 5e-3, 1.2e-2],
    "top 3": [1e-3, 3e-3, 1e-2],
    "top 4": [7e-4, 2e-3, 6e-3],
    "full": [3e-4, 1e-3, 3e-3],
    "random": [1e-3, 3e-3, 1e-2],
}
CNN_RATES = [1e-3, 3e-3, 1e-2]
SWEEP = [3e-4, 1e-3, 3e-3, 1e-2, 3e-2]  # part 4 looks at full fine-tuning more closely
ONE_RATE = 3e-3  # part 5 compares all methods at one rate

# %%
from minipeft import plots


def tuned(run, rates, seeds):
    """Equal tuning for everybody: the first seed tries each rate, the lowest dev loss goes on.

    run(rate, seed) gives a dict with "loss", that on dev. Returns the rate and one dict per seed.
    """
    first = {rate: run(rate, seeds[0]) for rate in rates}
    best = min(rates, key=lambda rate: first[rate]["loss"])
    return best, [first[best], *(run(best, seed) for seed in seeds[1:])]


def scores(runs, name="test"):
    """One number per seed."""
    return [run[name] for run in runs]


def compare(a, b):
    """Is a above b? Paired by seed: the mean difference and its 95 % interval, in words."""
    mean, half = plots.interval([x - y for x, y in zip(a, b, strict=True)])
    said = "higher" if mean > half else "lower" if mean < -half else "not to be told apart"
    return f"{100 * mean:+6.1f} ± {100 * half:4.1f} points: {said}"


def whiskers(axes, x, rows, colour, label, marker="o"):
    """Means over seeds with 95 % intervals; rows: the values of all seeds, for each x."""
    means, halves = zip(*(plots.interval(row) for row in rows), strict=True)
    axes.errorbar(x, means, halves, color=colour, marker=marker, label=label, capsize=3, lw=1.5)


def finish(axes, xlabel, ylabel, title, legend="best"):
    """The same look for every picture of shares from 0 to 1; legend: where it stands."""
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title, ylim=(-0.04, 1.06))
    axes.title.set_fontsize(10)
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        axes.legend(frameon=False, fontsize=8, loc=legend)


# %% [markdown]
# ## 1. Prologue: a small network for pictures
#
# Transfer became the everyday tool of computer vision first: *take a network trained on many pictures,
# freeze the convolutions, retrain the fully connected head.* We can try that in seconds. Our network
# learns digits, and is then asked for letters. Both are drawn here, leaning, shaken and noisy.

# %%
import torch

import minipeft as mp
from minipeft.course import vision

figure, panels = plt.subplots(2, 10, figsize=(8, 1.9), dpi=80)
for row, glyphs in zip(panels, (vision.DIGITS, vision.LETTERS), strict=True):
    images, labels = vision.draw(glyphs, 10, seed=1)  # (10, 1, 16, 16), (10,)
    for panel, image in zip(row, images[labels.argsort()], strict=True):
        panel.imshow(image[0], cmap="gray_r", vmin=0, vmax=1)
        panel.axis("off")
figure.suptitle(
    "above: what it is pretrained on; below: what it is asked for afterwards", fontsize=9
)
vision.ConvNet(classes=10)

# %% [markdown]
# ### Exercise: freeze by hand
#
# Write the function that all of this rests on. It takes the parts of a model from input to output,
# freezes all but the last `count`, and gives back what an optimizer needs.
#
# <details><summary>Hint 1: the classic mistake</summary>
#
# `parts[-count:]` is right for 1, 2, 3 ... and wrong for 0, because `parts[-0:]` is the whole list.
# </details>
#
# <details><summary>Hint 2: shared matrices</summary>
#
# A language model's head often *is* its word embedding: one `Parameter`, found in two parts. If the embedding
# is frozen, that matrix must stay frozen. Put the parameters of the frozen parts into a set and ask
# whether a parameter is in it. (Parameters are compared by identity there, not by value.)
# </details>

# %% exercise="minipeft.course.transfer:train_top" difficulty=2 minutes=10
# train_top: set requires_grad of every parameter, also back to True where it had been frozen

# %%
from minipeft import checks

checks.train_top(train_top)

# %% [markdown]
# ### Pretrain, then transfer
#
# The pretraining first: digits, all parts in training.

# %% fast="pretraining_steps = 5"
from minipeft.course.transfer import train_top

pretraining_steps = 500


# %%
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
digits = vision.draw(vision.DIGITS, 3000, seed=2)
pretrained = vision.ConvNet(classes=10)
mp.train(
    pretrained, batches(*digits, 0), steps=pretraining_steps, learning_rate=3e-3, progress=False
)
unseen = vision.draw(vision.DIGITS, 1000, seed=3)
print(f"digits it has not seen: {100 * accuracy(pretrained, *unseen):.0f} % right")

# %% [markdown]
# Now the letters. The head knows ten digits and is of no use, so a fresh one replaces it in every case:
#
# | | convolutions start from | trained |
# |---|---|---|
# | from scratch | random numbers | everything |
# | head only | the digits | the head |
# | full | the digits | everything |
#
# **Predict** before you run: with 20 pictures in all (two of each letter), which is best, and by how much?
# And with 1,000?

# %%
from functools import cache, partial

from tqdm import tqdm

letters_dev = vision.draw(vision.LETTERS, 300, seed=4)
letters_test = vision.draw(vision.LETTERS, 1000, seed=5)
few = {
    (n, seed): vision.draw(vision.LETTERS, n, 100 + seed) for n in CNN_SIZES for seed in CNN_SEEDS
}
HOW = {"from scratch": ("#6b7280", "^"), "head only": ("#0891b2", "s"), "full": (TRAINED, "o")}


def to_letters(how, size, rate, seed):
    """Train on `size` letters; a seed draws the letters, the fresh numbers and the batches."""
    torch.manual_seed(seed)
    model = vision.ConvNet(classes=10)
    if how != "from scratch":
        model.convolutions.load_state_dict(pretrained.convolutions.state_dict())
    train_top([model.convolutions, model.head], 1 if how == "head only" else 2)
    mp.train(model, batches(*few[size, seed], seed), CNN_STEPS, learning_rate=rate, progress=False)
    with torch.no_grad():
        loss = model(*letters_dev).loss.item()
    return {"loss": loss, "test": accuracy(model, *letters_test)}


letters = {}
for how in tqdm(HOW, desc="letters", leave=False):
    for size in CNN_SIZES:
        rate, runs = tuned(partial(to_letters, how, size), CNN_RATES, CNN_SEEDS)
        letters[how, size] = scores(runs)

# %%
figure, axes = plt.subplots(figsize=(6, 3.4), dpi=90)
for how, (colour, marker) in HOW.items():
    whiskers(axes, CNN_SIZES, [letters[how, n] for n in CNN_SIZES], colour, how, marker)
axes.axhline(0.1, color="0.6", ls=":", lw=1, label="chance")
axes.set_xscale("log")
axes.set_xticks(CNN_SIZES, CNN_SIZES)
axes.minorticks_off()
title = f"Digits → letters: mean of {len(CNN_SEEDS)} seeds, 95 % interval"
finish(axes, "letters to learn from (pictures, 10 classes)", "accuracy on unseen letters", title)

# %% [markdown]
# **Claim 53: "Freeze the convolutions, retrain the fully connected head: that is transfer for
# convolutional networks."** The measurement, pair by pair (the same letters and seeds on both sides):

# %%
for size in CNN_SIZES:
    head, full, scratch = (letters[how, size] for how in ("head only", "full", "from scratch"))
    print(f"{size:>5} letters   head only against from scratch {compare(head, scratch)}")
    print(f"{'':>13}   full      against head only    {compare(full, head)}")

head_wins = [
    n for n in CNN_SIZES if "higher" in compare(letters["head only", n], letters["from scratch", n])
]
full_wins = [
    n for n in CNN_SIZES if "higher" in compare(letters["full", n], letters["head only", n])
]
print()
print("the recipe beats starting from scratch with", head_wins or "none", "letters")
print("full fine-tuning beats the recipe with", full_wins or "none", "letters")

# %% [markdown]
# Read the two last lines as the verdict. As a recipe it stands where it wins over starting from scratch. It is
# not a law: where there are letters enough, features that were made for digits are not the best ones for
# letters, and freezing them costs something.
#
# *What this does not show:* digits and letters are near relatives. With a source that has less in common
# with the target, frozen features help less (try it: pretrain on "17" only).

# %% [markdown]
# ## 2. What transfer is worth to a language model
#
# From here on: the decoder of Tinyland. Two tasks, both of them rows of nouns:
#
# * **latent**: `reverse`. The model has learnt to reverse a row when the word `reverse` asks for it.
#   Here the word is missing. The skill is in the weights; nothing calls it.
# * **novel**: `reverse-rotate`. The reverse of a rotated row. No text of Tinyland does this.

# %%
import tiny_transformer as tt
from minipeft import tasks
from minipeft.training.sweep import exact_and_loss

base, tokenizer = tt.load(MODEL)
fingerprint = mp.fingerprint(base)  # a hash of every bit, for later
TASKS = {"latent": tasks.load("reverse"), "novel": tasks.load("reverse-rotate")}
# the latent task once more, this time with the word that is missing
called = [("reverse : " + row, result) for row, result in TASKS["latent"].test]
asked = {**TASKS, "called": tasks.make("called", "generate", test=called)}
for name, task in asked.items():
    example, exact = task.test[0], task.score(base, tokenizer, "test", limit=TESTS)["exact"]
    print(f"{name:<7} {example.input:<30} → {example.target:<24} base: {100 * exact:3.0f} % right")

# %% [markdown]
# The methods, in the words of the library. This is all that `TopLayers` does when it is attached; what the
# library calls `unfreeze` is your `requires_grad_(True)`, plus a copy of the first values for later:

# %%
import inspect

METHODS = {
    "head only": mp.HeadOnly(),
    **{f"top {k}": mp.TopLayers(k) for k in range(1, base.config.layers + 1)},
    "full": mp.FullFineTuning(),
}
print(inspect.getsource(mp.TopLayers.install))
tuner = mp.attach(base, mp.TopLayers(2))
top_2 = tuner.report()
above = torch.nn.ModuleList([base.blocks[-1], base.norm])  # the last block, and the norm after it
by_hand = train_top([base.embeddings, *base.blocks[:-1], above], 2)
print("by hand the same parameters:", set(by_hand) == set(tuner.parameters()))
tuner.detach()
top_2

# %% [markdown]
# In this decoder the head shares its matrix with the word embeddings, which lie at the very bottom.
# `TopLayers` therefore leaves it frozen; `HeadOnly` trains a copy of it.
#
# To see later what a method *forgets*, we ask the model things that it knows now, in wordings that
# pretraining used: the capitals of some countries, and four string functions called by their names.

# %%
from minipeft.course.transfer import forgotten as share_forgotten  # you write it in part 5

countries = tasks.load("capital").examples("train")[: TESTS // 2]
rows = {
    name: tasks.load(name).examples("test")[:15] for name in ("copy", "rotate", "swap", "double")
}
ask_facts = [(f"the capital of {country} is", capital) for country, capital in countries]
ask_strings = [(f"{name} : {row}", result) for name in rows for row, result in rows[name]]
PROBES = {
    "facts": tasks.make("facts", "cloze", test=ask_facts),
    "strings": tasks.make("strings", "generate", test=ask_strings),
}


def answers(model):
    """What the model says to every probe."""
    return {
        name: probe.predict(model, tokenizer, [question for question, _ in probe.test])
        for name, probe in PROBES.items()
    }


known = answers(base)


def lost_skills(model):
    """Share of each probe that the base answered right and the model answers wrong."""
    now = answers(model)
    return {
        name: share_forgotten(known[name], now[name], [target for _, target in probe.test])
        for name, probe in PROBES.items()
    }


for name, probe in PROBES.items():
    right = next(iter(probe.score(base, tokenizer).values()))
    print(f"{name:<8} {probe.test[0].input!r} → {known[name][0]!r}   right: {100 * right:.0f} %")

# %% [markdown]
# One function trains, measures and cleans up. Mind the `detach` at its end: the base is borrowed. Every run
# below uses the *same* model object, one after the other, and in part 5 we look at its fingerprint.
#
# (*Exact match* without writing: a greedy answer is right when each next word is right, so one forward pass
# over question and answer tells it. Lesson 01, section 4.)

# %%
ROWS = {
    (family, split): task.batches(split, tokenizer, batch_size=TESTS)(0)
    for family, task in TASKS.items()
    for split in ("dev", "test")
}


@cache  # a run that a later part needs again is not run again
def tune(family, method, rate, seed, steps=STEPS, random_base=False, often=False):
    """Train one method once. A seed orders the examples (and draws a random base).

    often: measure what is forgotten three times on the way, not only at the end.
    """
    task, model = TASKS[family], base
    if random_base:
        torch.manual_seed(seed)
        model = tt.Decoder(base.config)

    def measure(model):
        seen = exact_and_loss(model, ROWS[family, "dev"])[0]  # exact and loss
        return seen | (lost_skills(model) if often else {})

    tuner = mp.attach(model, METHODS[method], seed=seed)
    history = mp.train(
        model,
        task.batches("train", tokenizer, batch_size=BATCH, seed=seed),
        steps,
        learning_rate=rate,
        evaluate=measure,
        evaluate_every=steps // 3 if often or method == "full" else steps,
        best=None,  # keep the last weights: everybody gets the same number of steps
        progress=False,
    )
    last = history.evaluations[-1]
    result = {
        "test": exact_and_loss(model, ROWS[family, "test"])[0]["exact"],
        "loss": last["loss"],
        "curve": history.evaluations,
        "trained": sum(parameter.numel() for parameter in tuner.parameters()),
    }
    if often:
        result |= {name: last[name] for name in PROBES}
    elif family == "novel" and not random_base:
        result |= lost_skills(model)
    tuner.detach()
    return result


# %% [markdown]
# **Predict.** Everything is trained, on the latent task and on the novel one. A copy of the decoder with
# random weights gets the novel examples too, the same number of steps, and its own choice of three
# learning rates. The task is new to both. Who learns it?

# %%
transfer = {
    f"pretrained, {family} task": tuned(partial(tune, family, "full"), RATES["full"], SEEDS)
    for family in TASKS
}
random_run = partial(tune, "novel", "full", random_base=True)
transfer["random, novel task"] = tuned(random_run, RATES["random"], SEEDS)

# %%
figure, axes = plt.subplots(figsize=(6.4, 3.2), dpi=90)
LOOKS = (("#1f2937", "s"), ("#be185d", "o"), ("#6b7280", "^"))
for (name, (rate, runs)), (colour, marker) in zip(transfer.items(), LOOKS, strict=True):
    steps = [0, *(point["step"] for point in runs[0]["curve"])]
    rows = [[0.0, *(point["exact"] for point in run["curve"])] for run in runs]
    whiskers(axes, steps, zip(*rows, strict=True), colour, f"{name}, rate {rate:g}", marker)
title = f"What pretraining is worth: mean of {len(SEEDS)} seeds, 95 % interval"
finish(axes, f"training steps ({BATCH} rows each)", "exact match, dev", title, "upper left")

# %% [markdown]
# No text of Tinyland does the novel task. But the pretrained model knows what a row is, that `=>` asks for
# something, and how to fetch the word at a place and write it elsewhere. The random one would have to learn all
# of that first.
#
# ### A task with labels
#
# The same question for a classifier: is a review positive or negative? The language head is taken off
# and a fresh one with two outputs is put on. Now there are four cases: the base is pretrained or random,
# and either the head alone is trained or everything.
#
# **Predict:** can a head learn anything on top of a *random* transformer that never moves?

# %%
reviews = tasks.load("review-label")
print(reviews.train[0], reviews.labels)
review_rows = reviews.batches("dev", tokenizer, batch_size=TESTS, head="classification")(0)


def classify(start, method, rate, seed):
    """A seed draws the head, the order of the examples, and a random base."""
    model, _ = tt.load(MODEL, head="classification", labels=2, seed=seed)
    if start == "random":
        torch.manual_seed(seed)
        model = tt.Decoder(model.config, model.head)
    mp.attach(model, METHODS[method])
    examples = reviews.batches(
        "train", tokenizer, batch_size=BATCH, seed=seed, head="classification"
    )
    mp.train(model, examples, STEPS, learning_rate=rate, progress=False)
    model.eval()
    with torch.no_grad():
        loss = model(**review_rows).loss.item()
    return {
        "loss": loss,
        "test": reviews.score(model, tokenizer, "test", limit=2 * TESTS)["accuracy"],
    }


labelled = {}
for start in tqdm(("pretrained", "random"), desc="reviews", leave=False):
    for method in ("full", "head only"):
        rate, runs = tuned(partial(classify, start, method), RATES[method], SEEDS)
        labelled[f"{start},\n{method}"] = scores(runs)

# %%
axes = plots.bars(
    labelled,
    ylabel="accuracy, test",
    title=f"Reviews after {STEPS} steps: {len(SEEDS)} seeds (dots), 95 % interval",
    reference={"chance": 0.5},
)
axes.set_ylim(0, 1.05)
for method in ("full", "head only"):
    said = compare(labelled[f"pretrained,\n{method}"], labelled[f"random,\n{method}"])
    print(f"{method:<10} pretrained against random base: {said}")
intervals = {case: plots.interval(accuracies) for case, accuracies in labelled.items()}
above = [case for case, (mean, half) in intervals.items() if mean - half > 0.5]
print(
    "surely above chance:", ", ".join(case.replace("\n", " ") for case in above) or "none of them"
)

# %% [markdown]
# Where nothing is above chance, nothing has been shown, for or against. Fifty steps of sixteen reviews are
# few for a model of this size: it sees each of its 800 examples once. The datasheet has the number that a
# larger model reaches in 400 steps of 32 reviews (`review-label`, full fine-tuning).
#
# ## 3. How much must be trained?
#
# Now the yardstick itself: head only, the top k blocks for each k, everything. Each method gets the same
# number of steps, three learning rates to try with the first seed, and two more seeds at its best.
#
# **Predict:** draw two curves on paper, exact match over the number of trained parameters, one for the
# latent and one for the novel task. Where does each begin to rise?

# %%
ladder = {}
for method in tqdm(METHODS, desc="how much must be trained", leave=False):
    for family in TASKS:
        ladder[family, method] = tuned(partial(tune, family, method), RATES[method], SEEDS)

for family in TASKS:
    for method in METHODS:
        rate, runs = ladder[family, method]
        mean, half = plots.interval(scores(runs))
        edge = "  (edge of its grid)" if rate in (RATES[method][0], RATES[method][-1]) else ""
        print(
            f"{family:<7} {method:<10}{runs[0]['trained']:>8,} trained   "
            f"test {100 * mean:5.1f} ± {100 * half:4.1f} %   rate {rate:g}{edge}"
        )

# %%
trained = [ladder["novel", method][1][0]["trained"] for method in METHODS]
ticks = [f"{name}\n{n / 1000:.0f} k" for n, name in zip(trained, METHODS, strict=True)]
places = range(len(METHODS))

figure, axes = plt.subplots(figsize=(7, 3.6), dpi=90)
for family, colour, marker in (("latent", "#1f2937", "s"), ("novel", "#be185d", "o")):
    rows = [scores(ladder[family, method][1]) for method in METHODS]
    whiskers(axes, places, rows, colour, f"{family}: {TASKS[family].name}", marker)
axes.set_xticks(places, ticks, fontsize=8)
title = f"Quality by what is trained: {STEPS} steps, {len(SEEDS)} seeds, 95 % interval"
finish(axes, "what is trained (thousands of parameters)", "exact match, test", title)

# %% [markdown]
# A top block that stays behind may just be slow. So it gets four times as many steps (the rate is kept):

# %%
rate, short = ladder["novel", "top 1"]
long = [tune("novel", "top 1", rate, seed, steps=4 * STEPS) for seed in SEEDS]
for steps, runs in ((STEPS, short), (4 * STEPS, long)):
    mean, half = plots.interval(scores(runs))
    loss = plots.interval(scores(runs, "loss"))[0]
    print(
        f"top 1 after {steps:>3} steps: {100 * mean:5.1f} ± {100 * half:.1f} %, dev loss {loss:.2f}"
    )

# %% [markdown]
# **Claim 3** (first half; the other half needs adapters and waits for lesson 05): "*Fine-tuning the top layers
# needs a hundred to a thousand times more trained parameters for the same quality.*" What we can say here is
# how steeply quality falls when fewer layers are trained. How many parameters do we need to come within
# five points of the best?

# %%
for family in TASKS:
    means = {m: plots.interval(scores(ladder[family, m][1]))[0] for m in METHODS}
    enough = [method for method in METHODS if means[method] >= max(means.values()) - 0.05]
    count = ladder[family, enough[0]][1][0]["trained"]
    share = count / ladder[family, "full"][1][0]["trained"]
    print(
        f"{family:<7} needs {enough[0]!r}: {count:,} parameters, {100 * share:.0f} % of the model"
    )

# %% [markdown]
# **Claim 4: "Less freezing is always better."** Each row asks whether thawing one more part helped.

# %%
names = list(METHODS)
for family in TASKS:
    for before, thawed in zip(names, names[1:], strict=False):
        a, b = (scores(ladder[family, method][1]) for method in (thawed, before))
        print(f"{family:<7} {thawed:<6} against {before:<10} {compare(a, b)}")

sure = {
    family: [
        thawed
        for before, thawed in zip(names, names[1:], strict=False)
        if "higher" in compare(scores(ladder[family, thawed][1]), scores(ladder[family, before][1]))
    ]
    for family in TASKS
}
for family, steps_up in sure.items():
    verdict = "holds here" if len(steps_up) == len(names) - 1 else "is not shown"
    print(f"{family}: sure gains on the way to {', '.join(steps_up) or 'none'}; claim 4 {verdict}")

# %% [markdown]
# "Always" asks for a sure gain in every row. Where a row says *not to be told apart*, three seeds do not tell us;
# it does not say that the two are equal. (In Houlsby et al. 2019 the best k of each of 17 tasks was
# even slightly *better* than full fine-tuning: 74.0 against 73.7.) And so far we have only asked about the new
# task. Part 5 asks what each row costs the old ones.

# %% [markdown]
# ## 4. The learning rate
#
# All of this used a tuned rate. How much does it matter? Full fine-tuning on the novel task, five rates,
# everything else equal. We draw two things: what was learnt, and what was forgotten meanwhile.
#
# **Predict:** is there a rate that is as good as the best on the task *and* keeps nearly all the facts?

# %%
swept = {}
for rate in tqdm(SWEEP, desc="learning rates", leave=False):
    swept[rate] = [tune("novel", "full", rate, seed) for seed in SEEDS]

figure, axes = plt.subplots(figsize=(6.4, 3.4), dpi=90)
for name, label, colour, marker in (
    ("test", "novel task: exact match", TRAINED, "o"),
    ("facts", "forgotten: capitals", "#2563a8", "v"),
    ("strings", "forgotten: string functions", "#0f766e", "^"),
):
    whiskers(axes, SWEEP, [scores(swept[rate], name) for rate in SWEEP], colour, label, marker)
axes.set_xscale("log")
axes.set_xticks(SWEEP, [f"{rate:g}" for rate in SWEEP])
axes.minorticks_off()
title = f"Full fine-tuning, {STEPS} steps: {len(SEEDS)} seeds, 95 % interval"
finish(axes, "peak learning rate (AdamW, warm-up and linear decay)", "share", title, None)
axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
plt.show()

# %%
means = {rate: plots.interval(scores(swept[rate]))[0] for rate in SWEEP}
equally_good = [rate for rate in SWEEP if means[rate] >= max(means.values()) - 0.05]
print("rates within five points of the best on the task, and what they forget:")
for rate in equally_good:
    facts, strings = (plots.interval(scores(swept[rate], name))[0] for name in ("facts", "strings"))
    print(
        f"  rate {rate:g}: task {100 * means[rate]:.0f} %, "
        f"capitals forgotten {100 * facts:.0f} %, string functions {100 * strings:.0f} %"
    )

# %% [markdown]
# Watch the task alone, and the rates of this list look alike; a search for the best dev score picks any of
# them. What they do to the rest of the model is the other two columns.
#
# ## 5. What is forgotten
#
# ### Exercise: measure it
#
# "The accuracy fell from 90 to 80 per cent" can mean that a tenth was lost, or that a half was lost and most
# of it was replaced. So we count question by question:
#
# $$ \text{forgotten} =
#    \frac{|\{\text{right before, wrong after}\}|}{|\{\text{right before}\}|} $$
#
# <details><summary>Hint</summary>
#
# Go through the three lists together with `zip(..., strict=True)`. Keep the questions whose first answer
# was right, comparing `normal(answer) == normal(target)`; among these count the second answers that
# are not. Two cases have no answer and should raise a `ValueError`: lists of different length, and nothing right
# before.
# </details>

# %% exercise="minipeft.course.transfer:forgotten" difficulty=1 minutes=8

# %%
checks.forgotten(forgotten)

# %% [markdown]
# ### At one rate, over time
#
# Every method trains on the novel task at the *same* learning rate, and we ask the old questions on the way.
#
# **Predict:** which forgets most? And with the head only, when no block changes at all: can such a model
# forget a capital?

# %%
watched = {}
for method in tqdm(METHODS, desc="forgetting over time", leave=False):
    watched[method] = [tune("novel", method, ONE_RATE, seed, often=True) for seed in SEEDS]

WHAT = {"facts": "capitals", "strings": "string functions"}
LOOK = {
    "full": (TRAINED, "o"),
    "top 3": ("#7c3aed", "D"),
    "top 1": ("#d97706", "^"),
    "head only": ("#0891b2", "s"),
}
figure, panels = plt.subplots(1, 2, figsize=(9, 3.2), dpi=85, sharey=True)
for axes, (name, what) in zip(panels, WHAT.items(), strict=True):
    for method, (colour, marker) in LOOK.items():
        steps = [0, *(point["step"] for point in watched[method][0]["curve"])]
        rows = [[0.0, *(point[name] for point in run["curve"])] for run in watched[method]]
        whiskers(axes, steps, zip(*rows, strict=True), colour, method, marker)
    finish(axes, "training steps on the novel task", "share forgotten", what)
figure.suptitle(
    f"Forgetting, all at rate {ONE_RATE:g}: mean of {len(SEEDS)} seeds, 95 % interval", fontsize=10
)
figure.tight_layout()

# %% [markdown]
# Nobody asked the model to forget. The new task never mentions a country; but the same numbers that hold the
# capitals were moved to do something else, and nothing pulled them back. This is **catastrophic
# forgetting**, and it is one reason to leave the base alone.
#
# ### By method
#
# Is it a law, then, that whoever trains less forgets less? **Predict** the right panel from the left one: there
# each method has the rate that was best for *it* in part 3.

# %%
figure, panels = plt.subplots(1, 2, figsize=(11, 3.6), dpi=80, sharey=True)
tuned_runs = {method: ladder["novel", method][1] for method in METHODS}
for axes, runs, title in zip(
    panels,
    (watched, tuned_runs),
    (f"all at rate {ONE_RATE:g}", "each at its own best rate"),
    strict=True,
):
    for name, label, colour, marker in (
        ("test", "novel task: exact match", "#be185d", "o"),
        ("facts", "forgotten: capitals", "#2563a8", "v"),
        ("strings", "forgotten: string functions", "#0f766e", "^"),
    ):
        rows = [scores(runs[method], name) for method in METHODS]
        whiskers(axes, places, rows, colour, label, marker)
    axes.set_xticks(places, ticks, fontsize=8)
    finish(axes, "what is trained (thousands of parameters)", "share", title, "upper left")
figure.suptitle(f"{STEPS} steps on the novel task, {len(SEEDS)} seeds, 95 % interval", fontsize=9)
figure.tight_layout()

print(
    f"{'':<10}{'at one rate: task':>20}{'forgotten':>11}{'tuned: rate':>14}{'task':>7}{'forgotten':>11}"
)
for method in METHODS:
    line = f"{method:<10}"
    for runs in (watched, tuned_runs):
        task, *lost = (plots.interval(scores(runs[method], n))[0] for n in ("test", *PROBES))
        if runs is tuned_runs:
            line += f"{ladder['novel', method][0]:>14g}{100 * task:>6.0f}%"
        else:
            line += f"{100 * task:>19.0f}%"
        line += f"{100 * sum(lost) / 2:>10.0f}%"
    print(line)
print("forgotten: mean of capitals and string functions")

for title, runs in (("at one rate", watched), ("tuned", tuned_runs)):
    lost = {
        m: [sum(seed) / 2 for seed in zip(*(scores(runs[m], n) for n in PROBES), strict=True)]
        for m in METHODS
    }
    said = [
        compare(lost[thawed], lost[before])
        for before, thawed in zip(names, names[1:], strict=False)
    ]
    up, down = (sum(word in text for text in said) for word in ("higher", "lower"))
    print(
        f"{title}: of {len(said)} steps up the ladder, {up} surely forget more, {down} surely less"
    )

# %% [markdown]
# If it were a law, the column "forgotten" would rise from row to row, in the left half *and* in the right one. The two
# last lines count the rows where three seeds are enough to say so. Two forces pull against each other: who
# may move many numbers disturbs many, but who may move few has to move them far (see the rates),
# and a block that is pushed far does not only learn the new. So compare at equal quality on the
# task before you believe that "train less and you forget less". (And whether a forgotten capital is gone,
# or only not said any more, these questions cannot tell.)
#
# ### The base is still there
#
# All these runs used one model object, and each was undone by `detach`:

# %%
print("runs of this lesson:", tune.cache_info().currsize)
print("same bits as at the start:", mp.fingerprint(base) == fingerprint)

# %% [markdown]
# This is worth less than it sounds. `detach` can do it because `attach` made a copy of every number it was going
# to train: for full fine-tuning, a second model in memory. The methods of the next lessons get it
# for nothing, since they never touch the base.

# %% [markdown]
# ## 6. What it costs
#
# What lies in memory while Adam trains (activations left out)? $N$ numbers in the model, $n$ of them in
# training, $e$ bytes each:
#
# $$ \underbrace{e\,N}_{\text{weights}} + \underbrace{e\,n}_{\text{gradients}}
#    + \underbrace{2\,e\,n}_{\text{Adam: mean of the gradient, and of its square}} $$
#
# ### Exercise: predict the bytes
#
# <details><summary>Hint</summary>
#
# A parameter has `numel()` numbers of `element_size()` bytes. `model.parameters()` lists a shared matrix
# once; `state_dict()` lists it under each of its names.
# </details>

# %% exercise="minipeft.course.transfer:training_bytes" difficulty=1 minutes=6

# %%
checks.training_bytes(training_bytes)

# %% [markdown]
# **Predict** the ratio between full fine-tuning and head only before you run the cell: memory in training,
# and bytes to store for each new task.

# %%
from pathlib import Path

from minipeft.course.transfer import training_bytes


def weigh(method):
    """One real training step; then add up every tensor that is there."""
    tuner = mp.attach(base, METHODS[method], seed=0)
    predicted = training_bytes(base)
    optimizer = torch.optim.AdamW(tuner.parameters(), lr=1e-3)
    base(**TASKS["novel"].batches("train", tokenizer, batch_size=BATCH)(0)).loss.backward()
    optimizer.step()
    states = [tensor for state in optimizer.state.values() for tensor in state.values()]
    measured = {
        "weights": sum(p.nbytes for p in base.parameters()),
        "gradients": sum(p.grad.nbytes for p in base.parameters() if p.grad is not None),
        "adam": sum(tensor.nbytes for tensor in states if tensor.dim()),
    }
    counters = sum(tensor.nbytes for tensor in states if not tensor.dim())
    kept = sum(first.nbytes for first in tuner.base_values.values())
    tuner.save(f"runs/{method}")
    disk = sum(file.stat().st_size for file in Path(f"runs/{method}").iterdir())
    tuner.detach()
    return predicted, measured, counters, kept, disk


ledger = {method: weigh(method) for method in ("head only", "top 1", "full")}
print(f"{'bytes in training':<20}{'weights':>12}{'gradients':>12}{'adam':>12}{'together':>12}")
for method, (predicted, measured, counters, kept, _) in ledger.items():
    for name, row in ((f"{method}, predicted", predicted), ("  measured", measured)):
        print(
            f"{name:<20}"
            + "".join(f"{row[k]:>12,}" for k in predicted)
            + f"{sum(row.values()):>12,}"
        )
    print(f"  also there: {counters:,} bytes of Adam's step counters, {kept:,} that detach keeps")

# %%
figure, panels = plt.subplots(1, 2, figsize=(10, 3), dpi=85)
left, right = panels
bottom = [0.0] * len(ledger)
for name, colour in (("weights", FROZEN), ("gradients", "#fca5a5"), ("adam", TRAINED)):
    heights = [measured[name] / 1e6 for _, measured, *_ in ledger.values()]
    left.bar(list(ledger), heights, bottom=bottom, color=colour, edgecolor=EDGE, label=name)
    bottom = [b + h for b, h in zip(bottom, heights, strict=True)]
left.set(ylabel="megabytes (fp32)", title="in memory while training")
left.legend(frameon=False, fontsize=8)
whole = ledger["full"][1]["weights"]
for method, colour, marker in (
    ("full", TRAINED, "o"),
    ("top 1", "#7c3aed", "D"),
    ("head only", "#0891b2", "s"),
):
    count = [1, 2, 5, 10, 20, 50, 100]
    base_too = 0 if method == "full" else whole  # a full copy needs no base beside it
    sizes = [(base_too + n * ledger[method][4]) / 1e6 for n in count]
    right.plot(count, sizes, color=colour, marker=marker, label=method)
right.set(xscale="log", yscale="log", xlabel="number of tasks", ylabel="megabytes on disk")
right.set_title("to keep that many tasks (computed from the measured files)")
right.legend(frameon=False, fontsize=8)
for axes in panels:
    axes.title.set_fontsize(10)
    axes.spines[["top", "right"]].set_visible(False)
figure.tight_layout()

together = {method: sum(measured.values()) for method, (_, measured, *_) in ledger.items()}
print(f"memory in training, full / head only: {together['full'] / together['head only']:.1f}")
print(f"disk per task,      full / head only: {ledger['full'][4] / ledger['head only'][4]:.1f}")

# %% [markdown]
# The memory of training is mostly gradients and Adam's two means, and these belong to the *trained*
# numbers. Freezing saves them. It does not save the weights: the frozen model must be there, and its forward pass
# must be run. In a small model the head is no small
# thing (one row for each word of the vocabulary); the larger the model, the smaller its share.
#
# ## What this lesson showed, and what it did not
#
# * Transfer is a starting point, and its worth depends on what the base knows (parts 1 and 2).
# * Top-k is a steep ladder, and four times as many steps did not carry the top block to its end (part 3).
#   The methods from lesson 05 on put a few numbers into *every* block instead.
# * The learning rate decides about forgetting at least as much as the method does (parts 4 and 5).
# * Detached, the base is the same to the last bit; full fine-tuning pays for that with a second copy.
#
# It did not show that these curves hold for large models: ours has four blocks, its tasks are clean,
# and it was trained for seconds. Nor that more steps would leave the order as it is.
#
# **To go on:** give the latent task only 16 examples (`task.batches(..., limit=16)`) and climb the ladder of
# part 3 again. Does training everything still win?
#
# Lesson 10 opens the weights door.
