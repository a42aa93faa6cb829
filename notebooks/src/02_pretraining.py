# ---
# jupyter:
#   minipeft:
#     title: Pretraining
#     question: What does a model learn by guessing words, and what does it not learn?
#     minutes: 4
#     sitting: 90
#     attempts: 5
# ---

# %% [markdown]
# All that a method of this course can do rests on what the frozen model already knows. So we look at how it came to
# know it: what it reads, what it is asked, how small its loss can possibly get. We train the smallest model from
# scratch, and then ask larger ones what they have learned, and what not.
#
# ## 1 · What it reads
#
# *Tinyland* is a small English world, made for this course by a generator (`data/DATASHEET.md`): real facts about countries,
# invented people, reviews, records, puzzles with a rule. One document per line, in no order.

# %% fast="steps, stages, rows, countries, every, sizes = 4, [0, 2], 24, 20, 50, sizes[:2]"
import math
from textwrap import fill

import torch

import tiny_transformer as tt
from minipeft import checks, tasks
from minipeft.course import pretraining as lesson
from minipeft.course import pretraining_pictures as pictures
from minipeft.course import tinyland
from tiny_transformer import objectives, recipes

steps = 2500
stages = [0, 50, 150, 300, 500, *range(750, steps, 250)]  # where we look at the model
rows, countries, every = 200, 150, 1  # questions per skill; capitals; count words in every text
sizes = ["tiny-decoder-0.1m", "tiny-decoder-0.4m", "tiny-decoder", "tiny-decoder-3m"]

corpus = recipes.corpus()  # kind -> documents
_, tokenizer = recipes.fresh("tiny-decoder-0.1m")
V = len(tokenizer)
total = sum(map(lesson.tokens_of, corpus.values()))
print(f"{sum(map(len, corpus.values())):,} documents, about {total:,} tokens, V = {V} words\n")
print(f"{'kind':<11}documents  tokens | one of them")
for kind, texts in corpus.items():
    line = f"{kind:<11}{len(texts):>9,}{lesson.tokens_of(texts) / total:>8.0%} | {texts[7]}"
    print(fill(line, 92, subsequent_indent=" " * 31))

# %% [markdown] tags=["slide"]
# ## 2 · One text, several lessons
#
# A text has no labels. A pretraining *objective* makes them: it hides something and asks for it. **Causal** (decoders): the
# next word, from the words so far. **Masked** (encoders): 15 % of the words, hidden in the text. **Span corruption**
# (encoder-decoders): runs of words, cut out and to be written in order. Each gives a batch:
# `input_ids`, `attention_mask` and `labels`, all (B, T) like the ids (of spans the labels are a text of their own, (B, U)). In `labels`, −100 means *not asked*, shown as a dot.
#
# **Predict:** in a causal batch, what is the model asked for at the position of `france`?

# %%
ids = tokenizer("the capital of france is paris .")["input_ids"]  # (1, T)
batch = objectives.causal(ids, tokenizer)
lesson.line_up(tokenizer, input_ids=batch["input_ids"][0], labels=batch["labels"][0])
shifted = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=-100)  # (1, T)
print("\ninside the decoder:")
lesson.line_up(tokenizer, sees=ids[0], must_say=shifted[0])

# %% [markdown]
# The labels look as if `france` were asked for where it can be seen. But the decoder itself shifts them by one place, as every
# model of `transformers` does. So *you* must not.
#
# ### Exercise: causal
#
# Labels are the words themselves. Padding (`tokenizer.pad_token_id`) is not asked for, and `attention_mask` is 1 on real
# tokens, 0 on padding. `ids` stay as they are.

# %% exercise="tiny_transformer.objectives:causal" difficulty=1 minutes=5
# causal: ids.masked_fill(where, value) gives a copy

# %%
checks.causal(causal)

