# ---
# jupyter:
#   minipeft:
#     title: Attention and a transformer from scratch
#     question: What does a transformer compute, line by line, and where in these lines are its three doors?
#     minutes: 2
#     sitting: 130
#     attempts: 10
# ---

# %% [markdown] tags=["slide"]
# Every method of this course changes what happens inside a transformer. So we build one first. (Long for one sitting:
# break before section 5.) Letters: B rows of a batch, T tokens, C width, H heads, $D = C/H$ width of a head, L blocks, V
# words. In attention T tokens ask and S tokens are asked.
#
# ## 1 · A token is a vector
#
# The tokenizer gives each word of a text its number. The embedding table has one row of C numbers per word, so T
# words become a table (T, C). Training moves words that are *used alike* towards each other. **Predict:** which
# two of the ten words below point most nearly in the same direction?

# %% fast="steps, seeds, rows, repeats, new_words = 5, [0, 1], 20, 1, [1, 10]"
import math

import torch
from torch.nn import functional as F

import tiny_transformer as tt
from minipeft import checks
from minipeft.course import attention as lesson
from minipeft.course import attention_pictures as pictures
from minipeft.course import tinyland

steps, seeds, rows, repeats = 160, [0, 1, 2], 300, 3
new_words = [1, 10, 20, 40, 80]
model, tokenizer = tt.load("tiny-decoder")
model.requires_grad_(False)  # the trained model is only read
config = model.config
C, H, D, L, V = config.width, config.heads, config.head_width, config.layers, config.vocab_size
print(f"C = {C}, H = {H}, D = {D}, L = {L}, V = {V}")
ids = tokenizer("the capital of france is paris .")["input_ids"]
print(ids.tolist(), tuple(model.embeddings.words(ids).shape), "= (B, T, C)")
words = "paris rome tokyo france italy japan cat dog good bad".split()
some = model.embeddings.words.weight[tokenizer.convert_tokens_to_ids(words)]  # (10, C)
cosine = (F.normalize(some, dim=-1) @ F.normalize(some, dim=-1).T).triu(1)  # (10, 10)
a, b = divmod(cosine.argmax().item(), len(words))
print(f"most alike: {words[a]} and {words[b]}, cosine {cosine.max():.2f}")

# %% [markdown] tags=["slide"]
# A word vector says **where a word is used**. Opposites stand in the same places; the blocks must tell them apart.
#
# ## 2 · Attention is a soft lookup
#
# A dictionary returns the value whose key equals your query. In attention *every* key fits to some degree; the
# answer is a weighted mean of the values:
#
# $$ \mathrm{heads} = \mathrm{softmax}\!\left( \frac{Q K^{\top}}{\sqrt{D}} + \mathrm{mask} \right) V
#    \qquad \text{(eq. 1)} $$
#
# - $Q$ (B, H, T, D): one question per token; $K$, $V$ (B, H, S, D): one key and one value per token that is asked. Every
#   row and every head (section 4) is computed by itself.
# - $Q K^{\top} / \sqrt{D}$ (B, H, T, S), the *scores*: how well each key fits each question.
# - mask: 0 where a token may look, a very negative number where not.
# - softmax over the S keys: each row becomes positive and sums to 1, the *weights*.
#
# **Predict** the three weights when the query is the zero vector, and when it is very long. And without the division
# by $\sqrt{D}$: how much of the weight does the best of 16 *random* keys get in a wide head?

# %% tags=["hide-input", "slide"]
pictures.lookup(lesson.largest_weights())

# %% [markdown]
# A score is a sum of D products: with queries and keys of variance 1 it has variance D. Undivided, a wide head begins as
# a hard lookup. A softmax at 0 and 1 has no gradient, so it could not learn to look elsewhere.
#
# ### Exercise: equation 1
#
# `mask` may be None. Dropout falls on the weights, and the weights given back are those that met the values.

# %% exercise="tiny_transformer.attention:attend" difficulty=2 minutes=10
# attend: key.transpose(-2, -1) is (B, H, D, S); @ multiplies the last two axes and keeps the others
# attend: first the scores, then the mask, then the softmax, then F.dropout(weights, dropout)

# %%
checks.attend(attend)

