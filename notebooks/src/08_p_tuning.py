# ---
# jupyter:
#   minipeft:
#     title: P-tuning
#     question: How well a written prompt works is luck. Can a network learn the wording?
#     minutes: 6
#     sitting: 85
#     attempts: 6
# ---

# %% [markdown] tags=["slide"]
# Lesson 04 met a problem: two sentences that mean the same to us score 0 and more than 90 per cent. The model
# knows the capital of Peru, and whether it says so depends on words that nobody can justify.
#
# **P-tuning** (Liu et al. 2021, *GPT understands, too*, [arXiv 2103.10385](https://arxiv.org/abs/2103.10385))
# stops looking for words. It puts **pseudo tokens** into the template, before and behind the question, and
# learns their vectors. It comes in by the **words** door, as prompt tuning does (lesson 07). Two things are
# new: the pseudo tokens stand *around* the question, and their vectors come out of a small network, the
# **prompt encoder**.

# %% tags=["hide-input", "slide"]
from minipeft.course.p_tuning import picture

figure = picture()

# %% [markdown]
# ## 1. The prompt encoder
#
# The authors saw two difficulties. The vectors of words are *discrete*: they stand apart from one another,
# and a freshly drawn vector may lie where gradient descent does not get far. And words depend on one
# another: a prompt is a phrase, not $n$ words drawn one by one. Their remedy is to train a network that
# writes the whole phrase:
#
# {equations p_tuning}
#
# $n$ is the number of pseudo tokens; $e$ is one trained vector for each, $(n, C)$. An *LSTM* reads a row token by
# token. From one token to the next it carries a *state*, $S$ numbers; four small maps, its *gates*, say what of the
# state is kept and what is new. In a *BiLSTM* one direction reads from left to right, the other from right to
# left; each gives $S = C/2$ numbers per token, side by side. Ours has two layers: both directions of the second
# read what both directions of the first gave. With `kind="mlp"` there is no BiLSTM, and $y = e$.
#
# ### Exercise: forward
#
# Write `forward`: it takes no arguments and gives $h$. All parts are made in `__init__`.
#
# <details><summary>Hint: what nn.LSTM takes and gives</summary>
#
# `nn.LSTM` takes one sequence of shape (length, features), without a batch axis, and gives a pair: its
# output at every place, (length, 2 S), and its last states.
# </details>

# %% exercise="minipeft.methods.p_tuning:PromptEncoder" blank="forward" difficulty=1 minutes=8
# forward: self.lstm is None when there is no BiLSTM

# %%
from minipeft import checks

checks.prompt_encoder(PromptEncoder)

# %% [markdown]
# ### Exercise: trained, and stored
#
# Our decoder has width $C = 80$, the template has $n = 6$ pseudo tokens. How many numbers are trained, and
# how many must be kept to *use* the prompt afterwards? Only $h$ is read then, so the encoder can go.
#
# For one direction of one layer, an LSTM has four *gates*. Each gate has a matrix for its input, $(S,
# \text{inputs})$, one for its state, $(S, S)$, and two biases of $S$ numbers (PyTorch keeps two). The MLP
# has the maps $W_1$, $(2 S, 2 S)$, and $W_2$, $(C, 2 S)$, with their biases. Do not forget $e$.

# %% exercise="minipeft.checks:encoder_parameters" difficulty=2 minutes=8
# A dict: {"trained": a number, "stored": a number}
C, n = 80, 6
S = C // 2
direction = 4 * (S * C + S * S + 2 * S)  # the second layer reads 2 S = C numbers, as the first
bilstm = 2 * 2 * direction
mlp = 2 * (C * C + C)
encoder_parameters = {"trained": bilstm + mlp + n * C, "stored": n * C}

# %%
checks.encoder_parameters(encoder_parameters)

# %% [markdown]
# ## 2. Sanity first
#
# The task is `capital` of Tinyland: the question is a country and nothing else, the answer its capital. In a
# template `{x}` is the question and `{mask}` the place of the answer, which a decoder writes last. 100 countries are
# to learn from (80 train, 20 dev), 50 are held out: no training run sees them. The model knows them all from
# pretraining. What is missing is somebody who asks.

