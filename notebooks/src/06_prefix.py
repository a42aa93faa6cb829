# ---
# jupyter:
#   minipeft:
#     title: Prefix-tuning
#     question: Can keys and values that belong to no word steer a frozen model?
#     minutes: 5
#     sitting: 75
#     attempts: 4
# ---

# %% [markdown] tags=["slide"]
# You can steer a language model by writing words in front of its input: in every layer, attention then reads their keys and
# values. **Prefix-tuning** (Li & Liang 2021, [arXiv 2101.00190](https://arxiv.org/abs/2101.00190)) leaves out the words and
# keeps the rest: in every layer stand $P$ pairs of a key and a value that no word has made. They are numbers, and gradient
# descent finds them. The model is frozen. This is the **memory** door.

# %% tags=["hide-input", "slide"]
from minipeft.course.prefix_pictures import prefix_picture

figure = prefix_picture()

# %% [markdown]
# A layer has a query for each of the $T$ tokens, and keys and values of the $S$ tokens that are read. The prefix stands
# before them:
#
# $$ o = \mathrm{softmax}\!\left(\frac{Q\,[P_k ; K]^\top}{\sqrt D}\right) [P_v ; V] \qquad
#    Q\ (B, H, T, D),\quad K, V\ (B, H, S, D),\quad P_k, P_v\ (H, P, D) $$
#
# The paper found such numbers hard to train directly. So, while it trains, **one** small network, an MLP, makes the keys
# and values of **all** layers out of one matrix $P'$:
#
# {equations prefix}
#
# $k$ is the number of hidden features of the network. $R$ has a key and a value of $HD$ numbers for each layer, $n = 2 L H D$
# columns in all. After training, the network is thrown away and its output $R$ is stored.
#
# ### Exercise: how many numbers?
#
# The paper's prefix on GPT-2 medium: $P = 10$, $C = HD = 1024$, $k = 512$, $L = 24$. $P'$ is (P, C); one linear map goes
# from $C$ to $k$, the other from $k$ to a key and a value for each layer; both have a bias. How many numbers are
# **trained**? How many are **stored** afterwards? How many would **prompt** tuning (lesson 07) train: $P$ vectors at the
# input, no MLP, nothing in the layers? Give a dict with the keys `"trained"`, `"stored"`, `"prompt"`.

# %% exercise="minipeft.checks:prefix_numbers" difficulty=2 minutes=8
# Every number of P', of both linear maps and of their biases is trained.
P, C, k, L = 10, 1024, 512, 24
R = 2 * L * C  # a row of R: a key and a value for each layer
prefix_numbers = {
    "trained": P * C + C * k + k + (k + 1) * R,
    "stored": P * R,
    "prompt": P * C,
}

# %%
from minipeft import checks

checks.prefix_numbers(prefix_numbers)

# %% [markdown]
# ### Exercise: the network
#
# Write `forward` of the encoder, which is equation 1. A layer asks for its share of $R$ only: `columns` is a slice that
# picks n columns of $R$, all of them if none is given. `forward` is called again after each step of training. With
# `hidden=None` there is no network, and the numbers in `self.table` (P, numbers) are $R$ itself ("flat").

# %% exercise="minipeft.methods.prefix:PrefixEncoder" blank="forward" difficulty=2 minutes=10
# self.down and self.up are the two linear maps, self.embedding is P'
# forward: with an MLP, self.table is None; without one, self.embedding is None

# %%
checks.prefix_encoder(PrefixEncoder)

# %% [markdown]
# ## 1. Before anything else
#
# The base can `reverse` a row of words and write the `headline` of a story, if it is asked. A bare `=>` does not ask: the
# prefix must learn to.
#
# **Predict:** a fresh prefix is random and has learnt nothing. Is the model's answer the same as without it?

# %% fast="STEPS, LADDER, SEEDS, FEW, LENGTHS, SIZES, REAL_SEEDS, QUICK = 2, 2, [0, 1], [0, 1], (1, 10), (10, 30), [], True"
STEPS, LADDER = 120, 60  # steps of 16 examples
SEEDS, FEW = [0, 1, 2, 3, 4], [0, 1, 2]
LENGTH, HIDDEN = 10, 32  # P and k
MARGIN = 0.05  # five points of exact match make no difference
BASE = "tiny-decoder-0.1m"
LENGTHS, SCARCE = (1, 10, 30, 100, 300), 20  # part 6: lengths; examples
SIZES = (10, 100, 1000)  # part 7: examples
REAL_STEPS, REAL_SEEDS = 30, [0, 1, 2]  # part 8: steps of 8 countries
# guesses, not searched: one rate was tried from words; at random also an MLP at 3e-3, which got 0 %
REAL_RATES = {"from words": 1e-2, "random": 1e-1}
QUICK = False

