# ---
# jupyter:
#   minipeft:
#     title: From many tasks to unknown ones
#     question: Can a model be tuned for questions that nobody wrote data for?
#     minutes: 4
#     sitting: 80
#     attempts: 8
# ---

# %% [markdown]
# Until now one model learnt one task. An assistant is asked things that nobody trained it for. Two steps lead
# there: **instructions** (many tasks, each named in words, so that a new one is understood from its words) and **preferences** (people do
# not write answers any more, they only say which of two is better). Both are done here with the same LoRA, in miniature.

# %% tags=["hide-input", "slide"]
from minipeft.course.preference_pictures import picture

figure = picture()

# %% fast="STEPS, SEEDS, FEW, ROWS, COUNTS, PASSES, SHORT, REAL_RATES, PATIENCE = 2, [0, 1], [0, 1], 6, (1, 8), (2,), 2, (), 3; RATES, DPO_RATES = RATES[:1], DPO_RATES[:1]; BETAS = BETAS[:2]"
STEPS, SEEDS, FEW, ROWS = 100, [0, 1, 2, 3, 4], [0, 1, 2], 60  # FEW: seeds of parts 5 and 6
COUNTS = (1, 2, 4, 8)  # families of instructions that are trained
RATES = [1e-3, 3e-3, 1e-2]
MARGIN = 0.05  # five points, or 0.05 of the judge's scale: makes no difference
PASSES = (40, 120)  # steps of preference tuning and of supervised tuning
DPO_RATES = [1e-4, 3e-4, 1e-3]
BETAS, SHORT = [0.03, 0.1, 0.5, 2.0], 40  # of part 5; steps there and in part 3
REAL_STEPS, REAL_RATES = 12, (1e-3, 3e-3)  # on SmolLM2
PATIENCE = 25  # steps of the patients

# %%
import minipeft as mp
from minipeft import checks
from minipeft.course import claims, runs
from minipeft.course import instructions as lesson

base = runs.base("tiny-decoder-0.4m")
families = lesson.load_families()
LORA = mp.LoRA(rank=8, alpha=16)
for name in ("reverse", "headline"):
    print(lesson.as_task(families, name, lesson.OLD).test[0])
    print(lesson.as_task(families, name, lesson.NEW).test[0])

# %% [markdown] tags=["slide"]
# ## 1. Instructions: does variety teach what was never shown?
#
# The base knows eleven families of questions by their word: `reverse : cat sun =>`. It never read the form `the reverse of cat sun =>`.
# We tune LoRA on questions in this new form, of 1, 2, 4 or 8 families. Three more families are **never** trained: another three for every
# seed. All runs have equally many steps and examples, so that only the *variety* differs. The rate is chosen on dev rows of the trained
# families, since nobody has dev rows of a question that is not known yet.
#
# **Predict:** after one family, are the unseen ones answered better or worse than by the base? And after eight?

# %%
from functools import cache

from minipeft.course.experiments import contest, difference, spread, table, trend


@cache
def instruct(arm, rate, seed):
    count = int(arm.split()[0])
    return lesson.instructed(base, LORA, families, count, rate, STEPS, seed, ROWS)


NAMES = {count: f"{count} families" if count > 1 else "1 family" for count in COUNTS}
outcomes = contest({name: RATES for name in NAMES.values()}, instruct, SEEDS, label="instructions")
untouched = []
for seed in SEEDS:
    unseen = lesson.split_families(1, seed)[1]
    scores = [lesson.right(*base, lesson.as_task(families, name), ROWS) for name in unseen]
    untouched.append(sum(scores) / len(scores))
table(outcomes, ("seen", "unseen"))

# %% tags=["hide-input", "slide"]
from minipeft import plots

