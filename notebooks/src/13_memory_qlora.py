# ---
# jupyter:
#   minipeft:
#     title: Memory and QLoRA
#     question: What fills the memory while a model is tuned, and what do four bits save of it?
#     minutes: 6
#     sitting: 75
#     attempts: 4
# ---

# %% [markdown] tags=["slide"]
# "We train 1 % of the parameters, so it fits on a small card." Then the run ends: *out of memory*. What did the other 99 %
# cost, if nobody trains them? This lesson predicts the bytes of a training step, then measures them. Of the $N$ numbers of a
# model $n$ are trained. Four heaps fill the memory:
#
# * **weights**: $N$ numbers, trained or not; **gradients**: $n$; **Adam's means**: $2n$;
# * **activations**: what the forward pass keeps for the backward pass. They grow with the tokens of a batch.
#
# LoRA shrinks two of them, QLoRA (Dettmers et al. 2023, [arXiv 2305.14314](https://arxiv.org/abs/2305.14314)) one more.

# %% fast="LENGTHS, STEPS, RATES, SEEDS, ROWS, REPEATS, LADDER, QUICK, KINDS_ON_TEXT, PIECES = LENGTHS[:2], 2, [1e-2], [0, 1], 6, 3, 2, True, [], 2"
MODEL, TASK = "tiny-decoder-0.4m", "reverse-rotate"
B, T = 8, 32  # rows and tokens of the step that is weighed
LENGTHS = [32, 128, 512, 2048]  # tokens in a batch, 32 a row
STEPS, RATES, SEEDS, ROWS = 60, [3e-3, 1e-2, 3e-2], [0, 1, 2, 3], 100
MARGIN = 0.05  # five points of exact match make no difference
REPEATS = 15  # pairs of multiplications that are timed
LADDER, QUICK = 60, False
KINDS_ON_TEXT, PIECES = ["nf4", "fp4", "int4", "fp4-e3m0"], 10  # the real model

# %% tags=["hide-input"]
import torch

import minipeft as mp
from minipeft import checks
from minipeft.course import claims, four_bits, runs
from minipeft.course import memory as lesson
from minipeft.course import memory_pictures as pictures
from minipeft.course.experiments import contest, difference, spread
from minipeft.report import Table

base, tokenizer = runs.base(MODEL)
config, bits = base.config, mp.fingerprint(base)
EVERY = ("all-linear",)
METHODS = {
    "full": mp.FullFineTuning(),
    "LoRA": mp.LoRA(rank=8),
    "LoRA on all maps": mp.LoRA(rank=8, targets=EVERY),
}

# %% [markdown] tags=["slide"]
# ## 1. One step, seen by the allocator
#
# torch's allocator knows every byte. **Predict** the picture: memory over time through one training step.
# Where is the highest point, the *peak*: between forward and backward pass, or when Adam takes its step? How much lower is
# LoRA?

# %% tags=["hide-input", "slide"]
from matplotlib import pyplot as plt

seen = {name: lesson.footprint(base, method, B, T) for name, method in METHODS.items()}
seen["LoRA, layers run again"] = lesson.footprint(base, METHODS["LoRA"], B, T, again=True)
figure = pictures.mountain(
    seen,
    f"The peak of full fine-tuning lies {seen['full'].summit}; LoRA reaches "
    f"{100 * seen['LoRA'].peak / seen['full'].peak:.0f} % of it, with "
    f"{100 * seen['LoRA'].gradients / seen['full'].gradients:.0f} % of the gradients.",
)
plt.show()

# %% [markdown]
# A mountain: the forward pass climbs, since every layer leaves something behind; the backward pass uses it up. The ground
# below, weights and Adam's means, never goes away.
#
# ### Exercise: the ground
#
# Write `training_bytes(model)`: bytes of weights, gradients and Adam's two means. With $e$ bytes for a number: weights $eN$,
# gradients $en$, means $2en$; $n$ are those that require a gradient. Parameters may differ in dtype: gradient and means have
# the dtype of their parameter. A tied matrix is one parameter and counts once. Buffers do not count. Answer:
# `{"weights": ..., "gradients": ..., "adam": ...}`, whole numbers.
#
# <details><summary>Hint</summary>
#
# `parameter.numel()`, `parameter.element_size()`, `parameter.requires_grad`; `model.parameters()` lists a shared one once.
# </details>