# %%
import torch
from IPython.display import display

import minipeft as mp
from minipeft.course import claims, runs
from minipeft.course import prefix as lesson
from minipeft.methods.prefix import PrefixPatch

base, tokenizer = runs.base(BASE)
bits = mp.fingerprint(base)
config = base.config
task = mp.tasks.load("headline")
METHOD = mp.Prefix(LENGTH, HIDDEN)
print(f"L = {config.layers}, C = {config.width}, H = {config.heads}, {tokenizer.vocab_size} words")
print(task.train[0].input, task.train[0].target)

# The encoder that you wrote makes the prefix of every layer; unwritten, it says so.

torch.manual_seed(0)
H, D = config.heads, config.width // config.heads
encoder = PrefixEncoder(LENGTH, 2 * config.layers * config.width, config.width, HIDDEN, 0.02)
try:
    for layer, block in enumerate(base.blocks):
        block.attention.memory = PrefixPatch(encoder, layer, (H, D))(None)
    print([tuple(block.attention.memory[0].shape) for block in base.blocks])
    print("it writes:", task.predict(base, tokenizer, [task.train[0].input])[0])
except NotImplementedError as missing:
    print(missing)
finally:
    for block in base.blocks:
        block.attention.memory = None

# %%
batch = task.batches("train", tokenizer, batch_size=16)(0)
mp.sanity_ladder(base, METHOD, batch, steps=LADDER)

# %% [markdown] tags=["slide"]
# It is not the same. Each head gives the prefix a share of its attention, which is missing elsewhere. With
# $\lambda$, the share of a query's attention that falls on the prefix (He et al. 2022,
# [arXiv 2110.04366](https://arxiv.org/abs/2110.04366), eq. 5):
#
# $$ o = (1 - \lambda)\ \mathrm{softmax}\!\left(\tfrac{QK^\top}{\sqrt D}\right) V
#      + \lambda\ \mathrm{softmax}\!\left(\tfrac{QP_k^\top}{\sqrt D}\right) P_v $$
#
# So a prefix is a *gated sum of two attentions*: the base's own, and one on the prefix.

# %%
import tiny_transformer as tt


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


torch.manual_seed(0)
Q, K, V = normal(2, 3, 6, 8), normal(2, 3, 6, 8), normal(2, 3, 6, 8)  # (B, H, T, D)
P_k, P_v = normal(3, 4, 8), normal(3, 4, 8)  # (H, P, D)
both = [torch.cat([p.expand(2, 3, 4, 8), x], dim=2) for p, x in ((P_k, K), (P_v, V))]
o, weights = tt.attend(Q, *both)
share = weights[..., :4].sum(dim=-1, keepdim=True)  # lambda (B, H, T, 1)
gated = (1 - share) * tt.attend(Q, K, V)[0] + share * tt.attend(Q, P_k, P_v)[0]
print(f"largest difference {(o - gated).abs().max():.1e}, mean lambda {share.mean():.2f}")

# %% [markdown]
# ### Exercise: what a prefix learns, by hand
#
# A loss $\mathcal L$ sends $g = \partial \mathcal L / \partial o$ down to a layer, of shape (B, H, T, D). Write what the
# prefix learns from it: $\partial \mathcal L / \partial P_k$ and $\partial \mathcal L / \partial P_v$, each (H, P, D). Use
# matrices, not autograd. No query is hidden from any key.
#
# <details><summary>Hint 1: the values</summary>
#
# The output of token $t$ is $o_t = \sum_j a_{tj} v_j$, with weights $a_{tj}$. In how many outputs, over all rows, does one
# value occur?
# </details>
# <details><summary>Hint 2: the keys</summary>
#
# A key acts through its score $s_{tj} = q_t \cdot k_j / \sqrt D$. When it grows, one weight grows and the others shrink:
# $\partial a_{ti} / \partial s_{tj} = a_{ti} (1_{i = j} - a_{tj})$. The sum over $i$ can be written with $o_t$.
# </details>

# %% exercise="minipeft.course.prefix:prefix_gradients" difficulty=4 minutes=20
# prefix_gradients: the same prefix is read by every token of every row

# %%
checks.prefix_gradients(prefix_gradients)

g = normal(2, 3, 6, 8)
P_k.requires_grad_(), P_v.requires_grad_()
keys, values = (torch.cat([p.expand(2, 3, 4, 8), x], dim=2) for p, x in ((P_k, K), (P_v, V)))
(tt.attend(Q, keys, values)[0] * g).sum().backward()
by_hand = prefix_gradients(Q, P_k.detach(), P_v.detach(), K, V, g)
largest = max((a - p.grad).abs().max().item() for a, p in zip(by_hand, (P_k, P_v), strict=True))
print(f"by hand and by autograd differ by at most {largest:.1e}")

