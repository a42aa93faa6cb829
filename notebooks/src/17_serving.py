# ---
# jupyter:
#   minipeft:
#     title: Serving many adapters
#     question: Fifty tasks, one base. How does each request get its own adapter, and what does that cost?
#     minutes: 4
#     sitting: 80
#     attempts: 4
# ---

# %% [markdown] tags=["slide"]
# You tuned a model for fifty customers. Now the requests come, from all of them at once. Fifty full models do not fit on your
# machine. But fifty *adapters* do: the base stands there once, and the small matrices of each customer beside it. Three ways
# to answer are known:
#
# * **merge**: write one adapter into the weights. The model is then as fast as the base, for one customer.
# * **swap**: sort the requests by customer, and answer one group after the other.
# * **one mixed batch**: all rows go through the frozen weights together, and each row meets its own adapter.

# %% tags=["hide-input", "slide"]
from minipeft.course import serving_charts as charts

figure = charts.picture()

# %% [markdown]
# ## 1. Numbers by hand
#
# ### Exercise: fifty tasks on SmolLM2
#
# SmolLM2 has 134,515,008 numbers in 30 layers. Each task has a LoRA of rank $r = 8$ beside two maps of every layer: the
# query's, from 576 to 576 numbers, and the value's, from 576 to 192. All numbers are float32, 4 bytes. Work out
#
# * `"adapters"`: the bytes of the adapters of 50 tasks (without the base);
# * `"copies"`: the bytes of 50 full copies of the model;
# * `"merge"`: take the query's map. The detour $B(Ax)$ costs $r \cdot \text{in} + r \cdot \text{out}$ multiplications for every
#   token. To merge, $BA$ must be multiplied out once: $r \cdot \text{in} \cdot \text{out}$. After how many tokens has the
#   merge paid?
#
# The answer is a dict with these three names.

# %% exercise="minipeft.checks:serving_costs" difficulty=1 minutes=8
# A is (r, in), B is (out, r).
layers, r, tasks, number_bytes = 30, 8, 50, 4
one_task = layers * r * ((576 + 576) + (576 + 192))
serving_costs = {
    "adapters": tasks * one_task * number_bytes,
    "copies": tasks * 134_515_008 * number_bytes,
    "merge": (r * 576 * 576) / (r * (576 + 576)),
}

# %%
from minipeft import checks

checks.serving_costs(serving_costs)

# %% [markdown]
# By this arithmetic a merge cannot pay for one short question. But a computer does more than multiply: part 5 comes
# back to it.
#
# ## 2. Fifty adapters
#
# Our customers look alike on purpose. All send a row of words. Each wants a function of it (one of five), and behind it
# a last word of their own (one of ten), and nobody says so. Only the adapter knows.

# %% fast="ENDS, STEPS, SHIFTS, EACH, PROMPT_STEPS, REPEATS, USERS, REAL_REPEATS = 2, 2, 2, 2, 2, 1, (1, 4), 0"
ENDS, STEPS, RATES = 10, 60, [3e-3, 1e-2, 3e-2]  # 5 functions x 10 last words; LoRA
SHIFTS, EACH = 50, 4  # passes of part 2, and test rows of every customer in them
PROMPT_ENDS, PROMPT_STEPS, PROMPT_RATES = 4, 150, [3e-2, 1e-1, 3e-1]  # prompts for 5 x 4 customers
REPEATS, USERS = 5, (1, 4, 16, 32)  # of the times in part 5
REAL_REPEATS = 3  # of those in part 7
MARGIN = 0.05  # five points make no difference

# %%
import copy
from pathlib import Path

import torch

import minipeft as mp
from minipeft.course import claims, runs, serving
from minipeft.course import serving_patients as patients
from minipeft.course import serving_training as training
from minipeft.course.experiments import contest, difference, spread

base = model, tokenizer = runs.base("tiny-decoder-0.4m")
bits = mp.fingerprint(model)
users = serving.users_of(ENDS)
lora = mp.LoRA(rank=4, targets=("query", "value", "up", "down"))
few = {name: users[name] for name in list(users)[:: ENDS + 1]}  # one for each function
for name, task in few.items():
    print(f"{name:16} {task.test[0].input} {task.test[0].target}")