# %% fast="STEPS = SEARCH_STEPS = MORE = CHART_STEPS = LADDER = 2; SEEDS, RATES, SEARCH_TRIES = [0, 1], [1e-2, 3e-2], 2; FROZEN_RATES, TUNED_RATES, WORDINGS = [3e-2], [3e-4], 2; REAL_STEPS, REAL_RATES, REAL_SEEDS, REAL_WORDINGS, REAL_ROWS = 1, [1e-3], [0, 1], 2, 4"
MODEL = "tiny-decoder-0.4m"
STEPS, SEEDS = 30, [0, 1, 2]  # batches of 16; seeds are paired in every comparison
RATES = [1e-3, 3e-3, 1e-2, 3e-2, 1e-1]  # the same grid for every encoder
MORE = 4 * STEPS  # what happens with more patience
SEARCH_STEPS, SEARCH_TRIES = 30, 16  # of the discrete search: places, words tried at each
CHART_STEPS, LADDER, WORDINGS = 25, 40, 14
FROZEN_RATES, TUNED_RATES = [1e-2, 3e-2, 1e-1], [1e-4, 3e-4, 1e-3]
MARGIN = 0.03  # shares that differ by less than 3 points count as equal
REAL_STEPS, REAL_RATES, REAL_SEEDS = 30, [1e-3, 3e-3, 1e-2], [0, 1, 2]
REAL_WORDINGS, REAL_ROWS = 11, 80

# %%
import torch

import minipeft as mp
from minipeft import tasks
from minipeft.course import p_tuning as lesson
from minipeft.course import runs
from minipeft.course.experiments import contest, difference, spread, table

base, tokenizer = runs.base(MODEL)
task = tasks.load("capital")
first_bits = mp.fingerprint(base)  # a hash of every number of the base, for later
method = mp.PTuning.from_template(lesson.AROUND, tokenizer)
print("template:", lesson.AROUND)
tuner = mp.attach(base, method, seed=0)
counted = tuner.report()
tuner.detach()
print(f"trained {counted.trainable:,} numbers, stored {counted.stored:,}")
mp.sanity_ladder(base, method, task.batches("train", tokenizer, batch_size=16)(0), steps=LADDER)

# %% [markdown]
# The start is **not** the identity: six strange vectors stand around the question from the first step on.
# There is no start at which a prompt does nothing.
#
# **Predict:** if $e_6$ changes a little, which of $h_1 \dots h_6$ change? With the BiLSTM? With the MLP alone?

# %%
Encoder = lesson.yours_or_ours(PromptEncoder)  # your class, once its forward is written
for kind in ("lstm", "mlp"):
    torch.manual_seed(0)
    moved = lesson.coupling(Encoder(6, base.config.width, kind))  # |dh_i / de_j|, (6, 6)
    print(f"{kind:<5}", *(f"{size:.3f}" for size in moved[:, 5].tolist()))

# %% [markdown] tags=["slide"]
# The BiLSTM couples the pseudo tokens, the near ones more than the far ones. The MLP treats each one alone.
#
# ## 3. Held-out countries
#
# Five ways to ask, and the same test for all: 50 countries that nobody has trained or searched on.
#
# * **written**: 14 sensible wordings that the corpus never used, picked so that they differ. Dev chooses. (One
#   that it did use scores 100 %.)
# * **search**: real words at the six places, found with the gradient (AutoPrompt, lesson 04).
# * **vectors alone**, **MLP**, **BiLSTM**: the six vectors trained as such, or through an encoder.
#
# The trained ones get only 30 steps. **Predict** the order.

# %%
dev_rows, test_rows = (runs.rows_of(task, split, tokenizer, base) for split in ("dev", "test"))
templates = lesson.wordings(task)[:WORDINGS]
on_dev = lesson.scores_with(base, templates, dev_rows, tokenizer)  # (loss, exact) of each
on_test = [exact for _, exact in lesson.scores_with(base, templates, test_rows, tokenizer)]
for template, score in sorted(zip(templates, on_test, strict=True), key=lambda pair: pair[1]):
    print(f"{100 * score:4.0f} %  {template}")
best = templates[on_dev.index(min(on_dev))]  # the lowest loss
written = on_test[templates.index(best)]
print(f"dev chooses {best!r}: {100 * written:.0f} % on the held-out countries")

