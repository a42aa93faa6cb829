# ---
# jupyter:
#   minipeft:
#     title: Attention and a transformer from scratch
#     question: What does a transformer compute, line by line, and where in these lines are its three doors?
#     minutes: 2
# ---

# %% [markdown]
# Every method of this course changes what happens inside a transformer. So we build one first: one
# equation, one mask, several heads, a small network, and a block that joins them. You write all five.
# Then we load trained weights into it, look at what it does, and open its three doors by hand.
#
# Letters: B rows of a batch, T tokens, C width, H heads, $D = C/H$ width of a head, L blocks, V words.

# %%
import copy
import math
import random
import time

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional as F

import tiny_transformer as tt
from minipeft import checks, plots, tasks

plt.rcParams["figure.dpi"] = 90
model, tokenizer = tt.load("tiny-decoder")
for parameter in model.parameters():
    parameter.requires_grad_(False)  # in this lesson the trained model is only read
config = model.config
C, H, D, L, V = config.width, config.heads, config.head_width, config.layers, config.vocab_size
print(f"C = {C}, H = {H}, D = {D}, L = {L}, V = {V}")

# %% fast="steps, seeds, rows, repeats, new_words = 5, [0, 1], 20, 1, [1, 10]"
steps, seeds, rows, repeats, new_words = 160, [0, 1, 2], 300, 3, [1, 10, 20, 40, 80]

# %% [markdown]
# ## 1 · A token is a vector
#
# The tokenizer cuts a text into words and gives each word its number, its *id*. The embedding table has
# one row of C numbers per word. So a text of T words becomes a table of shape (T, C). Everything after
# that is arithmetic on such tables.

# %%
text = "the capital of france is paris ."
ids = tokenizer(text)["input_ids"]  # (1, T)
vectors = model.embeddings.words(ids)  # (1, T, C)
print("words ", [tokenizer.names[i] for i in ids[0]])
print("ids   ", ids[0].tolist())
print("table ", tuple(model.embeddings.words.weight.shape), "= (V, C)")
print("vectors", tuple(vectors.shape), "= (B, T, C)")

# %% [markdown]
# Training moves words that are *used alike* towards each other. The picture compares directions: 1 is the
# same direction, 0 is unrelated.
#
# **Predict:** which two of these ten words are most alike?

# %%
words = "paris rome tokyo france italy japan cat dog good bad".split()
chosen = model.embeddings.words.weight[tokenizer.convert_tokens_to_ids(words)]  # (10, C)
direction = F.normalize(chosen, dim=-1)
cosine = (direction @ direction.T).round(decimals=2) + 0.0  # (10, 10)
axes = plots.heat(cosine, words, words, title="cosine between word vectors", limits=(-1, 1))
axes.tick_params(axis="x", rotation=45)
plt.show()

# %% tags=["not-fast"]
pairs = cosine.triu(1)
best = divmod(pairs.argmax().item(), len(words))
print(f"most alike: {words[best[0]]} and {words[best[1]]}, cosine {pairs.max():.2f}")
assert {words[i] for i in best} == {"good", "bad"}

# %% [markdown]
# `good` and `bad`! They stand in the same places (*the soup was ...*), so their vectors are nearly the
# same. A word vector says **where a word is used**, which is not the same as what it means. The
# difference between good and bad still matters, and the blocks have to make it larger.

# %% [markdown]
# ## 2 · Attention is a soft lookup
#
# A Python dictionary compares your query with its keys, finds the one that is equal, and returns its
# value. Attention does the same softly. *Every* key fits the query to some degree. The degrees become
# weights that sum to 1, and the answer is the weighted mean of the values:
#
# $$ \mathrm{heads} = \mathrm{softmax}\!\left( \frac{Q K^{\top}}{\sqrt{D}} + \mathrm{mask} \right) V
#    \qquad \text{(eq. 1)} $$
#
# | part of the equation | shape | in words |
# |---|---|---|
# | $Q$ | (B, H, T, D) | one question per token |
# | $K$, $V$ | (B, H, S, D) | one key and one value per token that may be asked |
# | $Q K^{\top} / \sqrt{D}$ | (B, H, T, S) | how well each key fits each question: the *scores* |
# | + mask | (B, 1, T, S) | 0 where a token may look, a very negative number where not |
# | softmax over the last axis | (B, H, T, S) | each row becomes positive and sums to 1: the *weights* |
# | weights $\cdot V$ | (B, H, T, D) | a mean of the values, one per question |

# %% [markdown]
# Three keys in the plane, and one query. **Predict** the three weights when the query is the zero vector,
# and when it is very long.

# %%
keys = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])  # (S, D)
angle = math.radians(35)
lengths = [0, 1, 3, 10]
figure, panels = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
for number, key in enumerate(keys):
    style = {"arrowstyle": "->", "color": f"C{number}", "shrinkA": 0, "shrinkB": 0}
    panels[0].annotate("", key, (0, 0), arrowprops=style)
    panels[0].text(*(1.3 * key), f"key {number}", ha="center", va="center", color=f"C{number}")