figure, axes = plots.figure(height=3.8, width=7.6)
values = {
    what: [outcomes[name].values(what) for name in NAMES.values()] for what in ("seen", "unseen")
}
plots.whiskers(axes, COUNTS, values["seen"], "trained families", plots.GREY, "s")
plots.whiskers(axes, COUNTS, values["unseen"], "families never trained", *plots.look("LoRA"))
before = plots.interval(untouched)[0]
axes.axhline(before, color=plots.GREY, ls=":", label="never trained, base untouched")
axes.set_xscale("log")
axes.set_xticks(COUNTS, COUNTS)
axes.minorticks_off()
grows = trend(COUNTS, values["unseen"], MARGIN, log=True)
few, many = (difference(values["unseen"][i], untouched, MARGIN) for i in (0, -1))
plots.finish(
    axes, "families that were trained", "exact match, test", f"{STEPS} steps each",
    limits=(0, 1), caption=f"Families never trained, from 1 to {COUNTS[-1]} trained ones: {grows.text}.",
)  # fmt: skip
print(f"unseen, base untouched: {spread(untouched)}")
print(f"after {NAMES[COUNTS[0]]}, minus the base: {few.text}")
print(f"after {NAMES[COUNTS[-1]]}, minus the base: {many.text}")
claims.record(
    54,
    f"exact match on families never trained, {COUNTS[0]} to {COUNTS[-1]} trained ones at equal "
    f"steps: {grows.text}",
    grows.rule + "; true if it rises, false if flat or falls, else undecided",
    {"rises": "true", "flat": "false", "falls": "false"}.get(grows.verdict, "undecided"),
    few=few.text,
    many=many.text,
)

# %% [markdown]
# Where one family makes the unseen ones worse, what it taught is *do this, whatever is asked*. Where many make them better, what they
# taught is *read the word*. The skills themselves were in the base all the time.
#
# ## 2. Preferences: what do you do when nobody can write the answer?
#
# Now the question is `in peru`, and the base goes on with what it has read: the language, the capital, or the money.

# %%
from minipeft.course import preferences as taste

model, tokenizer = base
for question in taste.opened("train")[:3]:
    print(question, "->", taste.write(model, tokenizer, [question] * 3, seed=1))
print(
    {
        name: f"{100 * share:.0f} %"
        for name, share in taste.mixture(*base, taste.opened("dev")).items()
    }
)

# %% [markdown] tags=["slide"]
# A **judge**, a traveller, is shown two such answers and says which is better: the language before the capital, the capital before the
# money, and what is not true last. The judge never writes a sentence. From pairs $(x, y_w, y_l)$, a question, a better and a worse
# answer, **DPO** (Rafailov et al. 2023, [arXiv 2305.18290](https://arxiv.org/abs/2305.18290)) tunes the model $\pi$ with
#
# $$ L = -\log \sigma\!\left(\beta \log \frac{\pi(y_w|x)}{\pi_{\mathrm{ref}}(y_w|x)} - \beta \log \frac{\pi(y_l|x)}{\pi_{\mathrm{ref}}(y_l|x)}\right) $$
#
# (the paper's equation 7; $\sigma$ is the sigmoid). $\pi_{\mathrm{ref}}$ is the model before. $\beta \log(\pi / \pi_{\mathrm{ref}})$ is called the **reward** of an answer: how much more likely
# it has become. The loss asks that the better one gains more than the worse one.
#
# ### Exercise: how likely is an answer?
#
# $\log \pi(y|x)$ is the **sum** of the log-probabilities of the tokens of $y$. `logits` is (B, T, V), `labels` (B, T) has −100 on the
# question and on padding. The logits at position $t$ say what comes at $t + 1$. Give (B,): in float32 where the logits are bfloat16, and
# otherwise in their dtype. A row without an answer gets 0.

# %% exercise="minipeft.training.preferences:answer_log_probability" difficulty=2 minutes=10
# answer_log_probability: shift first; gather needs an index without -100

# %%
checks.answer_log_probability(answer_log_probability)

# %% [markdown]
# ### Exercise: the loss
#
# The four inputs are log-probabilities, (B,) each. Give the mean over pairs, a tensor of one number. It must stay finite when a pair is
# far off. Gradients reach `better` and `worse`; the reference is frozen.