# %% [markdown]
# Every term of both carries the attention weight that falls on the prefix: **a prefix that nobody looks at learns nothing.**
# And $g$ has come down through all frozen layers above.
#
# ### Exercise: five patients
#
# Five colleagues have each written a prefix and trained it for one step.

# %%
lesson.patients_table(base, batch)

# %% [markdown]
# All columns but the last were read before the step: $\lambda$, the mean share of attention on the prefix; "loss", the
# change against the base; the lengths of the gradients. Give each patient one cause: `"mask"` (the mask hides the prefix
# from every token), `"detached"` (keys and values are cut off from the graph), `"size"` (its numbers are far too large at
# the start), `"base"` (the base is trained, too), `"healthy"`. Write a dict from `"A"` to `"E"`.

# %% exercise="minipeft.checks:prefix_patients" difficulty=2 minutes=8
# Each cause is used once.
prefix_patients = {"A": "size", "B": "healthy", "C": "mask", "D": "base", "E": "detached"}

# %%
checks.prefix_patients(prefix_patients)

# %% [markdown]
# ## 2. Starting from words, and where words stand
#
# A prefix may start as the keys and values of real words. We take `<bos> reverse :`, which asks the base to reverse, and
# train nothing. **Predict:** does the model reverse `cat sun tree =>` with these pairs in its memory?
#
# The base reads these words at the positions 0, 1, 2. If the text begins at 0 again, two things stand at one place. With
# `compatibility="peft"` the text begins at $P$, and the positions before are lost for it. **Predict:** the base has 96
# positions. How many tokens can it read with 20 soft words at the input, with a prefix of 20, with a prefix that moves
# positions?

# %%
reverse = mp.tasks.load("reverse")
asked = tokenizer.encode("reverse :")
rows = [example for example in reverse.test[:100]]


def exact(method, inputs):
    """Exact match on 100 rows, without a step of training."""
    tuner = mp.attach(base, method, seed=0) if method else None
    said = reverse.predict(base, tokenizer, inputs)
    if tuner:
        tuner.detach()
    return mp.metrics.exact(said, [row.target for row in rows])


bare = [row.input for row in rows]
SHOWN = {
    "nothing": (None, bare),
    "the words themselves": (None, [f"reverse : {text}" for text in bare]),
    "their keys and values": (mp.Prefix(3, None, start=asked), bare),
    "the same, positions moved": (mp.Prefix(3, None, start=asked, compatibility="peft"), bare),
}
for name, (method, inputs) in SHOWN.items():
    print(f"{name:<27}{100 * exact(method, inputs):4.0f} %")

P = 20
room = {
    "base": lesson.longest_input(base, None),
    "prompt": lesson.longest_input(base, mp.PromptTuning(P)),
    "prefix": lesson.longest_input(base, mp.Prefix(P, None)),
    "prefix, positions moved": lesson.longest_input(base, mp.Prefix(P, None, compatibility="peft")),
}
for name, tokens in room.items():
    print(f"{name:<25}{tokens:>4} tokens")
lost = {name: room["base"] - tokens for name, tokens in room.items()}
claims.record(
    19,
    measured=f"a prefix of {P} takes {lost['prefix']} of {room['base']} positions, "
    f"{lost['prefix, positions moved']} if positions are moved; {P} soft words at the input take "
    f"{lost['prompt']}",
    rule="true if every prefix takes positions, false if none does, else misleading",
    verdict="misleading" if lost["prefix"] == 0 < lost["prefix, positions moved"] else "true",
    lost=lost,
)

# %% [markdown] tags=["slide"]
# Pairs ask nearly as well as words do, if the text stands where it stood behind the words.
#
# ## 3. One prefix, looked at closely
#
# We train one prefix, and one prompt at the input only. **Predict:** will the trained prefix get more or less attention than
# the random one?

# %%
batches = task.batches("train", tokenizer, batch_size=16)
words = base.embeddings.words.weight.detach()  # (V, C)
at_input = mp.attach(base, mp.Prefix(LENGTH, HIDDEN, embedding_only=True), seed=0)
mp.train(base, batches, STEPS, 1e-2, progress=False)
soft = at_input.patches[0][1]().detach()  # (P, C)
at_input.detach()