# %%
names = {word for split in task.splits.values() for example in split for word in example}
allowed = [i for i in range(14, len(tokenizer)) if tokenizer.decode([i]) not in names]
rows = [task.batches("train", tokenizer, batch_size=40)(0)]
searched = []
for seed in SEEDS:
    best_words = mp.prompt_search.search(
        *(base, lesson.AROUND, rows, tokenizer),
        **dict(steps=SEARCH_STEPS, candidates=SEARCH_TRIES, allowed=allowed, seed=seed),
        progress=False,
    )
    searched.append(lesson.scores_with(base, [best_words.template], test_rows)[0][1])
    print(f"{100 * searched[-1]:4.0f} %  {best_words.words(tokenizer)}")

# %%
from functools import cache

ENCODERS = {"vectors alone": None, "MLP": "mlp", "BiLSTM": "lstm"}


@cache
def run(name, rate, seed, steps=STEPS):
    """One training: the prompt encoder of this name, in the template of the picture."""
    encoder = ENCODERS[name.partition(",")[0]]
    method = mp.PTuning.from_template(lesson.AROUND, tokenizer, encoder=encoder)
    return runs.tuned_task((base, tokenizer), method, task, rate, steps, seed)


arms = {name: RATES for name in ENCODERS}
held_out = contest(arms, run, SEEDS)  # dev chooses each arm's rate, test tells
patient = contest({"vectors alone, more steps": RATES}, lambda *job: run(*job, steps=MORE), SEEDS)
table(held_out | patient)

# %% tags=["hide-input", "slide"]
from minipeft import plots

figure, (left, right) = plots.figure(2, height=3.9)
bars = {"best\nwritten": [written], "search": searched}
bars |= {name.replace(" ", "\n"): arm.values() for name, arm in held_out.items()}
SHADES = {"vectors alone": "#f59e0b", "MLP": "#d97706", "BiLSTM": plots.COLOURS["P-tuning"]}
colours = [plots.COLOURS["written prompt"], plots.GREY, *SHADES.values()]
for place, (values, colour) in enumerate(zip(bars.values(), colours, strict=True)):
    mean, half = plots.interval(values)
    left.bar(
        place,
        mean,
        yerr=[[v[0]] for v in plots.clipped([mean], [half], (0, 1))],
        color=colour,
        capsize=4,
    )
left.set_xticks(range(len(bars)), list(bars))
plots.finish(left, "", "exact, held-out countries", f"{STEPS} steps", limits=(0, 1), legend=False)
for (name, colour), marker in zip(SHADES.items(), "o^s", strict=True):
    scores = [[run(name, rate, seed)["test"] for seed in SEEDS] for rate in RATES]
    plots.whiskers(right, RATES, scores, name, colour, marker)
right.set_xscale("log")
right.set_xticks(RATES, [f"{rate:g}" for rate in RATES])
right.minorticks_off()
axes = plots.finish(
    right, "learning rate", "exact, held-out countries", "the same, by learning rate", limits=(0, 1),
    caption="Without an encoder the six vectors need the right learning rate; with the BiLSTM nearly any one will do.",
)  # fmt: skip

# %% [markdown]
# The conclusion in numbers, by the rule of this course: *equal* when the 95 % interval of the paired difference
# lies inside ±3 points, otherwise *better* or *worse* when it leaves out 0, and *undecided* when not.

# %% tags=["hide-input", "slide"]
from minipeft.course import claims

lstm, alone = held_out["BiLSTM"].values(), held_out["vectors alone"].values()
against = {
    "BiLSTM − best written": (lstm, [written] * len(SEEDS)),
    "BiLSTM − search": (lstm, searched),
    "BiLSTM − MLP": (lstm, held_out["MLP"].values()),
    "BiLSTM − vectors alone": (lstm, alone),
    "BiLSTM − vectors alone, more steps": (lstm, patient["vectors alone, more steps"].values()),
}
for name, (a, b) in against.items():
    print(f"{name:<36} {difference(a, b, MARGIN).text}")