# %% exercise="minipeft.training.preferences:dpo_loss" difficulty=1 minutes=6
# dpo_loss: a quotient of probabilities is a difference of their logarithms

# %%
checks.dpo_loss(dpo_loss)

# %% [markdown]
# ### Exercise: four numbers
#
# With $\beta = 0.1$ and one pair. `"start"`: the loss before the first step. `"apart"`: when $\log \pi$ of the better answer has risen by
# 5 and that of the worse has fallen by 5. `"both"`: when **both** have fallen by 20. `"pull"`: the size, without the sign, of $dL / d \log \pi(y_w|x)$
# before the first step.

# %% exercise="minipeft.checks:dpo_numbers" difficulty=2 minutes=8
# A dict of four numbers; two digits are enough.
import math

dpo_numbers = {
    "start": math.log(2),  # -log sigmoid(0)
    "apart": math.log(1 + math.exp(-0.1 * 10)),  # -log sigmoid(1)
    "both": math.log(2),  # the difference is 0
    "pull": 0.1 / 2,  # beta times the slope of -log sigmoid at 0
}

# %%
checks.dpo_numbers(dpo_numbers)

# %% [markdown] tags=["slide"]
# Keep `"both"` in mind: the loss does not see whether the better answer has become more likely. It sees only the *difference*.
#
# ## 3. Where is the reference?
#
# **Claim: a preference-tuned adapter needs a second, frozen model as reference.** With an adapter $\pi$ is the base *and* the adapter.
# **Predict:** what is the base *without* it?

# %%
import math

from minipeft.training.preferences import prefer

pairs = taste.judged_pairs(*base, taste.opened("train"), seed=0)
batch = taste.as_batch(pairs, *base)
print(len(pairs), "pairs; the first:", pairs[0])
with runs.attached(model, LORA, seed=0) as tuner:
    history = prefer(model, tuner, batch, SHORT, 1e-3, progress=False)
    reference, facts = taste.reference_table(model, tuner, batch)
claims.record(
    63,
    f"log-probabilities of {2 * len(pairs)} answers with the adapter off are "
    f"{'equal to the bit to' if facts['equal'] else 'not equal to'} those of a frozen copy, which "
    f"would take {facts['bytes']:,} bytes more",
    rule="false if equal to the bit",
    verdict="false" if facts["equal"] else "true",
)
reference

# %% tags=["hide-input", "slide"]
figure, (left, right) = plots.figure(2, height=3.6)
left.plot(history.losses, color=plots.NEUTRAL)
left.axhline(math.log(2), color=plots.GREY, ls=":", label="log 2")
plots.finish(left, "step", "DPO loss (nats)", "seed 0, rate 0.001, β = 0.1", legend=False)
right.plot(history.better, color=plots.COLOURS["LoRA"], label="better answers")
right.plot(history.worse, color=plots.COLOURS["full"], ls="--", label="worse answers")
right.axhline(0, color=plots.GREY, ls=":")
fell, both = history.better[-1] < 0, history.better[-1] * history.worse[-1] > 0
axes = plots.finish(
    right, "step", "change of log π (nats)", "how likely answers have become",
    caption=f"The loss falls from {history.losses[0]:.2f} to {history.losses[-1]:.2f}. The better "
    f"answers have become {'less' if fell else 'more'} likely ({history.better[-1]:+.1f} nats), the worse "
    f"ones {'too' if both else 'more' if fell else 'less'} ({history.worse[-1]:+.1f}).",
)  # fmt: skip

# %% [markdown]
# ### Exercise: five runs
#
# Five colleagues tuned on these pairs, with small steps. Each cause is used once: `"moving"` (the reference is the model as it is now: the
# tuner was not switched off), `"none"` (there is no reference), `"swapped"` (better and worse have changed places), `"beta"` ($\beta$ is a
# thousand times too large), `"healthy"`.

# %%
taste.patients_table(base, pairs, PATIENCE)

# %% exercise="minipeft.checks:dpo_patients" difficulty=2 minutes=7
# A dict from "A" to "E". Which loss must the first step have, and which of the two answers must lose?
dpo_patients = {"A": "swapped", "B": "none", "C": "healthy", "D": "moving", "E": "beta"}