query = torch.tensor([math.cos(angle), math.sin(angle)])  # (D,)
panels[0].annotate("", query, (0, 0), arrowprops={"arrowstyle": "->", "color": "black", "lw": 2})
panels[0].text(*(1.15 * query), "query", ha="left", va="bottom")
panels[0].set(xlim=(-1.7, 1.8), ylim=(-0.3, 1.5), aspect="equal", title="three keys, one query")
panels[0].axis("off")
bottom = torch.zeros(len(lengths))
lookup = torch.stack([(length * keys @ query / math.sqrt(2)).softmax(-1) for length in lengths])
for number, weights in enumerate(lookup.T):
    panels[1].bar(range(len(lengths)), weights, bottom=bottom, color=f"C{number}", alpha=0.75)
    bottom += weights
panels[1].set_xticks(range(len(lengths)), lengths)
panels[1].set(xlabel="length of the query", ylabel="attention weight", title="who gets the weight")
panels[1].set_ylim(0, 1)
panels[1].legend([f"key {number}" for number in range(3)], frameon=False, loc="center left",
                 bbox_to_anchor=(1, 0.5))  # fmt: skip
plt.show()

# %% [markdown]
# The zero query fits all keys equally: the answer is the plain mean. A long query picks the best key:
# nearly a dictionary. The length of a query is how *decided* it is, and the model learns it.

# %% exercise="tiny_transformer.attention:attend" difficulty=2 minutes=10
# Equation 1. Five lines are enough.
# attend: scores first, (B, H, T, S): key needs its last two axes swapped
# attend: then the mask, then the softmax over the keys, then F.dropout(weights, dropout)

# %%
checks.attend(attend)

# %% [markdown]
# <details><summary>Hints</summary>
#
# - `key.transpose(-2, -1)` has shape (B, H, D, S). `@` multiplies the last two axes and keeps the others.
# - D is `query.shape[-1]`, not the width C.
# - `mask` may be None.
# - The weights that you return are those that met the values.
# </details>
#
# **Why divide by $\sqrt{D}$?** A score is a sum of D products. If the entries of query and key are
# independent with variance 1, the score has variance D. **Predict:** what does a softmax over scores of
# size 30 do?

# %%
widths = [1, 4, 16, 64, 256, 1024]
spread = {"Q·K": [], "Q·K / √D": []}
largest = {"Q·K": [], "Q·K / √D": []}
for seed in range(5):
    generator = torch.Generator().manual_seed(seed)
    for values in (*spread.values(), *largest.values()):
        values.append([])
    for width in widths:
        query = torch.randn(200, 1, width, generator=generator)  # (B, 1, D)
        key = torch.randn(200, 16, width, generator=generator)  # (B, S, D)
        raw = (query @ key.mT)[:, 0]  # (B, S)
        for name, scores in (("Q·K", raw), ("Q·K / √D", raw / math.sqrt(width))):
            spread[name][-1].append(scores.std().item())
            largest[name][-1].append(scores.softmax(-1).amax(-1).mean().item())
figure, panels = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
plots.curves(spread, widths, panels[0], "D", "standard deviation of a score", "scores grow with √D",
             log_x=True)  # fmt: skip
panels[0].set_yscale("log")
plots.curves(largest, widths, panels[1], "D", "largest of 16 weights (mean)",
             "one key takes everything", log_x=True)  # fmt: skip
panels[1].set_ylim(0, 1)
plt.show()

# %% [markdown]
# Without the division a wide head starts as a hard lookup: one key has all the weight. The gradient of a
# softmax is $w_i (1 - w_i)$ on its diagonal. It vanishes when the weights are 0 and 1, so the head could not
# learn to look elsewhere. With the division the start does not depend on D.

# %% [markdown]
# ## 3 · Who may look at whom: the causal mask
#
# A decoder learns to guess the next word. While it trains, the whole text is there, the next word too.
# So token $i$ must not see tokens $i+1, i+2, \dots$: they are its future. It sees itself and its past.

# %% exercise="tiny_transformer.attention:causal_mask" difficulty=2 minutes=8
# With a cache (section 8) there are more keys than tokens: the first S - T keys are the past.
# causal_mask: torch.ones(tokens, keys, dtype=torch.bool).triu(diagonal=...) marks what lies above a diagonal
# causal_mask: masked_fill puts torch.finfo(like.dtype).min there

# %%
checks.causal_mask(causal_mask)

# %% [markdown]
# **What if the mask leaks?** We train two small decoders on texts of *random* words, 16 words to choose
# from. There is nothing to learn. An honest model cannot get below $\log 16 = 2.77$ nats per word.
# **Predict** where the loss of the leaking one goes.


# %%
class Leaky(tt.Decoder):
    """A decoder whose tokens see the future."""

    causal = False


def noise(step, seed):
    """A batch of 32 random texts of 16 words, new at every step."""
    generator = torch.Generator().manual_seed(1_000_003 * seed + step)
    ids = torch.randint(16, (32, 16), generator=generator)  # (B, T)
    return {"input_ids": ids, "labels": ids}