# %% [markdown]
# **Masked words.** An encoder sees both sides, so the next word would be no riddle. Of the chosen 15 %, 80 % become `<mask>`,
# 10 % a random word, 10 % stay (Devlin et al. 2019). If all became `<mask>`, a model might give up on all other positions;
# so it can trust none.
#
# ### Exercise: masked
#
# Every word is chosen by itself with probability `corruption_rate`; special tokens (ids below `first`) never are. A second,
# independent draw decides what becomes of a chosen word. Labels hold the word that stood there, −100 where none was chosen.
# All draws come from `generator`, which may be None.

# %% exercise="tiny_transformer.objectives:masked" difficulty=3 minutes=15
# masked: first = tokenizer.sep_token_id + 1 + len(SENTINELS) is the first id of a word
# masked: torch.rand(ids.shape, generator=generator) < rate is True with that probability
# masked: random words: torch.randint(first, len(tokenizer), ids.shape, generator=generator)

# %%
checks.masked(masked)

# %% [markdown]
# Both of yours on a real text (where one is not written yet, the package's; the draw is one in which all three things happen
# to chosen words), and then cut spans: each leaves a numbered gap in
# what is read, and is written behind its gap.

# %%
text = tokenizer(" ".join(corpus["facts"][40:42]))["input_ids"][:, :16]  # (1, T)
for name, made, given in (
    ("causal", causal, objectives.causal),
    ("masked", masked, objectives.masked),
):
    try:
        batch = made(text, tokenizer, torch.Generator().manual_seed(3))
    except NotImplementedError:
        batch = given(text, tokenizer, torch.Generator().manual_seed(3))
    print(name)
    lesson.line_up(tokenizer, input_ids=batch["input_ids"][0], labels=batch["labels"][0])
_, with_ends = recipes.fresh("tiny-encoder-decoder")
document = with_ends.encode(corpus["stories"][3], add_special_tokens=False)
batch = objectives.span_corruption([document], with_ends, torch.Generator().manual_seed(5))
print("\nspan corruption")
for name in ("input_ids", "labels"):
    print(f"{name:<10}", with_ends.decode(batch[name][0], skip_special_tokens=False))

# %% [markdown]
# ### Exercise: five patients
#
# Five batches before they reach a model. Nothing will crash; four models would learn the wrong thing. What is wrong?
# `"shifted"` (labels moved by one place already), `"padding"` (it is asked for), `"nothing hidden"` (what is asked for can be
# seen), `"all asked"` (words that can be seen are asked for beside the hidden ones), `"healthy"`.

# %%
for name, batch in lesson.patients(tokenizer).items():
    print(f"\n{name}, meant to be {lesson.AIMS[name]}")
    lesson.line_up(tokenizer, **batch)

# %% exercise="minipeft.checks:batch_patients" difficulty=2 minutes=6
# A dict from "A" to "E". Each cause is used once.
batch_patients = {"A": "nothing hidden", "B": "shifted", "C": "padding"}
batch_patients |= {"D": "healthy", "E": "all asked"}

# %%
checks.batch_patients(batch_patients)

# %% [markdown]
# ## 3 · How small can the loss get?
#
# The loss is the mean of $-\log p(\text{right word})$, in *nats* per token. Knowing nothing costs $\log V$. Nobody pays 0: what
# the author decided by dice, no reader can know. This least price is the **entropy floor**. A word that the author
# draws from $n$ equally likely ones costs $\log n$; what follows from the words before costs 0; prices along a text add up.
#
# ### Exercise: the price of a puzzle
#
# An author draws one of **six** functions, all equally likely, then **three** nouns out of **ten**, none twice:
# `reverse : cat sun tree => tree sun cat .` Every row has three nouns. In nats: the price of the `"first"` word, of the
# second `"noun"`, of the whole `"answer"` behind `=>`, of the `"whole"` text.

# %% exercise="minipeft.checks:puzzle_floor" difficulty=2 minutes=8
# A dict with the keys "first", "noun", "answer" and "whole"; 1 % of error is allowed.
from math import log