# %% exercise="minipeft.course.transfer:training_bytes" difficulty=1 minutes=8
# training_bytes: what is frozen still has to be there

# %%
checks.training_bytes(training_bytes)

# %% [markdown]
# ### 12 + 2 + 2
#
# "Training needs (12 + 2 + 2) bytes per parameter." That is *mixed precision*: weights and gradients in bfloat16 (2 each);
# for Adam a float32 copy and two float32 means (4 each). **Predict** the bytes per parameter when the base is frozen and
# LoRA trains.

# %%
import copy

task = mp.tasks.load(TASK)
batch = task.batches("train", tokenizer, batch_size=B)(0)
words = lesson.random_batch(config, B, T)
half = copy.deepcopy(base).bfloat16()
N = sum(p.numel() for p in half.parameters())
rows, states, mountain = [], {}, {}
for name, method in METHODS.items():
    step = lesson.mixed_precision(half, method, words)
    kept = step.pop("activations")  # the mountain is not counted by the rule
    states[name], mountain[name] = sum(step.values()) / N, kept / N
    rows.append((name, *(f"{value / N:.2f}" for value in step.values()), f"{states[name]:.2f}"))
columns = ("", "weights", "gradients", "float32 copies", "Adam's means", "all")
claims.show(Table("Bytes per parameter of the base, one step added up", columns, rows))

# %% tags=["hide-input"]
whole = mountain["full"]
sixteen = abs(states["full"] - 16) < 0.16
alone = whole < 1.6 and states["LoRA"] > 14.4
claims.record(
    49,
    f"full fine-tuning in mixed precision: {states['full']:.2f} bytes per parameter for weights, "
    f"gradients, copies and means; LoRA on a frozen base {states['LoRA']:.2f}, on all maps "
    f"{states['LoRA on all maps']:.2f}; what the forward keeps, {B} rows of {T} tokens, adds "
    f"{whole:.1f}",
    rule="true if it is 16 within 1 %, with a frozen base too, and activations add less than a tenth; "
    "misleading if it is 16 for full fine-tuning only, or without activations; false if it is not 16",
    verdict="false" if not sixteen else "true" if alone else "misleading",
    states=states,
)

# %% [markdown]
# The rule holds for one way of training, and leaves the mountain out. With a frozen base it is $2N + 16n$ ($A$ and $B$ are
# float32).
#
# ## 2. What the forward pass leaves behind
#
# A linear map $y = Wx$ needs $x$ to compute $dL/dW = (dL/dy)\, x^\top$. To pass a gradient on, $dL/dx = W^\top dL/dy$, it
# needs only $W$. So a frozen map keeps nothing! A block (pre-norm, feed-forward width $I$, fused attention) keeps this for
# one token:
#
# | kept by | tensor | numbers |
# |---|---|---|
# | each of 2 LayerNorms | input, mean, deviation | $C + 2$ each |
# | query, key, value maps | their common input $x$ | $C$ |
# | attention | $q, k, v$, the mix of the values | $4C$ |
# | attention | one number of the softmax for each head | $H$ |
# | output map | the mix, kept already | 0 |
# | up map | its input | $C$ |
# | activation (GELU) | its input | $I$ |
# | down map | its input | $I$ |
#
# ### Exercise: numbers per token and block
#
# $C = 80$, $H = 4$, $I = 320$. How many numbers does a token leave in a block if everything is trained (`"full"`)? If the
# block is frozen, but the gradient must pass through it (`"frozen"`)? And if LoRA with $r = 8$ stands beside query and value
# (`"LoRA"`)? $A$ and $B$ are trained maps: $A$ reads $x$, $B$ reads $Ax$. What several maps read is kept once. Norms keep
# what the table says, trained or not.

# %% exercise="minipeft.checks:kept_numbers" difficulty=2 minutes=10
# kept_numbers: which rows of the table are there for dL/dW alone?
C, H, inner, r = 80, 4, 320, 8
always = 2 * (C + 2) + 4 * C + H + inner
kept_numbers = {
    "full": always + C + C + inner,
    "frozen": always,
    "LoRA": always + C + 2 * r,
}