small = tt.TransformerConfig(vocab_size=16, width=32, layers=2, heads=2, positions=16)
losses, last = {"honest": [], "leaking": []}, {}
for seed in seeds:
    for name, kind in (("honest", tt.Decoder), ("leaking", Leaky)):
        torch.manual_seed(seed)
        last[name] = kind(small)
        losses[name].append(
            tt.pretrain(last[name], lambda step, seed=seed: noise(step, seed), steps, peak=3e-3,
                        warmup=20, seed=seed, progress=False)
        )  # fmt: skip
axes = plots.curves(losses, ylabel="training loss (nats per word)", title="texts of random words")
axes.axhline(math.log(16), color="0.4", linestyle="--", linewidth=1)
axes.text(steps, math.log(16) + 0.05, "log 16: nothing can be known", ha="right", fontsize=8)
axes.set_ylim(0, 3.2)
plt.show()

# %% [markdown]
# The leaking model reads the answer and reports a wonderful loss. It has learned to copy, and nothing
# else. When it writes, the future does not exist yet:

# %%
generator = torch.Generator().manual_seed(99)
noise_ids = torch.randint(16, (200, 16), generator=generator)  # (B, T)
for name, kind in last.items():
    with torch.no_grad():
        guess = kind(noise_ids[:, :8]).logits[:, -1]  # (B, V): the ninth word, which is not there
    print(f"{name:<8} loss on the ninth word, from the first eight: "
          f"{F.cross_entropy(guess, noise_ids[:, 8]).item():.2f} nats")  # fmt: skip

# %% [markdown]
# A training loss far below what can be known is the sign of a leak. Section 9 has a test that finds any
# leak without training.

# %% [markdown]
# ## 4 · Several heads
#
# One row of weights can look at one kind of thing. So C is cut into H heads of width D. Each head asks its
# own questions with its own D numbers, and a last linear map mixes what the heads found:
#
# $$ Q = x W_Q, \quad K = c\, W_K, \quad V = c\, W_V, \qquad
#    y = [\mathrm{head}_1 ; \dots ; \mathrm{head}_H]\, W_O $$
#
# In *self-attention* the context $c$ is $x$ itself. In *cross-attention* $c$ is what an encoder wrote.
#
# | step | shape | where |
# |---|---|---|
# | `x` | (B, T, C) | the stream |
# | `query(x)` | (B, T, C) | one linear map for all heads |
# | cut the last axis | (B, T, H, D) | `split` |
# | swap T and H | (B, H, T, D) | `split` |
# | equation 1 | (B, H, T, D) | `mix` (given) |
# | swap back, lay the heads side by side | (B, T, C) | `join` |
# | `output(...)` | (B, T, C) | back to the stream |
#
# The usual mistake is to write `x.view(B, H, T, D)` at once. The shape is right and the numbers are
# wrong: a head gets pieces of other tokens. Nothing complains, the loss only falls more slowly.
#
# This layer also keeps a **cache** (section 8) and has a **memory** (section 10). `mix`, `hide_future` and
# `add_memory` are given; read them first.

# %% exercise="tiny_transformer.attention:Attention" blank="split,join,forward" difficulty=4 minutes=25
# forward: query from x; key and value from the context, or from x when there is none; split all three
# forward: cache, self-attention: put cache["key"], cache["value"] before the new ones (dim 2), store both
# forward: cache, cross-attention: the context never changes, so keys and values are made once
# forward: memory: self.add_memory gives key, value, mask; mix hides the future behind it
# forward: then self.mix, self.join, self.output

# %%
checks.attention(Attention)

# %% [markdown]
# ### What the heads of a trained model look at
#
# `reverse : a b c d e f => f e d c b a .` To write this, something must know the task, and something must
# walk backwards through the row. We average the attention weights over many rows of six nouns. One small
# picture per head: a row of pixels is a token that asks, a column is a token that is looked at.

# %%
nouns = sorted(
    {word for example in tasks.load("reverse").train for word in example.input.split()[:-1]}
)
roll = random.Random(0)
samples = [roll.sample(nouns, 6) for _ in range(rows)]
texts = [f"reverse : {' '.join(row)} => {' '.join(row[::-1])} ." for row in samples]
for block in model.blocks:
    block.attention.keep_weights = True
batch = tokenizer(texts)
model(**batch)
weights = torch.stack([block.attention.weights.mean(0) for block in model.blocks])  # (L, H, T, T)
for block in model.blocks:
    block.attention.keep_weights = False
labels = ["<bos>", "reverse", ":", *"abcdef", "=", ">", *"fedcba", "."]

writes = torch.arange(10, 16)  # the tokens that must say f, e, d, c, b, a
sources = torch.arange(8, 2, -1)  # where these stand
on_trigger = weights[:, :, writes, 1].mean(-1)  # (L, H)
on_source = torch.stack([weights[:, :, writes, sources + shift].mean(-1) for shift in (0, 1)]).amax(
    0
)
trigger_head = divmod(on_trigger.argmax().item(), H)  # (layer, head)
reading_head = divmod(on_source.argmax().item(), H)

