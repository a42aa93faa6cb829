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

# %% fast="steps, stages, rows, sizes = 4, [0, 2], 24, sizes[:2]"
steps = 2500
stages = [0, 50, 150, 300, 500, 800, 1200, 1600, 2000]  # where we look at the model on its way
rows = 200  # questions per skill
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
batch = objectives.masked(long, tokenizer, generator, share=0.3)
line_up(["text", *names(long[0])], ["input_ids", *names(batch["input_ids"][0])],
        ["labels", *names(batch["labels"][0])])  # fmt: skip

# %% exercise="tiny_transformer.objectives:masked" difficulty=3 minutes=15
# masked: choose with torch.rand(ids.shape, generator=generator) < share, among real words only
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
# span_corruption: how many runs: about T * share / mean_span, at least 1, at most len(GAPS)
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
first_words = Counter(text.split(" ", 1)[0] for texts in corpus.values() for text in texts)
lengths = Counter(words.index("=") - 2 for words in strings)  # of the rows: 2 to 6
nouns = {word for words in strings for word in words[2 : words.index("=")]}


def floor(words):
    """The least price of each token of a puzzle, <eos> included, in nats."""
    n = words.index("=") - 2
    at_least = lambda k: sum(count for length, count in lengths.items() if length >= k)  # noqa: E731
    prices = [-math.log(first_words[words[0]] / sum(first_words.values())), 0.0]
    for k in range(1, n + 1):
        goes_on = at_least(k) / at_least(k - 1)
        prices.append(-math.log(goes_on) + math.log(len(nouns) - k + 1))
    prices.append(-math.log(lengths[n] / at_least(n)))
    return prices + [0.0] * (len(words) - len(prices) + 1)


FUNCTIONS = ("copy", "last", "double", "rotate", "swap", "reverse")