tried = training.loras_at_once(base, few, lora, STEPS)
chosen = contest({"LoRA": RATES}, tried, [0], together=True)["LoRA"]
adapters = training.train_many(base, users, lora, chosen.rate, STEPS)
print("dev loss:", {rate: round(loss, 3) for rate, loss in chosen.tried.items()})
print(
    f"{len(adapters)} adapters trained, at rate {chosen.rate:g}; the base has the same bits:",
    end=" ",
)
print(mp.fingerprint(model) == bits)

# %% [markdown]
# All fifty were trained in *one pass per step*: their rows, 8 each, stood in one batch of 400, and each met its own
# matrices (`minipeft.training.sweep`). The rate is the best of `RATES` on dev rows of the five customers above; each
# customer is one run, and intervals are over customers. (When this lesson was written, the number of steps was raised
# once after a look at test rows.)
#
# Each adapter becomes a folder. The model has 390,000 numbers in 4 layers, width 80, feed-forward width 320; the LoRA has rank
# 4 beside query, value, up and down. **Predict:** how many times smaller than the model is such a folder?

# %%
folders = Path("runs/shelf")
with serving.serving(model, adapters, lora) as tuners:
    numbers = tuners[next(iter(users))].report().stored
    for place, tuner in enumerate(tuners.values()):
        tuner.save(folders / str(place))
shelf = serving.folder_bytes(folders)
whole = sum(parameter.nbytes for parameter in model.parameters())
N = len(users)
print(f"one task:  {numbers:,} numbers = {4 * numbers:,} bytes, its folder {shelf // N:,},")
print(f"           {whole * N / shelf:.0f} times smaller than the model")
print(f"{N} tasks: {shelf / 1e6:.1f} MB beside one base of {whole / 1e6:.1f} MB")
print(f"as copies: {N * whole / 1e6:.1f} MB, {N * whole / (whole + shelf):.1f} times as much")

# %% [markdown] tags=["slide"]
# **Predict:** every customer's rows are answered with every customer's adapter, 2,500 pairs. Where in this matrix are the
# answers right? And what does a stranger's adapter get right, word by word, if it belongs to the same function?

# %% tags=["hide-input", "slide"]
with serving.serving(model, adapters, lora):
    names, batch = serving.requests(base, users, EACH)
    words, exact = serving.who_answers(model, names, batch, range(min(SHIFTS, N)))
right = exact.diag().tolist()
other = exact.clone().fill_diagonal_(torch.nan)
strangers = other.nanmean(dim=1).tolist()
same = [
    words[i, j].item()
    for i in range(N)
    for j in range(N)
    if i != j and i // ENDS == j // ENDS and not words[i, j].isnan()
]
figure = charts.matrix_chart(
    words,
    serving.FUNCTIONS,
    f"Whole answers right: {spread(right)} with the customer's own adapter, {spread(strangers)} with "
    "another's.",
)

# %% tags=["hide-input"]
near = sum(same) / max(1, len(same))
print(
    f"A stranger's adapter of the same function gets {100 * near:.0f} % of the words, and "
    + ("hardly a whole answer." if sum(strangers) / N < 0.05 else "some whole answers too.")
)
gap = difference(right, strangers, MARGIN)
print(f"own adapter minus another's, exact match, {N} customers as pairs: {gap.text}")

# %% [markdown]
# No word in a row tells whose it is. So a wrong adapter does not fail loudly: it answers fluently, for somebody else,
# and the server shows no error. (`rotate`, `swap` and `reverse` agree on the shorter rows: hence the light squares
# between them. The thin diagonals belong to customers of another function with the same last word.)
#
# ## 3. One mixed batch
#
# For row $i$ of the batch, with $a_i$ its adapter:
#
# $$y_i = W_0 x_i + s\, B_{a_i} A_{a_i} x_i$$
#
# | | shape | |
# |---|---|---|
# | `x` | (R, T, in) | what goes into the map; R rows |
# | `y` | (R, T, out) | $W_0 x$, from the frozen map |
# | `A`, `B` | (N, r, in), (N, out, r) | of all N adapters |
# | `who` | (R,) | whole numbers: $a_i$, or −1 where the row wants the bare base |
# | `scale` | a number | $s$ |
# | answer | (R, T, out) | a new tensor, rows in the order in which they came |
#
# ### Exercise: every row its own
#
# Write it for any `who`: several rows may have the same adapter, some adapters may have no row, and all rows may want the base.
# All tensors but `who` have one dtype; gradients reach `x`, `y`, `A` and `B`.
#
# <details><summary>Hint 1</summary>
#
# `A[who]` takes for each row the matrix of its adapter: (R, r, in). Beware of −1.
# </details>
# <details><summary>Hint 2</summary>
#
# `@` multiplies (R, T, in) with (R, in, r) row by row, and `A.mT` turns the last two axes. For the rows without an adapter:
# a mask and `index_put`, or `torch.where`.
# </details>

