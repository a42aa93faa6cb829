# ---
# jupyter:
#   minipeft:
#     title: Which method?
#     question: A table says that one method is best. Does it rank methods, or settings?
#     minutes: 4
#     sitting: 85
#     attempts: 4
# ---

# %% [markdown] tags=["slide"]
# You know a dozen methods now. A colleague asks: *which one should I take?* There are tables that seem to know. This lesson
# makes such a table itself, and then asks what it is worth.
#
# Look at a real one first. 🤗 PEFT publishes a benchmark of its methods: one task of mathematics, one model of 3 billion
# numbers. Some methods stand in it several times, with other learning rates and other first values.

# %% tags=["hide-input", "slide"]
from minipeft.course import which_method_clouds as clouds

figure = clouds.peft_picture()
print(clouds.PEFT_SOURCE)

# %% [markdown]
# A method is not a point. It is a cloud, and a table shows one dot of each cloud. Whoever tuned one method for a day and the
# other for a minute has compared a day with a minute.
#
# So a contest must hold two things equal: **what a method may spend** (how many numbers it keeps for a task) and **how
# hard it was tuned** (how many settings were tried).
#
# ## 1. The same budget
#
# Our model is `tiny-decoder-0.4m`: $L = 4$ layers, width $C = 80$. The budget is $10{,}240$ numbers for a task.
#
# | method | what is kept | numbers |
# |---|---|---|
# | LoRA of rank $r$ beside $W_q$ and $W_v$ (each $C \times C$) | $A$ (r, C) and $B$ (C, r) for each map, in every layer | ? |
# | P-Tuning v2 of length $P$ | $P$ keys and $P$ values of width $C$ in every layer | ? |
# | adapter of bottleneck $m$, one in each layer | $W_{down}$ (m, C), $W_{up}$ (C, m), and a bias behind each of the two | ? |
# | prompt tuning of length $P$ | $P$ vectors of width $C$, at the input only | ? |
#
# ### Exercise: spend it
#
# How large can each be, at most, with no more than 10,240 numbers? Answer with a dict of whole numbers,
# `{"LoRA": r, "P-Tuning v2": P, "adapter": m, "prompt tuning": P}`.

# %% exercise="minipeft.checks:same_budget" difficulty=2 minutes=8
# Count what one unit costs (one rank, one vector, one hidden feature), then divide and round down.
L, C, budget = 4, 80, 10_240
same_budget = {
    "LoRA": budget // (L * 2 * (C + C)),
    "P-Tuning v2": budget // (L * 2 * C),
    "adapter": (budget - L * C) // (L * (2 * C + 1)),  # C biases a layer stand there whatever m is
    "prompt tuning": budget // C,
}

# %%
from minipeft import checks

checks.same_budget(same_budget)

# %% [markdown]
# The last one is a trap of another kind. This model has 96 positions. A prompt of that length does not fit in, with or
# without a text behind it. **Not every method can spend every budget.** Prompt tuning gets 20 vectors. BitFit and (IA)³
# have one size each. Full fine-tuning and its top layer cannot be made so small. The table says what each got. (Its
# adapter is Houlsby's: *two* in each layer and the norms trained as well, so that its $m$ is 6.) Each row is an **arm**
# of the contest: a method with its settings.

# %% fast="OWN, SEEDS, STEPS, ROWS, OWN_RATES, QUICK = OWN[-2:], [10, 11], 2, 6, (1e-2, 3e-2), True"
from minipeft.course import which_method as lesson

OWN = ("full", "adapter", "P-Tuning v2", "prompt tuning", "LoRA")  # arms of this run
TASKS = {"novel task": lesson.NOVEL, "latent task": lesson.LATENT}
SEEDS = [10, 11, 12]  # of this run; the stored runs have others
STEPS, ROWS, OWN_RATES = lesson.STEPS, lesson.ROWS, lesson.RATES  # as the stored runs
MARGIN = 0.05  # five points of exact match make no difference
QUICK = False

# %% tags=["hide-input"]
from functools import partial

from minipeft.course import which_method_charts as charts
from minipeft.course.experiments import difference, in_a_row, spread
from minipeft.report import Table