good = {
    name: sum(
        sum(run(name, rate, seed)["test"] for seed in SEEDS) / len(SEEDS) >= 0.9 for rate in RATES
    )
    for name in ENCODERS
}
print("rates of", len(RATES), "at which the mean is 90 % or more:", good)
gain = difference(lstm, alone, MARGIN)
claims.record(
    32,
    measured=f"as published, {counted.trainable:,} numbers of a network make "
    f"{counted.stored}; BiLSTM against vectors alone, {STEPS} steps: {gain.text}; "
    f"good learning rates: BiLSTM {good['BiLSTM']}, vectors alone {good['vectors alone']} of {len(RATES)}",
    rule="false if the method has a network that changes the result or how easily it is found; "
    "misleading if it has one and neither is seen",
    verdict="false"
    if gain.verdict == "better" or good["BiLSTM"] > good["vectors alone"]
    else "misleading",
    good=good,
)

# %% [markdown] tags=["slide"]
# The encoder is scaffolding. It makes the six vectors easy to find, and then it is thrown away. What it does
# *not* do is raise the ceiling: compare the line "vectors alone, more steps".
#
# ## 4. On top of written prompts
#
# One may keep the written words and add pseudo tokens: `[P][P][P] the main city of {x} is [P][P][P] {mask}`.
# The paper reports that the spread between wordings shrinks from 10.1 to 0.46 points on LAMA, a benchmark
# that asks language models for facts.
#
# **Predict:** the wordings above spread from 0 to 98 %. What is left of the spread when each one gets six
# pseudo tokens and 30 steps?

# %%
from tqdm import tqdm

rate = held_out["BiLSTM"].rate  # chosen by dev in part 3
topped = []  # per wording, one score per seed
for template in tqdm(templates, leave=False):
    method = mp.PTuning.from_template(lesson.on_top(template), tokenizer)
    settings = (base, tokenizer), method, task, rate, STEPS
    topped.append([runs.tuned_task(*settings, seed)["test"] for seed in SEEDS])
before = torch.tensor(on_test).std().item()  # over wordings
after = torch.tensor(topped).std(dim=0).tolist()  # one per seed
shrunk = difference(after, [before] * len(SEEDS), MARGIN, lower_is_better=True)

# %% tags=["hide-input", "slide"]
figure, axes = plots.figure(height=4.6, width=8.6)
order = sorted(range(len(templates)), key=lambda i: on_test[i])
for place, i in enumerate(order):
    mean = sum(topped[i]) / len(SEEDS)
    axes.plot([on_test[i], mean], [place, place], color=plots.GREY, lw=1, zorder=0)
    axes.plot(
        on_test[i],
        place,
        "X",
        color=plots.COLOURS["written prompt"],
        ms=8,
        label="written" if not place else None,
    )
    axes.plot(
        topped[i],
        [place] * len(SEEDS),
        "s",
        color=plots.COLOURS["P-tuning"],
        ms=5,
        label="P-tuning on top, every seed" if not place else None,
    )
axes.set_yticks(range(len(order)), [templates[i].replace(" {mask}", "") for i in order])
axes.set_xlim(-0.03, 1.03)
plots.finish(
    axes, "exact, held-out countries", "", f"Spread over wordings: {100 * before:.0f} → {spread(after)[:-2]} points",
    caption="A written wording is luck; with six pseudo tokens on top it hardly matters any more.",
)  # fmt: skip
print(f"standard deviation over {len(templates)} wordings, P-tuning − written: {shrunk.text}")

# %% [markdown]
# ## 5. What is trained, and what is not
#
# It is said that P-tuning "trains the embedding layer". Look at the doors: $h$ is read where the embedding
# would be read, and the embedding itself stays as it is. But one can *get it wrong*, and then it shows.
#
# ### Exercise: diagnosis
#
# A healthy run and four sick ones. For each of them you see a row as the model reads it (the words whose
# label is asked for in brackets), the length of the encoder's gradient at the first step, the loss, which
# numbers of the *base* have moved, and the score on held-out countries.

# %%
lesson.charts(base, tokenizer, task, steps=CHART_STEPS)

# %% [markdown]
# Which cause is whose? Every cause is used at most once.
#
# * **a**: the learning rate is far too high
# * **b**: the pseudo tokens stand behind the answer
# * **c**: the word embedding of the model was trained too
# * **d**: the whole language model was trained too
# * **e**: what the encoder gives is detached
# * **f**: the labels ask for the words of the question too
#
# <details><summary>After you are done: why the sick runs fail</summary>
#
# In a decoder no answer looks at what stands behind it, so pseudo tokens there get no gradient. Too high a rate jumps
# past every good place. The two runs whose base moved fit their 80 countries and lose the 50 others: a rate that
# suits six new vectors is far too high for words that mean something already. Part 6 gives them rates of their own.
# </details>