def puzzles(name, trigger=True):
    """Questions and answers on rows of nouns that no document of the corpus has."""
    task = tasks.load(name)
    examples = [*task.test, *task.ood][:: max(1, 600 // rows)]
    word = f"{name} : " if trigger else ""
    return [word + e.input for e in examples], [e.target for e in examples]


unseen = [f"{q} {a}" for name in FUNCTIONS for q, a in zip(*puzzles(name), strict=True)]
floors = [floor(tokenizer.tokenize(text)) for text in unseen]
string_floor = sum(map(sum, floors)) / sum(map(len, floors))
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
    paid = [
        p for start in range(0, len(texts), 200) for p in prices(model, texts[start : start + 200])
    ]
    return sum(map(sum, paid)) / sum(map(len, paid))


pretrained, _ = tt.load("tiny-decoder")
puzzle = next(text for text in unseen if text.startswith("reverse") and len(text.split()) == 12)
words = [*tokenizer.tokenize(puzzle), "<eos>"]
axes = plots.new_axes(width=8, height=3)
axes.bar(
    range(len(words)),
    floor(words[:-1]),
    color="0.75",
    label="floor: nobody can pay less on average",
)
axes.plot(prices(pretrained, [puzzle])[0], "o", color="C0", label="tiny-decoder pays")
axes.set_xticks(range(len(words)), words, rotation=30)
axes.set(ylabel="price (nats)", xlabel="token that must be said", title="what a puzzle costs")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# The model pays what it must for the dice, and nearly nothing for the answer: **it knows the rule**. That is
# why the mean loss over all tokens says so little. Most of it is dice that no training can remove.

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
# We keep every fortieth document away from the model, to measure on texts that it has not read. And we look
# at it on its way: the loss for each kind of text, the capitals it can name, the puzzles it solves, and a
# text that it makes up. A greedy answer is right exactly when each next word is right, so one forward
# pass over question and answer is enough (lesson 01, section 4).


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
countries = [e for split in ("train", "dev", "test") for e in capital.examples(split)]


def facts(wording="the capital of {x} is {y} ."):
    """Questions and answers: the 150 capitals in one wording."""
    before = wording.split("{y}")[0].strip()
    return [before.format(x=e.input) for e in countries], [e.target for e in countries]


kept_away = {kind: texts[::40] for kind, texts in corpus.items()}
reading = [text for texts in corpus.values() for i, text in enumerate(texts) if i % 40]
print(f"{len(reading):,} documents to read, {sum(map(len, kept_away.values())):,} kept away")


def look(model):
    """What the model can do now."""
    generator = torch.Generator().manual_seed(1)
    start = torch.tensor([[tokenizer.bos_token_id]])
    made_up = tt.generate(model, start, max_new_tokens=24, sample=True, generator=generator)
    return {
        "loss": {kind: mean_price(model, texts[:150]) for kind, texts in kept_away.items()},
        "capitals": exact(model, *facts()),
        "puzzles": {name: exact(model, *puzzles(name)) for name in FUNCTIONS},
        "made up": tokenizer.decode(made_up[0]),
    }


# %% [markdown]
# **Predict** before you start it: what comes first, the facts or the puzzles? Are the puzzles learned one
# after the other, or all at once? Which loss is near its end first?

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
    for number, kind in enumerate(kept_away):
        curve = [found["loss"][kind] for found in seen.values()]
        left.plot(list(seen), curve, f"C{number}.-", label=kind)
    left.axhline(string_floor, color=f"C{list(kept_away).index('strings')}", ls="--", lw=1)
    left.set(xlabel="step", ylabel="loss on unread texts (nats per token)", ylim=(0, 4),
             title="dashed: the floor of strings")  # fmt: skip
    left.legend(frameon=False, fontsize=8, ncols=2)
    right.plot(
        list(seen), [100 * f["capitals"] for f in seen.values()], "k.-", lw=2, label="capitals"
    )
    for number, name in enumerate(FUNCTIONS):
        curve = [100 * found["puzzles"][name] for found in seen.values()]
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
        seen[step] = look(model)
        draw()
    return stream(step)


losses = tt.pretrain(model, watched, steps, peak=recipe.peak, warmup=min(200, steps), seed=0)
seen[steps] = look(model)
draw()
plt.close(figure)

# %% [markdown]
# (The curves were drawn while it trained; what you see is the last picture.)
#
# Each kind of text falls to *its own* floor, and they differ: what is left of a loss says how many dice
# the text contains, not how bad the model is. The skills do not come smoothly. A puzzle stays near 0 % for
# a long time and then rises steeply, because *exact* asks for every word of the answer at once.

# %%
for step, found in seen.items():
    print(f"{step:>5} | {found['made up']}")

# %% [markdown]
# First it learns how often words occur, then which words stand side by side, then the form of whole
# documents. We can put numbers on the first two without any network: count the words (*unigrams*) and the
# pairs of neighbours (*bigrams*) in the same texts.
#
# **Predict:** for which kind of text are pairs nearly as good as a transformer?


# %%
def framed(text):
    return [
        tokenizer.bos_token_id,
        *tokenizer.encode(text, add_special_tokens=False),
        tokenizer.eos_token_id,
    ]


singles, doubles = Counter(), Counter()
for text in reading:
    ids = framed(text)
    singles.update(ids[1:])
    doubles.update(zip(ids, ids[1:], strict=False))
starts = Counter()
for (a, _), count in doubles.items():
    starts[a] += count
everything = sum(singles.values())


def unigram(a, b):
    return (singles[b] + 1) / (everything + V)


def bigram(a, b):
    """Counted pairs, mixed with the unigrams as if these had been seen five times."""
    return (doubles[a, b] + 5 * unigram(a, b)) / (starts[a] + 5)


def counted(p, texts):
    """Nats per token of a table of counts."""
    paid = [
        -math.log(p(a, b))
        for text in texts
        for a, b in zip(framed(text), framed(text)[1:], strict=False)
    ]
    return sum(paid) / len(paid)


kinds = list(kept_away)
table = {
    "knows nothing": [math.log(V)] * len(kinds),
    "counts words": [counted(unigram, kept_away[kind]) for kind in kinds],
    "counts pairs": [counted(bigram, kept_away[kind]) for kind in kinds],
    "transformer": list(seen[steps]["loss"].values()),
}
measured = tt.data_folder() / "measured.json"
if measured.is_file():  # the datasheet's floors, plus the price of not knowing which kind comes
    known = json.loads(measured.read_text())["floor"]["nats per token"]["values"]
    documents = sum(map(len, corpus.values()))
    table["floor"] = [
        known[kind] + math.log(documents / len(corpus[kind])) * len(corpus[kind]) / tokens[kind]
        for kind in kinds
    ]
bits = torch.tensor(list(table.values())) / math.log(2)
axes = plots.heat(bits, list(table), kinds, plots.new_axes(width=9, height=2.8),
                  title="bits per token on unread texts")  # fmt: skip
plt.show()

# %% [markdown]
# Bits per token are a file size: a model and a good coder (arithmetic coding) would store the texts with that
# many bits for each word. Where pairs of neighbours do badly and the transformer does well, something must
# be carried over many words: the rule of a puzzle, the name in a record.

# %% [markdown]
# ## 5 · Larger models
#
# The course ships four sizes of the same decoder. Their recipes took 8 to 45 minutes; here they are only
# loaded. All questions are about rows of nouns that the corpus does not contain; the facts stand in the
# corpus (nobody can guess a capital).
#
# **Predict:** what does a model of thirty times the size do better?


# %%
def reach(share, n):
    """95 % interval of a share of n (Wilson): distances below and above."""
    z = 1.96
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return [max(0.0, share - middle + half), max(0.0, middle + half - share)]


rare = "in {x} the government sits in {y} ."
results = {}
for name in sizes:
    some, _ = tt.load(name)
    results[name] = {
        "parameters": sum(parameter.numel() for parameter in some.parameters()),
        "loss": mean_price(some, unseen),
        "capitals": exact(some, *facts()),
        "capitals, rare wording": exact(some, *facts(rare)),
        "puzzles": {f: exact(some, *puzzles(f)) for f in FUNCTIONS},
    }
    r = results[name]
    print(f"{name:<18}{r['parameters']:>10,} parameters, {recipes.find(name).steps} steps | "
          f"puzzles {r['loss']:.3f} nats per token, {sum(r['puzzles'].values()) / 6:.1%} exact | "
          f"capitals {r['capitals']:.1%}")  # fmt: skip

sizes_x = [r["parameters"] for r in results.values()]
figure, panels = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
panels[0].plot(sizes_x, [r["loss"] for r in results.values()], "o-")
panels[0].axhline(string_floor, color="0.4", ls="--", lw=1)
panels[0].text(sizes_x[-1], string_floor, "floor", ha="right", va="bottom", fontsize=8)
panels[0].set(ylabel="loss on unseen puzzles (nats per token)", title="loss")
for label, n, marker in (("capitals", 150, "o-"), ("capitals, rare wording", 150, "s--")):
    share = [r[label] for r in results.values()]
    error = torch.tensor([reach(s, n) for s in share]).T * 100
    panels[1].errorbar(sizes_x, [100 * s for s in share], error, fmt=marker, capsize=3, label=label)
panels[1].set(ylabel="% of 150 capitals", title="facts", ylim=(0, 104))
panels[1].legend(frameon=False, fontsize=8, loc="lower right")
for number, name in enumerate(FUNCTIONS):
    share = [r["puzzles"][name] for r in results.values()]
    n = len(puzzles(name)[0])
    error = torch.tensor([reach(s, n) for s in share]).T * 100
    panels[2].errorbar(sizes_x, [100 * s for s in share], error, color=f"C{number}", ls=STYLE[name],
                       marker=".", capsize=3, label=name)  # fmt: skip
panels[2].set(ylabel="% exact", title=f"puzzles ({n} unseen rows each)", ylim=(0, 104))
panels[2].legend(frameon=False, fontsize=8)
for panel in panels:
    panel.set(xscale="log", xlabel="parameters")
plt.show()

# %% [markdown]
# The bars are 95 % intervals over *questions*. There is only **one training run per size**, so a small
# difference between two neighbours may be chance, and the sizes did not read equally many texts (see the
# steps). What can be said: the loss comes close to the floor and then there is little left to gain; the
# skills arrive in order of difficulty. Tinyland is a small world, and a model of one million numbers nearly
# fills it. A real corpus has no such end in sight.

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
model, _ = tt.load("tiny-decoder")
with_word = {f: exact(model, *puzzles(f)) for f in FUNCTIONS}
bare = {f: exact(model, *puzzles(f, trigger=False)) for f in FUNCTIONS}
questions, answers = puzzles("reverse-rotate", trigger=False)
prompts = {"(bare)": "", "reverse :": "reverse : ", "rotate :": "rotate : ",
           "reverse : rotate :": "reverse : rotate : ", "rotate reverse :": "rotate reverse : "}  # fmt: skip
novel = {label: exact(model, [p + q for q in questions], answers) for label, p in prompts.items()}

figure, panels = plt.subplots(1, 2, figsize=(11, 3.4), layout="constrained", width_ratios=[1.3, 1])
for place, (label, scores, colour) in enumerate(
    (("with its word", with_word, "C2"), ("without", bare, "C3"))
):
    at = [x + 0.4 * place - 0.2 for x in range(len(FUNCTIONS))]
    bars = panels[0].bar(at, [100 * s for s in scores.values()], 0.38, color=colour, label=label)
    panels[0].bar_label(bars, fmt="%.0f", fontsize=8)
panels[0].set_xticks(range(len(FUNCTIONS)), FUNCTIONS)
panels[0].set(ylabel="% exact", ylim=(0, 115), title="the same skill, asked and not asked")
panels[0].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(0, 0.5))
bars = panels[1].barh(list(novel), [100 * s for s in novel.values()], color="C0")
panels[1].bar_label(bars, fmt="%.0f", fontsize=8, padding=3)
panels[1].invert_yaxis()
panels[1].set(xlabel="% exact", xlim=(0, 100), title="a new combination: reverse of rotate")
plt.show()
print("without its word, the row 'cat sun tree box =>' becomes:",
      tokenizer.decode(tt.generate(model, tokenizer("cat sun tree box =>")["input_ids"],
                                   max_new_tokens=8)[0, 7:]))  # fmt: skip

# %% [markdown]
# Two kinds of tasks follow from this, and the whole course uses them:
#
# - a **latent** task: the skill is there, what is missing is the word that calls it. Something very small
#   should be enough to bring it back. Lessons 06 to 09 do it with soft prompts and prefixes.
# - a **novel** task: the skill is not there. The weights (or what stands beside them) must learn it.
#   Lessons 05 and 10.
#
# **The wording.** One fact, many ways to ask. In the corpus the capital is told in six wordings of unequal
# frequency; twenty others use the same words and were never read. **Predict:** does the model know the
# capital, or does it know the sentence?

# %%
wordings = [
    (wording, f"in the corpus, {share} %") for share, wording in capital.details["wordings"]
]
wordings += [(wording, "never read") for wording in capital.details["unused_wordings"]]
asked = [(w, kind) for w, kind in wordings if "{x}" in w.split("{y}")[0]]  # x comes before y
scores = sorted(((exact(model, *facts(w)), w, kind) for w, kind in asked), reverse=True)
figure, axes = plt.subplots(figsize=(9, 0.27 * len(scores) + 1), layout="constrained")
colours = ["0.4" if kind.startswith("in") else "C0" for _, _, kind in scores]
bars = axes.barh(range(len(scores)), [100 * s for s, _, _ in scores], color=colours)
axes.bar_label(bars, [f"{100 * s:.0f}   {kind}" for s, _, kind in scores], fontsize=7.5, padding=3)
axes.set_yticks(range(len(scores)), [w.replace(" {y} .", " ...") for _, w, _ in scores], fontsize=8)
axes.invert_yaxis()
axes.set(xlabel="% of 150 capitals", xlim=(0, 125), title="one fact, asked in different words")
axes.set_xticks(range(0, 101, 20))
plt.show()

# %% [markdown]
# The same 150 facts, asked in words that the model knows, give anything from nearly nothing to nearly
# everything. A written prompt is a lottery ticket. Lesson **04** draws more of them and asks whether
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