# %% exercise="minipeft.course.serving:mixed_lora" difficulty=2 minutes=12
# mixed_lora: which rows have an adapter at all?

# %%
checks.mixed_lora(mixed_lora)

# %% [markdown]
# Your function against the library: a map of the trained model, one row for each customer and one for nobody, in float64.
# `mp.route` names the adapter of each row.

# %%
double = copy.deepcopy(model).double()
with serving.serving(double, adapters, lora) as tuners, torch.no_grad():
    place, _ = next(iter(tuners.values())).patches[0]
    matrices = [tuner.patches[0][1].double() for tuner in tuners.values()]
    x = torch.randn(N + 1, 12, place.module.weight.shape[1], dtype=torch.float64)
    with mp.route(double, [*users, None]):
        door = double.get_submodule(place.path)(x)
    try:
        A, B = (torch.stack([getattr(one, key) for one in matrices]) for key in "AB")
        mine = mixed_lora(
            x, place.module(x), A, B, torch.tensor([*range(N), -1]), matrices[0].scale
        )
        print(f"{place.path}: {N + 1} rows differ by at most {(mine - door).abs().max():.1g}")
    except NotImplementedError as missing:
        print(missing)

# %% [markdown]
# "Prefixes of many users can be mixed in one batch, adapters cannot", wrote the paper of prefix-tuning. **Predict**, for every method: do twelve
# users in one batch get what each gets alone? Which methods must refuse?

# %% tags=["hide-input"]
from minipeft.course.passport_facts import facts
from minipeft.report import Table

METHODS = {
    **{"LoRA": mp.LoRA(rank=4), "adapter": mp.Adapter(8), "IA3": mp.IA3(), "BitFit": mp.BitFit()},
    **{"prefix": mp.Prefix(8), "P-Tuning v2": mp.PTuningV2(8), "UniPELT": mp.UniPELT()},
    **{"prompt tuning": mp.PromptTuning(8), "P-tuning": mp.PTuning(8)},
    **{"top": mp.TopLayers(1), "full": mp.FullFineTuning()},
}
twelve = runs.rows_of(mp.tasks.load("reverse"), "test", tokenizer, model, rows=12)
differences, rows = {}, []
for name, method in METHODS.items():
    differences[name] = serving.mixed_against_alone(model, method, 12, twelve)
    seen = facts(model, tokenizer, method)
    per_request = serving.memory_of_a_request(model, method)
    rows.append(
        (name, "refused" if differences[name] is None else f"{differences[name]:.1g}",
         "-" if differences[name] is None else "yes" if seen["mergeable"] else "no",
         f"{50 * seen['disk'] / 1e6:.2f} MB", f"{per_request:,}")
    )  # fmt: skip
Table(
    "Twelve users in one batch, and what else a server asks",
    (
        "method",
        "mixed against alone",
        "can be merged",
        "50 tasks on disk",
        "bytes more per request",
    ),
    rows,
    ["Last column: keys and values that a request needs beside those of its text."],
)

# %% tags=["hide-input"]
mixing = [name for name, off in differences.items() if off is not None and off < 1e-10]
refusing = [name for name, off in differences.items() if off is None]
print(f"Exactly mixed: {', '.join(mixing)}.\nRefused: {', '.join(refusing)}.")
claims.record(
    56,
    f"twelve users in one batch of the same method, each against its request alone: equal for "
    f"{', '.join(mixing)}; refused for {', '.join(refusing)}",
    rule="false if LoRA and adapters are among the equal ones; float64, tolerance 1e-10",
    verdict="false" if {"LoRA", "adapter", "prefix"} <= set(mixing) else "undecided",
)

