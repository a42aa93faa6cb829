# ---
# jupyter:
#   minipeft:
#     title: Prompts by hand
#     question: The knowledge is inside the frozen model. Can words alone call it out?
#     minutes: 4
#     sitting: 70
#     attempts: 3
# ---

# %% [markdown] tags=["slide"]
# The first door needs no training at all. You write words around your question, the model reads them,
# and its next word is the answer. Nothing is stored but a sentence. Before we train prompts (lessons 06
# to 09) we want to know how far *written* ones carry, and where they break.
#
# ## One word
#
# Our small decoder has read many sentences about countries. We ask it twice for the capital of Peru.

# %%
import torch

import minipeft as mp
import tiny_transformer as tt
from minipeft import checks
from minipeft.analysis import plots
from minipeft.course import claims, experiments, real, runs
from minipeft.course import written_prompts as written
from minipeft.course.capitals import START, WORDINGS

model, tokenizer = tt.load("tiny-decoder")
before = mp.fingerprint(model)
QUESTIONS = ("the capital city of peru is called", "the capital city of peru is")

# %% tags=["hide-input", "slide"]
figure, panels = plots.figure(columns=2, height=2.6)
for panel, text in zip(panels, QUESTIONS, strict=True):
    chances = written.next_logits(model, tokenizer, [text])[0].softmax(0)  # (V,)
    top = chances.topk(5)
    names = [tokenizer.decode([i]) for i in top.indices.tolist()]
    panel.barh(names[::-1], top.values.flip(0).tolist(), color=plots.COLOURS["written prompt"])
    panel.set_xlim(0, 1)
    plots.finish(panel, "probability of the next word", "", text, legend=False)
plots.add_caption(figure, "The same model, the same knowledge, one word less in the question.")

# %% [markdown]
# ## What a written prompt is
#
# A **template** $\mathcal{T}$ puts a question $x$ between fixed words. It is right where the model's first choice
# is the answer $y$; its score is the share of the $N$ questions for which it is right:
#
# $$ s(\mathcal{T}) = \frac{1}{N} \sum_{i=1}^{N}
#    \Big[ \arg\max_{w \in V} \; p_\theta\big(w \mid \mathcal{T}(x_i)\big) = y_i \Big] $$
#
# | symbol | what | shape |
# |---|---|---|
# | $\mathcal{T}(x_i)$ | ids of the filled template | (T,) |
# | $p_\theta(\cdot \mid \mathcal{T}(x_i))$ | the frozen model's prediction behind the last token | (V,) |
# | $\theta$ | the weights: never touched | |
#
# **Settings.** A difference below 5 points does not matter to us; a loss of 20 points or more we call a
# catastrophe. Both are fixed before anything runs. Choices are made on the 20 countries of *dev*; scores
# are told on the 50 of *test*.

# %% fast="seeds, search_steps, lora_steps, functions, sizes = [0, 1], 3, 3, ('reverse', 'rotate'), [0, 1]; WORDINGS, real_rows = WORDINGS[:2], 4"
seeds = [0, 1, 2]
MARGIN, CATASTROPHE = 0.05, 0.20
search_steps, lora_steps = 20, 200
functions = written.string_functions()  # what rows of nouns can be asked for
sizes = [0, 1, 2, 4, 8, 16]  # solved examples in a prompt
real_rows = 50

# %%
task = mp.tasks.load("capital")
print(task.test[0], len(task.dev), len(task.test))
for text in ("the capital of {x} is", "{x}"):
    print(f"{text:<24}{written.accuracy(model, tokenizer, text, task.test):.2f}")
ids = torch.tensor([tokenizer.encode("the capital of peru is lima .")])
print(f"loss of that sentence {model(ids, labels=ids).loss.item():.2f}, "
      f"of guessing {torch.tensor(float(model.config.vocab_size)).log().item():.2f} nats")  # fmt: skip

# %% [markdown]
# That is the sanity ladder of a written prompt: `{x}` adds no word, so its score is that of the base by itself;
# a good sentence has a loss far below $\ln V$.
#
# ## Exercise: a score that depends on the padding
#
# Questions of unequal length go through the model in one batch, so the short ones are padded. A colleague
# reads the prediction at place *number of tokens − 1*. Two wordings that the model knows by heart:

# %%
known = ("the capital of {x} is", "in {x} the government sits in")
rows = [tokenizer.encode(t.replace("{x}", x)) for t in known for x, _ in task.test]
answers = torch.tensor([tokenizer.encode(y, add_special_tokens=False)[0] for _, y in task.test * 2])