# %% [markdown]
# ## 3 · Who may look at whom: the causal mask
#
# A decoder learns to guess the next word. In training the whole text is there, so the future must be hidden.
#
# ### Exercise: the mask
#
# A query sees its own token and all before it. There may be more keys than queries, S > T: the first S − T keys are
# then an earlier part of the text, and **the last query stands at the last key**, so query i stands at key
# i + S − T. Allowed is 0. Forbidden is the lowest number of the dtype of `like`, `torch.finfo(like.dtype).min`, not
# −∞: a row that may look nowhere would give NaN.

# %% exercise="tiny_transformer.attention:causal_mask" difficulty=2 minutes=8
# causal_mask: torch.ones(T, S, dtype=torch.bool).triu(diagonal=k) is True k places above the diagonal and beyond

# %%
checks.causal_mask(causal_mask)

# %% [markdown] tags=["slide"]
# **What if the mask is missing?** Two small decoders learn texts of *random* words, 16 to choose from. An honest model
# cannot get below $\log 16 = 2.77$ nats per word. **Predict** the loss of the leaking
# one in training, and on a word that is not there yet.

# %% tags=["slide"]
losses, ninth = {"honest": [], "leaking": []}, {"honest": [], "leaking": []}
for seed in seeds:
    for name, kind in (("honest", tt.Decoder), ("leaking", lesson.Leaking)):
        curve, unseen = lesson.train_on_noise(kind, steps, seed)
        losses[name].append(curve)
        ninth[name].append(unseen)
pictures.leak(losses, {name: sum(values) / len(seeds) for name, values in ninth.items()})

# %% [markdown]
# ## 4 · Several heads
#
# One row of weights can look at one kind of thing. So C is cut into H heads of width D; each asks its own
# questions, and a last map mixes what they found:
#
# $$ Q = x W_Q, \quad K = c\, W_K, \quad V = c\, W_V, \qquad
#    y = [\mathrm{head}_1 ; \dots ; \mathrm{head}_H]\, W_O $$
#
# In *self-attention* the context $c$ is $x$ itself. In *cross-attention* $c$ (B, S, C) is what an encoder wrote.
# Shapes: `query(x)` (B, T, C) → `split` (B, H, T, D) → eq. 1 → `join` (B, T, C) → `output`.
#
# ### Exercise: heads
#
# A head gets D neighbouring numbers of every token. Beware of `x.view(B, H, T, D)`: the shape is right, and a head
# gets pieces of other tokens. `mix` is given: equation 1 in all heads, with the mask and, where `causal`, the
# causal mask.

# %% exercise="tiny_transformer.attention:MultiHeadAttention" blank="split,join,forward" difficulty=3 minutes=14
# split: cut the last axis in two first, then swap two axes
# forward: queries from x; keys and values from the context, or from x when there is none

# %%
checks.attention(MultiHeadAttention)

# %%
text = tokenizer("in summer tom walked to the park in")["input_ids"]  # (1, T)
try:  # what you wrote, with your attend and your mask in it, computes in the trained model
    difference = lesson.wearing(model, MultiHeadAttention, text)
    print(f"largest difference of the logits: {difference:.1g}")
except NotImplementedError as error:
    print(error)

# %% [markdown] tags=["slide"]
# ### What heads look at, and which are missed
#
# The model reverses rows: `reverse : a b c d e f => f e d c b a .`
# We average the attention weights over many of them and pick the head that looks most at `reverse` while it
# writes, and the one that looks most at (or beside) the word it needs. Then each head in turn is silenced: the D columns of
# $W_O$ that read it become 0. **Predict:** which heads can the model not do without? The same for facts?

# %% tags=["hide-input", "slide"]
asked, answers = tinyland.puzzles("reverse", rows)
six = [i for i, question in enumerate(asked) if len(question.split()) == 9]  # rows of six nouns
batch = tokenizer([f"{asked[i]} {answers[i]}" for i in six])
weights = lesson.attention_weights(model, batch)  # (L, H, T, T)
writes, needed = (
    torch.arange(10, 16),
    torch.arange(8, 2, -1),
)  # who writes f to a, where these stand
at_word = weights[:, :, writes, 1].mean(-1)  # (L, H)
at_source = torch.stack([weights[:, :, writes, needed + s].mean(-1) for s in (0, 1)]).amax(0)
chosen = {"looks at the task": divmod(at_word.argmax().item(), H)}
chosen["walks backwards"] = divmod(at_source.argmax().item(), H)
labels = ["<bos>", "reverse", ":", *"abcdef", "=", ">", *"fedcba", "."]
pictures.heads(weights, labels, chosen, (at_word.max(), at_source.max()))