# %%
checks.kept_numbers(kept_numbers)

# %% [markdown] tags=["slide"]
# Times four bytes, $L$ blocks, all tokens; above the blocks come the last norm and a softmax over all $V$ words. That
# predicts every heap. The peak has weights, means, activations, and two more tensors of $B\,T\,V$ numbers while the loss is
# differentiated. **Predict:** how far off is it?

# %% tags=["hide-input", "slide"]
guesses, lines = {}, []
for name, method in METHODS.items():
    with runs.attached(base, method, seed=0):
        guesses[name] = lesson.predicted(base, name, B, T)
    real = vars(seen[name]) | {"peak": seen[name].peak}
    lines += [
        (name, part, f"{guess:,}", f"{real[part]:,}", f"{100 * (guess / real[part] - 1):+.2f} %")
        for part, guess in guesses[name].items()
    ]
off = max(
    abs(guesses[name]["peak"] / one.peak - 1) for name, one in seen.items() if name in guesses
)
exact = all(
    guesses[name][part] == vars(seen[name])[part] for name in guesses for part in pictures.PARTS
)
figure = pictures.parts(
    {name: seen[name] for name in METHODS},
    guesses,
    (
        "All parts were predicted to the byte"
        if exact
        else "Not all parts were predicted to the byte"
    )
    + f", the peak within {100 * off:.2f} %. It is not the sum: gradients come only while "
    "activations go, and the loss has tensors of its own.",
)
plt.show()
claims.show(
    Table("Bytes: predicted and measured", ("", "part", "predicted", "measured", "off"), lines)
)

# %% [markdown] tags=["slide"]
# ## 3. Why it may save nothing
#
# LoRA takes away gradients and means, which do not depend on the batch, and little of what grows with it. **Predict** each
# method's peak, as a share of full fine-tuning's, from 32 tokens in a batch to 2,048. Which is lowest at the right end?