def share_right(side, read):
    """Share of right answers with padding behind or before the short rows; `read` finds the place."""
    T, pad = max(map(len, rows)), tokenizer.pad_token_id
    fill = [[pad] * (T - len(row)) for row in rows]
    pairs = [(row, p) if side == "behind" else (p, row) for row, p in zip(rows, fill, strict=True)]
    ids = torch.tensor([a + b for a, b in pairs])  # (B, T)
    mask = (ids != pad).long()
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits  # (B, T, V)
    return (read(logits, mask).argmax(dim=1) == answers).float().mean().item()


def colleague(logits, mask):
    return logits[torch.arange(len(mask)), mask.sum(dim=1) - 1]  # (B, V)


for side in ("behind", "before"):
    print(f"padding {side} the short rows: {share_right(side, colleague):.2f}")

# %% [markdown]
# Same prompts, same model, two scores. What is wrong? Mend the function. It gets `logits` (B, T, V) and `mask` (B, T), 1 (or True)
# at tokens and 0 at padding on either side, and gives the logits (B, V) at each row's last token.

# %% exercise="minipeft.course.written_prompts:behind_last" broken="(mask * places).argmax(dim=1)  # (B,), the rightmost place with a 1 => mask.sum(dim=1) - 1  # (B,)" difficulty=2 minutes=8
# The shapes are right. The place is not.

# %%
checks.behind_last(behind_last)
for side in ("behind", "before"):
    print(f"padding {side} the short rows: {share_right(side, behind_last):.2f}")

# %% [markdown] tags=["slide"]
# ## How far wordings lie apart
#
# The model was pretrained on six wordings of this fact; four of them end where the answer begins. We add
# fourteen that a person might write and that it never read, and the bare country.
#
# **Predict.** All eighteen sentences ask for the same thing, and the model knows every answer. How far apart are the
# best and the worst of the unread wordings?

# %%
wordings = written.wordings(task)  # template -> was it read in pretraining?
scores = {text: written.accuracy(model, tokenizer, text, task.test) for text in wordings}
unread = [text for text, read in wordings.items() if not read and text != "{x}"]

# %% tags=["hide-input", "slide"]
order = sorted(scores, key=scores.get)
figure, axes = plots.figure(width=8.6, height=5.6)
colours = [plots.GREY if wordings[text] else plots.COLOURS["written prompt"] for text in order]
bars = axes.barh(order, [100 * scores[text] for text in order], color=colours)
axes.bar_label(bars, [f"{100 * scores[text]:.0f}" for text in order], padding=3)
axes.set_xlim(0, 110)
axes = plots.finish(axes, "right answers on 50 countries, %", "", "One fact, nineteen wordings",
                    legend=False, caption="Grey: read in pretraining. The others, but for the bare {x}, ask "
             "the same in words that every reader understands, and score anything.")  # fmt: skip

# %%
values = sorted(scores[text] for text in unread)
same = [t for t in unread if scores[t] < 0.1]
print(f"unread wordings: {100 * values[0]:.0f} to {100 * values[-1]:.0f} %, "
      f"half of them below {100 * values[len(values) // 2]:.0f} %")  # fmt: skip
print(f"{len(same)} of {len(unread)} find less than one capital in ten")

# %% [markdown] tags=["slide"]
# ## One wrong word
#
# The spread could have many causes. So we change a single word, by rule: each word of a template in turn
# gives way to another word drawn from all the wordings, three draws. The place that hurts most is chosen
# on dev; what it costs is told on test. The claim: *one wrong word can be catastrophic*. It counts as true if
# the 95 % interval of the change lies below 0 and the mean loss is 20 points or more.
#
# **Predict.** Which word of `the capital of {x} is` can be replaced without harm (no draw
# loses 5 points)?

# %%
vocabulary = sorted({word for text in wordings for word in text.split() if "{x}" not in word})


