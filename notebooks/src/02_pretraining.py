# ---
# jupyter:
#   minipeft:
#     title: Pretraining
#     question: What does a model learn by guessing words, and what does it not learn?
#     minutes: 4
# ---

# %% [markdown]
# Everything that a method of this course can do rests on what the frozen model already knows. So we look
# at how it came to know it. We take the corpus apart, make three different lessons out of one text, compute
# how small the loss can possibly get, train the smallest model from scratch (about two minutes), and
# then look at what four sizes of model have learned, and what none of them has.

# %%
import json
import math
import re
from collections import Counter

import matplotlib.pyplot as plt
import torch
from IPython.display import display
from torch.nn import functional as F

import tiny_transformer as tt
from minipeft import checks, plots, tasks
from tiny_transformer import objectives, recipes
from tiny_transformer.pretraining import learning_rate

plt.rcParams["figure.dpi"] = 90

# %% fast="steps, stages, rows, places, every, sizes = 4, [0, 2], 24, 20, 50, sizes[:2]"
steps = 2500
stages = [0, 50, 150, 300, 500, *range(750, steps, 250)]  # where we look at the model
rows, places = 200, 150  # questions per skill, countries
every = 1  # count words and pairs in every text
sizes = ["tiny-decoder-0.1m", "tiny-decoder-0.4m", "tiny-decoder", "tiny-decoder-3m"]

# %% [markdown]
# ## 1 · What it reads
#
# *Tinyland* is a small English world, made for this course by a generator (`data/DATASHEET.md`). Real facts
# about countries, invented people, reviews, records, puzzles with a rule. One document per line, in no
# order. Nobody tells the model what kinds there are, or that there are kinds.

# %%
corpus = recipes.corpus()  # kind -> documents
_, tokenizer = recipes.fresh("tiny-decoder-0.1m")
V = len(tokenizer)
tokens = {kind: sum(len(text.split()) + 1 for text in texts) for kind, texts in corpus.items()}
total = sum(tokens.values())
print(f"{sum(map(len, corpus.values())):,} documents, about {total:,} tokens, V = {V} words\n")
for kind, texts in corpus.items():
    print(f"{kind:<11}{len(texts):>7,} documents {tokens[kind] / total:>5.0%} | {texts[7]}")

# %% [markdown]
# ## 2 · One text, three lessons
#
# There are no labels in a text. A pretraining *objective* makes them: it hides something and asks for it.
# Each of the three families of lesson 01 has its own.
#
# | objective | family | the model sees | and must say |
# |---|---|---|---|
# | causal | decoder | the words so far | the next word |
# | masked | encoder | a text with 15 % of its words hidden | the hidden words |
# | span corruption | encoder-decoder | a text with runs of words cut out | the runs, in order |
#
# All three are plain functions: ids in, a batch out. In `labels`, −100 means *not asked*.