# %% exercise="minipeft.checks:p_tuning_diagnosis" difficulty=2 minutes=8
# A dict: {"A": "a", "B": ...} with one letter for each of the four runs
p_tuning_diagnosis = {
    "A": "c",  # one matrix of the base has moved
    "B": "a",  # gradient and base are as they should be, and the loss does not fall
    "C": "b",  # in a decoder nothing that stands behind a word can change it
    "D": "d",  # all of the base has moved
}

# %%
checks.p_tuning_diagnosis(p_tuning_diagnosis)

# %% [markdown] tags=["slide"]
# ## 6. Against fine-tuning and against prompt tuning
#
# "P-tuning beats fine-tuning" and "P-tuning beats prompt tuning" are often read off one table. On LAMA the
# paper freezes the language model; on SuperGLUE it **tunes the whole model** with the prompt. Prompt tuning
# always freezes it. So we measure the full square: two ways to prompt, model frozen or tuned. To these come
# fine-tuning of the bare question, fine-tuning with the best written prompt, and P-tuning with the word
# embedding in training, as some tell it.
#
# ### Exercise: the fair pair
#
# *P-tuning beats prompt tuning* says something about the way to prompt. Which of these comparisons changes the way to prompt,
# and nothing of what is trained beside the prompt? Answer with one letter, for example `"a"`.
#
# * **a**: P-tuning with the model tuned along, against prompt tuning with the model frozen
# * **b**: P-tuning with the model frozen, against prompt tuning with the model tuned along
# * **c**: P-tuning against prompt tuning, both with the model tuned along
# * **d**: P-tuning with the model frozen, against fine-tuning of the bare question

# %% exercise="minipeft.checks:fair_pair" difficulty=1 minutes=3
# fair_pair: write down for both sides what is trained
fair_pair = "c"

# %%
checks.fair_pair(fair_pair)

# %% [markdown] tags=["slide"]
# Everybody gets 40 steps and three learning rates (more where the best one is at an edge). Afterwards each base
# is asked for the languages and currencies of 130 countries *without* the prompt, as somebody else who shares
# this base would ask.
#
# **Predict:** which arms forget?

# %% fast="ARM_STEPS = 2"
ARM_STEPS = 40

# %%
asked = lesson.knowledge([tasks.load("language"), tasks.load("currency")])
around = lesson.AROUND
ARMS = {
    "prompt tuning": (mp.PromptTuning(length=6, start="vocabulary"), FROZEN_RATES),
    "P-tuning": (mp.PTuning.from_template(around, tokenizer), FROZEN_RATES),
    "prompt tuning + model": (
        lesson.TunedPromptTuning(length=6, start="vocabulary"),
        TUNED_RATES,
    ),
    "P-tuning + model": (
        mp.PTuning.from_template(around, tokenizer, tune_model=True),
        TUNED_RATES,
    ),
    "P-tuning + embedding": (lesson.WithEmbedding.from_template(around, tokenizer), TUNED_RATES),
    "full, bare question": (mp.FullFineTuning(), TUNED_RATES),
    "full, best written": (mp.FullFineTuning(), TUNED_RATES),
}


def compete(name, rate, seed, steps=ARM_STEPS):
    """One run of an arm: dev, test, forgotten, and whether the base is the same to the last bit."""
    questions = lesson.put_into(task, best) if "written" in name else task
    method = ARMS[name.partition(",")[0] if name.endswith("more steps") else name][0]
    return lesson.measured(base, tokenizer, method, questions, rate, steps, seed, asked)


square = contest({name: rates for name, (_, rates) in ARMS.items()}, compete, SEEDS)
square |= contest(
    {"prompt tuning, more steps": FROZEN_RATES}, lambda *job: compete(*job, steps=MORE), SEEDS
)
table(square, ("test", "forgotten"))

# %% tags=["hide-input", "slide"]
figure, (left, right) = plots.figure(2, height=4.4, sharey=True)
for place, (name, arm) in enumerate(reversed(square.items())):
    colour = (plots.look(name) or (plots.GREY,))[0]
    for axes, key in ((left, "test"), (right, "forgotten")):
        mean, half = plots.interval(arm.values(key))
        reach = [[side[0]] for side in plots.clipped([mean], [half], (0, 1))]
        hatch = "//" if "model" in name or "embedding" in name else None
        axes.barh(
            place, mean, xerr=reach, color=colour, alpha=0.8, capsize=3, hatch=hatch, edgecolor="w"
        )