def one_wrong_word(model, tokenizer, template, vocabulary, dev, test, start=""):
    """Print the scores with each word replaced; the word that hurts most on dev, its test scores."""
    places = [word for word in template.split() if "{x}" not in word]
    hurt = {place: [] for place in range(len(places))}
    for seed in seeds:
        for place, text in enumerate(written.one_word_changed(template, vocabulary, seed)):
            pair = [written.accuracy(model, tokenizer, start + text, rows) for rows in (dev, test)]
            hurt[place].append((*pair, text))
    worst = min(hurt, key=lambda place: sum(dev for dev, _, _ in hurt[place]))
    print(f"{'replaced':<12}{'right on test, each draw':<28}worst text")
    for place, word in enumerate(places):
        shares = "  ".join(f"{100 * share:3.0f}" for _, share, _ in hurt[place])
        print(f"{word:<12}{shares:<28}{min(hurt[place], key=lambda run: run[1])[2]}")
    whole = written.accuracy(model, tokenizer, start + template, test)
    harmless = [w for p, w in enumerate(places) if min(t for _, t, _ in hurt[p]) > whole - MARGIN]
    print("replaced without harm in every draw:", ", ".join(harmless) or "none")
    return places[worst], [share for _, share, _ in hurt[worst]]


template = "the capital of {x} is"
word, changed = one_wrong_word(model, tokenizer, template, vocabulary, task.dev, task.test)
drop = experiments.difference(changed, [scores[template]] * len(seeds), CATASTROPHE)
print(f"\nthe worst place on dev is {word!r}; on test it costs {drop.text}")


# %% tags=["slide"]
def verdict_of(drop):
    catastrophe = drop.verdict == "worse" and drop.mean <= -100 * CATASTROPHE
    return "true" if catastrophe else "undecided" if drop.verdict == "undecided" else "false"


claims.record(
    30,
    f"another word in the place of '{word}' in '{template}' changes the score on 50 countries by "
    f"{drop.number} points (three draws)",
    f"true: interval below 0 and a mean loss of {100 * CATASTROPHE:.0f} points or more",
    verdict_of(drop),
)

# %% [markdown]
# ## Can a machine find better words?
#
# Words cannot be trained by gradient descent: they are discrete. But a gradient can say which word to
# *try*. **AutoPrompt** (Shin et al. 2020) puts real words around $x$, at first random ones, and swaps one
# at a time. A straight line through the present word $w_0$ foretells the loss with another word $w$ in its
# place (**HotFlip**, Ebrahimi et al. 2018):
#
# $$ \mathcal{L}(w) \approx \mathcal{L}(w_0) + (E_w - E_{w_0})^\top g, \qquad
#    g = \frac{\partial \mathcal{L}}{\partial E_{w_0}} $$
#
# | symbol | what | shape |
# |---|---|---|
# | $E$ | word vectors; $E_w$ is a row | (V, C) |
# | $g$ | gradient of the loss for the vector at one place | (C,) |
#
# Only the candidates are tried in the model: a word moves in when the loss really falls.
#
# ### Exercise: which words are worth a try?
#
# Give the numbers of the `count` words for which the straight line foretells the lowest loss, as a list,
# the most promising word first. `E` is (V, C), `gradient` is (C,). There may be fewer than `count` words.

# %% exercise="minipeft.tasks.prompt_search:promising" difficulty=2 minutes=8
# promising: what of the straight line depends on w?

# %%
checks.promising(promising)

# %% [markdown] tags=["slide"]
# Now the contest. A **person** thinks of five of the fourteen unread wordings (three draws) and keeps the
# best on dev. The **search** starts from five random words and sees the answers of 40 countries; at each step
# it tries the 16 words that the library's `promising` (the same as yours) names for one place.
#
# **Predict.** Who wins? And will you understand what the machine writes?

# %%
import random

from minipeft.tasks.prompt_search import search


def person(seed):
    five = random.Random(seed).sample(unread, 5)
    return max(five, key=lambda text: written.accuracy(model, tokenizer, text, task.dev))


FIVE = "[P][P][P] {x} [P][P] {mask}"  # places for words; the answer stands at {mask}
batches = [task.batches("train", tokenizer, batch_size=40)(0)]
by_hand = {seed: person(seed) for seed in seeds}
searched = {
    seed: search(model, FIVE, batches, tokenizer, steps=search_steps, seed=seed, progress=False)
    for seed in seeds
}
by_search = {s: result.words(tokenizer).removesuffix(" {mask}") for s, result in searched.items()}

contest = {}
for name, prompts in (("written", by_hand), ("searched", by_search)):
    contest[name] = [written.accuracy(model, tokenizer, prompts[s], task.test) for s in seeds]
    for seed, share in zip(seeds, contest[name], strict=True):
        print(f"{name:<10}{100 * share:4.0f} %   {prompts[seed]}")
gap = experiments.difference(contest["searched"], contest["written"], MARGIN)
print(f"searched - written: {gap.text}")

