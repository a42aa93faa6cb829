# ---
# jupyter:
#   minipeft:
#     title: The map
#     question: A model is frozen. Where can we still get in?
#     minutes: 1
# ---

# %% [markdown] tags=["slide"]
# A pretrained transformer is large, and it is the same for everybody. To *fine-tune* it for a task
# used to mean: change every number in it and keep the whole changed copy, one copy per task.
# **Parameter-efficient fine-tuning** freezes the model and trains something small beside it.
#
# From 2019 to 2023 a dozen such methods were published. They look very different on paper. This course
# has one idea that puts them in order: **a frozen transformer has three doors, and every method is a
# small module placed in one of them.**

# %% tags=["slide"]
from minipeft.analysis import plots
from minipeft.course.pictures import DOORS, three_doors

figure = three_doors()

# %% [markdown]
# | door | what flows through it | who comes in by it |
# |---|---|---|
# | **words** | the vectors that the embedding gives to the first block | written prompts, prompt tuning, P-tuning |
# | **memory** | the keys and values that attention reads, in every block | prefix-tuning, P-Tuning v2 |
# | **weights** | the linear maps $x \mapsto W x$ | LoRA, AdaLoRA, QLoRA, adapters, (IA)³, BitFit |
#
# (The sums and layer norms around attention and feed-forward are left out of the picture; lesson 01
# builds them.)
#
# **Letters.** The same ones in every lesson, every docstring and every comment:
#
# | letter | what it counts | letter | what it counts |
# |---|---|---|---|
# | B | rows of a batch | P | length of a prompt or prefix |
# | T | tokens | r | rank (LoRA) |
# | C | width of the model | m | bottleneck (adapters) |
# | H, D | heads, width of a head; $C = H D$ | L | layers |
# | V | words of the vocabulary | | |

# %% [markdown]
# ## A frozen model
#
# The course ships small models that were pretrained on *Tinyland*, a small English world made for this
# purpose. They learn in seconds on a laptop, and we know exactly what they have and have not read. A
# *tokenizer* turns a text into numbers, here one for each word; every text begins with the token `<bos>`
# (begin of sequence).

# %%
import torch
from torch import nn

import minipeft as mp
import tiny_transformer as tt

torch.manual_seed(0)
model, tokenizer = tt.load("tiny-decoder")
config = model.config
print(f"L = {config.layers}, C = {config.width}, H = {config.heads}, V = {config.vocab_size}")
print(f"{sum(p.numel() for p in model.parameters()):,} parameters")


def write(ids, words=5):
    """What the model writes after the ids of a prompt."""
    ids = torch.tensor([ids])  # (1, T)
    out = mp.generate(model, ids, max_new_tokens=words)  # (1, T + new)
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


for prompt in ("the capital of peru is", "reverse : kite box bell =>", "copy : kite box bell =>"):
    print(f"{prompt:<28} {write(tokenizer.encode(prompt))}")

# %% [markdown] tags=["slide"]
# It can reverse a row of words, if it is told to by the word `reverse`. **Predict:** what does it write
# when nobody tells it?

# %% tags=["slide"]
bare = tokenizer.encode("kite box bell =>")  # <bos> kite box bell = >
print(write(bare))

# %% [markdown]
# It goes on with some other text. The skill is there; what is missing is the word that calls it. We now get that skill back through each
# door in turn, and count on 100 rows how much of it comes back. The weights of the model stay as they are, and
# to be sure of that we take a fingerprint (a hash of every bit).

# %% fast="rows = 5"
rows = 100

# %%
task = mp.tasks.load("reverse")  # rows of words without the word `reverse`
before = mp.fingerprint(model)


def score(*prompt):
    """How many rows are reversed to the last word, with the ids of `prompt` in front of each."""
    right = 0
    for row in task.test[:rows]:
        bos, *rest = tokenizer.encode(row.input)
        right += write([bos, *prompt, *rest], words=10) == row.target
    return f"{right} of {rows} rows"


print(task.test[0])
print("as it is:", score(), "  with the word:", score(*tokenizer.encode("reverse :")[1:]))
before[:16]

# %% [markdown] tags=["slide"]
# ### Door 1: words
# A *soft prompt* is new vocabulary: P rows are added to the embedding table, with ids $V, V+1, \dots$
# Here the new rows are not trained yet. They are copies of the vectors of `reverse` and `:`, so that we
# know what they ought to do.