# %%
def line_up(*lines):
    """Prints words in columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)))


def names(ids):
    return ["·" if i == -100 else tokenizer.names[i] for i in ids.tolist()]


text = "the capital of france is paris ."
ids = tokenizer(text)["input_ids"]  # (1, T)
batch = objectives.causal(ids, tokenizer)
line_up(["input_ids", *names(batch["input_ids"][0])], ["labels", *names(batch["labels"][0])])

# %% [markdown]
# **Predict:** in this batch, what is the model asked for at the position of `france`?
#
# It looks as if it were asked for `france`, which it can see. But `Decoder.forward` shifts the labels by one
# place (as every model of `transformers` does): position t is scored on label t + 1.

# %%
shifted = F.pad(batch["labels"][:, 1:], (0, 1), value=-100)  # (1, T), as in Decoder.forward
line_up(["sees", *names(ids[0])], ["must say", *names(shifted[0])])

# %% [markdown]
# So *you* must not shift. Who shifts in the data as well trains a model to say the word after the next one.
# Nothing crashes; the loss is only higher than it should be.

# %% exercise="tiny_transformer.objectives:causal" difficulty=1 minutes=5
# causal: the labels are the words themselves; padding gets -100
# causal: attention_mask is 1 on real tokens, 0 on padding

# %%
checks.causal(causal)

# %% [markdown]
# ### Masked words
#
# An encoder sees both sides, so the next word would be no riddle. Some words are hidden instead. Of the
# chosen 15 %, 80 % become `<mask>`, 10 % become a random word, and 10 % stay as they are (Devlin et al.
# 2019, section 3.1). **Think:** what would go wrong if all of them became `<mask>`?
#
# <details><summary>Answer</summary>
#
# `<mask>` never occurs when the model is used later. A model that is only ever asked at a `<mask>` may give
# up on all other positions. With random and unchanged words among the asked ones it can trust no position
# blindly, and so it works on each.
# </details>

# %%
generator = torch.Generator().manual_seed(1)
long = tokenizer(" ".join(corpus["facts"][40:42]))["input_ids"]  # (1, T)
batch = objectives.masked(long, tokenizer, generator, corruption_rate=0.3)
line_up(["text", *names(long[0])], ["input_ids", *names(batch["input_ids"][0])],
        ["labels", *names(batch["labels"][0])])  # fmt: skip

# %% exercise="tiny_transformer.objectives:masked" difficulty=3 minutes=15
# masked: choose with torch.rand(ids.shape, generator=generator) < corruption_rate, among real words only
# masked: a second, independent draw says what happens to a chosen word
# masked: random words: torch.randint(first, len(tokenizer), ids.shape, generator=generator)
# masked: the labels hold the words that stood there, -100 everywhere else

# %%
checks.masked(masked)

# %% [markdown]
# ### Span corruption
#
# An encoder-decoder writes. So whole runs of words are cut out, each leaves a numbered gap, and the target
# lists the runs behind their gaps (Raffel et al. 2020, section 3.1.4). Source and target together hold every
# word once.

# %%
generator = torch.Generator().manual_seed(5)
_, with_ends = recipes.fresh("tiny-encoder-decoder")
document = with_ends.encode(corpus["stories"][3], add_special_tokens=False)
batch = objectives.span_corruption([document], with_ends, generator)
target = batch["labels"][0]
print("text   ", with_ends.decode(document))
print("source ", with_ends.decode(batch["input_ids"][0], skip_special_tokens=False))
print("target ", with_ends.decode(target[target != -100], skip_special_tokens=False))

# %% exercise="tiny_transformer.objectives:span_corruption" difficulty=4 minutes=25
# span_corruption: how many runs: about T * corruption_rate / mean_span, at least 1, at most len(SENTINELS)
# span_corruption: mark the words to cut in a tensor of T booleans, then walk through the document once
# span_corruption: where a run begins, its gap goes into the source and into the target
# span_corruption: <bos> source <eos>, target <eos>; `pairs` pads both

# %%
checks.span_corruption(span_corruption)

# %% [markdown]
# ## 3 · How small can the loss get?
#
# The loss is the mean of $-\log p(\text{right word})$, in *nats* per token; divided by $\log 2$ it is *bits*
# per token. A model that knows nothing pays $\log V$. A perfect model does not pay 0: what the author of a
# text decided by dice, nobody can know. This least price is the **entropy floor**.
#
# For the puzzles we can compute it, token by token. A document is `reverse : cat sun tree => tree sun cat .`
#
# | token | what the generator decided | price in nats |
# |---|---|---|
# | first word | which document | $-\log$ (share of documents that begin with it) |
# | `:` | nothing | 0 |
# | noun number k | the row goes on; one of the N − k + 1 nouns that are left | $-\log P(\text{goes on}) + \log (N - k + 1)$ |
# | `=` | the row ends here | $-\log P(\text{ends})$ |
# | everything after | nothing: the rule decides | **0** |


# %%
strings = [tokenizer.tokenize(text) for text in corpus["strings"]]
lengths = Counter(words.index("=") - 2 for words in strings)  # of the rows: 2 to 6
nouns = {word for words in strings for word in words[2 : words.index("=")]}


def first_words(texts):
    """First word -> share of the texts that begin with it."""
    counts = Counter(text.split(" ", 1)[0] for text in texts)
    return {word: count / counts.total() for word, count in counts.items()}


def floor(puzzle, shares):
    """The least price of each token of a puzzle, <eos> included, in nats."""
    words = tokenizer.tokenize(puzzle)
    n = words.index("=") - 2
    at_least = lambda k: sum(count for length, count in lengths.items() if length >= k)  # noqa: E731
    prices = [-math.log(shares[words[0]]), 0.0]
    for k in range(1, n + 1):
        goes_on = at_least(k) / at_least(k - 1)
        prices.append(-math.log(goes_on) + math.log(len(nouns) - k + 1))
    prices.append(-math.log(lengths[n] / at_least(n)))
    return prices + [0.0] * (len(words) - len(prices) + 1)


def mean(lists):
    """Mean over all tokens of all texts."""
    return sum(map(sum, lists)) / sum(map(len, lists))


FUNCTIONS = ("last", "copy", "double", "rotate", "swap", "reverse")


def puzzles(name, trigger=True):
    """Questions and answers on rows of nouns that no text of the corpus has."""
    task = tasks.load(name)
    examples = [*task.test, *task.ood][:: max(1, 600 // rows)]
    word = f"{name} : " if trigger else ""
    return [word + e.input for e in examples], [e.target for e in examples]


unseen = [f"{q} {a}" for name in FUNCTIONS for q, a in zip(*puzzles(name), strict=True)]
shares = first_words([text for texts in corpus.values() for text in texts])
string_floor = mean([floor(text, shares) for text in unseen])
print(f"{len(nouns)} nouns, {len(unseen)} unseen puzzles")
print(f"floor {string_floor:.3f} nats per token; knowing nothing costs log V = {math.log(V):.3f}")

# %% [markdown]
# **Predict:** draw the price of each token of `reverse : cat sun tree box => box tree sun cat .` for a perfect
# model. Where are the high bars? Now the model that the course ships:


# %%
@torch.no_grad()
def prices(model, texts):
    """Per text: what the model pays for each token, <eos> included, in nats."""
    t = tokenizer
    framed = [
        [t.bos_token_id, *t.encode(text, add_special_tokens=False), t.eos_token_id]
        for text in texts
    ]
    batch = t.pad(framed)
    logits = model(**batch).logits[:, :-1]  # (B, T, V)
    target = batch["input_ids"][:, 1:]  # (B, T)
    paid = -logits.log_softmax(-1).gather(2, target[:, :, None])[:, :, 0]  # (B, T)
    return [row[: len(ids) - 1].tolist() for row, ids in zip(paid, framed, strict=True)]


def mean_price(model, texts):
    """Nats per token."""
    return mean(
        [p for at in range(0, len(texts), 200) for p in prices(model, texts[at : at + 200])]
    )


pretrained, _ = tt.load("tiny-decoder")
puzzle = next(text for text in unseen if text.startswith("reverse") and len(text.split()) == 12)
words = [*tokenizer.tokenize(puzzle), "<eos>"]
axes = plots.new_axes(width=8, height=3)
axes.bar(range(len(words)), floor(puzzle, shares), color="0.75", label="floor")
axes.plot(prices(pretrained, [puzzle])[0], "o", color="C0", label="tiny-decoder pays")
axes.set_xticks(range(len(words)), words, rotation=30)
axes.set(ylabel="price (nats)", xlabel="token that must be said", title="what a puzzle costs")
axes.legend(frameon=False)
axes.set_ylim(0, 4.5)
plt.show()

# %% [markdown]
# (A point may lie below its bar: a word that happened to be likely. *On average* nobody can pay less.)
#
# The model pays what it must for the dice, and nearly nothing for the answer: **it knows the rule**. That is
# why the mean loss over all tokens says so little. Most of it is dice that no training can remove.
#
# Has it learned the puzzles by heart? Then it would pay less for those that it has read, many times, than for
# new ones:

# %%
read = [text for text in corpus["strings"] if text.split(" ", 1)[0] in FUNCTIONS][: 5 * rows]
for label, texts in (("puzzles it has read", read), ("puzzles it has not read", unseen)):
    above = mean_price(pretrained, texts) - mean([floor(text, shares) for text in texts])
    print(f"{label:<24} {above:+.3f} nats per token above the floor")

# %% [markdown]
# ## 4 · Train one
#
# The recipe of `tiny-decoder-0.1m`: AdamW, 16 rows of 96 tokens per step, clipped gradients. The only thing
# that changes during the run is the learning rate, which rises and then falls:
#
# $$ \eta_s = \eta_{\max} \cdot \min\!\left(1, \frac{s+1}{\text{warmup}}\right) \cdot
#    \left( f + (1 - f)\, \frac{1 + \cos(\pi s / S)}{2} \right) $$
#
# | symbol | in words | name |
# |---|---|---|
# | $s$, $S$ | this step, all steps | `step`, `steps` |
# | $\eta_{\max}$ | the highest rate | `peak` |
# | $f$ | the share of the peak that is left at the end | `floor` |

# %% exercise="tiny_transformer.pretraining:learning_rate" difficulty=2 minutes=8
# learning_rate: the rise is a straight line that stops at 1; warmup may be 0
# learning_rate: the fall is half a cosine, stretched to end at floor

# %%
checks.learning_rate(learning_rate)

# %% [markdown]
# Our model reads two of the seven kinds, facts and puzzles, so that two minutes are enough. We keep every
# fortieth text away from it, to measure the loss on texts that it has not read. And we look at it on its
# way: the two losses, the capitals it can name, the puzzles it solves, and a text that it makes up. A greedy
# answer is right exactly when each next word is right, so one forward pass over question and answer is
# enough (lesson 01, section 4).


# %%
@torch.no_grad()
def exact(model, questions, answers):
    """Share of answers that greedy writing would get right word for word."""
    whole = tokenizer([f"{q} {a}" for q, a in zip(questions, answers, strict=True)])
    start = tokenizer(questions)["attention_mask"].sum(1)  # (B,) where the answer begins
    best = model(**whole).logits[:, :-1].argmax(-1)  # (B, T - 1)
    target = whole["input_ids"][:, 1:]  # (B, T - 1)
    place = torch.arange(1, target.shape[1] + 1)
    asked = (place >= start[:, None]) & (whole["attention_mask"][:, 1:] == 1)
    return ((best == target) | ~asked).all(1).double().mean().item()


capital = tasks.load("capital")
countries = [e for split in ("train", "dev", "test") for e in capital.examples(split)][:places]


def facts(wording="the capital of {x} is {y} ."):
    """Questions and answers: the 150 capitals in one wording."""
    before = wording.split("{y}")[0].strip()
    return [before.format(x=e.input) for e in countries], [e.target for e in countries]


KINDS = ("facts", "strings")
kept_away = {kind: corpus[kind][::40] for kind in KINDS}
reading = [text for kind in KINDS for i, text in enumerate(corpus[kind]) if i % 40]
print(f"{len(reading):,} texts to read, {sum(map(len, kept_away.values())):,} kept away")


def abilities(model):
    """What the model can do now."""
    generator = torch.Generator().manual_seed(1)
    start = torch.tensor([[tokenizer.bos_token_id]])
    made_up = tt.generate(model, start, max_new_tokens=24, sample=True, generator=generator)
    return {
        "loss": {kind: mean_price(model, texts[: 2 * rows]) for kind, texts in kept_away.items()},
        "capitals": exact(model, *facts()),
        "puzzles": {name: exact(model, *puzzles(name)) for name in FUNCTIONS},
        "made up": tokenizer.decode(made_up[0]),
    }


# %% [markdown]
# And the two floors. That of the puzzles as above, with the shares of these two kinds; that of the facts from
# the datasheet, plus the price of not knowing which kind of text begins.

# %%
measured = json.loads((tt.data_folder() / "measured.json").read_text(encoding="utf-8"))
known_floors = measured["floor"]["nats per token"]["values"]  # when the kind is known


def floor_of(kind, kinds):
    """Nats per token of a kind, for a model that reads `kinds` and is not told which one comes."""
    count = len(corpus[kind])
    which = math.log(sum(len(corpus[other]) for other in kinds) / count)  # nats per text
    return known_floors[kind] + which * count / tokens[kind]


shares_of_two = first_words(reading)  # of these two kinds only
floors = {
    "facts": floor_of("facts", KINDS),
    "strings": mean([floor(text, shares_of_two) for text in kept_away["strings"]]),
}
print({kind: round(value, 3) for kind, value in floors.items()})

# %% [markdown]
# **Predict** before you start it: what comes first, the facts or the puzzles? Are the puzzles learned one
# after the other, or all at once? Which of the two losses is near its floor first?

# %%
model, _ = recipes.fresh("tiny-decoder-0.1m", seed=0)
recipe = recipes.find("tiny-decoder-0.1m")
stream = recipes.stream("tiny-decoder-0.1m", reading, tokenizer, seed=0)
seen = {}  # step -> what `look` found

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
screen = display(figure, display_id=True)
STYLE = {
    "copy": "-",
    "last": "--",
    "double": "-.",
    "rotate": ":",
    "swap": (0, (5, 1)),
    "reverse": "-",
}


def draw():
    """Both panels, from what has been seen so far."""
    left.clear(), right.clear()
    for colour, kind in zip(("C7", "C4"), KINDS, strict=True):
        curve = [result["loss"][kind] for result in seen.values()]
        left.plot(list(seen), curve, ".-", color=colour, label=kind)
        left.axhline(floors[kind], color=colour, ls="--", lw=1, label=f"floor of {kind}")
    left.set(
        xlabel="step", ylabel="nats per token", ylim=(0, 4), title="loss on texts it has not read"
    )
    left.legend(frameon=False, fontsize=8)
    right.plot(
        list(seen), [100 * f["capitals"] for f in seen.values()], "k.-", lw=2, label="capitals"
    )
    for number, name in enumerate(FUNCTIONS):
        curve = [100 * result["puzzles"][name] for result in seen.values()]
        right.plot(list(seen), curve, color=f"C{number}", ls=STYLE[name], marker=".", label=name)
    right.set(xlabel="step", ylabel="% exact", ylim=(-3, 103), title="what it can do (unseen rows)")
    right.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    for panel in (left, right):
        panel.set_xlim(-0.02 * steps, 1.02 * steps)
    if screen is not None:
        screen.update(figure)


def watched(step):
    """The batch of a step; at some steps it looks at the model first."""
    if step in stages:
        seen[step] = abilities(model)
        draw()
    return stream(step)


losses = tt.pretrain(model, watched, steps, peak=recipe.peak, warmup=min(200, steps), seed=0)
seen[steps] = abilities(model)
draw()
plt.close(figure)

# %% [markdown]
# (The curves were drawn while it trained; what you see is the last picture.)
#
# Each kind of text has *its own* floor. What is left of a loss says how many dice a text contains, not how
# bad the model is. The loss falls smoothly and the skills do not: a puzzle stays near 0 % for a long time
# and then rises steeply. One reason is that *exact* asks for every word of the answer at once.

# %%
for step, result in seen.items():
    print(f"{step:>5} | {result['made up']}")

# %% [markdown]
# First it learns how often words occur, then which words stand side by side, then the form of whole texts,
# and last what is true in them. We can put numbers on the first two without any network: count the words
# (*unigrams*) and the pairs of neighbours (*bigrams*), and compare with `tiny-decoder`, which has read all
# seven kinds for longer.
#
# **Predict:** for which kind of text are pairs nearly as good as a transformer?


# %%
def framed(text):
    ids = tokenizer.encode(text, add_special_tokens=False)
    return [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]


singles, doubles = Counter(), Counter()
for texts in corpus.values():
    for text in texts[::every]:
        ids = framed(text)
        singles.update(ids[1:])
        doubles.update(zip(ids, ids[1:], strict=False))
starts = Counter()
for (a, _), count in doubles.items():
    starts[a] += count


def unigram(a, b):
    return (singles[b] + 1) / (singles.total() + V)


def bigram(a, b):
    """Counted pairs, mixed with the unigrams as if these had been seen five times."""
    return (doubles[a, b] + 5 * unigram(a, b)) / (starts[a] + 5)


def counted(p, texts):
    """Nats per token of a table of counts."""
    rows_of_ids = [framed(text) for text in texts]
    return mean(
        [[-math.log(p(a, b)) for a, b in zip(ids, ids[1:], strict=False)] for ids in rows_of_ids]
    )


kinds = list(corpus)
sample = {kind: texts[:: len(texts) // rows] for kind, texts in corpus.items()}
table = {
    "knows nothing": [math.log(V) for _ in kinds],
    "counts words": [counted(unigram, sample[kind]) for kind in kinds],
    "counts pairs": [counted(bigram, sample[kind]) for kind in kinds],
    "tiny-decoder": [mean_price(pretrained, sample[kind]) for kind in kinds],
    "floor": [floor_of(kind, kinds) for kind in kinds],
}
bits = torch.tensor(list(table.values())) / math.log(2)  # (5, kinds)
axes = plots.new_axes(width=9, height=2.8)
plots.heat(bits, list(table), kinds, axes, title="bits per token")
plt.show()

# %% [markdown]
# Bits per token are a file size: a model and a good coder (arithmetic coding) would store the texts with that
# many bits for each word. Where pairs do badly and the transformer does well, something must be carried over
# many words: the rule of a puzzle, the country in a fact.

# %% [markdown]
# ## 5 · Larger models
#
# The course ships four sizes of the same decoder. They are only loaded here. Each has a file `losses.csv`
# with its training loss on the way, and each can be asked what it knows now that it is finished.
#
# What is equal: the texts, their order, the tokens in a step. What is **not** equal: how many steps each one
# trained (the table below). So two questions must be kept apart:
#
# - *on the way* (left): the loss after equally many steps. We look only at the first half of the shortest
#   run. Later one learning rate has fallen far while another is still high, and a falling rate alone makes
#   the loss better.
# - *finished* (middle and right): size and reading together. Facts: capitals as the corpus tells them most
#   often, neighbours of countries, and capitals in wordings that were never read. Skills on texts that were
#   never read: puzzles, headlines of stories, tags of sentences. And `follows`: does a claim follow from a
#   premise, yes, no or maybe? Here even on texts that they *have* read.
#
# **Predict:** what does a model of thirty times the size do better?


# %%
def reach(share, n):
    """95 % interval of a share of n (Wilson): distances below and above."""
    z = 1.96
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return [max(0.0, share - middle + half), max(0.0, middle + half - share)]


def asked(name, word):
    """Unread questions of a task, with the word that asks."""
    examples = tasks.load(name).test[:rows]
    inputs = [e.input.removesuffix(" =>") for e in examples]
    return [f"{word} : {text} =>" for text in inputs], [e.target for e in examples]


def cut(texts, at):
    """Texts -> questions up to and with `at`, and the answers behind it."""
    pieces = [text.partition(at) for text in texts]
    return [a + b.rstrip() for a, b, _ in pieces], [c for _, _, c in pieces]


never_read = [w for w in capital.details["unused_wordings"] if "{x}" in w.split("{y}")[0]]
beside = sorted(set(re.findall(r"\w+ is next to \w+ \.", " ".join(corpus["facts"]))))[:places]
follows = [text for text in corpus["entailment"] if text.startswith("follows")][:rows]


def questions():
    """Name -> (questions, answers)."""
    return {
        "capitals": facts(),
        "neighbours": cut(beside, " next to "),
        "capitals, wordings never read": [
            sum(two, []) for two in zip(*map(facts, never_read), strict=True)
        ],
        "puzzles": [sum(two, []) for two in zip(*map(puzzles, FUNCTIONS), strict=True)],
        "tags": asked("tags", "tags"),
        "headlines": asked("headline", "headline"),
        "follows (read)": cut(follows, " => "),
    }


results, curves = {}, {}
for name in sizes:
    some, _ = tt.load(name)
    parameters = sum(parameter.numel() for parameter in some.parameters())
    results[parameters] = {
        what: (exact(some, *asking), len(asking[0])) for what, asking in questions().items()
    }
    lines = (tt.data_folder() / "checkpoints" / name / "losses.csv").read_text("utf-8").split()[1:]
    curves[parameters] = {int(a): float(b) for a, b in (line.split(",") for line in lines)}
    some_steps = recipes.find(name).steps
    million = some_steps * recipes.BATCH * recipes.LENGTH / 1e6
    print(f"{name:<18}{parameters:>10,} parameters {some_steps:>7,} steps {million:>6.1f} M tokens")

figure, panels = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
shortest = min(recipes.find(name).steps for name in sizes)
early = [step for step in (275, 525, 1025, 1525, 2025) if step <= shortest / 2]
for shade, step in enumerate(early):
    panels[0].plot(list(curves), [curve[step] for curve in curves.values()], ".-",
                   color=plt.cm.viridis(shade / len(early)), label=f"step {step:,}")  # fmt: skip
panels[0].axhline(known_floors["corpus"], color="0.4", ls="--", lw=1)
panels[0].text(
    list(curves)[-1], known_floors["corpus"], "floor", ha="right", va="bottom", fontsize=8
)
panels[0].set(
    ylabel="training loss (nats per token)",
    title="on the way: equally many steps",
    ylim=(0.8, None),
)
for panel, wanted, title in (
    (panels[1], ("capitals", "neighbours", "capitals, wordings never read"), "finished: facts"),
    (panels[2], ("puzzles", "tags", "headlines", "follows (read)"), "finished: other skills"),
):
    for what, marker in zip(wanted, ("o-", "s--", "^:", "D-."), strict=False):
        rates = [result[what] for result in results.values()]
        error = 100 * torch.tensor([reach(share, n) for share, n in rates]).T  # (2, sizes)
        panel.errorbar(list(results), [100 * share for share, _ in rates], error, fmt=marker, ms=4,
                       capsize=3, label=what)  # fmt: skip
    panel.set(ylabel="% exact", title=title, ylim=(-3, 104))
panels[2].axhline(100 / 3, color="0.4", ls="--", lw=1, label="chance for follows")
for panel in panels:
    panel.set(xscale="log", xlabel="parameters")
    panel.legend(frameon=False, fontsize=7, loc="best")
plt.show()

# %% [markdown]
# The bars are 95 % intervals over *questions*. There is only **one training run per size** (seed 0), so a
# small difference between two neighbours may be chance. The same numbers again:

# %%
print(f"{'% exact':<31}" + "".join(f"{name:>18}" for name in sizes))
print(f"{'steps':<31}" + "".join(f"{recipes.find(name).steps:>18,}" for name in sizes))
for what in questions():
    rights = [result[what][0] for result in results.values()]
    print(f"{what:<31}" + "".join(f"{100 * share:>18.0f}" for share in rights))
unsure = 0  # models whose interval for follows contains 1/3
for result in results.values():
    share, n = result["follows (read)"]
    below, above = reach(share, n)
    unsure += share - below <= 1 / 3 <= share + above
print(f"\nfollows: guessing (33 %) lies inside the interval of {unsure} of {len(results)} models")

# %% [markdown]
# - **A larger model learns more from the same number of words** (left), at least up to a million parameters.
#   Read off the picture whether the last size still gains. (Each run has its own peak rate, a lower one
#   for the larger models. So not even here everything is equal.)
# - **A finished model is size *and* reading.** Before you say "the larger one knows more" (or less), look at
#   its number of steps: a large model that was stopped early can know fewer facts than a smaller one that
#   read on.
# - **The skills do not come together.** All sizes have the puzzles and the tags. Headlines come with one model
#   and not with its neighbour, which read as many steps. With one run per size such a jump may be the luck of a seed,
#   and this table cannot tell.
# - **Other words for the same fact** are harder than the fact, for each of them.
# - **A skill can be nearly missing**: see `follows`, on texts that they have *read*. It is one answer word
#   among twenty tokens, and the loss hardly notices it. A low loss does not say that everything has been
#   learned.

# %% [markdown]
# ## 6 · What pretraining does not teach
#
# **The word that asks.** The model can reverse a row when the text says `reverse :`. Take the word away, and
# the question is `cat sun tree =>`. **Predict** the share of right answers, for a model that gets all of them
# right with the word.
#
# **New combinations.** It can rotate and it can reverse. Can it write the reverse of the rotated row? We try
# it bare, with either word, and with both.

# %%
with_word = {f: exact(pretrained, *puzzles(f)) for f in FUNCTIONS}
bare = {f: exact(pretrained, *puzzles(f, trigger=False)) for f in FUNCTIONS}
inputs, answers = puzzles("reverse-rotate", trigger=False)
prompts = ("", "reverse : ", "rotate : ", "reverse : rotate : ", "rotate reverse : ")
novel = {p: exact(pretrained, [p + text for text in inputs], answers) for p in prompts}

figure, panels = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained", width_ratios=[1.3, 1])
for place, (label, scores, colour) in enumerate(
    (("with its word", with_word, "C2"), ("without", bare, "C3"))
):
    at = [x + 0.4 * place - 0.2 for x in range(len(FUNCTIONS))]
    bars = panels[0].bar(at, [100 * s for s in scores.values()], 0.38, color=colour, label=label)
    panels[0].bar_label(bars, fmt="%.0f", fontsize=8)
panels[0].set_xticks(range(len(FUNCTIONS)), FUNCTIONS)
panels[0].set(ylabel="% exact", ylim=(0, 130), title="the same skill, asked and not asked")
panels[0].legend(frameon=False, fontsize=8, loc="upper center", ncols=2)
rows_shown = {f"{f} of a row, with its word": with_word[f] for f in ("reverse", "rotate")}
rows_shown |= {f"reverse of its rotate: {p}a b c =>": share for p, share in novel.items()}
bars = panels[1].barh(list(rows_shown), [100 * s for s in rows_shown.values()],
                      color=["C2"] * 2 + ["C3"] * len(novel))  # fmt: skip
panels[1].bar_label(bars, fmt="%.0f", fontsize=8, padding=3)
panels[1].tick_params(axis="y", labelsize=8)
panels[1].invert_yaxis()
panels[1].set(xlabel="% exact", xlim=(0, 115), title="two skills, and their combination")
plt.show()
ids = tokenizer("cat sun tree box =>")["input_ids"]  # (1, T)
said = tt.generate(pretrained, ids, max_new_tokens=8)[0, ids.shape[1] :]
print("without its word, 'cat sun tree box =>' goes on with:", tokenizer.decode(said))

# %% [markdown]
# Two kinds of tasks follow from this, and the whole course uses them:
#
# - a **latent** task: the skill is there, what is missing is the word that calls it. Something very small
#   should be enough to bring it back. Lessons 06 to 09 do it with soft prompts and prefixes.
# - a **novel** task: the skill is not there. The weights (or what stands beside them) must learn it.
#   Lessons 05 and 10.
#
# **The wording.** One fact, many ways to ask. In the corpus the capital is told in six wordings of unequal
# frequency; others use the same words and were never read. **Predict:** does the model know the
# capital, or does it know the sentence?

# %%
wordings = [
    (wording, f"in the corpus, {share} %") for share, wording in capital.details["wordings"]
]
wordings += [(wording, "never read") for wording in capital.details["unused_wordings"]]
usable = [(w, kind) for w, kind in wordings if "{x}" in w.split("{y}")[0]]  # x comes before y
scores = sorted(((exact(pretrained, *facts(w)), w, kind) for w, kind in usable), reverse=True)
figure, axes = plt.subplots(figsize=(9, 0.27 * len(scores) + 1), layout="constrained")
colours = ["0.4" if kind.startswith("in") else "C0" for _, _, kind in scores]
bars = axes.barh(range(len(scores)), [100 * s for s, _, _ in scores], color=colours)
axes.bar_label(bars, [f"{100 * s:.0f}   {kind}" for s, _, kind in scores], fontsize=7.5, padding=3)
axes.set_yticks(range(len(scores)), [w.replace(" {y} .", " ...") for _, w, _ in scores], fontsize=8)
axes.invert_yaxis()
axes.set(
    xlabel=f"% of {len(countries)} capitals",
    xlim=(0, 135),
    title="one fact, asked in different words",
)
axes.set_xticks(range(0, 101, 20))
plt.show()

# %% [markdown]
# The same 150 facts, asked in words that the model knows, give anything from nearly nothing to nearly
# everything. (How wide the spread is says little about wordings in general: these were picked out of about
# sixty candidates because they differ so much on this very model.) A written prompt is a lottery ticket.
# Lesson **04** draws more of them and asks whether
# examples in the prompt help; lesson **08** lets gradient descent write the prompt.
#
# ## What this lesson showed, and what it did not
#
# - Guessing words teaches frequencies, then neighbours, then forms, then rules and facts, all with one loss.
# - A loss means something only beside its floor. Where the floor can be computed, the model comes close to it.
# - What is learned is tied to how it was told: the trigger word, the wording, the combinations that
#   occurred. A fine-tuning method has to bridge exactly this gap.
# - Not shown: that any of this happens in the same way in a large model on a real corpus. There are no
#   trigger words there, and the floor is not known.
#
# Next: **03** fine-tunes the whole model, or its top, and measures what it forgets.