tuner = mp.attach(base, METHOD, name="prefix", seed=0)
shares = {"at the start": lesson.prefix_share(base, tuner, batch)}
history = mp.train(base, batches, STEPS, 3e-2, progress=False)
shares["trained"] = lesson.prefix_share(base, tuner, batch)
pairs = tuner.patches[0][1].encoder(tuner.patches[0][1].columns).detach()  # (P, 2 H D) of layer 0
changes = lesson.output_changes(base, tuner, batch)
tuner.save("runs/prefix")
exact_with = task.score(base, tokenizer, "test", limit=100)["exact"]
print(f"exact match {100 * exact_with:.0f} %; weights the same: {mp.fingerprint(base) == bits}")

# %% tags=["hide-input", "slide"]
from minipeft.course.prefix_pictures import share_pictures

start, end = (100 * share.mean().item() for share in shares.values())
figure = share_pictures(
    shares,
    f"Mean share of attention on the prefix: {start:.0f} % at the start, {end:.0f} % when trained; "
    "heads differ.",
)
claims.record(
    14,
    measured=f"the weights are the same bits, and every output of attention changes: in each layer "
    f"by at least {100 * min(changes):.0f} % of its length",
    rule="true if neither weights nor outputs change, misleading if only the weights stay",
    verdict="misleading" if min(changes) > 0 and mp.fingerprint(base) == bits else "true",
    smallest_change=changes,
)
torch.manual_seed(0)
every = torch.arange(len(words))
real = lesson.words_as_pairs(base, every)  # (V, 2 H D)
near = {
    "soft words at the input": (soft, words),
    "pairs of the lowest layer": (pairs, real),
}
cosines = {}
for name, (mine, theirs) in near.items():
    noise = torch.randn(200, theirs.shape[1])
    cosines[name] = lesson.nearest(mine, theirs).mean().item()
    print(
        f"{name:<27} cosine with the nearest word {cosines[name]:.2f}, "
        f"random vectors {lesson.nearest(noise, theirs).mean():.2f}"
    )
claims.record(
    15,
    measured="the mean cosine with the nearest of all words is "
    + " and ".join(f"{value:.2f} for {name}" for name, value in cosines.items()),
    rule="true if they are words (cosines above 0.95), otherwise false",
    verdict="true" if min(cosines.values()) > 0.95 else "false",
    cosines=cosines,
)

# %% [markdown]
# ## 4. Delete the base, and run the prefix
#
# It is said that prefix-tuning "need not load the whole model". **Predict** what happens when we keep only the file of
# the prefix.

# %% tags=["raises-exception"]
from safetensors.torch import load_file

tuner.detach()
for name, tensor in load_file("runs/prefix/adapter_model.safetensors").items():
    print(name, tuple(tensor.shape))
torch.manual_seed(1)
stranger = tt.Decoder(config)  # the same shapes, nothing learnt
mp.load(stranger, "runs/prefix", name="prefix")

# %%
mp.load(stranger, "runs/prefix", name="prefix", any_base=True)
without = task.score(stranger, tokenizer, "test", limit=100)["exact"]
norms, touched = lesson.gradient_path(base, batch)
print(f"on another base {100 * without:.0f} %")
print("gradient above each frozen layer:", ", ".join(f"{norm:.3f}" for norm in norms))
print(f"numbers of the base with a gradient: {touched}")

from minipeft.course.transfer import training_bytes
from minipeft.report import Table

ledger = {}
for name, method in {
    "full": mp.FullFineTuning(),
    "adapter": mp.Adapter(8),
    "prefix": METHOD,
}.items():
    tuner = mp.attach(base, method, seed=0)
    ledger[name] = training_bytes(base)
    tuner.detach()
kinds = ("weights", "gradients", "adam")
lines = [(name, *(bytes_[kind] for kind in kinds)) for name, bytes_ in ledger.items()]
display(Table("Bytes while training", ("", *kinds), lines))
claims.record(
    13,
    measured=f"the prefix alone cannot run; on another base it gets {100 * without:.0f} % instead of "
    f"{100 * exact_with:.0f} %; its gradient passes all {len(norms)} frozen layers; in training the "
    f"weights take {ledger['prefix']['weights']:,} bytes, with adapters {ledger['adapter']['weights']:,}; "
    f"gradients and Adam {ledger['prefix']['gradients'] + ledger['prefix']['adam']:,} instead of "
    f"{ledger['full']['gradients'] + ledger['full']['adam']:,}",
    rule="false if the base is needed forwards and backwards",
    verdict="false" if without < exact_with and min(norms) > 0 else "undecided",
)