# %% tags=["slide"]
table = model.embeddings.words  # (V, C), frozen
V = table.num_embeddings
trigger = tokenizer.encode("reverse :", add_special_tokens=False)
prompt = table.weight[trigger].detach()  # (P, C)

model.embeddings.words = nn.Embedding.from_pretrained(torch.cat([table.weight, prompt]).detach())
bos, *rest = bare
print(write([bos, V, V + 1, *rest]), "  ", score(V, V + 1))
model.embeddings.words = table  # the door is closed again

# %% [markdown] tags=["slide"]
# Nobody says that these rows must be the vectors of words. Prompt tuning (lesson 07) finds them by
# gradient descent, and usually they are near no word at all.
#
# ### Door 2: memory
# Attention reads a list of keys and values, one pair per token. Nothing forbids pairs that belong to no
# token. Here we take the pairs that the model computes for `<bos> reverse :` and put them into each
# layer's memory: P extra keys and values per layer, and the input stays as it was.

# %% tags=["slide"]
cache: list = []
with torch.no_grad():
    model(torch.tensor([tokenizer.encode("reverse :")]), cache=cache)
for block, layer in zip(model.blocks, cache, strict=True):
    keys, values = layer["self"]["key"], layer["self"]["value"]  # each (1, H, P, D)
    block.attention.memory = keys, values
P = keys.shape[2]
print(tuple(keys.shape), "per layer")
print(write(bare), "  ", score())

places = model.embeddings.positions  # one vector for each position, frozen
model.embeddings.positions = nn.Embedding.from_pretrained(places.weight[P:].detach())
print(write(bare), "  ", score(), f"if the row counts its positions from {P}")
model.embeddings.positions = places
for block in model.blocks:
    block.attention.memory = None  # the door is closed again

# %% [markdown] tags=["slide"]
# Memory takes no position: the row still begins at 0, as if nothing stood before it. These pairs were made for a row that
# begins at 3. Prefix-tuning (lesson 06) does not copy such pairs, it trains them for where the row is.
#
# ### Door 3: weights
# Beside a linear map $W x$ stands a detour $\frac{\alpha}{r} B A x$ with two thin matrices. This time we
# really train: 120 steps on rows of words *without* the word `reverse`. `mp.attach` puts the detours in and gives
# back a *tuner*, by which they are counted, saved and taken out again.

# %% fast="steps = 3"
steps = 120

# %% tags=["slide"]
tuner = mp.attach(model, mp.LoRA(rank=4, targets=("query", "value")), name="reverse", seed=0)
print("before training:", write(bare), "  ", score())
history = mp.train(
    model, task.batches("train", tokenizer), steps=steps, learning_rate=1e-2, progress=False
)
print("after training: ", write(bare), "  ", score())
tuner.report()

# %% [markdown]
# Before training, the model with LoRA writes what the model without it wrote: $B$ starts at zero.
# Afterwards it reverses. And when the tuner is taken off, the model is what it was, to the last bit:

# %%
tuner.detach()
print(write(bare))
print("same bits:", mp.fingerprint(model) == before)

# %% [markdown] tags=["slide"]
# ## What a door holds
#
# How many numbers are trained? Simple formulas, with P = 20 and r = 8. The 2 in the middle is key and
# value, the 2 on the right the two maps that get a detour, query and value:
#
# $$ \text{words: } P\,C \qquad \text{memory: } 2\,L\,P\,C \qquad
#    \text{weights: } 2\,L \cdot r\,(C + C) $$

# %% tags=["slide"]
P, r = 20, 8
models = {
    "tiny-decoder": (config.layers, config.width, config.vocab_size),
    "GPT-2": (12, 768, 50257),
    "7 billion": (32, 4096, 32000),
}
counts = {}
for name, (layers, C, vocabulary) in models.items():
    counts[name] = {
        "all of it": 12 * layers * C**2 + vocabulary * C,  # matrices and word vectors
        "weights": 2 * layers * r * (C + C),
        "memory": 2 * layers * P * C,
        "words": P * C,
    }