# %% [markdown]
# Anything that stands *beside* the base can be a row's own. What trains the base itself acts on all rows, so it must refuse,
# and it needs a copy for each task. Prefixes and prompts have another price: they take memory with **every request**, as if
# each text were longer. The others take it once.
#
# ### Exercise: the price of a prefix
#
# In each of SmolLM2's 30 layers 3 heads keep keys and values, 64 numbers each. How many bytes of keys and values does a prefix of
# $P = 10$ places add to one `"request"`, in float32? A customer's LoRA from part 1 takes 1,843,200 bytes once, whatever comes. How
# many `"requests"` of this customer at the same time make the prefix as large?

# %% exercise="minipeft.checks:prefix_price" difficulty=1 minutes=4
# A dict with the keys "request" and "requests".
one_request = 2 * 30 * 3 * 64 * 10 * 4  # keys and values, layers, heads, numbers, places, bytes
prefix_price = {"request": one_request, "requests": 1_843_200 / one_request}

# %%
checks.prefix_price(prefix_price)

# %% [markdown]
# Prompts can be mixed while they are *trained*, too. Twenty customers, four of each function, get a prompt of eight soft words each.
# Beside them the same rows train one prompt for everybody. The rate of each arm is chosen on dev rows of the five customers above.
# **Predict:** can one prompt serve twenty customers who all send the same kind of row? What is the most that it could get right?

# %% tags=["hide-input"]
some = {
    name: task for number, (name, task) in enumerate(users.items()) if number % ENDS < PROMPT_ENDS
}
soft, arms = mp.PromptTuning(8, start="vocabulary"), (training.EACH, training.SHARED)
tried = training.prompts_at_once(base, few, soft, PROMPT_STEPS)
best = contest(dict.fromkeys(arms, PROMPT_RATES), tried, [0], together=True)
trained = training.prompts_at_once(base, some, soft, PROMPT_STEPS)
each_own, for_all = (
    result["test"] for result in trained([(arm, best[arm].rate, 0) for arm in arms])
)
one_for_all = difference(for_all, each_own, MARGIN)
for arm, right_share in zip(arms, (each_own, for_all), strict=True):
    edge = " (at the edge of what was tried)" if best[arm].edge else ""
    print(f"{arm}, rate {best[arm].rate:g}{edge}: {spread(right_share)} right")
most = 100 * training.most_for_all(some)
print(f"Equal rows, equal answers: of all test rows, one prompt can get at most {most:.0f} %.")
claims.record(
    25,
    f"{len(some)} customers, trained in mixed batches: a prompt each {spread(each_own)} right, one "
    f"prompt for all {spread(for_all)}; difference {one_for_all.text}",
    rule="false if the one prompt is worse than one for each, undecided where those got less than a "
    "fifth right; " + one_for_all.rule,
    verdict="undecided"
    if sum(each_own) < 0.2 * len(each_own)
    else {"worse": "false", "undecided": "undecided"}.get(one_for_all.verdict, "true"),
)

# %% [markdown]
# The prompt for all had one run; its interval, too, is over customers. No other run or rate would save it: the last
# printed bound holds for everything that sees the row alone.
#
# ## 4. Five servers
#
# Five colleagues built a server. Each got the same queue: four users, three texts, every user asks each text. The
# adapters hold random numbers, so the answers are nonsense, but every user's is a nonsense of its own. "As alone" means: the
# request by itself, in an empty server, gets this answer.

# %% tags=["hide-input", "slide"]
patients.servers_table(model)

# %% [markdown]
# ### Exercise: what does each server do?
#
# Each cause is used once. No server raised an error.
#
# * `"cache"`: keys and values of a text are kept for the next who asks it, under the text alone, not under text *and* user.
# * `"swap"`: an adapter is exchanged while answers are still being written.
# * `"order"`: rows are sorted by user for the pass, and the answers are not sorted back.
# * `"merge"`: adapters are merged one after the other, and never taken out again.
# * `"healthy"`: nothing is wrong.