first, nouns = log(6), [log(10), log(9), log(8)]
puzzle_floor = {"first": first, "noun": nouns[1], "answer": 0, "whole": first + sum(nouns)}

# %%
checks.puzzle_floor(puzzle_floor)

# %% [markdown] tags=["slide"]
# The real puzzles have 2 to 6 nouns (so at each noun it also costs something that the row goes on) and a larger stock.
# **Predict** the bars for `reverse : ...` with four nouns. And does `tiny-decoder`, which the course ships, pay less for
# puzzles that it has read many times?

# %% tags=["slide"]
floor = lesson.PuzzleFloor(corpus, tokenizer)
shares = lesson.first_words([text for texts in corpus.values() for text in texts])
unread = lesson.unseen_puzzles(rows)
pretrained, _ = tt.load("tiny-decoder")
puzzle = next(text for text in unread if text.startswith("reverse") and len(text.split()) == 12)
words = [*tokenizer.tokenize(puzzle), "<eos>"]
pictures.puzzle(words, floor(puzzle, shares), lesson.prices(pretrained, tokenizer, [puzzle])[0])
read = [text for text in corpus["strings"] if text.split(" ", 1)[0] in tinyland.FUNCTIONS]
above = {}
for label, texts in (("read", read[: 5 * rows]), ("not read", unread)):
    least = lesson.mean([floor(text, shares) for text in texts])
    above[label] = lesson.mean_price(pretrained, tokenizer, texts) - least
    print(
        f"puzzles it has {label:<9} floor {least:.3f}, {above[label]:+.3f} nats per token above it"
    )
gap = above["not read"] - above["read"]
by_heart = "it knows them by heart" if gap > 0.02 else "no sign that it knows them by heart"
print(f"those it has read are {gap:+.3f} cheaper: {by_heart} (margin 0.02)")

# %% [markdown]
# (A point below its bar is a word that happened to be likely. *On average* nobody pays less.) What is paid for the answer says
# whether the model knows the **rule**. Most of a mean loss is dice, which no training can remove.
#
# ## 4 · Train one
#
# AdamW, 16 rows of 96 tokens per step, clipped gradients. What changes during the run is the learning rate:
#
# $$ \eta_s = \eta_{\max} \cdot \min\!\left(1, \frac{s+1}{\text{warmup}}\right) \cdot
#    \left( f + (1 - f)\, \frac{1 + \cos(\pi s / S)}{2} \right) $$
#
# Step $s$ of $S$ (`step`, `steps`), highest rate $\eta_{\max}$ (`peak`), share $f$ of it that is left at the end (`floor`).
#
# ### Exercise: the learning rate
#
# `warmup` may be 0; then there is no rise. The cosine counts all steps from step 0 (in other libraries it begins after the
# warm-up).

# %% exercise="tiny_transformer.pretraining:learning_rate" difficulty=2 minutes=8
# learning_rate: the rise is a straight line that stops at 1; the fall is half a cosine

# %%
checks.learning_rate(learning_rate)

# %% [markdown] tags=["slide"]
# Our model reads two of the seven kinds, facts and puzzles (`strings`), so that two minutes are enough. Every fortieth text is kept away from
# it. **Predict** before you start it: what comes first, facts or puzzles? Are the puzzles learned one by one, or all at
# once? And what will the texts look like that it makes up on its way? (*Exact* counts answers of which every word is right.)

# %%
recipe = recipes.find("tiny-decoder-0.1m")
try:
    rates = [learning_rate(s, steps, recipe.peak, min(200, steps)) for s in (0, 100, 1000, steps)]
    print("your rates at steps 0, 100, 1,000 and the last:", [f"{rate:.1e}" for rate in rates])
except NotImplementedError as error:
    print(error)
kinds = ("facts", "strings")
kept_away = {kind: corpus[kind][::40] for kind in kinds}
reading = [text for kind in kinds for i, text in enumerate(corpus[kind]) if i % 40]
model, _ = recipes.fresh("tiny-decoder-0.1m", seed=0)
stream = recipes.stream("tiny-decoder-0.1m", reading, tokenizer, seed=0)
seen = {}  # step -> what the model could do