skills = {"rows reversed": (asked, answers), "capitals known": tinyland.capitals()}
right = {
    name: (lambda pair=pair: tinyland.exact(model, tokenizer, *pair))
    for name, pair in skills.items()
}
without = {name: lesson.without_each_head(model, score) for name, score in right.items()}
pictures.missed(without, chosen)
for name, table in without.items():
    worst = divmod(table.argmin().item(), H)
    print(f"{name}: {right[name]():.0%} with all heads; block {worst[0]}, head {worst[1]} is missed most, "
          f"{table.min():.0%} without it")  # fmt: skip
for name, place in chosen.items():
    print(f"reversing without the head that {name}: {without['rows reversed'][place]:.0%}")

# %% [markdown]
# A picture is a hint: a head may draw a beautiful line and hardly matter, because others carry the same.
#
# ## 5 · The key-value cache
#
# A model writes one word, appends it, and runs again. But keys and values of earlier tokens never change: the mask
# forbids them to see what comes later. So each layer **keeps** them, and a step computes only the newest token.
#
# ### Exercise: what writing costs
#
# GPT-2 small ($L = 12$, $C = 768$, 12 heads) reads a prompt of 10 tokens and writes 100 words. How many tokens go through
# the blocks, all steps together, `"without"` and `"with"` a cache? (A token counts once a step, not once a block; the last word
# is not read again.) And how many numbers
# are `"kept"` in the end, in all layers?

# %% exercise="minipeft.checks:cache_costs" difficulty=2 minutes=8
# A dict with the keys "without", "with" and "kept".
prompt, new, layers, width = 10, 100, 12, 768
through = prompt + new - 1
cache_costs = {"without": sum(range(prompt, prompt + new)), "with": through}
cache_costs["kept"] = 2 * layers * width * through

# %%
checks.cache_costs(cache_costs)

# %% [markdown]
# ### Exercise: extend_cache
#
# The cache of one layer is a dict: empty before the first step, then `"key"` and `"value"` of all tokens so far. A step may
# bring one new token or several.

# %% exercise="tiny_transformer.attention:extend_cache" difficulty=1 minutes=6
# extend_cache: torch.cat joins tensors along a dim; of (B, H, T, D) the tokens are dim 2

# %%
checks.extend_cache(extend_cache)

# %% [markdown]
# Token by token through one layer of the model, with your cache, must give what the whole text gives at once. **Predict**
# then how the tokens grow with the words written, and whether time grows as fast.

# %%
layer = model.blocks[0].attention
x = model.embeddings.words(text)  # (1, T, C)
try:
    cache, steps_of_one = {}, []
    for t in range(x.shape[1]):
        query, key, value = (
            layer.split(part(x[:, t : t + 1])) for part in (layer.query, layer.key, layer.value)
        )
        heads, _ = tt.attend(query, *extend_cache(cache, key, value))  # (1, H, 1, D)
        steps_of_one.append(layer.output(layer.join(heads)))
    difference = (torch.cat(steps_of_one, 1) - layer(x, causal=True)).abs().max()
    print(f"largest difference: {difference:.1g}")
except NotImplementedError as error:
    print(error)
print(
    f"\nprompt of {text.shape[1]} tokens\nnew words   tokens without   with   time without / with"
)
for n in new_words:
    slow, quick = (lesson.writing(model, text, n, kept, repeats) for kept in (False, True))
    assert torch.equal(slow[0], quick[0])  # the same words
    print(f"{n:>9}{slow[1]:>17,}{quick[1]:>7,}{slow[2] / quick[2]:>24.1f}")