figure, panels = plt.subplots(L, H, figsize=(7.5, 7.5), layout="constrained")
for layer in range(L):
    for head in range(H):
        panel = panels[layer, head]
        panel.imshow(weights[layer, head], cmap="viridis", vmin=0, vmax=0.6)
        panel.set(xticks=[], yticks=[])
        panel.set_title(f"block {layer}, head {head}", fontsize=8)
        frames = {trigger_head: "C1", reading_head: "C3"}
        for side in panel.spines.values():
            side.set(color=frames.get((layer, head), "0.8"), linewidth=3)
figure.suptitle(f"attention weights, mean over {rows} rows (two heads are framed)")
plt.show()

# %%
figure, panels = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
for panel, (layer, head), what, colour in (
    (panels[0], trigger_head, "looks most at the word that names the task", "C1"),
    (panels[1], reading_head, "walks backwards through the row", "C3"),
):
    image = panel.imshow(weights[layer, head], cmap="viridis", vmin=0, vmax=1)
    panel.set_xticks(range(len(labels)), labels, rotation=90, fontsize=8)
    panel.set_yticks(range(len(labels)), labels, fontsize=8)
    panel.set(xlabel="token that is looked at", ylabel="token that asks")
    panel.set_title(f"block {layer}, head {head}: {what}", fontsize=9, color=colour)
figure.colorbar(image, ax=panels, label="attention weight", shrink=0.8)
plt.show()

# %% [markdown]
# Left: after `=>` this head looks at the word `reverse`, whatever else is there. Right: the line that runs
# from upper right to lower left is the reading direction. (It may stand one token beside the word that is
# needed: earlier blocks have already carried words to their neighbours.)
#
# A picture of weights is a hint, no proof. The proof is to take a head out and to look what breaks. For
# this we need a score. **A greedy answer is right exactly when every next word is right, given the right
# words before it.** So one forward pass over question and answer tells us, and nothing must be generated.


# %%
@torch.no_grad()
def exact(some_model, questions, answers):
    """Share of answers that greedy writing would get right word for word."""
    whole = tokenizer([f"{q} {a}" for q, a in zip(questions, answers, strict=True)])
    start = tokenizer(questions)["attention_mask"].sum(1)  # (B,) where the answer begins
    best = some_model(**whole).logits[:, :-1].argmax(-1)  # (B, T - 1)
    target = whole["input_ids"][:, 1:]  # (B, T - 1)
    place = torch.arange(1, target.shape[1] + 1)
    asked = (place >= start[:, None]) & (whole["attention_mask"][:, 1:] == 1)
    return ((best == target) | ~asked).all(1).double().mean().item()