stored = lesson.Runs.read()
outcomes = {situation: stored.contest(situation) for situation in lesson.SITUATIONS}
KEPT = {name: outcome.runs[0]["stored"] for name, outcome in outcomes[lesson.NOVEL].items()}
Table(
    "Thirteen arms",
    ("", "settings", "trained", "kept"),
    [
        (name, method.describe(), outcomes[lesson.NOVEL][name].runs[0]["trained"], KEPT[name])
        for name, method in lesson.ARMS.items()
    ],
    ["Prefix-tuning and P-tuning train a network that makes the prompt, and throw it away."],
)

# %% [markdown]
# ## 2. The contest
#
# Two tasks. In the **latent** one (`reverse`) the base knows how to reverse a row of words and must only be asked. In the
# **novel** one (`reverse-rotate`) it must learn something new. Every arm tries the *same* five rates, from 0.001 to 0.1, and one more where
# the best lies at the edge. One seed chooses on dev, all seeds are reported on test: **exact match**, the share of rows whose whole
# answer is right.
#
# All thirteen arms in five situations are more than four minutes of work. So there are two groups of runs: the **stored** ones, made
# once by `python -m benchmarks.contest` (filled marks in the figure), and **those of this run** (open marks): five arms, two tasks, *other* seeds, the same code.
#
# **Predict:** who wins on the novel task? Is it the winner on the latent task, too? And how many arms can so few seeds tell from
# the winner?

# %% tags=["hide-input"]
live = lesson.Runs(train=partial(lesson.measure, steps=STEPS, rows=ROWS))
repeated = {
    title: live.contest(situation, OWN, SEEDS, OWN_RATES) for title, situation in TASKS.items()
}

# %% tags=["hide-input", "slide"]
figure = charts.contest_picture({title: outcomes[TASKS[title]] for title in repeated}, repeated)


# %% tags=["hide-input", "slide"]
def answer_contest() -> None:
    """Who leads, who cannot be told from it, and whether this run agrees with the stored ones."""
    for title in repeated:
        values = charts.scores(outcomes[TASKS[title]])
        against = lesson.against_best(values, MARGIN)
        best = lesson.leader(values)
        level = [name for name, said in against.items() if said in ("equal", "undecided")]
        print(f"{title}: {best}, {spread(values[best])}.")
        print(f"  Not shown to be worse: {', '.join(level) or 'nobody'}.")
        edge = [name for name, outcome in outcomes[TASKS[title]].items() if outcome.edge]
        print(f"  Best rate still at the edge of what was tried: {', '.join(edge) or 'nobody'}.")
        fresh = {name: sum(v) / len(v) for name, v in charts.scores(repeated[title]).items()}
        old = {name: sum(values[name]) / len(values[name]) for name in fresh}
        share = lesson.turned(fresh, old)
        print(f"  This run and the stored ones order {100 * (1 - share):.0f} % of the pairs alike.")


answer_contest()

# %% [markdown]
# The intervals of so few seeds are wide. "Not shown to be worse" is not "equal": it says that this evidence cannot choose. And an
# arm whose best rate lies at the edge may be better than it looks here.
#
# ## 3. Two aims at once
#
# The most exact method may also keep the most numbers. With two aims there is seldom one winner. A method is **beaten** if
# another is at least as good in both aims, and better in one. The methods that nobody beats are the **Pareto front**.
#
# ### Exercise: the front
#
# | | shape | |
# |---|---|---|
# | `costs` | (n,) | lower is better |
# | `scores` | (n,) | higher is better |
# | answer | (n,), bool | True for every point that no other one beats |
#
# Two equal points do not beat each other: both stay.
#
# <details><summary>Hint</summary>
#
# Compare every point with every other one: `costs[:, None] <= costs` is (n, n), and its element $[i, j]$ says that $i$ costs no
# more than $j$.
# </details>

# %% exercise="minipeft.course.pareto:pareto_front" difficulty=2 minutes=10
# pareto_front: "at least as good in both" and "better in one of them" are two (n, n) tables

# %%
checks.pareto_front(pareto_front)