left.set_yticks(range(len(square)), list(reversed(square)))
plots.finish(left, "exact, held-out countries", "", "learnt", legend=False)
plots.finish(
    right, "share of known facts", "", "forgotten, asked without the prompt", legend=False,
    caption="A frozen base forgets nothing, by construction. Whoever moves its numbers may pay for it (hatched, and full).",
)  # fmt: skip
for axes in (left, right):
    axes.set_xlim(0, 1.05)

# %% tags=["hide-input", "slide"]
same = all(one["same"] for one in square["P-tuning"].runs)
hot = [compete("P-tuning + embedding", square["P-tuning"].rate, seed) for seed in SEEDS]
claims.record(
    31,
    measured=f"P-tuning leaves every bit of the base {'as it was' if same else 'NOT as it was'} in "
    f"{len(SEEDS)} runs and forgets {spread(square['P-tuning'].values('forgotten'))}; with the embedding in "
    f"training {spread(square['P-tuning + embedding'].values('forgotten'))} are forgotten at the rate that dev "
    f"chooses, {square['P-tuning + embedding'].rate:g}, and {spread([one['forgotten'] for one in hot])} at that "
    f"of P-tuning, {square['P-tuning'].rate:g}",
    rule="false if the hash of the base is the same in every run",
    verdict="false" if same else "true",
)


def gap(a, b):
    return difference(square[a].values(), square[b].values(), MARGIN)


baselines = {
    "P-tuning − full, bare question": gap("P-tuning", "full, bare question"),
    "P-tuning − full, best written": gap("P-tuning", "full, best written"),
    "P-tuning + model − full, best written": gap("P-tuning + model", "full, best written"),
}
won = [one.verdict == "better" for one in baselines.values()]
claims.record(
    33,
    measured="; ".join(f"{name}: {one.text}" for name, one in baselines.items()),
    rule="true if better than every baseline, false if better than none, misleading in between",
    verdict="true" if all(won) else "misleading" if any(won) else "false",
)
pairs = {
    "both frozen": gap("P-tuning", "prompt tuning"),
    "both with the model": gap("P-tuning + model", "prompt tuning + model"),
    "frozen, prompt tuning with more steps": gap("P-tuning", "prompt tuning, more steps"),
    "the unfair pair (P-tuning with the model, prompt tuning frozen)": gap("P-tuning + model", "prompt tuning"),
}  # fmt: skip
print("after all these runs the base has the same bits:", mp.fingerprint(base) == first_bits)
place = difference(alone, square["prompt tuning"].values(), MARGIN)
print(
    f"the place: six vectors alone around the question − six before it, about as many steps: {place.text}"
)
fair = [one.verdict == "better" for name, one in pairs.items() if "unfair" not in name]
claims.record(
    34,
    measured="; ".join(f"{name}: {one.text}" for name, one in pairs.items()),
    rule="true if better in every fair pair, false if in none, misleading in between",
    verdict="true" if all(fair) else "misleading" if any(fair) else "false",
)

# %% [markdown] tags=["slide"]
# Read the verdicts with their rules. They are about *this* task, which the base knows already and only has to
# be asked about: the friendliest case for a prompt.
#
# ## 7. A model that knows the real world
#
# SmolLM2 has 135 million numbers, frozen. The same 150 countries in ordinary spelling; an answer is right
# when its first token is the model's first choice. Eleven written wordings first. Dev chooses one, by its
# loss on 20 countries, and three pseudo tokens go in front of it, trained on the other 80. **Predict:** do they beat
# that wording? And the best of the eleven, which one knows only afterwards?

# %%
from minipeft.course import capitals, real

loaded = real.load("smollm2")
if loaded:
    model, words = loaded
    learn, dev, test = (
        capitals.questions(words, split)[:REAL_ROWS] for split in ("train", "dev", "test")
    )
    scored = {}
    for wording in tqdm(capitals.WORDINGS[:REAL_WORDINGS], leave=False):
        template = capitals.template(wording, words)
        scored[wording] = [  # (loss, exact), each
            lesson.scores_with(model, [template], capitals.together(rows))[0]
            for rows in (dev, test)
        ]
    for wording, ((loss, _), (_, exact)) in sorted(scored.items(), key=lambda pair: pair[1][1][1]):
        print(f"{100 * exact:4.0f} %  (dev loss {loss:5.2f})  {wording}")
    chosen = min(scored, key=lambda wording: scored[wording][0][0])
    print("dev chooses:", chosen)