# %% tags=["hide-input", "slide"]
axes = plots.figure(height=3.0)[1]
for seed, result in searched.items():
    axes.plot(result.losses, label=f"search, seed {seed}")
axes.xaxis.get_major_locator().set_params(integer=True)
axes = plots.finish(axes, "steps, 16 words tried in each", "loss, nats", "Five words, one swap at a time",
             caption="The gradient names candidates, the model judges them.")  # fmt: skip

# %% tags=["slide"]
meaning = {
    "better": "The machine wins: both choose by answers, but it tries many more wordings.",
    "worse": "The person wins: sense beats search at this length of the search.",
    "equal": "Neither wins by more than 5 points.",
    "undecided": "Three draws do not decide it.",
}
print(meaning[gap.verdict])
print(f"for each prompt the search tried {search_steps} x 16 wordings on 40 countries, "
      f"the person 5 on {len(task.dev)}")  # fmt: skip

# %% [markdown]
# Both used answers: the person those of 20 countries, to choose; the search those of 40.
# What the search writes need not mean anything to us. It is the first hint that the words of a prompt are
# only *vectors* to the model, and that other vectors may do better than any word (lesson 07).
#
# ## Why that is not enough
#
# A prompt calls what is there. Tinyland's model can `reverse` a row of nouns and can `rotate` one. The task
# *reverse of the rotation* it has never seen. We let a person name every function and every pair of
# functions, in two spellings, and keep the best on dev. Beside it stands LoRA (lesson 10), its rate chosen on dev.
#
# **Predict.** Both skills are inside. Can a sentence join them?

# %%
novel = mp.tasks.load("reverse-rotate")
print(novel.test[0])
best, joined, tried = written.best_chain(model, tokenizer, novel, functions)
skills = {
    name: runs.quality(
        model, tokenizer, written.asked(mp.tasks.load(name), f"{name} : {{x}}"), "test", rows=50
    )
    for name in ("reverse", "rotate")
}


def learn(name, rate, seed):
    method = mp.LoRA(rank=8, targets=("query", "value"))
    return runs.tuned_task((model, tokenizer), method, novel, rate, lora_steps, seed, rows=50)


lora = experiments.contest({"LoRA": [3e-3, 1e-2, 3e-2]}, learn, seeds, label="LoRA")["LoRA"]
for name, skill in skills.items():
    print(f"{name + ' alone, asked by its name':<36}{100 * skill:.0f} %")
named = f"   ({best})" * (joined > 0)
print(f"{f'best of {tried} written prompts':<36}{100 * joined:.0f} %{named}")
trained = lora.runs[0]["trained"] / sum(p.numel() for p in model.parameters())
print(
    f"{f'LoRA, {100 * trained:.1f} % of the numbers':<36}{experiments.spread(lora.values('test'))}"
)

# %%
if joined < 0.2 < min(lora.values("test")):
    print("No sentence of ours joins the two skills; a few trained numbers do.")
elif joined >= 0.2:
    print("A sentence does join them, at least in part: prompts reach further than we thought.")
else:
    print("Neither reached it in this run.")

# %% [markdown]
# ## In-context learning
#
# GPT-3 made another kind of written prompt famous: solved examples, called **shots**, before the question.
#
# $$ \underbrace{x_1{:}\;y_1 \quad x_2{:}\;y_2 \quad \dots \quad x_k{:}\;y_k}_{k \text{ shots}} \quad x{:} $$
#
# Each shot passes through every layer and leaves its keys and values there; the question's attention reads
# them. So shots come in by the *words* door and act through the *memory* door, where prefix-tuning
# (lesson 06) will put trained vectors.
#
# **Predict.** A model of 0.9 million parameters: does it learn from shots?


# %%
def shots_curve(model, tokenizer, splits, pattern, end, sizes, move=False, start=""):
    """For each number of shots: the score of every draw of examples, on test."""
    curve = []
    for k in sizes:
        row = []
        for seed in seeds:
            drawn = random.Random(seed).sample(list(splits["train"]), k + 1)
            chosen = written.answers_moved(drawn) if move else drawn
            text = start + written.shots(chosen[:k], pattern) + "{x}" + end
            row.append(written.accuracy(model, tokenizer, text, splits["test"]))
        curve.append(row)
    return curve


small = [k for k in sizes if k <= 8]  # what fits into 96 positions
tiny = shots_curve(model, tokenizer, task.splits, "{x} => {y} . ", " =>", small)
for k, row in zip(small, tiny, strict=True):
    print(f"{k:>2} shots {experiments.spread(row)}")