def watched(step):
    """The batch of a step; at some steps it looks at the model first."""
    if step in stages:
        seen[step] = lesson.abilities(model, tokenizer, kept_away, rows, countries)
    return stream(step)


losses = tt.pretrain(model, watched, steps, peak=recipe.peak, warmup=min(200, steps), seed=0)
seen[steps] = lesson.abilities(model, tokenizer, kept_away, rows, countries)

# %% tags=["hide-input", "slide"]
of_two = lesson.first_words(reading)  # of these two kinds only
floors = {
    "facts": lesson.kind_floor(corpus, "facts", kinds),
    "strings": lesson.mean([floor(text, of_two) for text in kept_away["strings"]]),
}
pictures.on_the_way(seen, floors)
for step, result in seen.items():
    print(f"{step:>5} | {result['made up'][:90]}")

# %% [markdown]
# Each kind of text has *its own* floor: two losses may be equal, one nearly all dice, the other not. Only what stands above the
# floor says how much a model has still to learn. A
# skill may rise steeply while the loss falls smoothly; one reason is that *exact* asks for every word of an answer at once.
# And a loss may fall before anything is known: the form of a fact comes first, compare with `capitals`.
#
# How much can be had without a network? We count words and pairs of neighbours, and compare with `tiny-decoder`, which
# has read all seven kinds. **Predict:** for which kind of text do pairs come nearest to the transformer?