# %% [markdown]
# Tokens grow with $n^2$ without a cache, with $n$ with one. In a model this small a step costs nearly the same for one
# token as for eighty, so times lag behind.
#
# ## 6 · The block: a stream that everybody adds to
#
# Attention moves information between tokens. At each token alone a small network works:
# $\mathrm{FFN}(x) = \varphi(x W_{\mathrm{up}} + b_{\mathrm{up}})\, W_{\mathrm{down}} + b_{\mathrm{down}}$ (eq. 2),
# inner width $4C$,
# $\varphi$ a curve such as GELU. A block
# has these two *sublayers* (three in a decoder that reads an encoder). Each **adds** its answer to the stream $x$.
# LayerNorm brings a vector to mean 0 and variance 1, and where it stands makes two kinds:
#
# $$ \text{pre-norm (GPT-2): } x \leftarrow x + \mathrm{sublayer}(\mathrm{LN}(x)) \qquad
#    \text{post-norm (2017, BERT): } x \leftarrow \mathrm{LN}(x + \mathrm{sublayer}(x)) $$
#
# ### Exercise: the block
#
# `add` is the two equations; dropout falls on what the sublayer says. The order: self-attention, cross-attention if
# there is a context, feed-forward. Cross-attention is never causal: the whole source has been read. Each attention has its
# own dict in `cache`, `cache.setdefault("self", {})` and `"cross"`; without a cache it gets None. `Attention` is that of
# exercise 1.3, made quicker and with a cache: `forward(x, context, mask, causal, cache)`.

# %% exercise="tiny_transformer.layers:Block" blank="add,forward" difficulty=3 minutes=14
# forward: a sublayer that needs more than h: lambda h: self.attention(h, mask=..., causal=..., cache=...)
# forward: self.feed_forward can be handed to add as it is

# %%
checks.block(Block)

# %% [markdown]
# Blocks only add, so the stream can be read after *any* of them with the model's last norm and head. **Predict** after
# which block the capital is known. (Equation 1 knows no order, so the embedding adds a
# vector for each position.)
#
# Three checks. *Untrained it knows nothing*: its loss is near $\log V$. *Its parameters
# can be counted on paper*: $VC + NC + L(12 C^2 + 13 C) + 2C$, with N positions and *tied* words (the head reads with the
# word vectors). **Predict** GPT-2 small: $V =
# 50257$, $N = 1024$. *Another library agrees*: the checkpoint is a Hugging Face folder.

# %%
ids = tokenizer("the capital of france is")["input_ids"]  # (1, T)
x = model.embeddings(ids, torch.arange(ids.shape[1])[None])  # (1, T, C)
for number, block in enumerate(model.blocks):
    x = block(x, causal=True)  # (1, T, C)
    logits = model.head(model.norm(x))  # (1, T, V)
    best = logits[0, -1].softmax(-1).topk(3)
    guesses = zip(best.values, best.indices, strict=True)
    print(f"after block {number}:", ", ".join(f"{tokenizer.names[i]} {p:.0%}" for p, i in guesses))
print(f"largest difference to tt.Decoder: {(logits - model(ids).logits).abs().max():.0g}\n")

torch.manual_seed(0)
noise = torch.randint(14, V, (8, 32))  # (B, T)
print(f"untrained: {tt.Decoder(config)(noise, labels=noise).loss:.2f}, log V = {math.log(V):.2f}")
gpt2 = {"vocab_size": 50257, "width": 768, "layers": 12, "heads": 12, "positions": 1024}
with torch.device("meta"):  # a model without its numbers
    small = tt.Decoder(tt.TransformerConfig.gpt2(**gpt2))
print(f"GPT-2 small has {sum(p.numel() for p in small.parameters()):,} parameters")
for dtype, difference in (lesson.against_transformers(noise) or {}).items():
    print(f"logits in {dtype}: largest difference to transformers {difference:.1g}")

# %% [markdown] tags=["slide"]
# ## 7 · Three families, and a test for leaks
#
# A mask can be *measured*: change one token, see which states (the vectors behind the last block) move.
# **Predict** the first three pictures: an encoder, a decoder, an encoder-decoder.
#
# ### Exercise: five patients
#
# A to E are untrained decoders of one block. Give each its cause: `"off by one"` (a token sees the next one), `"turned"` (the
# mask is upside down), `"no mask"`, `"heads"` (they are cut by `view(B, H, T, D)`), `"healthy"`.

# %% tags=["hide-input", "slide"]
maps = lesson.families()
ahead = maps["decoder"].triu(1).sum().item()
pictures.seen(maps, f"An encoder sees everything. Of a decoder {ahead} states move with a later token. An "
              "encoder-decoder sees its whole source (s) and its own past.", source=6)  # fmt: skip
pictures.seen(lesson.patients(), "No training, one picture each: what does a state move with?")