figure, panels = plots.figure(3, height=2.6, sharey=True)
colours = [plots.GREY, *(DOORS[door] for door in ("weights", "memory", "words"))]
for panel, (name, numbers) in zip(panels, counts.items(), strict=True):
    whole = numbers["all of it"]
    bars = panel.barh(list(numbers), list(numbers.values()), color=colours)
    panel.bar_label(bars, [f"{100 * n / whole:.3g} %" for n in numbers.values()], padding=3)
    panel.set(xscale="log", xlim=(1e3, 1e13))
    panel.set_xticks([1e4, 1e7, 1e10])
    plots.finish(panel, "numbers trained", title=name, legend=False)
plots.add_caption(figure, "What each door holds: the larger the model, the smaller the share.")

# %% [markdown]
# A formula is worth checking against the real thing:

# %%
tuner = mp.attach(model, mp.LoRA(rank=r, targets=("query", "value")), name="count")
counted = tuner.report().trainable
tuner.detach()
print(f"formula {counts['tiny-decoder']['weights']:,}, counted {counted:,}")

# %% [markdown]
# Do not read more into these counts than they say. They are what is *trained* and *stored*. The frozen
# model must still be loaded, the forward pass goes through all of it, and the backward pass through
# every layer down to the lowest door in use.

# %% [markdown]
# ## How the lessons work
#
# Every lesson asks a question and answers it by measuring. Some cells are **exercises**: in the student
# notebook (`make lab` puts a copy into `work/`) the body of a function is missing and you write it; in the solution
# notebook you see how the library does it. The two cannot differ from the library, because both are
# cut out of its source.
#
# After an exercise stands its **check**. A check tries your code on small inputs and prints one green
# line if all is well:

# %%
from minipeft import checks

checks.feed_forward(tt.FeedForward)

# %% [markdown]
# If not, it says in one sentence what went wrong. The next cell **fails on purpose**: this feed-forward
# layer has forgotten its activation.


# %% tags=["raises-exception"]
class Forgetful(tt.FeedForward):
    def forward(self, x):
        return self.down(self.up(x))


checks.feed_forward(Forgetful)

# %% [markdown]
# ## Your first exercise: the loss
#
# A language model gives a score (a *logit*) to each of V words, at each position. The softmax makes
# probabilities of them, and the loss is how surprised the model is by the right word, in *nats* (the unit of the natural logarithm):
#
# $$ \text{loss} = - \frac{1}{N} \sum_{i=1}^{N} \log p_i(\text{label}_i), \qquad
#    p_i = \mathrm{softmax}(\text{logits}_i) $$
#
# The sum runs over the N positions whose label is not −100: that number marks positions where nothing is
# asked, such as padding or the prompt.
#
# <details><summary>Hint</summary>
#
# `torch.nn.functional.cross_entropy` does it in one call, for logits of shape (N, V) and labels of shape
# (N,). By hand: `log_softmax` over the last dimension, keep the positions that count, pick the label's
# entry, take the mean, change the sign. Without labels there is no loss: return None.
# </details>

# %% exercise="tiny_transformer.heads:cross_entropy" difficulty=1 minutes=5
# cross_entropy: logits (B, T, V) and labels (B, T) come in, one number goes out

# %%
checks.cross_entropy(cross_entropy)

# %% [markdown]
# A model that has learned nothing gives every word the same probability, so its loss is $\log V$. That is
# the first step of the *sanity ladder* that every method climbs in its lesson:

# %%
torch.manual_seed(0)
ids = torch.tensor([tokenizer.encode("the capital of peru is lima .")])
for name, some in (("untrained", tt.Decoder(config)), ("pretrained", model)):
    with torch.no_grad():
        logits = some(ids).logits  # (1, T, V)
    loss = tt.cross_entropy(logits[:, :-1], ids[:, 1:]).item()
    print(f"{name:<11} loss {loss:.2f}")
print(f"{'log V':<11}      {torch.tensor(float(config.vocab_size)).log():.2f}")

# %% [markdown]
# When you have worked through a student notebook, save it and let all its exercises be checked at once:
#
#     .venv/bin/python -m minipeft check work/00_map.ipynb
#
# Next: **01** builds the transformer, **02** trains it, **03** shows how it was fine-tuned before the
# doors were found, and **10** opens the weights door with LoRA.