# %% [markdown]
# **Predict:** which of the thirteen arms are on the front? Full fine-tuning keeps 390,000 numbers, (IA)³ 1,920.

# %%
import torch

arms = charts.scores(outcomes[lesson.NOVEL])
kept, means = (
    torch.tensor(list(KEPT.values())),
    torch.tensor([sum(v) / len(v) for v in arms.values()]),
)
try:
    front = pareto_front(kept, means)
    print("novel task:", ", ".join(name for name, on in zip(arms, front, strict=True) if on))
except NotImplementedError as missing:
    print(missing)

# %% tags=["hide-input", "slide"]
figure = charts.pareto_picture({title: outcomes[situation] for title, situation in TASKS.items()})

# %% [markdown]
# A front is made of means, and means have noise. **Predict:** who is on the front with every seed, and who is there by luck? Ask
# seed by seed:

# %%
charts.front_by_seed(outcomes[lesson.NOVEL])

# %% [markdown]
# ## 4. Method or setting?
#
# On the novel task *every* rate ran with three seeds, and five methods ran in a second form as well: another start,
# more maps, another place. So we can draw our own clouds. (Part 2 had five seeds for the best setting, so the first
# place may be another one here.)
#
# **Predict:** how far does the learning rate move one method? As far as methods lie apart?

# %% tags=["hide-input", "slide"]
every_setting = clouds.clouds_of(stored)
figure = clouds.settings_picture(every_setting)
print(clouds.settings_or_methods(every_setting))

# %% [markdown]
# Now make leaderboards of these same runs. A usual way to be "fair" is one learning rate for all. That gives five
# leaderboards, and none of their numbers is wrong. **Predict:** how many different winners do the five have?

# %% tags=["hide-input", "slide"]
columns = clouds.rank_columns(every_setting)
clouds.rank_table(columns)

# %% tags=["hide-input"]
from minipeft.course import claims

firsts = clouds.first_places(columns)
others = clouds.another_winner(every_setting, MARGIN)
champion = firsts[clouds.BEST]
turned = [100 * lesson.turned(each, columns[clouds.BEST]) for each in columns.values()][:-1]
widest = max(every_setting, key=lambda name: sum(every_setting[name].moves))
print("First place:", "; ".join(f"{title}: {name}" for title, name in firsts.items()))
common = {name for title, name in firsts.items() if title != clouds.BEST}
print(f"The five leaderboards with one rate for all have {len(common)} different winners.")
print(
    f"A common rate turns {min(turned):.0f} to {max(turned):.0f} % of all pairs round, against the column of dev."
)
claims.record(
    62,
    measured=f"stored runs, novel task: first as dev sets them is {champion}; of five leaderboards "
    f"of the same runs, each with one rate for all, {len(others)} have another first one that is "
    f"surely better there than {champion}; settings move {widest} by "
    f"{spread(every_setting[widest].moves).removesuffix(' %')} points; in "
    "PEFT's benchmark they move one method by 28.6 points, and methods at their best lie 17.0 apart",
    rule="false if at least one leaderboard has a first one that is better there, by its paired "
    "interval, than the winner as dev sets them; true if all have the same first one; else undecided",
    verdict="false" if others else "true" if len(set(firsts.values())) == 1 else "undecided",
    firsts=list(firsts.values()),
)

# %% [markdown]
# The two last columns are 🤗 PEFT's six methods: another task, a model thousands of times as large, so the ranks need
# not agree with ours. The last column says which ranks a method could get, as its published settings and those of the
# others are chosen well or badly. Ranks 4 to 6 are a matter of settings; of each of the first three only one or two
# were published.
#
# ### Exercise: five reports of one contest
#
# Five colleagues reported on the stored runs. Each compares two methods; the second one wins. All numbers are true, and
# four of the reports are unfair. A row shows all rates that were tried, the one that was taken, and what was reported.

# %% tags=["hide-input"]
from minipeft.course import which_method_sheets as sheets

sheets.reports(stored)