def skill(name, trigger=True):
    """Questions and answers of one string function, on rows of words that pretraining never saw."""
    task = tasks.load(name)
    examples = [*task.test, *task.ood][:: max(1, 600 // rows)]
    word = f"{name} : " if trigger else ""
    return [word + e.input for e in examples], [e.target for e in examples]


capital = tasks.load("capital")
countries = [e for split in ("train", "dev", "test") for e in capital.examples(split)]
facts = [f"the capital of {e.input} is" for e in countries], [e.target for e in countries]
print(f"reverse: {exact(model, *skill('reverse')):.1%} of {len(skill('reverse')[0])} rows")
print(f"facts:   {exact(model, *facts):.1%} of {len(countries)} capitals")

# %% [markdown]
# A head is taken out by setting the D columns of $W_O$ that read it to zero. **Predict:** which heads can
# the model not do without, and are they the same for facts and for reversing?

# %%
without = torch.zeros(2, L, H)
for layer, block in enumerate(model.blocks):
    matrix = block.attention.output.weight  # (C, C): columns are what it reads
    for head in range(H):
        kept = matrix.clone()
        matrix[:, head * D : (head + 1) * D] = 0
        without[0, layer, head] = exact(model, *skill("reverse"))
        without[1, layer, head] = exact(model, *facts)
        matrix.copy_(kept)
figure, panels = plt.subplots(1, 2, figsize=(9, 2.9), layout="constrained")
for panel, table, what in zip(panels, without, ("rows reversed", "capitals known"), strict=True):
    plots.heat((100 * table).round(), [f"block {i}" for i in range(L)], [f"head {i}" for i in range(H)], panel,
               title=f"% of {what}, without one head", limits=(0, 100))  # fmt: skip
for (layer, head), colour in ((trigger_head, "C1"), (reading_head, "C3")):
    panels[0].add_patch(plt.Rectangle((head - 0.5, layer - 0.5), 1, 1, fill=False, ec=colour, lw=3))
plt.show()

# %%
worst = divmod(without[0].argmin().item(), H)
for (layer, head), what in (
    (trigger_head, "looks at the trigger"),
    (reading_head, "walks backwards"),
    (worst, "is missed most"),
):
    rest = without[0, layer, head]
    print(f"without block {layer}, head {head}, which {what + ',':<21} {rest:.0%} are still right")

# %% tags=["not-fast"]
assert without[0][trigger_head] < 0.5
assert (without[1] > 0.9).double().mean() > 0.8

# %% [markdown]
# The head that looks at the trigger cannot be spared. For the other one, compare its picture with the number
# in its frame. A head may draw a beautiful line and hardly matter, because others carry the same
# information; and the head that is missed most may have a picture that says little. For facts, nearly
# every single head can go. That does not mean that facts need no attention: `capital` and `france` must
# come together at one place, but more than one head can bring them there. Knocking out *one* part shows what
# is necessary, not all that takes part.

# %% [markdown]
# ## 5 · The block: a stream that everybody adds to
#
# Attention moves information between tokens. What is done *at* a token is the work of a small network, the
# same one at every token:
#
# $$ \mathrm{FFN}(x) = \varphi(x W_{\mathrm{up}} + b_{\mathrm{up}})\, W_{\mathrm{down}} + b_{\mathrm{down}}
#    \qquad \text{(eq. 2)} $$
#
# | part | shape | line |
# |---|---|---|
# | $x W_{\mathrm{up}} + b_{\mathrm{up}}$ | (B, T, 4C) | `self.up(x)` |
# | $\varphi$ | (B, T, 4C) | `self.activation(...)` |
# | $W_{\mathrm{down}}$, $b_{\mathrm{down}}$ | (B, T, C) | `self.down(...)` |

# %% exercise="tiny_transformer.layers:FeedForward" blank="forward" difficulty=1 minutes=3

# %%
checks.feed_forward(FeedForward)

# %% [markdown]
# A block has these two *sublayers*. Each one reads the stream and **adds** its answer to it. LayerNorm
# brings a vector to mean 0 and variance 1 (then scales and shifts each number), so that a sublayer reads
# numbers of a known size. Where it stands makes two kinds:
#
# $$ \text{pre-norm (GPT-2): } x \leftarrow x + \mathrm{sublayer}(\mathrm{LN}(x)) \qquad
#    \text{post-norm (2017, BERT, BART): } x \leftarrow \mathrm{LN}(x + \mathrm{sublayer}(x)) $$
#
# In pre-norm nothing ever touches $x$ itself: from the first block to the last it is only added to. This
# is the *residual stream*.

# %% exercise="tiny_transformer.layers:Block" blank="add,forward" difficulty=3 minutes=15
# add: dropout falls on what the sublayer says, not on x
# forward: three sublayers, one after the other: attention, cross-attention if there is a context, FFN
# forward: a sublayer that needs more than h: lambda h: self.attention(h, mask=..., causal=..., cache=...)
# forward: each attention keeps its own dict inside `cache`: cache.setdefault("self", {})

# %%
checks.block(Block)

# %% [markdown]
# <details><summary>Hints</summary>
#
# - `add(x, sublayer, norm)` is the two equations above, with `if self.pre_norm`.
# - `self.feed_forward` can be handed to `add` as it is.
# - Cross-attention is never causal: the whole source has been read.
# - Without a cache, hand on None.
# </details>
#
# **Watching the stream.** Because every block only adds, we may read the stream after *any* block with the
# model's own last norm and head: what would the model say if it stopped here?

# %%
ids = tokenizer("the capital of france is")["input_ids"]  # (1, T)
positions = torch.arange(ids.shape[1])[None]  # (1, T)

x = model.embeddings(ids, positions)  # (1, T, C)
stream = [x]
for block in model.blocks:
    x = block(x, causal=True)  # (1, T, C)
    stream.append(x)
logits = model.head(model.norm(x))  # (1, T, V)

for number, state in enumerate(stream):
    p = model.head(model.norm(state))[0, -1].softmax(-1)  # (V,)
    best = p.topk(3)
    guesses = [
        f"{tokenizer.names[i]} {q:.0%}" for q, i in zip(best.values, best.indices, strict=True)
    ]
    print(f"after block {number - 1}" if number else "embeddings   ", "|", ", ".join(guesses))

# %% [markdown]
# That cell was, by the way, **the whole decoder**: embeddings, blocks, norm, head. Six lines. It is what
# `tt.Decoder` computes:

# %%
print("largest difference:", (logits - model(ids).logits).abs().max().item())

# %% [markdown]
# ## 6 · Positions
#
# Equation 1 does not know what stands where: it is a sum over keys, and a sum has no order. Position
# vectors are added to the word vectors to change that. **Predict:** in an *encoder* (no causal mask) we
# shuffle the words. What happens to the states, with and without position vectors?

# %%
torch.manual_seed(0)
encoder = tt.Encoder(tt.TransformerConfig.bert(vocab_size=50, width=32, layers=2, heads=4)).eval()
ids = torch.randint(14, 50, (1, 10))  # (1, T)
order = torch.randperm(10)
for name in ("with positions   ", "without positions"):
    with torch.no_grad():
        if name.startswith("without"):
            encoder.embeddings.positions.weight.zero_()
        states = encoder(ids).states[:, order]  # shuffled afterwards
        shuffled = encoder(ids[:, order]).states  # shuffled before
    print(f"{name}  largest difference {(states - shuffled).abs().max():.1e}")

# %% [markdown]
# Without positions the encoder sees a *bag of words*: shuffle the input and the output is shuffled in the
# same way, up to rounding.

# %% [markdown]
# ## 7 · Three sanity checks for a transformer
#
# **An untrained model knows nothing**, so it gives each word about the same probability and its loss is
# close to $\log V$. If it starts much higher, the weights start too large.

# %%
for seed in seeds:
    torch.manual_seed(seed)
    fresh = tt.Decoder(config)
    ids = torch.randint(14, V, (8, 32))  # (B, T)
    print(f"seed {seed}: loss {fresh(ids, labels=ids).loss.item():.3f}, log V = {math.log(V):.3f}")

# %% [markdown]
# **The number of parameters can be computed on paper.** With tied words (the head uses the embedding table
# again) and an inner width of $4C$:
#
# $$ \underbrace{V C}_{\text{words}} + \underbrace{N C}_{\text{positions}}
#    + L \,(\underbrace{4 C^2 + 4 C}_{\text{attention}} + \underbrace{8 C^2 + 5 C}_{\text{FFN}}
#    + \underbrace{4 C}_{\text{two norms}}) + \underbrace{2 C}_{\text{last norm}} $$
#
# **Predict** it for GPT-2 small before you run the cell: $V = 50257$, $N = 1024$, $C = 768$, $L = 12$. (The
# `meta` device makes a model without its numbers, so this costs no memory.)

# %%
gpt2_small = tt.TransformerConfig.gpt2(
    vocab_size=50257, width=768, layers=12, heads=12, positions=1024
)
print(f"{'':<14}{'formula':>14}{'counted':>14}")
for name, numbers in (("tiny-decoder", config), ("GPT-2 small", gpt2_small)):
    c, n, v, layers = numbers.width, numbers.positions, numbers.vocab_size, numbers.layers
    formula = v * c + n * c + layers * (12 * c**2 + 13 * c) + 2 * c
    with torch.device("meta"):
        counted = sum(parameter.numel() for parameter in tt.Decoder(numbers).parameters())
    print(f"{name:<14}{formula:>14,}{counted:>14,}")

# %% [markdown]
# 124,439,808 is the number published for GPT-2 small. In a tiny model the words are a large share; in a
# large one nearly everything is $12 L C^2$.
#
# **Another library must agree.** Our checkpoints are ordinary Hugging Face folders. The same file, opened
# by `transformers`, must give the same logits:

# %%
try:
    from transformers import AutoModelForCausalLM
except ImportError:
    print("transformers is not installed: this comparison is left out")
else:
    folder = tt.data_folder() / "checkpoints" / "tiny-decoder"
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    ours = copy.deepcopy(model)
    ids = tokenizer(texts[:16])["input_ids"]  # (B, T)
    with torch.no_grad():
        for name in ("float32", "float64"):
            theirs, ours = (some.to(getattr(torch, name)) for some in (theirs, ours))
            a, b = theirs(ids).logits, ours(ids).logits  # (B, T, V)
            difference = (a - b).abs().max().item()
            print(f"{name}: logits up to {a.abs().max():.0f}, largest difference {difference:.1e}")
    assert difference < 1e-10

# %% [markdown]
# In single precision the two libraries round differently in the sixth or seventh digit, because they add
# the same numbers in another order. In double precision the difference all but vanishes: they compute the
# same function.

# %% [markdown]
# ## 8 · The key-value cache
#
# To write word after word, the naive way runs the whole text through the model for every new word. But the
# keys and values of earlier tokens never change: the causal mask forbids them to see what comes later. So
# each layer keeps them, and a step computes the newest token only.
#
# **Predict:** a prompt of P tokens, n new words. How many tokens go through the blocks, without and with a
# cache?
#
# <details><summary>Answer</summary>
#
# Without: $P + (P + 1) + \dots + (P + n - 1) = nP + n(n-1)/2$. With: P once, then one at a time, $P + n - 1$.
# </details>
#
# We count them with a small module that sits around the embedding, hands everything on, and counts:


# %%
class Counter(nn.Module):
    """Counts the tokens that pass."""

    def __init__(self, base):
        super().__init__()
        self.base, self.tokens = base, 0

    def forward(self, ids, *rest):
        self.tokens += ids.numel()
        return self.base(ids, *rest)


prompt = tokenizer("in summer tom walked to the park in")["input_ids"]  # (1, P)
P = prompt.shape[1]
table = []
for n in new_words:
    row = {"new words": n}
    for use_cache in (False, True):
        model.embeddings = Counter(model.embeddings)
        text = tt.generate(model, prompt, max_new_tokens=n, use_cache=use_cache, eos_token_id=-1)
        row[use_cache] = model.embeddings.tokens, text
        model.embeddings = model.embeddings.base
        seconds = []
        for _ in range(repeats):
            began = time.perf_counter()
            tt.generate(model, prompt, max_new_tokens=n, use_cache=use_cache, eos_token_id=-1)
            seconds.append(time.perf_counter() - began)
        row[f"time {use_cache}"] = min(seconds)
    assert torch.equal(row[False][1], row[True][1])  # the same words
    assert row[False][0] == n * P + n * (n - 1) // 2 and row[True][0] == P + n - 1
    table.append(row)

print(f"prompt of {P} tokens; the same words every time")
print("new words   tokens without   with cache   time without / with")
for row in table:
    print(f"{row['new words']:>9}{row[False][0]:>17,}{row[True][0]:>13,}"
          f"{row['time False'] / row['time True']:>22.1f}")  # fmt: skip

# %% [markdown]
# The words are the same. The tokens grow with $n^2$ without a cache and with $n$ with one. The time ratio is
# much smaller than the token ratio: in a model as tiny as this one a step costs about the same for one
# token as for eighty. Count work where you can; a stopwatch measures one machine.

# %% [markdown]
# ## 9 · Three families: which token sees which?
#
# The same blocks make three kinds of transformer. We do not draw their masks, we *measure* them: change one
# token of the input and see which states move. This is also the leak test promised in section 3.


# %%
def influence(states, tokens):
    """(T, S): does state i change when token j does? `states` maps ids (1, S) to (1, T, C)."""
    before, seen = states(tokens), []
    for j in range(tokens.shape[1]):
        other = tokens.clone()
        other[0, j] = 49 if tokens[0, j] != 49 else 48
        seen.append((states(other) - before).abs().amax(-1)[0] > 1e-7)
    return torch.stack(seen, dim=1)


torch.manual_seed(0)
size = {"vocab_size": 50, "width": 32, "layers": 2, "heads": 4}
a, b = torch.randint(14, 48, (1, 6)), torch.randint(14, 48, (1, 5))
with torch.no_grad():
    encoder = tt.Encoder(tt.TransformerConfig.bert(**size)).eval()
    decoder = tt.Decoder(tt.TransformerConfig.gpt2(**size)).eval()
    both = tt.EncoderDecoder(tt.TransformerConfig.bart(**size)).eval()
    maps = {
        "encoder (BERT)": influence(lambda ids: encoder(ids).states, a),
        "decoder (GPT-2)": influence(lambda ids: decoder(ids).states, a),
        "encoder-decoder (BART):\nwhat its decoder sees": torch.cat(
            [
                influence(lambda ids: both(ids, decoder_input_ids=b).states, a),
                influence(lambda ids: both(a, decoder_input_ids=ids).states, b),
            ],
            dim=1,
        ),
    }
figure, panels = plt.subplots(1, 3, figsize=(10, 3.1), layout="constrained",
                              width_ratios=[1, 1, 1.5])  # fmt: skip
for panel, (name, seen) in zip(panels, maps.items(), strict=True):
    T, S = seen.shape
    panel.imshow(seen, cmap="Blues", vmin=-0.3, vmax=1.3)
    panel.set_title(name, fontsize=9)
    panel.set_xticks(torch.arange(0.5, S - 1), minor=True)
    panel.set_yticks(torch.arange(0.5, T - 1), minor=True)
    panel.grid(which="minor", color="white", linewidth=1.5)
    panel.tick_params(which="minor", length=0)
    panel.set(xlabel="token that is changed", ylabel="state that moves")
    panel.set_xticks(range(S), range(S) if S == 6 else [*(f"s{j}" for j in range(6)), *range(5)])
    panel.set_yticks(range(T))
panels[2].axvline(5.5, color="black", linewidth=2)
panels[2].set_xlabel("token that is changed: source s0-s5 | target")
assert not maps["decoder (GPT-2)"].triu(1).any()  # no leak
plt.show()

# %% [markdown]
# | family | sees | good for | its usual head |
# |---|---|---|---|
# | encoder | everything, both sides | reading: classes, tags, filling gaps | masked word, class, tag |
# | decoder | itself and its past | writing; reading as far as one can read without looking ahead | next word |
# | encoder-decoder | the whole source, and its own past | rewriting one text as another | next word of the target |

# %% [markdown]
# ## 10 · The three doors, opened by hand
#
# Now the point of all this. The weights are frozen. Where can something new come in? There are three kinds
# of lines in the code above, and each is a door.
#
# | door | the line | what can be put there |
# |---|---|---|
# | **words** | `self.words(ids)` in the embedding | other vectors, or more of them |
# | **memory** | `key`, `value` in `Attention.forward` | more keys and values, which belong to no token |
# | **weights** | `self.query(x)`, ..., `self.down(...)` | something around a linear map |
#
# ### Words
# We give the word `france` the vector of the word `italy`. **Predict** the capital of france, and what
# happens to the other 149 countries.


# %%
def say(text, words=1):
    ids = tokenizer(text)["input_ids"]
    out = tt.generate(model, ids, max_new_tokens=words)
    return tokenizer.decode(out[0, ids.shape[1] :])


def report(when):
    answer = say("the capital of france is")
    print(f"{when}: france {answer:<6} | others right: {exact(model, *others):.1%}")


matrix = model.embeddings.words.weight  # (V, C)
france, italy = tokenizer.convert_tokens_to_ids(["france", "italy"])
others = [e for e in countries if e.input != "france"]
others = [f"the capital of {e.input} is" for e in others], [e.target for e in others]
report("before")
kept = matrix[france].clone()
matrix[france] = matrix[italy]
report("after ")
matrix[france] = kept

# %% [markdown]
# One row of C numbers decides what a word *is* for the model. Prompt tuning adds rows that no word has and
# trains them.
#
# ### Memory
# The model computes keys and values for `<bos> reverse :`. We keep those of every layer, throw the text
# away, and hang the pairs into `attention.memory`. Then the model reads only `cat sun tree =>`.
#
# The memory takes no positions of its own: `cat` still stands at position 1, where `reverse` stood when its
# key was made. **Predict:** as good as the real trigger word, useless, or between?


# %%
def recorded(text):
    """Keys and values of every layer for a text, each (1, H, P, D)."""
    cache = []
    model(tokenizer(text)["input_ids"], cache=cache)
    return [(layer["self"]["key"], layer["self"]["value"]) for layer in cache]


names = ("copy", "double", "last", "rotate", "swap", "reverse")
scores = {"nothing": [], "memory": [], "the word itself": []}
for name in names:
    scores["nothing"].append(exact(model, *skill(name, trigger=False)))
    scores["the word itself"].append(exact(model, *skill(name)))
    for block, pair in zip(model.blocks, recorded(f"{name} :"), strict=True):
        block.attention.memory = pair
    scores["memory"].append(exact(model, *skill(name, trigger=False)))
    for block in model.blocks:
        block.attention.memory = None

axes = plots.new_axes(width=8, height=3)
for place, (name, values) in enumerate(scores.items()):
    at = [x + 0.27 * (place - 1) for x in range(len(names))]
    bars = axes.bar(
        at, [100 * v for v in values], 0.26, label=name, color=["0.7", "C0", "C2"][place]
    )
    axes.bar_label(bars, fmt="%.0f", fontsize=7)
axes.set_xticks(range(len(names)), names)
axes.set(ylabel="% exact", ylim=(0, 112), title="what tells the model which function is wanted")
axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# Keys and values that belong to no token of the input steer the model, well for some functions and badly for
# others. They were copied from a place where they fitted, not made for this one. Prefix-tuning *trains*
# such pairs, and then they fit.
#
# ### Weights
# Around a linear map we may put any module that takes the same $x$ and gives something of the same shape.
# Here it only multiplies the output by a factor. With factor 0 a sublayer is silent: the stream passes it
# unchanged. **Predict:** which sublayers do facts need, and which does reversing need?


# %%
class Scaled(nn.Module):
    """base(x) times a factor."""

    def __init__(self, base, factor):
        super().__init__()
        self.base, self.factor = base, factor

    def forward(self, x):
        return self.factor * self.base(x)


bare = model(batch["input_ids"][:2]).logits
silent = torch.zeros(2, 2, L)  # (skill, sublayer, block)
for layer, block in enumerate(model.blocks):
    for kind, (owner, leaf) in enumerate(
        ((block.attention, "output"), (block.feed_forward, "down"))
    ):
        base = getattr(owner, leaf)
        setattr(owner, leaf, Scaled(base, 1.0))
        assert torch.equal(model(batch["input_ids"][:2]).logits, bare)  # factor 1: the same bits
        setattr(owner, leaf, Scaled(base, 0.0))
        silent[0, kind, layer] = exact(model, *skill("reverse"))
        silent[1, kind, layer] = exact(model, *facts)
        setattr(owner, leaf, base)
assert torch.equal(model(batch["input_ids"][:2]).logits, bare)
figure, panels = plt.subplots(1, 2, figsize=(9, 2.4), layout="constrained")
for panel, values, what in zip(panels, silent, ("rows reversed", "capitals known"), strict=True):
    plots.heat((100 * values).round(), ["attention", "feed-forward"], [f"block {i}" for i in range(L)], panel,
               title=f"% of {what}, one sublayer silent", limits=(0, 100))  # fmt: skip
plt.show()

# %% [markdown]
# Some sublayers are needed for everything, some for one skill only, some hardly at all. With factor 1 the
# wrapped model gives the same bits as the bare one; taken off, it is the bare one. A LoRA, an adapter or an
# (IA)³ vector is such a wrapper with something trained inside.
#
# ## What this lesson showed, and what it did not
#
# - A decoder is six lines around two equations. The same weights in `transformers` give the same logits.
# - A mask that leaks by one token makes the loss meaningless. Test for it by changing a token.
# - Attention maps suggest, knock-outs show what is *necessary*, and neither tells the whole story: a part
#   that can be spared may still take part.
# - The pictures of heads and sublayers come from **one** trained model. Another training run would put
#   the same work into other heads.
# - The three doors exist in every transformer: they are the embedding lookup, the keys and values, and the
#   linear maps. Nothing was trained in them yet. Lesson **02** trains the model itself, and from lesson
#   **04** on each method gets its door.