# %% tags=["hide-input", "slide"]
OTHERS = {
    "prompt tuning": mp.PromptTuning(5),
    "adapter": mp.Adapter(8),
    "top": mp.TopLayers(1),
}
WAYS = {**METHODS, **OTHERS, "LoRA, layers run again": METHODS["LoRA"]}
peaks = {
    name: [
        lesson.footprint(base, method, max(1, n // T), min(n, T), again="again" in name).peak
        for n in LENGTHS
    ]
    for name, method in WAYS.items()
}
of_full = {
    name: [peak / full for peak, full in zip(row, peaks["full"], strict=True)]
    for name, row in peaks.items()
    if name != "full"
}
dear = max(of_full, key=lambda name: of_full[name][-1])
cheap = min(of_full, key=lambda name: of_full[name][-1])
figure = pictures.shares(
    LENGTHS,
    of_full,
    f"With {LENGTHS[0]} tokens LoRA takes {100 * of_full['LoRA'][0]:.0f} % of full fine-tuning's bytes, with "
    f"{LENGTHS[-1]:,} tokens {100 * of_full['LoRA'][-1]:.0f} %, and {dear} {100 * of_full[dear][-1]:.0f} %. "
    f"Lowest there: {cheap}, {100 * of_full[cheap][-1]:.0f} %.",
)
plt.show()
with runs.attached(base, OTHERS["adapter"], seed=0) as tuner:
    part = tuner.report().trainable / N
small, large = of_full["adapter"][0], of_full["adapter"][-1]
claims.record(
    2,
    f"adapters train {100 * part:.1f} % of the numbers; the bytes of a step are {100 * small:.0f} % of full "
    f"fine-tuning's with {LENGTHS[0]} tokens in a batch and {100 * large:.0f} % with {LENGTHS[-1]:,}",
    rule="true if the bytes of a step shrink as the numbers do, to within a factor of 3, at every size of the batch",
    verdict="true" if max(small, large) < 3 * part else "misleading",
    shares=of_full,
)
prompt = lesson.footprint(base, OTHERS["prompt tuning"], B, T)
claims.record(
    13,
    f"prompt tuning has {prompt.weights:,} bytes of weights in memory, full fine-tuning {seen['full'].weights:,}; its "
    f"backward pass goes through the frozen blocks, which keep {prompt.activations:,} bytes for it (full "
    f"{seen['full'].activations:,}); gradients and means {prompt.gradients + prompt.adam:,} instead of "
    f"{seen['full'].gradients + seen['full'].adam:,}",
    rule="false if the whole model is in memory and the frozen blocks keep more than half of what full fine-tuning keeps",
    verdict="false"
    if prompt.weights >= seen["full"].weights and prompt.activations > seen["full"].activations / 2
    else "undecided",
)

# %% [markdown]
# Two ways down: train at the *top* only, or keep less of every layer.
#
# ## 4. Layers that run again, and a trap
#
# **Gradient checkpointing** keeps only what enters each block, and runs the block a second time when the backward pass
# arrives: less memory, one more forward pass, the same gradients. In this model: `model.gradient_checkpointing = True`.
#
# A colleague wrote it five times, for a small classifier with dropout, LoRA in its frozen layers and a fresh head.

# %%
lesson.runs_of_one_step()

# %% [markdown]
# ### Exercise: one is healthy
#
# *Behind the forward*: what is kept when the forward pass has ended. Give each run its cause, `{"A": cause, ...}`, each used
# once:
#
# * `"healthy"`: every layer by itself.
# * `"unread"`: the flag was set at an object that nobody reads.
# * `"one piece"`: all layers together in *one* checkpoint.
# * `"random"`: dropout draws other numbers when a layer runs again.
# * `"reentrant"`: torch's older way. It asks whether the *input* of a layer needs a gradient. The output of a frozen
#   embedding does not, so nothing in the layer gets one. The head trains all the same.

# %% exercise="minipeft.checks:again_patients" difficulty=2 minutes=8
# again_patients: compare every run with the last row of the table
again_patients = {
    "A": "one piece",
    "B": "reentrant",
    "C": "healthy",
    "D": "random",
    "E": "unread",
}

# %%
checks.again_patients(again_patients)

# %% [markdown]
# ## 5. Four bits
#
# Frozen weights may be rough. Cut a matrix into blocks of 64 numbers. Each block keeps its largest absolute value $c$, and
# for each weight the number $k$ of the nearest of 16 *levels* $q$:
#
# $$ c = \max_i |w_i|, \qquad k_i = \mathrm{argmin}_k \left| q_k - w_i / c \right|, \qquad \hat{w}_i = c\, q_{k_i} $$
#
# **int4** has equal steps, **FP4** small steps near zero. **NF4** takes 16 quantiles of the normal distribution, divided by
# the outermost one: they lie dense where normal weights are many.
#
# ### Exercise: write it
#
# `values` (n,) are the weights, which may be tiny (1e-5), `table` the levels from low to high, 16 or fewer (int4 has 15),
# `block` how many weights share a scale. Give the numbers $k$ of the levels (n,), counted from 0, `torch.uint8`, and the
# scales, one a block. A last block that is not full has the scale of the weights it has. A block of zeros has the scale 0,
# and its weights the level nearest to 0. `values`, `table` and the scales have one dtype.
#
# <details><summary>Hint 1</summary>
#
# Fill up with zeros, `F.pad(values, (0, missing))`, and look at it as (blocks, block). Cut the end off later.
# </details>
# <details><summary>Hint 2</summary>
#
# The distance of every weight to every level is (blocks, block, levels).
# </details>

# %% exercise="minipeft.methods.parts.quantization:quantize_blocks" difficulty=2 minutes=12
# quantize_blocks: numbers (n,) and scales (blocks,)

# %%
checks.quantize_blocks(quantize_blocks)

# %% [markdown]
# **Your function** on a matrix of this model, with the 16 levels of NF4. **Predict:** quantiles cut a normal distribution
# into equal shares. Is each level used equally often?

# %%
from minipeft.methods.parts.quantization import dequantize_blocks, levels

NF4 = levels("nf4")
print("levels:", ", ".join(f"{level:.2f}" for level in NF4))
W = base.blocks[0].feed_forward.up.weight.detach()  # (320, 80)
try:
    numbers, scales = quantize_blocks(W.flatten(), NF4, 64)
    again = dequantize_blocks(numbers, scales, NF4, 64).view_as(W)
    print(f"error: {100 * ((again - W).norm() / W.norm()):.1f} % of the matrix")
    used = numbers.bincount(minlength=16) / len(numbers)
    print("used:", ", ".join(f"{100 * share:.0f} %" for share in used), "(equal: 6 %)")
except NotImplementedError as missing:
    print(missing)

# %% [markdown] tags=["slide"]
# The outermost quantile of NF4 lies at 1.85 standard deviations. But a block is divided by its largest weight, and the
# largest of 64 normal numbers is about 2.6. So the inner levels get more than their share.
#
# The scales cost half a bit for each weight: one float32 for 64. *Double quantization* puts the scales into 8 bits, with a
# float32 for 256 of them: $4 + 8/64 + 32/(64 \cdot 256) = 4.127$ bits. **Predict:** which kind has the smallest error on
# normal numbers, on uniform ones, on this model's weights?

# %% tags=["hide-input", "slide"]
weights = four_bits.block_maps(base)
sources = {
    "normal": [four_bits.drawn("normal", seed) for seed in range(4)],
    "uniform": [four_bits.drawn("uniform", seed) for seed in range(4)],
    f"{len(weights)} maps\nof the model": list(weights.values()),
}
errors = {
    source: {
        kind: [four_bits.relative_error(w, kind) for w in matrices] for kind in four_bits.NAMES
    }
    for source, matrices in sources.items()
}
best = {
    source: four_bits.NAMES[min(by_kind, key=lambda k: sum(by_kind[k]))]
    for source, by_kind in errors.items()
}
on_normal, on_uniform, on_model = best.values()
figure = pictures.level_picture(
    four_bits.scaled(list(weights.values())),
    errors,
    f"Smallest error on normal numbers: {on_normal}; on uniform ones: {on_uniform}; on the weights of the model: {on_model}.",
)
plt.show()

# %% [markdown]
# Levels should lie where the weights are. Now the file (it holds names, too) and the clock.

# %% tags=["hide-input"]
sizes = {
    ("one scale in float32", False): four_bits.file_bits(weights, "runs/plain", double=False),
    ("double quantization", True): four_bits.file_bits(weights, "runs/double"),
}
for (name, double), per_weight in sizes.items():
    formula = 4.5 if not double else 4 + 8 / 64 + 32 / (64 * 256)
    print(f"{name}: {per_weight:.3f} bits per weight in the file, by formula {formula:.3f}")
per_weight = sizes["double quantization", True]
inside = sum(w.numel() for w in weights.values())
file = inside * per_weight / 8 + 2 * (N - inside)  # words, norms and biases stay in bfloat16
claims.record(
    50,
    f"the file of all {len(weights)} maps has {per_weight:.3f} bits per weight: 1/{16 / per_weight:.1f} of bfloat16, "
    f"1/{32 / per_weight:.1f} of float32; of the whole model, whose words stay in bfloat16, 1/{4 * N / file:.1f} of float32",
    rule="true if the file is a tenth of bfloat16's or smaller; misleading if only of float32's; otherwise false",
    verdict="true" if per_weight <= 1.6 else "misleading" if per_weight <= 3.2 else "false",
    bits=per_weight,
)
ratios = {n: four_bits.slower(n, REPEATS) for n in (1, 256)}
slow = {n: difference(values, [1.0] * REPEATS, 0.1, unit="times", lower_is_better=True) for n, values in ratios.items()}  # fmt: skip
claims.record(
    51,
    f"x W^T on this machine, W (1536, 576) in NF4, made float32 for the moment: {spread(ratios[1], 'times')} times the time of "
    f"float32 with one token, {spread(ratios[256], 'times')} times with 256",
    rule="true if the 95 % interval of the ratio over paired repeats lies above 1.1 in one of the two cases",
    verdict="true" if any(d.verdict == "worse" for d in slow.values()) else "false",
    one=ratios[1],
    many=ratios[256],
)

# %% [markdown]
# The processor cannot multiply in NF4: every weight is looked up and scaled first. That is paid once for a batch, so many
# tokens share it. Special kernels on GPUs do better.
#
# ## 6. QLoRA
#
# {equations qlora}
#
# (N counts rows here.) $W_0$ stays in four bits, and becomes floats only while it multiplies: forward, and again when the
# gradient passes through it to everything below.

# %%
mp.sanity_ladder(base, mp.QLoRA(rank=8), batch, steps=LADDER)

# %% [markdown]
# As the second rung says, QLoRA starts at the *rounded* base. Does that hurt, or does training repair it? And what becomes of $A$
# and $B$ at the end? Four fates:
#
# * **merged** into the rounded weights, in float32;
# * **bf16**: merged, then rounded to bfloat16;
# * **in NF4**: merged, then all maps in NF4 (for QLoRA once more);
# * **original base**: $A$ and $B$ on the base that was never rounded, as other programs load them.
#
# Equal tuning, margin five points, four seeds. **Predict:** which fate costs most?

# %% tags=["hide-input"]
ARMS = {
    "LoRA": mp.LoRA(rank=8, targets=EVERY),
    "QLoRA": mp.QLoRA(rank=8),
    "QLoRA, int4": mp.QLoRA(rank=8, quantize="int4"),
}


def run(name, rate, seed):
    """Train one arm, and look at its fates."""
    return four_bits.tuned((base, tokenizer), ARMS[name], task, rate, STEPS, seed, rows=ROWS)


outcomes = contest(dict.fromkeys(ARMS, RATES), run, SEEDS, extend=1, label="QLoRA")

# %% tags=["hide-input"]
FATES = {"test": "as trained", "merged": "merged", "bf16": "bf16", "again": "in NF4", "original": "original base"}  # fmt: skip
values = {
    name: {
        fate: outcomes[name].values(fate)
        for fate in FATES
        if fate != "original" or name.startswith("Q")
    }
    for name in ("LoRA", "QLoRA")
}
against = {
    name: difference(outcomes[name].values(), outcomes["LoRA"].values(), MARGIN)
    for name in list(ARMS)[1:]
}
changes = {
    (name, fate): difference(row, values[name]["test"], MARGIN)
    for name in values
    for fate, row in values[name].items()
    if fate != "test"
}
worst = min(changes, key=lambda key: changes[key].mean)
figure = pictures.fates(
    values,
    FATES,
    f"QLoRA minus LoRA, as trained: {against['QLoRA'].text}. Worst fate: {worst[0]}, {FATES[worst[1]]}, "
    f"{changes[worst].text}.",
)
plt.show()
print("As trained, minus LoRA:", "; ".join(f"{name} {d.text}" for name, d in against.items()))
for (name, fate), change in changes.items():
    print(f"{name + ', ' + FATES[fate]:24} minus as trained: {change.text}")
print("the base has the same bits:", mp.fingerprint(base) == bits)

# %% [markdown]
# One fact about *this* library:

# %%
with runs.attached(base, mp.QLoRA(rank=8), seed=0) as tuner:
    print(tuner.method.notes(tuner)[0])

# %% [markdown] tags=["slide"]
# ## 7. A real language model
#
# SmolLM2-135M reads Python's documentation, which it probably knows, and the claims of this course, which it does not.
# All 210 maps of its blocks go into four bits. **Predict:** its perplexity (e to the nats per token) before and after,
# and the order of the four kinds.

# %% tags=["hide-input", "slide"]
from minipeft.course import real

loaded = real.load("smollm2") if KINDS_ON_TEXT else None
if loaded:
    big, spelling = loaded
    before = mp.fingerprint(big)
    ids = {
        name: four_bits.pieces(spelling, text, PIECES) for name, text in four_bits.texts().items()
    }
    plain = {name: four_bits.piece_losses(big, some) for name, some in ids.items()}
    every = four_bits.in_four_bits(big, KINDS_ON_TEXT, torch.cat(list(ids.values())))
    first = len(plain[next(iter(plain))])
    above, table_rows = {name: {} for name in ids}, []
    for kind, result in every.items():
        after = dict(zip(ids, (result["losses"][:first], result["losses"][first:]), strict=True))
        for name in ids:
            above[name][kind] = [a - b for a, b in zip(after[name], plain[name], strict=True)]
        loss = [four_bits.perplexity(after[name]) for name in ids]
        row = (
            four_bits.NAMES[kind],
            f"{100 * sum(result['errors']) / len(result['errors']):.1f} %",
        )
        table_rows.append(
            (*row, *(f"{value:.1f}" for value in loss), f"{result['bytes'] / 1e6:.0f} MB")
        )
    maps = four_bits.block_maps(big)
    numbers = sum(w.numel() for w in maps.values())
    base_row = (
        "bfloat16",
        "-",
        *(f"{four_bits.perplexity(plain[name]):.1f}" for name in ids),
        f"{2 * numbers / 1e6:.0f} MB",
    )
    claims.show(Table("SmolLM2-135M", ("", "error of weights", *(f"perplexity: {name}" for name in ids), "its maps"), [base_row, *table_rows]))  # fmt: skip
    order = sorted(KINDS_ON_TEXT, key=lambda kind: sum(sum(row[kind]) for row in above.values()))
    figure = pictures.dearer(above, f"From best to worst: {', '.join(four_bits.NAMES[k] for k in order)}. Intervals over pieces of text.")  # fmt: skip
    plt.show()
    print("the model has the same bits:", mp.fingerprint(big) == before)
    both = {kind: [x for row in above.values() for x in row[kind]] for kind in KINDS_ON_TEXT}
    for kind in KINDS_ON_TEXT[1:]:
        change = difference(both[kind], both["nf4"], 0.02, unit="nats", lower_is_better=True)
        print(f"{four_bits.NAMES[kind]} minus NF4, over all pieces: {change.text}")
    PAPER = ["nf4", "fp4-e3m0", "fp4", "int4"]
    places = [f"{four_bits.NAMES[k]} {order.index(k) + 1} ({PAPER.index(k) + 1})" for k in PAPER]
    print("Place here (in the paper):", ", ".join(places))
    untouched = real.load("minilm")  # its file is float32
    if untouched:
        clean = four_bits.block_maps(untouched[0]).values()
        shares = (
            (name, [four_bits.relative_error(w, kind) for w in clean])
            for kind, name in four_bits.NAMES.items()
        )
        said = ", ".join(f"{name} {spread(values)}" for name, values in shares)
        print(f"Errors on weights that were never rounded, {len(clean)} maps of MiniLM: {said}")
    claims.show(lesson.large_ledger(big.config, rows=8, tokens=512))

# %% [markdown]
# In the paper: NF4 with double quantization 27.4, E3M0 29.5, E2M1 31.1, int4 34.3 (mean perplexity of larger models; E
# and M count bits of exponent and mantissa). Two reasons for care where ours differs: the paper does not print its FP4
# levels, and the file from which SmolLM2 was read had its weights in four bits already. (MiniLM's were not: the last
# printed line.) And look at the last table: the heap that QLoRA shrinks is not the largest.
#
# ## 8. Passport

# %%
from minipeft.course.passport import passport

passport(mp.QLoRA(rank=8), RATES, name="QLoRA", quick=QUICK)

# %% [markdown] tags=["slide"]
# ## What this lesson showed, and what it did not
#
# * Weights, gradients and means can be predicted from parameters, activations from shapes.
# * PEFT saves gradients and means. Against activations: train at the top, run layers again, take a smaller batch.
# * Checkpointing has silent failures. Count gradients and calls, and look at the peak.
# * Four bits are a table of levels and a scale a block: 4.127 bits, not a tenth, and not faster by themselves.
# * What each fate of a QLoRA after training costs: part 6.
# * QLoRA *shows* the method here and saves nothing: this library keeps the originals beside the four bits.
# * *Not shown:* paged optimizers, fused kernels, any GPU; activations with padding, a mask or other kernels; large models
#   (ours had 60 steps on a small task).
#
# **To go on:** which batch fills your machine with `mp.LoRA()` on SmolLM2? Predict it with `lesson.large_ledger`.