# %%
checks.dpo_patients(dpo_patients)

# %% [markdown] tags=["slide"]
# ## 4. Preferences against more supervised steps
#
# The better answers alone are also data for ordinary supervised fine-tuning, **SFT**. So: DPO on the pairs, or SFT on their better
# answers, with equally many answers in every step, 40 or 120 steps. Same LoRA, rates tuned alike on dev countries. The judge then reads drawn answers for 50
# countries **of which no pair speaks**, opened as before, or opened otherwise (`at night in peru`). The scale is the judge's: 2 for the
# language, 1 for the capital, 0 for the money, −1 for anything wrong.
#
# *Pairs ranked right* is the share of held-out pairs whose better answer has the higher reward. **Predict:** which scores higher? Which moves
# the model further from itself (*drift*: the KL divergence of its next-word probabilities from the base's, in nats per token), and
# which forgets more (of what it knew right: capitals and functions of words, the share that is wrong now)?

# %%
ask = runs.Known(*base)


@cache
def preferred(arm, rate, seed):
    kind, steps = arm.split(", ")
    return taste.tuned(base, LORA, kind, rate, int(steps.split()[0]), seed, known=ask)


kinds = {"SFT": RATES, "DPO": DPO_RATES}
grid = {f"{kind}, {n} steps": rates for kind, rates in kinds.items() for n in PASSES}
judged = contest(grid, preferred, SEEDS, label="preferences")
plain = [preferred("SFT, 0 steps", 1e-3, seed) for seed in SEEDS]

# %% tags=["hide-input", "slide"]
from minipeft.report import Table

keys = ("test", "other", "right", "drift", "forgotten")
still = ("-", "0", "0")  # the base gives no rewards, and is where it is
rows = [("base", "-", *(spread([one[k] for one in plain], "") for k in keys[:2]), *still)]
rows += [
    (name, f"{one.rate:g}", *(spread(one.values(k), "") for k in keys))
    for name, one in judged.items()
]
head = (
    "",
    "rate",
    "judge, 50 countries",
    "opened otherwise",
    "pairs ranked right",
    "drift",
    "forgotten",
)
claims.show(Table("What the judge thinks (−1 to 2), and what it cost", head, rows))
figure, axes = plots.figure(height=3.8, width=7.6)
looks = {"SFT": (plots.COLOURS["full"], "s"), "DPO": plots.look("LoRA")}
for name, one in judged.items():
    colour, marker = looks[name[:3]]
    fill = colour if name.endswith(f"{PASSES[0]} steps") else "none"
    axes.scatter(
        one.values("drift"), one.values(), color=colour, marker=marker, facecolor=fill, label=name
    )
score = [one["test"] for one in plain]
axes.axhline(plots.interval(score)[0], color=plots.GREY, ls=":", label="base")
by_seed = {name: one.values() for name, one in judged.items()}
gain, same, longer = (
    difference(by_seed[f"DPO, {PASSES[0]} steps"], against, MARGIN, unit="of the scale")
    for against in (score, by_seed[f"SFT, {PASSES[0]} steps"], by_seed[f"SFT, {PASSES[-1]} steps"])
)
plots.finish(
    axes, "drift (nats per token)", "the judge's score", "50 countries of which no pair speaks",
    caption=f"DPO, {PASSES[0]} steps, minus the base: {gain.text}. Up and to the left is better.",
)  # fmt: skip
for steps, gap in ((PASSES[0], same), (PASSES[-1], longer)):
    print(f"score, DPO with {PASSES[0]} steps minus SFT with {steps}: {gap.text}")