# %% exercise="minipeft.checks:seeing_patients" difficulty=2 minutes=6
# A dict from "A" to "E". Each cause is used once.
seeing_patients = {"A": "off by one", "B": "heads", "C": "healthy", "D": "turned", "E": "no mask"}

# %%
checks.seeing_patients(seeing_patients)

# %% [markdown]
# ## 8 · The three doors, opened by hand
#
# The weights are frozen. Three kinds of lines let something new in: `self.words(ids)`; `key` and `value`; every linear
# map, from `self.query(x)` to `self.down(...)`.
#
# **Words.** `france` gets the vector of `italy`. **Predict** the capital of france, and what happens to all others.

# %%
matrix = model.embeddings.words.weight  # (V, C)
france, italy = tokenizer.convert_tokens_to_ids(["france", "italy"])
others = tinyland.capitals(but="france")
for vector in (matrix[france].clone(), matrix[italy].clone(), matrix[france].clone()):
    matrix[france] = vector
    said = tokenizer.names[model(ids).logits[0, -1].argmax()]
    print(f"france: {said}; other capitals right: {tinyland.exact(model, tokenizer, *others):.1%}")

# %% [markdown]
# Whatever does not read this row stays as it was. Prompt tuning trains rows that belong to no word.
#
# **Memory.** Each layer gets P more keys and values, before those of the tokens: then they lie in the past of every query,
# and take no position.
#
# ### Exercise: put in front
#
# The memory has one row for all rows of the batch, or B. A mask gets P places more, in front, where everybody may look. No
# mask stays None.

# %% exercise="tiny_transformer.attention:put_in_front" difficulty=2 minutes=8
# put_in_front: more.expand(B, -1, -1, -1) repeats one row B times without copying
# put_in_front: F.pad(mask, (a, b)) adds a places before and b behind on the last axis

# %%
checks.put_in_front(put_in_front)

# %% [markdown] tags=["slide"]
# We keep the pairs that every layer makes of `<bos> reverse :`, throw the text away, and put them in front of `cat sun tree
# =>`, with your function. **Predict:** as good as the word itself, useless, or between?
#
# **Weights.** Around a linear map we may put any module that gives something of the same shape: here a factor. With factor 0
# a sublayer is silent. **Predict:** which sublayers do facts need, which does reversing need?

# %% tags=["hide-input", "slide"]
scores = {"nothing": {}, "memory": {}, "the word itself": {}}
for name in tinyland.FUNCTIONS:
    bare = tinyland.puzzles(name, rows, trigger=False)
    scores["nothing"][name] = tinyland.exact(model, tokenizer, *bare)
    with lesson.remembering(model, lesson.recorded(model, tokenizer, f"{name} :"), put_in_front):
        scores["memory"][name] = tinyland.exact(model, tokenizer, *bare)
    scores["the word itself"][name] = tinyland.exact(
        model, tokenizer, *tinyland.puzzles(name, rows)
    )
pictures.print_scores(scores)
silent = {}
print(f"{'% right, one sublayer silent':<32}" + "".join(f"   block {i}" for i in range(L)))
for name, score in right.items():
    table = silent[name] = lesson.silent_sublayers(model, score)  # (2, L)
    for kind, row in zip(("attention", "FFN"), table, strict=True):
        print(f"{name + ', ' + kind:<32}" + "".join(f"{100 * share:>10.0f}" for share in row))
for name, table in silent.items():
    needed, spare = (table < 0.5).sum(), (table >= 0.9).sum()
    print(f"{name}: {needed} of {2 * L} sublayers are needed (less than half is right without one), "
          f"{spare} can go alone (90 % and more)")  # fmt: skip

# %% [markdown] tags=["slide"]
# The pairs were copied from a place where they fitted; prefix-tuning *trains* pairs until they fit. LoRA, adapters and (IA)³
# are such wrappers with something trained inside.
#
# ## What this lesson showed, and what it did not
#
# - A decoder is a few lines around two equations; the same weights in `transformers` give the same logits.
# - A mask that leaks makes a loss meaningless. Change a token to find out.
# - Attention maps suggest, knock-outs show what is necessary.
# - The three doors are the embedding lookup, the keys and values, the linear maps.
# - *Not shown:* that other models have such heads. All pictures come from **one** training run. Lesson **02** trains
#   the model itself.