# %% [markdown] tags=["slide"]
# Another base refuses the file; forced onto it, the prefix is worth nothing. A prefix spares the gradients and Adam's
# means *of the base's numbers*. But all of the base is in memory, and both passes go through it, as with adapters.
#
# ## 5. Where the prompt stands, and who makes it
#
# Five ways to train, each at its best rate on dev (five paired seeds, measured on test):
#
# * **prefix**: all layers, through the MLP. **flat**: the numbers of $R$ themselves.
# * **embedding only**: soft words at the input, the same MLP. **infix**: pairs as the prefix has, but seen only from the
#   end of the input on. **full**: every number of the base.
#
# **Predict** the order for `headline`, a small summarization, and for `reverse`.

# %% tags=["hide-input", "slide"]
from minipeft.course.experiments import contest, difference, table, trend

ARROW = tokenizer.encode("=>")[-1]
PLACES = {
    "prefix": METHOD,
    "flat": mp.Prefix(LENGTH, None),
    "embedding only": mp.Prefix(LENGTH, HIDDEN, embedding_only=True),
    "infix": mp.Prefix(LENGTH, HIDDEN, position="infix", after=ARROW),
    "full": mp.FullFineTuning(),
}
RATES = {name: [3e-3, 1e-2, 3e-2] for name in PLACES}
RATES |= {"flat": [3e-2, 1e-1, 3e-1], "full": [3e-4, 1e-3, 3e-3]}
SHORT = ("prefix", "embedding only", "full")  # for the second task


def place_run(name):
    return lambda arm, rate, seed: runs.tuned_task(BASE, PLACES[arm], name, rate, STEPS, seed)


headline = contest(RATES, place_run("headline"), SEEDS, label="headline")
reversing = contest({n: RATES[n] for n in SHORT}, place_run("reverse"), SEEDS, label="reverse")
display(table(headline, title="headline: exact match"))
display(table(reversing, title="reverse: exact match"))
from minipeft.analysis import plots

LOOK = {"flat": "#60a5fa", "infix": "#a5b4fc", "embedding only": plots.COLOURS["prompt tuning"]}
figure, (left, right) = plots.figure(2, height=3.6)
for place, (name, outcome) in enumerate(headline.items()):
    colour = LOOK.get(name) or plots.COLOURS[name]
    plots.whiskers(left, [place], [outcome.values()], colour=colour)
    if name in reversing:
        plots.whiskers(left, [place + 0.25], [reversing[name].values()], colour=colour, marker="s")
    rates, losses = zip(*outcome.tried.items(), strict=True)
    right.plot(rates, losses, marker="^vDx*"[place], color=colour, label=name)
left.set_xticks(range(len(headline)), [name.replace(" ", "\n") for name in headline])
right.set(xscale="log", ylim=(-0.02, 0.62))
plots.finish(
    left, "", "exact match (share)", "test: ● headline, ■ reverse", limits=(0, 1), legend=False
)
best, called = (
    max((n for n in outcomes if n != "full"), key=lambda n: sum(outcomes[n].values()))
    for outcomes in (headline, reversing)
)
right = plots.finish(
    right, "learning rate", "dev loss (nats), first seed", "headline: every rate tried",
    caption=f"Base frozen: {best} has the highest mean on headline, {called} on reverse; full "
    f"fine-tuning reaches {100 * sum(headline['full'].values()) / len(SEEDS):.0f} % and "
    f"{100 * sum(reversing['full'].values()) / len(SEEDS):.0f} %. The best rates on headline lie between "
    f"{min(o.rate for o in headline.values()):g} and {max(o.rate for o in headline.values()):g}.",
)  # fmt: skip

# %% tags=["hide-input", "slide"]


def verdict(says, *differences):
    """The claim says that a is always "better" (or "worse") than b: is it so in all cases?"""
    verdicts = {d.verdict for d in differences}
    against_it = verdicts & {"equal", "worse" if says == "better" else "better"}
    if verdicts == {says}:
        return "true"
    if against_it:
        return "misleading" if says in verdicts else "false"
    return "undecided"


def against(a, b, outcomes):
    return difference(outcomes[a].values(), outcomes[b].values(), MARGIN)


RULE = difference([0.0], [0.0], MARGIN).rule
everywhere = [against("embedding only", "prefix", o) for o in (headline, reversing)]
claims.record(
    21,
    measured=f"embedding only minus all layers: headline {everywhere[0].text}; reverse "
    f"{everywhere[1].text}",
    rule="true if worse on both tasks, misleading if on one and not on the other; " + RULE,
    verdict=verdict("worse", *everywhere),
)
infix = against("prefix", "infix", headline)
claims.record(22, measured=f"prefix minus infix on headline: {infix.text}", rule=RULE,
              verdict=verdict("better", infix))  # fmt: skip