# %%
if loaded:

    def real_run(name, rate, seed):
        form = capitals.template(chosen, words, n=3)
        method = mp.PTuning(template=form.pieces, frame=form.frame, encoder="lstm")
        with runs.attached(model, method, seed=seed):
            steps = capitals.batches(learn, 16, seed)
            mp.train(model, steps, REAL_STEPS, rate, seed=seed, progress=False)
            (loss, _), (_, exact) = (
                runs.loss_and_exact(model, capitals.together(rows)) for rows in (dev, test)
            )
            return {"dev": loss, "test": exact}

    smol = contest({"P-tuning on top": REAL_RATES}, real_run, REAL_SEEDS, extend=0)
    claims.show(table(smol))

# %% tags=["hide-input", "slide"]
if loaded:
    hindsight = max(exact for _, (_, exact) in scored.values())
    learnt, n_seeds = smol["P-tuning on top"].values(), len(REAL_SEEDS)
    figure, axes = plots.figure(height=4.2, width=8.6)
    order = sorted(scored, key=lambda wording: scored[wording][1][1])
    for place, wording in enumerate(order):
        face = plots.COLOURS["written prompt"] if wording != chosen else "#78350f"
        axes.barh(place, scored[wording][1][1], color=face)
    mean, half = plots.interval(learnt)
    axes.barh(
        len(order),
        mean,
        xerr=[[v[0]] for v in plots.clipped([mean], [half], (0, 1))],
        color=plots.COLOURS["P-tuning"],
        capsize=4,
    )
    axes.set_yticks(range(len(order) + 1), [*order, "P-tuning on top of dev's choice"])
    plots.finish(
        axes,
        "first token right, 50 held-out countries",
        "",
        "SmolLM2-135M, frozen",
        legend=False,
        caption=f"One question in eleven wordings: {100 * min(e for _, (_, e) in scored.values()):.0f} to {100 * hindsight:.0f} %. Dark: the wording that dev chose, and what pseudo tokens make of it above.",
    )
    print(
        "P-tuning − the wording that dev chose:      ",
        difference(learnt, [scored[chosen][1][1]] * n_seeds, MARGIN).text,
    )
    print(
        "P-tuning − the best wording with hindsight: ",
        difference(learnt, [hindsight] * n_seeds, MARGIN).text,
    )

# %% [markdown]
# ## Passport
#
# One line needs care: "forgotten" is asked *with* the prompt around every question, so it says how badly a prompt
# for one task serves another. Taken off, nothing is forgotten (part 6).

# %% fast="quick = True"
quick = False

# %%
from minipeft.course.passport import passport

method = mp.PTuning.from_template(around, tokenizer)
passport(method, rates=[1e-2, 3e-2, 1e-1], name="P-tuning", quick=quick)

# %% [markdown]
# ## What this lesson showed, and what it did not
#
# * P-tuning learns the wording. Six vectors ask as well as the best of fourteen sentences, which somebody has to
#   think of first, and on top of any of the fourteen they do the same. Against a search for real words the
#   difference is undecided.
# * The encoder is a help in training: more learning rates work, for the BiLSTM than for the MLP and for the MLP
#   than without. Whether it also saves steps is undecided. It is not kept.
# * The base stays as it is, embedding included. What a moved embedding costs depends on the learning rate.
# * Who "beats" whom depends on whether the language model is tuned along, and on the baseline: fine-tuning with
#   a good written prompt is a hard one.
#
# *Not shown.* The task here is latent and small: the model knows every answer, so that scores stand at their
# ceiling. How far a prompt carries on a task that the base has never seen, the passport says: less far, and less
# surely. The paper's best score on LAMA, 64.2 %, is an 11 B model's, and its discrete searches ran on far smaller
# ones; which would win on the *same* model, nothing above says. The weights of SmolLM2 are those of a 4-bit file. The learnt vectors are no words, and we
# did not try to read them.