# %% [markdown]
# Give each its cause, each used once, `{"A": cause, "B": ...}`:
#
# * `"rates"`: the rates suit the winner only. The other's best lies at the edge of what was tried.
# * `"size"`: the winner keeps far more numbers for a task than the other one.
# * `"test"`: a rate was chosen by what it gives on test, not on dev.
# * `"seeds"`: of one the best seed is reported, of the other the mean.
# * `"fair"`: nothing of that.

# %% exercise="minipeft.checks:unfair_contests" difficulty=2 minutes=8
# Which rate has the lowest dev loss? Is "reported" the mean of the three seeds?
unfair_contests = {"A": "test", "B": "fair", "C": "size", "D": "rates", "E": "seeds"}

# %%
checks.unfair_contests(unfair_contests)

# %% [markdown]
# What was kept, what was tried, who chose, how many seeds: a report that leaves these columns out cannot be judged at all.
#
# ## 5. It depends: on what?
#
# The same contest in five situations, and two more questions: what happens out of domain (rows longer than those in training), and
# how much of its old knowledge does the tuned model forget? (Whoever learns nothing forgets nothing, so the last column has
# only arms that get half of the novel task right.)
#
# In the chart ★ is the best mean of a column and ○ an arm that is not shown to be worse. **Predict:** is there a method with a
# star or a ring in *every* column?

# %% tags=["hide-input", "slide"]
few, small, headline = lesson.SITUATIONS[2:]
learnt = {name for name, values in arms.items() if sum(values) / len(values) >= 0.5}
forgotten = charts.scores(outcomes[lesson.NOVEL], "forgotten")
SHOWN = {
    "novel\n1,000": (charts.scores(outcomes[lesson.NOVEL]), False),
    "novel\n200": (charts.scores(outcomes[small]), False),
    "latent\n1,000": (charts.scores(outcomes[lesson.LATENT]), False),
    "latent\n32": (charts.scores(outcomes[few]), False),
    "headline\n1,000": (charts.scores(outcomes[headline]), False),
    "latent,\nlonger": (charts.scores(outcomes[lesson.LATENT], "ood"), False),
    "latent 32,\nlonger": (charts.scores(outcomes[few], "ood"), False),
    "forgotten\n(low: good)": (
        {name: v for name, v in forgotten.items() if name in learnt},
        True,
    ),
}
figure = charts.decision_chart(SHOWN, MARGIN)


# %% tags=["hide-input", "slide"]
def everywhere() -> str:
    """The arms that are best or not shown to be worse in all columns that they are in."""
    sets = [
        {
            name
            for name, said in lesson.against_best(values, MARGIN, lower).items()
            if said != "worse"
        }
        for values, lower in SHOWN.values()
    ]
    return ", ".join(name for name in lesson.ARMS if all(name in one for one in sets)) or "none"


print("In every column:", everywhere())
charts.decision_table(SHOWN, KEPT, MARGIN)

# %% [markdown]
# A ring far below the star means that the seeds lie far apart, not that the arm is good. The last column counts in how
# many seeds the best arm is first.
#
# ### Exercise: first by luck
#
# A star is the best of thirteen means, and each mean has noise. Suppose that all thirteen arms are **equally good**, and that
# each mean lies beside the truth by independent normal noise with a standard deviation of 2 points. How many points above the
# truth lies the best of the `"thirteen"` means, on average? And the better one of only `"two"`? Simulate it: many contests, the
# best of each, the mean of these. An error of 3 % is allowed.
#
# <details><summary>Hint</summary>
#
# `2 * torch.randn(100_000, 13)` is the noise of 100,000 contests, one in each row.
#
# </details>

# %% exercise="minipeft.checks:first_by_luck" difficulty=1 minutes=6
# A dict of two numbers, in points.
import torch

noise = 2 * torch.randn(200_000, 13, generator=torch.Generator().manual_seed(0))
first_by_luck = {
    "thirteen": noise.max(dim=1).values.mean().item(),  # the best of each row, (contests,)
    "two": noise[:, :2].max(dim=1).values.mean().item(),
}

# %%
checks.first_by_luck(first_by_luck)