mlp = against("prefix", "flat", headline)
tuner = mp.attach(base, METHOD, seed=0)
encoders = len({id(patch.encoder) for _, patch in tuner.patches})
tuner.detach()
claims.record(
    16,
    measured=f"{encoders} network for {config.layers} layers, none in the file; with it minus "
    f"without it on headline: {mlp.text}",
    rule="false if the layers share one network and training with it is not worse; " + RULE,
    verdict="false" if encoders == 1 and mlp.verdict in ("better", "equal") else "misleading",
)
answers, counts = [], []
for method in (mp.Prefix(LENGTH, None, embedding_only=True), mp.PromptTuning(LENGTH)):
    tuner = mp.attach(base, method, seed=0)
    (parameter,) = tuner.parameters()
    parameter.data = soft.clone()
    with torch.no_grad():
        answers.append(base.eval()(**tuner.wrap(batch)).logits)
    counts.append(parameter.numel())
    tuner.detach()
same = torch.equal(*answers) and counts == [LENGTH * config.width] * 2
claims.record(
    24,
    measured=f"with equal vectors the logits are {'equal' if same else 'not equal'} to the bit; both "
    f"have P C = {counts[1]} numbers, a prefix in all layers {2 * config.layers * counts[1]:,}",
    rule="true if logits and counts are equal",
    verdict="true" if same else "false",
)

# %% [markdown]
# The MLP is a way to train: a step in it moves all of $R$ together. Leave out MLP and layers, and prompt tuning
# (lesson 07) remains.
#
# ## 6. How long?
#
# In the paper, summarization gets better up to length 200, then a little worse; Hu et al. (2021) saw large prefixes
# fall. With over-fitting the training loss goes on falling while the loss on fresh examples rises. **Predict** both for
# all examples, and for twenty.

# %% tags=["hide-input"]


def length_run(examples):
    def run(P, rate, seed):
        method = mp.Prefix(P, HIDDEN)
        result = runs.tuned_task(BASE, method, task, rate, STEPS, seed, examples=examples)
        last = result["history"].losses[-20:]
        return result | {"train": sum(last) / len(last)}

    return run


lengths = contest({P: [3e-3, 1e-2, 3e-2] for P in LENGTHS}, length_run(None), FEW, label="lengths")
scarce = contest({P: [o.rate] for P, o in lengths.items()}, length_run(SCARCE), FEW, label="scarce")
figure, (left, right) = plots.figure(2, height=3.6)
for outcomes, name, colour in (
    (lengths, f"{len(task.train):,} examples", plots.COLOURS["prefix"]),
    (scarce, f"{SCARCE} examples", "#93c5fd"),
):
    where = [P * (0.96 if outcomes is lengths else 1.04) for P in LENGTHS]
    plots.whiskers(left, where, [o.values() for o in outcomes.values()], name, colour, marker="s")
    for key, style, marker in (("dev", "-", "s"), ("train", ":", "o")):
        values = [o.values(key) for o in outcomes.values()]
        plots.whiskers(right, where, values, "", colour, limits=(0, 99),
                       marker=marker, linestyle=style)  # fmt: skip
for axes in (left, right):
    axes.set_xscale("log")
    axes.set_xticks(LENGTHS, LENGTHS)
    axes.minorticks_off()
change = trend(LENGTHS, [o.values() for o in lengths.values()], MARGIN, log=True)
plots.finish(left, "length P", "exact match (share)", "headline, test", limits=(0, 1))
plots.finish(right, "length P", "loss (nats)", "■ fresh (dev), ● in training")

top = max(LENGTHS, key=lambda P: sum(lengths[P].values()))
longest = LENGTHS[-1]
fall = difference(lengths[longest].values(), lengths[top].values(), MARGIN)
fall_scarce = difference(scarce[longest].values("dev"), scarce[LENGTHS[1]].values("dev"), 0.02,
                         unit="nats", lower_is_better=True)  # fmt: skip
gain_scarce = difference(scarce[longest].values("train"), scarce[LENGTHS[1]].values("train"), 0.02,
                         unit="nats", lower_is_better=True)  # fmt: skip
longer = {"rises": "Longer is better", "falls": "Longer is worse", "flat": "Length hardly matters"}
fits = fall_scarce.verdict == "worse" and gain_scarce.verdict == "better"
plots.add_caption(figure, f"{longer.get(change.verdict, 'The length decides nothing for sure')} with "
                  f"{len(task.train):,} examples. With {SCARCE}, "
                  f"{'the longest over-fits' if fits else 'no over-fitting is seen'}.")  # fmt: skip