cheaper = difference(
    judged[f"DPO, {PASSES[0]} steps"].values("drift"), judged[f"SFT, {PASSES[0]} steps"].values("drift"),
    0.02, unit="nats", lower_is_better=True,
)  # fmt: skip
print(f"drift, DPO minus SFT, {PASSES[0]} steps each: {cheaper.text}")
most = {
    key: max(judged, key=lambda name: plots.interval(judged[name].values(key))[0]) for key in keys
}
print(f"By their means the highest score has {most['test']}, the largest drift {most['drift']};")
print(f"most is forgotten by {most['forgotten']}.")
claims.record(
    55,
    f"the judge's score on countries of which no pair speaks, DPO minus base: {gain.text}; minus SFT on "
    f"the better answers, equal steps: {same.text}; {PASSES[-1]} steps: {longer.text}",
    "true if better than the base and than SFT with equal and with more steps; misleading if better than "
    "the base and equal to or worse than one of these; false if worse than the base or equal to it; else "
    "undecided",
    "true" if {gain.verdict, same.verdict, longer.verdict} == {"better"}
    else "misleading" if gain.verdict == "better" and {same.verdict, longer.verdict} & {"equal", "worse"}
    else "false" if gain.verdict in ("worse", "equal") else "undecided",
)  # fmt: skip

# %% [markdown] tags=["slide"]
# ## 5. When the model moves too far
#
# Dev chose a small rate for DPO. What happens at a larger one, 0.003? $\beta$ is meant to hold the model near the reference:
# it goes from 0.03 to 2. **Predict:** at which end of this sweep does the judge like the answers less than those of the base, although the pairs are ranked better?
# (Dotted: the base. It gives no rewards, so that it ranks pairs by chance.)

# %%
swept = {
    beta: [taste.tuned(base, LORA, "DPO", 3e-3, SHORT, seed, beta=beta) for seed in FEW]
    for beta in BETAS
}

# %% tags=["hide-input", "slide"]
figure, panels = plots.figure(3, height=3.4)
measures = {  # label, and the possible range
    "right": ("held-out pairs ranked right", (0, 1)),
    "test": ("the judge's score", (-1, 2)),
    "drift": ("drift (nats per token)", (0, math.inf)),
}
for axes, (key, (label, limits)) in zip(panels, measures.items(), strict=True):
    plots.whiskers(
        axes,
        BETAS,
        [[one[key] for one in swept[b]] for b in BETAS],
        "DPO",
        *plots.look("LoRA"),
        limits=limits,
    )
    at_first = [one[key] for one in plain] if key == "test" else [0.5] if key == "right" else [0.0]
    axes.axhline(plots.interval(at_first)[0], color=plots.GREY, ls=":")
    axes.set_xscale("log")
    axes.set_xticks(BETAS, [f"{b:g}" for b in BETAS])
    axes.minorticks_off()
    plots.finish(axes, "β", label, "", legend=False)
ranked = plots.interval([one["right"] for one in swept[BETAS[0]]])[0]
low, high = (plots.interval([one["test"] for one in swept[b]])[0] for b in (BETAS[0], BETAS[-1]))
held = trend(BETAS, [[one["drift"] for one in swept[b]] for b in BETAS], 0.1, unit="nats", log=True)
plots.add_caption(
    figure,
    f"β = {BETAS[0]:g}: {100 * ranked:.0f} % of the pairs are ranked right, and the judge gives {low:.2f}; "
    f"β = {BETAS[-1]:g}: {high:.2f}. Drift with β: {held.text}.",
)
disliked = [
    f"{beta:g}"
    for beta in BETAS
    if plots.interval([one["test"] for one in swept[beta]])[0] < plots.interval(score)[0]
    and plots.interval([one["right"] for one in swept[beta]])[0] > 0.5
]
print(
    "pairs ranked better than by chance, answers liked less than the base's, by their means: "
    f"β = {', '.join(disliked) or 'none'}"
)
answers = taste.write(model, tokenizer, taste.opened("test")[:2])
with runs.attached(model, LORA, seed=0) as tuner:
    prefer(model, tuner, batch, SHORT, 3e-3, beta=BETAS[0], progress=False)
    broken = taste.write(model, tokenizer, taste.opened("test")[:2])