# %% exercise="minipeft.checks:server_patients" difficulty=2 minutes=8
# A dict from "A" to "E". Begin with the columns in which one server differs from all others.
server_patients = {"A": "order", "B": "merge", "C": "cache", "D": "healthy", "E": "swap"}

# %%
checks.server_patients(server_patients)

# %% [markdown]
# The cache is the fault that looks most like a good idea: whoever keeps keys and values for texts that come often, such as a
# long instruction, must keep them for each adapter. Only where an adapter changes neither keys nor values, nor anything below
# them, may they be shared.
#
# ## 5. What it costs in time
#
# Thirty-two rows, of 1 to 32 users. Times on a busy machine mean little, so every pass is divided by a pass of the bare base
# *next to it in time*; marks are medians, whiskers quartiles. Left: a server reads texts of 16 tokens. Right: it writes
# one word for each row. The model has random weights (a width of 256, four layers); time does not depend on values.
#
# **Predict:** where does each line end at 32 users? Where is a mixed batch worth most, in reading or in writing?

# %% tags=["hide-input", "slide"]
from minipeft.course import serving_times as times

bench = times.Bench(times.larger(), max(USERS), mp.LoRA(rank=8, targets=("query", "value")))
panels = {
    "reading 16 tokens": bench.compare(USERS, 32, 16, REPEATS),
    "writing one word": bench.compare(USERS, 32, 1, 3 * REPEATS),
}
reading, writing = (panel[max(USERS)] for panel in panels.values())
mixed, groups, merge = times.WAYS
figure = charts.times_chart(
    panels,
    f"With {max(USERS)} users, time over that of the bare base. Reading: mixed "
    f"{times.said(reading[mixed])}, by user {times.said(reading[groups])}, merged in turns "
    f"{times.said(reading[merge])}. Writing: {times.said(writing[mixed])}, "
    f"{times.said(writing[groups])}, {times.said(writing[merge])}.",
)

# %% tags=["hide-input"]
once = bench.merged_once(32, 16, REPEATS)
gains = [
    times.middle(ratios[groups])[0] / times.middle(ratios[mixed])[0]
    for ratios in (reading, writing)
]
print(f"one adapter merged for good: {times.said(once)} of the base")
print(
    f"{max(USERS)} users: a mixed batch is {gains[0]:.1f} times as fast as a pass for each user in "
    f"reading, {gains[1]:.1f} times in writing:\nit is worth most in "
    + ("writing." if gains[1] > gains[0] else "reading.")
)

# %% [markdown]
# A pass for each user runs every layer again for a few rows: it reads all weights again, and every pass has its fixed
# costs. Which of the two weighs more, these ratios do not tell. A merge for each group writes every adapted weight as
# well. By the formula of part 1 a merge pays here after $256 \cdot 256 / (256 + 256) = 128$ tokens; each of 32 users
# brings 16, or one. So: one busy customer, merge; many quiet ones, mix.
#
# ## 6. Hot swap
#
# Customers come and go while the server runs. In fifty turns one adapter is loaded from its folder, merged, unmerged and
# taken away, while two others stay attached. **Predict:** after 50 turns, what is left in the base? And what would be left if a script did
# $W \leftarrow W + sBA$ and later $W \leftarrow W - sBA$?

# %% tags=["hide-input"]
stay, turns = list(users)[:2], []
weight = model.blocks[0].attention.value.weight.detach().clone()
path, deltas = "blocks.0.attention.value", []
with serving.serving(model, {name: adapters[name] for name in stay}, lora), torch.no_grad():
    rows = {key: value[: 2 * EACH] for key, value in batch.items()}
    with mp.route(model, names[: 2 * EACH]):
        before = model(**rows).logits
    for place in range(N):
        guest = mp.load(model, folders / str(place), name="guest")
        with mp.route(model, names[: 2 * EACH]):
            turns.append(torch.equal(model(**rows).logits, before))
        deltas += [patch.delta() for where, patch in guest.patches if where.path == path]
        guest.merge()
        changed = mp.fingerprint(model) != bits
        guest.unmerge()
        guest.detach()