print("trend:", experiments.trend(small, tiny).text)
print("weights unchanged:", mp.fingerprint(model) == before)

# %% [markdown]
# Where the curve does not rise, that is an honest limit of our small models. A model must first learn how to use
# examples in a prompt. It learns that from long and varied text, and Tinyland's documents are one line each. The
# real model below has read more.
#
# ### Exercise: what shots cost
#
# SmolLM2-135M has $L = 30$ layers, width $C = 576$, and heads of $D = 64$ numbers: 9 heads ask, and 3 heads
# hold the keys and values that they share. Sixteen shots of 7 tokens each stand before every question. **How many bytes of keys and values** do the
# shots occupy while a question is answered, in bfloat16 (2 bytes a number)?

# %% exercise="minipeft.checks:shots_bytes" difficulty=1 minutes=5
# Write a number, or the line that computes it.
# shots_bytes: for every token, in every layer, for every head that is kept: two vectors
layers, kept_heads, D, tokens, size = 30, 3, 64, 16 * 7, 2
shots_bytes = layers * kept_heads * 2 * D * tokens * size  # a key and a value each

# %%
checks.shots_bytes(shots_bytes)

# %% [markdown] tags=["slide"]
# These bytes are paid for every question (unless a server keeps the keys and values of a common beginning), and 112
# of the places that the model can read are taken. A prompt costs next to nothing to store and much to use; with LoRA
# it is the other way round.
#
# ## On a real model
#
# SmolLM2-135M-Instruct has read the web. It was never told what we shall ask. (Its weights come from a
# 4-bit file, so its scores are not those that its makers publish.) `START` is the token that begins every text. First the example of Liu et al. (2021), *the capital of
# Britain is ...*, in eleven wordings; then one wrong word; then shots, with right answers and with *moved* ones:
# each question has the answer of another, so that the form is right and every answer wrong.
#
# **Predict.** The spread? And how much of the shots' effect is left when all their answers are wrong?

# %%
loaded = real.load("smollm2")
if loaded:
    big, words = loaded
    big_before = mp.fingerprint(big)
    splits = written.ordinary(task)
    splits = {name: rows[:real_rows] for name, rows in splits.items()}
    eleven = {
        text: [written.accuracy(big, words, START + text, splits[s]) for s in ("dev", "test")]
        for text in WORDINGS
    }
    chosen = max(eleven, key=lambda text: eleven[text][0])

# %% tags=["hide-input", "slide"]
if loaded:
    order = sorted(eleven, key=lambda text: eleven[text][1])
    figure, axes = plots.figure(width=8.6, height=4.2)
    bars = axes.barh(order, [100 * eleven[text][1] for text in order],
                     color=plots.COLOURS["written prompt"])  # fmt: skip
    axes.bar_label(bars, [f"{100 * eleven[text][1]:.0f}" for text in order], padding=3)
    axes.set_xlim(0, 110)
    plots.finish(axes, "right answers on 50 countries, %", "", "SmolLM2-135M, eleven wordings",
                 legend=False, caption=f"One question, {100 * eleven[order[0]][1]:.0f} to "
                 f"{100 * eleven[order[-1]][1]:.0f} %. Grammar does not tell which will work.")  # fmt: skip

# %%
if loaded:
    print(f"best on dev: {chosen!r}, on test {100 * eleven[chosen][1]:.0f} %; "
          f"the best on test has {max(100 * test for _, test in eleven.values()):.0f} %")  # fmt: skip
    for name, text in (("a space at the end", f"{START}{chosen} "), ("no start token", chosen)):
        share = written.accuracy(big, words, text, splits["test"])
        print(f"{name:<20}{100 * share:4.0f} %")
    common = sorted({w for text in WORDINGS for w in text.split() if w.isalpha()})
    real_word, real_changed = one_wrong_word(
        big, words, chosen, common, splits["dev"], splits["test"], START
    )
    real_drop = experiments.difference(real_changed, [eleven[chosen][1]] * len(seeds), CATASTROPHE)
    print(f"\nthe worst place on dev is {real_word!r}; on test it costs {real_drop.text}")

# %% [markdown]
# The space at the end is the classic accident: the tokenizer makes it a token of its own, but the model has
# always read `" Lima"`, space and word in one.