for question, good, bad in zip(taste.opened("test"), answers, broken, strict=False):
    print(f"{question}: base {good!r}; DPO with β = {BETAS[0]:g} {bad!r}")

# %% [markdown]
# The loss looks at pairs only. An answer that is in no pair may become likelier than both, and the model may speak what nobody ever
# judged. That is why runs of this kind are watched by their **drift** and by reading answers, not by the loss.
#
# ## 6. A dozen preferences on a real model
#
# SmolLM2-135M-Instruct likes whole sentences. Twelve pairs written by hand say that a short answer is better. LoRA in the upper eight of
# thirty layers, twelve steps, a smaller and a larger rate. It is then asked eight questions that stand in no pair. **Predict:** can twelve
# pairs change a habit? Does what it says stay right?

# %%
from minipeft.course import real
from minipeft.course import real_preferences as by_hand
from minipeft.training import preferences

loaded = real.load("smollm2") if REAL_RATES else None
seen, said = {rate: [] for rate in REAL_RATES}, {}
if loaded:
    big, words = loaded
    asked = by_hand.questions_asked()
    taught = by_hand.hand_pairs(words)
    first = by_hand.replies(big, words, asked)
    upper = mp.LoRA(8, alpha=16, layers=tuple(range(22, 30)))
    for rate in REAL_RATES:
        for seed in FEW:
            with runs.attached(big, upper, seed=seed) as tuner:
                given = dict(batch_size=4, seed=seed, progress=False)
                prefer(big, tuner, taught, REAL_STEPS, rate, **given)
                said[rate] = by_hand.replies(big, words, asked)
                seen[rate].append(
                    (*by_hand.judged(said[rate]), preferences.drift(big, tuner, taught))
                )

# %% tags=["hide-input"]
if loaded:
    before = by_hand.judged(first)
    rows = [("before", f"{before[0]:.1f}", f"{100 * before[1]:.0f} %", "0")]
    for rate, each in seen.items():
        length, right_word, moved = zip(*each, strict=True)
        rows.append((f"rate {rate:g}", spread(length, ""), spread(right_word), spread(moved, "")))
    head = ("", "words per answer", "the right word is in it", "drift (nats per token)")
    claims.show(Table(f"Eight questions that no pair has, {REAL_STEPS} steps", head, rows))
    for place, text in list(enumerate(asked))[:4]:
        print(f"{text}\n   before:      {first[place]}")
        for rate, answers in said.items():
            print(f"   rate {rate:<7g} {answers[place]}")
    for rate, each in seen.items():
        count = len(each)
        shorter = difference(
            [one[0] for one in each], [before[0]] * count, 0.5, unit="words", lower_is_better=True
        )
        still = difference([one[1] for one in each], [before[1]] * count, 0.125)
        print(f"rate {rate:g}: length {shorter.text}; right {still.text}")

# %% [markdown] tags=["slide"]
# ## What this lesson showed, and what it did not
#
# * At equal steps, only the variety of instructions differed: the trend under the first figure says what it does for families that
#   were never trained.
# * A preference is a comparison. DPO needs pairs, one loss, and the model with its adapter switched off.
# * The loss sees a difference. It can fall while both answers become unlikely; then the model says something else.
# * What DPO gains or loses against supervised tuning on the better answers stands under the figure of part 4, beside what each costs in
#   drift and in what is forgotten.
# * A dozen pairs on a real model: whether the habit changed, and whether answers stayed right, stands under the table of part 6.
#   Where it says *undecided*, eight questions and three seeds cannot tell; the drift shows how much the larger rate moved.
# * *How it came about:* in a first trial DPO ran at rates of 0.001 and more, and the judge liked its answers less than the base's. So its
#   grid was set lower, before the contest; part 5 shows the fault itself.
# * *Not shown:* people. The judge here is a rule, always of one mind. Nor a reward model with reinforcement learning, nor an
#   assistant's real questions; three families held out are few.
#
# **To go on:** turn the judge's taste round: change the numbers in `taste.SAID` behind its import, restart, and run all again.
# Is the money learnt as easily as the language? This was the last lesson.