claims.record(
    20,
    measured=f"exact match over the lengths {LENGTHS}: {change.text}; the best is {top}",
    rule=f"false if it rises or falls over the sweep, true if it stays within {100 * MARGIN:g} points",
    verdict={"flat": "true", "undecided": "undecided"}.get(change.verdict, "false"),
)
worse = fall.verdict == "worse" or fall_scarce.verdict == "worse"
claims.record(
    46,
    measured=f"P = {longest} minus the best, {top}: {fall.text if top != longest else 'it is the best'}; "
    f"with {SCARCE} examples P = {longest} minus {LENGTHS[1]}: dev loss {fall_scarce.text}, training "
    f"loss {gain_scarce.text}",
    rule="true if the longest is worse and its training loss better, misleading if both are worse; "
    "margins of 5 points and 0.02 nats",
    verdict=("true" if gain_scarce.verdict == "better" else "misleading")
    if worse
    else "not reproduced at this size",
)

# %% [markdown] tags=["slide"]
# ## 7. Few examples, and where the prefix starts
#
# A prefix of length 3 starts at random, at words drawn from the vocabulary, or at words that say what is wanted,
# `<bos> reverse :`. Beside it, full fine-tuning. Every seed draws other examples. **Predict:** who wins on `reverse` with 10
# examples, who with 1,000? And do words help on `headline` as well?
#
# How it came about: in a trial on `headline` words had *not* helped, so `reverse` was added. Three seeds left most
# differences open, so it became five. Rates are chosen on 100 dev examples, also where only 10 are learnt from.

# %% tags=["hide-input", "slide"]
SAY, ENDS = "words that say it", (SIZES[0], SIZES[-1])


def started(name, start):
    if start == "full":
        return mp.FullFineTuning()
    words_of = {"random": "random", "any words": "words", SAY: tokenizer.encode(f"{name} :")}
    return mp.Prefix(3, HIDDEN, start=words_of[start])


def start_run(arm, rate, seed):
    name, start, examples = arm
    few = lesson.few_examples(name, examples, seed)
    return runs.tuned_task(BASE, started(name, start), few, rate, STEPS, seed)


LOOKS = {"random": ("#93c5fd", "v"), "any words": ("#60a5fa", "s"),
         SAY: (plots.COLOURS["prefix"], "^"), "full": (plots.COLOURS["full"], "o")}  # fmt: skip
arms = [("reverse", start, n) for start in LOOKS for n in SIZES]
arms += [("headline", start, n) for start in ("random", SAY) for n in ENDS]
grid = {arm: [3e-4, 1e-3, 3e-3] if arm[1] == "full" else [3e-3, 1e-2, 3e-2] for arm in arms}
starts = contest(grid, start_run, SEEDS, extend=1, label="starts")
figure, panels = plots.figure(2, height=3.6)
for axes, name in zip(panels, ("reverse", "headline"), strict=True):
    for shift, (start, (colour, marker)) in enumerate(LOOKS.items()):
        sizes = [n for n in SIZES if (name, start, n) in starts]
        values = [starts[name, start, n].values() for n in sizes]
        where = [n * (1 + 0.06 * shift) for n in sizes]
        if sizes:
            plots.whiskers(axes, where, values, start, colour, marker=marker)
    axes.set_xscale("log")
    axes.set_xticks(SIZES, [f"{n:,}" for n in SIZES])
    axes.minorticks_off()
    plots.finish(axes, "examples to learn from", "exact match (share)", name, limits=(0, 1))
few = {
    start: 100 * sum(starts["reverse", start, SIZES[0]].values()) / len(SEEDS) for start in LOOKS
}
plots.add_caption(figure, f"reverse with {SIZES[0]} examples: {few[SAY]:.0f} % from words that say it, "
                  f"{few['random']:.0f} % from random, {few['full']:.0f} % for full fine-tuning.")  # fmt: skip


def compared(a, b, name="reverse", sizes=SIZES):
    """a minus b at every size."""
    pairs = [[starts[name, start, n].values() for start in (a, b)] for n in sizes]
    return [difference(*pair, MARGIN) for pair in pairs]


def listed(differences, sizes=SIZES):
    return "; ".join(f"{n} examples {d.text}" for n, d in zip(sizes, differences, strict=True))


meaning, chance = compared(SAY, "random"), compared("any words", "random")
meaning_headline = compared(SAY, "random", "headline", ENDS)
claims.record(
    23,
    measured=f"words that say it minus random: reverse, {listed(meaning)}; headline, "
    f"{listed(meaning_headline, ENDS)}. Any words minus random, reverse: {listed(chance)}",
    rule="true if words that say it are better in every case, misleading if in some and not in others; "
    + RULE,
    verdict=verdict("better", *meaning, *meaning_headline),
)
full, full_random = compared(SAY, "full"), compared("random", "full")
summary = against("prefix", "full", headline)
claims.record(
    18,
    measured=f"prefix minus full on reverse, from words that say it: {listed(full)}; from random: "
    f"{listed(full_random)}; on headline with all examples: {summary.text}",
    rule="true if better everywhere, misleading if somewhere and not elsewhere; " + RULE,
    verdict=verdict("better", *full, *full_random, summary),
)
claims.record(
    17,
    measured=f"prefix minus full, all examples: headline, a summarization, {summary.text}; reverse "
    f"{against('prefix', 'full', reversing).text}, from words that say it {full[-1].text}",
    rule="true if better on every task, false if on none and equal or worse on one; " + RULE,
    verdict=verdict("better", summary, against("prefix", "full", reversing), full[-1]),
)