# %% tags=["hide-input"]
if loaded:
    arms = {"right answers": False, "answers moved": True}
    curves = {
        name: shots_curve(big, words, splits, "{x}: {y}\n", ":", sizes, move, START)
        for name, move in arms.items()
    }
    axes = plots.figure(height=3.6)[1]
    for (name, rows), style, aside in zip(curves.items(), ("-", "--"), (0, 0.3), strict=True):
        where = [k + aside for k in sizes]  # beside each other, so that both intervals are seen
        plots.whiskers(axes, where, rows, name, colour=plots.COLOURS["in-context"], linestyle=style)
    plots.whiskers(axes, small, tiny, "tiny-decoder", colour=plots.COLOURS["base"])
    axes.axhline(
        eleven[chosen][1], color=plots.COLOURS["written prompt"], label="wording chosen on dev"
    )
    rises = experiments.trend(sizes, curves["right answers"])
    grows = "rises" if rises.verdict == "rises" else "does not surely rise"
    plots.finish(axes, "shots in the prompt", "share right on test", "In-context learning",
                 limits=(0, 1), caption=f"The full line {grows}, and nothing is trained. "
                 "The dashed one has not a single right example.")  # fmt: skip

# %%
if loaded:
    last = [curves[name][-1] for name in arms]
    content = experiments.difference(*last, MARGIN)
    same_bits = mp.fingerprint(big) == big_before
    print(f"shots: {rises.text}")
    print(f"right answers against moved ones, {sizes[-1]} shots: {content.text}")
    print(f"weights unchanged: {same_bits}")
    learnt = rises.verdict == "rises" and same_bits
    claims.record(
        52,
        f"SmolLM2's weights are the same bits; 0 to {sizes[-1]} shots change its score by {rises.text}; "
        f"right answers against moved ones: {content.text}",
        "true: equal fingerprints, and the trend over the whole sweep rises (95 %, three draws)",
        "true" if learnt else "undecided",
    )
    claims.record(
        30,
        f"SmolLM2: another word in the place of '{real_word}' in '{chosen}' changes the score on "
        f"50 countries by {real_drop.number} points (three draws)",
        f"true: interval below 0 and a mean loss of {100 * CATASTROPHE:.0f} points or more",
        verdict_of(real_drop),
    )
else:
    rises = experiments.trend(small, tiny)
    claims.record(
        52,
        f"the tiny decoder's weights are the same bits; shots change its score by {rises.text}",
        "true: equal fingerprints, and the trend over the whole sweep rises (95 %, three draws)",
        "true" if rises.verdict == "rises" else "not reproduced at this size",
    )

# %%
if loaded:
    reading = {
        "equal": "Wrong answers teach as much as right ones: shots show the form of the task.",
        "better": "Right answers add something: shots teach more than the form.",
        "worse": "Wrong answers helped more, which nobody would have guessed.",
        "undecided": "Whether right answers add anything is not decided by three draws.",
    }
    gains = [sum(shares) - sum(curves[name][0]) for name, shares in zip(arms, last, strict=True)]
    left = gains[1] / max(gains[0], 1e-9)  # gains over no shots at all
    print(f"{100 * left:.0f} % of what the shots add is left when every answer is wrong.")
    print(reading[content.verdict])
    if left > 0.7 and gains[0] > 0:
        print("So most of what shots do is to say which skill is wanted, and in which form.")

# %% [markdown]
# Does that deserve the word *learning*? For larger models Min et al. (2022,
# [arXiv 2202.12837](https://arxiv.org/abs/2202.12837)) found that wrong labels in the shots cost little: a
# latent task is called out, as by a good wording. Compare it with your numbers above.
#
# ## Passport of a written prompt
#
# The same questions are put to every method; nothing is trained here, so there is no learning rate.

# %% tags=["hide-input"]
written.passport(model, tokenizer, "reverse : {x}", skills["reverse"], joined)

# %% [markdown] tags=["slide"]
# ## What this lesson showed, and what it did not
#
# **Shown.** A frozen model answers or fails depending on words that mean the same to us. One word can cost
# everything. Choosing a wording needs labelled examples, and so does searching for one. Shots act without
# moving a weight, and are paid for with every question. On a task that the base
# does not have, no prompt of ours helped and LoRA did.
#
# **Not shown.** Large models: they follow instructions, and brittleness shrinks, though it stays. Search on
# the real model, which takes hours. Prompts that let a model think in several steps. And whether *trained*
# vectors in the place of the words do better: lessons 07 and 08 put them there.