# %% tags=["hide-input"]
counts = lesson.Counts(corpus, tokenizer, every)
every_kind = list(corpus)
sample = {kind: texts[:: len(texts) // rows] for kind, texts in corpus.items()}
table = {
    "knows nothing": [math.log(V) for _ in every_kind],
    "counts words": [counts.price(counts.word, texts) for texts in sample.values()],
    "counts pairs": [counts.price(counts.pair, texts) for texts in sample.values()],
    "tiny-decoder": [lesson.mean_price(pretrained, tokenizer, t) for t in sample.values()],
    "floor": [lesson.kind_floor(corpus, kind, every_kind) for kind in every_kind],
}
pictures.readers(torch.tensor(list(table.values())), list(table), every_kind)

# %% [markdown] tags=["slide"]
# Where pairs do badly, something must be carried over many words: a field of a record, the rule of a puzzle, the country in a fact. (A model may stand
# a little below a floor: these are 200 texts of each kind, and it has read them.)
#
# ## 5 · Larger models
#
# Four sizes of the same decoder, trained on the same texts, for **different numbers of steps**. So we keep two questions
# apart: the loss after equally many steps (left; in the first half of the shortest run, before falling rates blur it), and
# what the finished models can do (right), size and reading together. `follows` asks whether a claim follows from a premise
# (yes, no, maybe), on texts that they *have* read. **Predict:** what does thirty times the size do better?

# %% tags=["hide-input", "slide"]
asked = lesson.questions(corpus, rows, countries)
results = {name: lesson.finished(name, asked) for name in sizes}
shortest = min(result["steps"] for result in results.values())
early = [step for step in (275, 525, 1025, 1525, 2025) if step <= shortest / 2]
numbers = {what: len(pair[0]) for what, pair in asked.items()}
pictures.sizes(results, numbers, early)
print(f"{'% exact':<31}" + "".join(f"{name:>18}" for name in sizes))
print(f"{'steps':<31}" + "".join(f"{result['steps']:>18,}" for result in results.values()))
for what in asked:
    print(f"{what:<31}" + "".join(f"{100 * r['right'][what]:>18.0f}" for r in results.values()))
guessing = 0
for result in results.values():
    low, high = lesson.wilson(result["right"]["follows (read)"], numbers["follows (read)"])
    guessing += low <= 1 / 3 <= high
first, last = (results[name]["right"] for name in (sizes[0], sizes[-1]))
interval = lambda share, what: lesson.wilson(share, numbers[what])  # noqa: E731
better = [w for w in asked if interval(last[w], w)[0] > interval(first[w], w)[1]]
print(f"the largest is better than the smallest, intervals apart: {'; '.join(better) or 'nowhere'}")
print(f"follows: guessing (33 %) lies inside the interval of {guessing} of {len(results)} models")

# %% [markdown] tags=["slide"]
# Look at the number of steps before you say "the larger one knows more". With **one run per size** a jump between
# neighbours may be the luck of a seed. *Other words for the same fact* are harder than the fact. And a skill can be nearly
# missing on texts that were read: the answer to `follows` is one word among twenty, which the loss hardly notices.
#
# ## 6 · What pretraining does not teach
#
# **The word that asks.** The model can reverse a row when the text says `reverse :`. Take the word away: `cat sun tree =>`.
# **New combinations.** It can rotate and it can reverse; can it write the reverse of the rotated row? **Predict** both.

# %% tags=["hide-input", "slide"]
score = lambda pair: tinyland.exact(pretrained, tokenizer, *pair)  # noqa: E731
named = {name: score(tinyland.puzzles(name, rows)) for name in tinyland.FUNCTIONS}
bare = {name: score(tinyland.puzzles(name, rows, trigger=False)) for name in tinyland.FUNCTIONS}
inputs, answers = tinyland.puzzles("reverse-rotate", rows, trigger=False)
joined = {f"{name} alone": named[name] for name in ("reverse", "rotate")}
for words in ("", "reverse : ", "rotate : ", "reverse : rotate : ", "rotate reverse : "):
    joined[f"{words}a b c =>"] = score(([words + text for text in inputs], answers))
pictures.asked(named, bare, joined)
ids = tokenizer("cat sun tree box =>")["input_ids"]  # (1, T)
said = tt.generate(pretrained, ids, max_new_tokens=8)[0, ids.shape[1] :]
print("without its word, 'cat sun tree box =>' goes on with:", tokenizer.decode(said))

# %% [markdown] tags=["slide"]
# Two kinds of tasks follow, and the whole course uses them. **Latent**: the skill is there, what is missing is what calls it;
# something very small should bring it back (lessons 06 to 09). **Novel**: the skill is not there; something must learn it
# (lessons 05 and 10).
#
# **The wording.** In the corpus a capital is told in six wordings of unequal frequency (one begins with the capital, so it
# cannot ask for it); others use the same words and were never read. **Predict:** does the model know the capital, or the
# sentence? If it knew the capital, all bars would be equally long.

# %% tags=["hide-input", "slide"]
details = tasks.load("capital").details
wordings = [(text, f"in the corpus, {share} %") for share, text in details["wordings"]]
wordings += [(text, "never read") for text in details["unused_wordings"]]
usable = [(text, kind) for text, kind in wordings if "{x}" in text.split("{y}")[0]]
scores = [(score(tinyland.capitals(text, countries)), text, kind) for text, kind in usable]
pictures.wordings(sorted(scores, reverse=True), countries)

# %% [markdown] tags=["slide"]
# (How wide the spread is says little about wordings in general: these were picked out of about sixty because they differ so
# much on this very model.) A written prompt is a lottery ticket. Lesson **04** draws more of them, lesson **08** lets
# gradient descent write them.
#
# ## What this lesson showed, and what it did not
#
# - Guessing words teaches frequencies, neighbours, forms, rules and facts, all with one loss.
# - A loss means something only beside its floor.
# - What is learned is tied to how it was told: the trigger word, the wording, the combinations that occurred. A fine-tuning
#   method has to bridge exactly this gap.
# - *Not shown:* that any of this happens in the same way in a large model on a real corpus. There are no trigger words,
#   and the floor is not known. The order in which skills came is that of one run.
#
# Next: **03** fine-tunes the whole model, or its top, and measures what it forgets.