# %% [markdown]
# So the first of thirteen *equal* arms looks better than it is, and nobody has cheated. A star alone decides nothing.
# Where many arms cannot be told apart, take the one that is *cheapest in what you care about*: the smallest file, the
# one that merges, the one that can share a batch. The passports know that.
#
# ## 6. All passports
#
# Each method's lesson stored its passport. Those of methods without one are measured now. **Predict:** which methods merge into
# the base, and which cannot share a batch with others?

# %% tags=["hide-input"]
import minipeft as mp

MISSING = {
    "full": (mp.FullFineTuning(), [3e-4, 1e-3, 3e-3]),
    "BitFit": (mp.BitFit(), [1e-2, 3e-2, 1e-1]),
    "IA3": (mp.IA3(), [3e-2, 1e-1, 3e-1]),
    "AdaLoRA": (mp.AdaLoRA(), [1e-2, 3e-2, 1e-1]),
    "UniPELT": (mp.UniPELT(), [3e-3, 1e-2, 3e-2]),
}
if QUICK:
    MISSING = {"full": MISSING["full"]}
passports, source = sheets.passports_of(MISSING, QUICK)

# %%
sheets.passport_table(passports, source)

# %% [markdown]
# ## 7. What people say
#
# Most sentences about methods compare two of them and leave the situation out. Earlier lessons measured some:

# %%
sheets.verdicts([4, 11, 17, 18, 29, 45, 47, 57, 58, 59])

# %% [markdown]
# Two of them the contest can answer once more, in all its situations: *LoRA is as good as full fine-tuning*, and *no single
# method is best, and a union of methods with gates wins*. The union is UniPELT. Here it has no more numbers than the others.
#
# **Predict:** true, false, or "it depends"?


# %% tags=["hide-input"]
def compared(one: str, other: str | None = None) -> dict:
    """Situation -> an arm against another one, or against the best of all single methods on dev."""
    result = {}
    for situation, each in outcomes.items():
        rival = other or min(
            (name for name in each if name not in ("UniPELT", "full", "top")),
            key=lambda name: sum(each[name].values("dev")),
        )
        result[situation if other else f"{situation} ({rival})"] = difference(
            each[one].values(), each[rival].values(), MARGIN
        )
    return result


def record_all(number: int, pair: str, compared: dict, rule: str, level: tuple[str, ...]) -> None:
    """True if the verdict is one of `level` everywhere, false if worse everywhere, else by the mix."""
    said = [change.verdict for change in compared.values()]
    verdict = (
        "true"
        if set(said) <= {*level}
        else "false"
        if set(said) == {"worse"}
        else "misleading"
        if "worse" in said
        else "undecided"
    )
    words = f"stored runs, {pair}: {in_a_row(compared.values(), compared)}"
    claims.record(number, words, f"{rule}; {change_rule}", verdict)


change_rule = next(iter(compared("LoRA", "full").values())).rule
record_all(
    *(45, "LoRA minus full", compared("LoRA", "full")),
    "true if equal or better in all situations, false if worse in all, misleading if worse in some",
    ("equal", "better"),
)
record_all(
    *(47, "UniPELT minus the best single method", compared("UniPELT")),
    "UniPELT, of equal size, minus the single method that is best on dev: true if better in all "
    "situations, false if worse in all, misleading if worse in some",
    ("better",),
)

# %% [markdown] tags=["slide"]
# ## What this lesson showed, and what it did not
#
# * Equal budget has two halves: what is kept, and how hard each method was tuned (part 1).
# * One set of runs gives several leaderboards. Which method is first depends on how rates were chosen (part 4).
# * Four ways to be unfair with true numbers (part 4).
# * The answer to "which method?" is a *set*, and it depends on the situation (part 5). Inside the set, price decides: the front (part 3) and the passports (part 6).
#
# It did not show which method is best for *your* task. Our model has 0.4 million numbers, our tasks are toys, 100 steps
# may be too few for some arms, and a part of each star's lead is luck. The rate was tuned, and little else. 🤗 PEFT's
# numbers are copied from its benchmark and not run again.
#
# Take the procedure with you: same budget, same tuning, dev chooses, test tells, several seeds, and a set instead
# of a winner.
#
# **To go on:** add an arm of your own to `lesson.ARMS` and rerun part 2. How many rates did it need before it looked good? Did
# the others get as many?