# %% [markdown]
# ## 8. On a real language model
#
# SmolLM2 is asked for 50 capitals; the first token of its answer counts. The input is `France is`, without the words
# `The capital of`. The keys and values of these 3 words are put into the memory of its 30 layers and trained on 80
# *other* countries. **Predict:** the written words get a third of the capitals right. How many after 30 steps, and how
# many if the pairs start at random?

# %%
from minipeft.course import capitals, real

loaded = real.load("smollm2") if REAL_SEEDS else None
learnt, real_shares = {}, {}
if loaded:
    big, spelling = loaded
    big.set_attn_implementation("eager")  # it keeps the attention weights
    ids = lambda text: list(spelling(text)["input_ids"])  # noqa: E731
    ask = lambda split, before=(): [  # noqa: E731
        ([*before, *country, *ids(" is")], first)
        for country, first in capitals.questions(spelling, split)
    ]
    WRITTEN = ids("The capital of")
    held_out, known = capitals.together(ask("test")), ask("train")
    right = lambda batch: runs.loss_and_exact(big, batch)[1]  # noqa: E731
    print(f"nothing before it  {100 * right(held_out):.0f} %")
    print(f"the written words  {100 * right(capitals.together(ask('test', WRITTEN))):.0f} %")
    starts_of_real = {
        "from words": mp.Prefix(3, None, start=WRITTEN, compatibility="peft"),
        "random": mp.Prefix(3, None, compatibility="peft"),
    }
    for name, method in starts_of_real.items():
        for seed in REAL_SEEDS:
            with runs.attached(big, method, seed=seed) as tuner:
                before = right(held_out)
                feed = capitals.batches(known, 8, seed)
                mp.train(big, feed, REAL_STEPS, REAL_RATES[name], progress=False)
                learnt.setdefault(name, []).append(right(held_out))
                if seed == REAL_SEEDS[0]:
                    real_shares[name] = lesson.prefix_share(big, tuner, held_out)
        after = ", ".join(f"{100 * value:.0f} %" for value in learnt[name])
        print(f"{name:<19}{100 * before:.0f} % at the start, then {after}")

# %% tags=["hide-input"]
if loaded:
    said = "; ".join(
        f"{name} " + ", ".join(f"{100 * value:.0f}" for value in values) + " %"
        for name, values in learnt.items()
    )
    figure = share_pictures(
        real_shares, f"SmolLM2 after {REAL_STEPS} steps, capitals right: {said} (shown: the first)."
    )

# %% [markdown]
# This is no contest of starts: the rates are guesses, seen before on a split that shares some countries with this test. But
# a written prompt can be *stored* as a prefix, gives the same answers at first, and can then be trained.
#
# ## 9. Passport

# %%
from minipeft.course.passport import passport

passport(METHOD, rates=[3e-3, 1e-2, 3e-2], name="prefix", quick=QUICK)

# %% [markdown] tags=["slide"]
# ## What this lesson showed, and what it did not
#
# * A prefix is $P$ pairs in each layer: a second attention, whose gate is $\lambda$ (parts 1, 3).
# * The base's weights stay; its outputs do not. Both passes need all of the base (parts 3, 4).
# * A prefix takes positions only if they are moved (part 2). Nothing got worse by length here (part 6).
# * Pairs in all layers are better for headlines; for a skill that a word calls, soft words at the input may do (part 5).
# * With ten examples of a skill that the base has, a prefix that starts at words asking for it beats full fine-tuning. With
#   enough examples fine-tuning catches up; on headlines it is ahead (parts 5, 7).
# * Such words help with ten examples on both tasks; with 1,000 headlines a random start was ahead (part 7).
# * Base (82,272 numbers) and tasks were chosen after trials: every method learns something in 120 steps. The paper's
#   best case, tables to text, is missing: full fine-tuning got 6 %, every prefix 1 % or less (base of 390,000 numbers).
# * *Not shown:* BLEU, ROUGE; a *large* model, where the gap may close; why large prefixes fall elsewhere.
#
# **Next:** 07 leaves out layers and MLP; 09 only the MLP, and adds a head.