untouched = mp.fingerprint(model) == bits
drifts = {
    "bfloat16": serving.drift_by_hand(weight, deltas, torch.bfloat16),
    "float32": serving.drift_by_hand(weight, deltas, torch.float32),
    "merge and unmerge": [0.0 if untouched else 1.0] * len(deltas),
}
figure = charts.drift_chart(
    drifts,
    f"Left after {N} adapters, added and subtracted: {drifts['bfloat16'][-1]:.1e} of the weight's length in bfloat16, "
    f"{drifts['float32'][-1]:.1e} in float32. With the old bits put back: {'nothing' if untouched else 'a change'}.",
)

# %% tags=["hide-input"]
print(f"answers of the two others, bit for bit the same in {sum(turns)} of {N} turns")
print("a merged guest changes the base:", changed, "- afterwards the old bits:", untouched)
fits = whole + shelf < 0.5 * N * whole
claims.record(
    10,
    f"{N} adapters in turn loaded, merged, unmerged and detached: the base has "
    f"{'the same' if untouched else 'other'} bits, the answers of others were the same in {sum(turns)} of "
    f"{N} turns; a task takes {shelf // N:,} bytes, the base {whole:,}",
    rule="true if the bits are equal and a task takes less than a tenth of the base",
    verdict="true" if untouched and all(turns) and shelf / N < whole / 10 else "misleading",
)
claims.record(
    12,
    f"{N} tasks answered from one base in one batch, {spread(right)} right; {(whole + shelf) / 1e6:.1f} MB "
    f"on disk, {N * whole / 1e6:.1f} MB as full copies",
    rule="false if one base serves all tasks in less than half the bytes of copies",
    verdict="false" if untouched and fits else "undecided",
)

# %% [markdown]
# `merge` keeps the old weights and puts them back. That costs their memory while one is merged. By hand, each turn loses a
# little, and nobody sees it before it is much.
#
# ## 7. A real model
#
# SmolLM2 with eight users, a row each: the numbers of part 1 on disk, and the ways of part 5.

# %% tags=["hide-input"]
from minipeft.course import real

loaded = real.load("smollm2") if REAL_REPEATS else None
if loaded is not None:
    smol = loaded[0]
    parameters = sum(p.numel() for p in smol.parameters())
    big = times.Bench(smol, 8, mp.LoRA(rank=8, targets=("query", "value")))
    big.tuners[0].save("runs/real")
    on_disk = serving.folder_bytes(Path("runs/real"))
    wanted = big.tuners[0].report().stored * 4
    print(f"{parameters:,} numbers; LoRA by formula {wanted:,} bytes, its folder {on_disk:,}")
    print(
        f"50 tasks: {50 * on_disk / 1e6:.0f} MB, and 50 copies {50 * 4 * parameters / 1e9:.1f} GB"
    )
    for what, tokens in (("reading 16 tokens", 16), ("writing one word", 1)):
        by_way = big.compare((8,), 8, tokens, REAL_REPEATS)[8]
        for way, ratios in by_way.items():
            print(f"{what:18} {way:22} {times.said(ratios)} of the bare base")
        gain = times.middle(by_way[groups])[0] / times.middle(by_way[mixed])[0]
        print(f"{what:18} so mixed is {gain:.1f} times as fast as a pass for each user")

# %% [markdown] tags=["slide"]
# ## What this lesson showed, and what it did not
#
# * Fifty tasks need one base and fifty small folders. The right adapter answers; a wrong one answers just as fluently (part 2).
# * One pass can hold rows of many adapters, and each row gets what it gets alone. This holds for every method that stands beside the
#   base, not for prefixes only (part 3).
# * Merge for one busy customer, mix for many quiet ones (part 5).
# * Put old bits back; do not subtract (part 6).
# * A prefix or a prompt pays with memory in every request, LoRA and adapters once.
#
# It did not show a real server. There, requests come and end at any time, adapters move between disk and graphics card, and
# kernels of their own do what your `mixed_lora` does (Punica; S-LoRA serves thousands of adapters so). Our times are ratios on one
# processor core. On a graphics card nothing was measured. And fifty customers who differ in a last word are an easy
# fifty.
#
# **To go on:** let one customer send 31 of the 32 rows, and measure again. Which way wins now?
