# ---
# jupyter:
#   minipeft:
#     title: Real checkpoints
#     question: Do the same few lines work on models that other people trained, and can others open what we save?
#     minutes: 4
#     sitting: 80
#     attempts: 3
# ---

# %% [markdown] tags=["slide"]
# All lessons so far had small models of our own for their main part. Now come two that other people trained, with names and habits of their
# own: **SmolLM2**, a language model of the Llama kind with 135 million numbers, and **MiniLM**, an encoder of the BERT kind with 23 million.
# Three questions:
#
# 1. Does every method work on them, without a line written for them?
# 2. Can a real language model be tuned in class, on a laptop?
# 3. Can somebody with another library open what we saved?

# %% fast="REAL, MORE, STEPS, RATES, SEEDS, ROWS, BATCHES, TIMES = False, [], 2, [1e-2], [0, 1], 4, 1, 1"
REAL = True  # SmolLM2 and MiniLM, where they have been fetched
MORE = []  # folders, or names on the Hub: ["gpt2", "facebook/bart-base"]
STEPS, RATES, SEEDS = 24, [3e-3, 1e-2], [0, 1, 2]  # part 3
ROWS, BATCHES, TIMES = 12, 8, 3  # rows that are measured, batches of 4, rounds of timing

# %%
import minipeft as mp
from minipeft import checks, plots
from minipeft.course import checkpoints, claims, real, runs
from minipeft.course import checkpoints_patients as patients
from minipeft.course.experiments import contest, difference, percent, spread

models = checkpoints.opened(REAL)
decoder, encoder = models["decoder"], models["encoder"]
bits = {kind: mp.fingerprint(one.model) for kind, one in models.items()}
for one in models.values():
    count = sum(parameter.numel() for parameter in one.model.parameters())
    print(f"{one.title:14} {type(one.model).__name__:30} {count:12,} numbers")

# %% [markdown]
# Where a real model is missing, a sentence says so, and the lesson goes on with one of ours.
#
# ## 1. One word, many names
#
# In lesson 10 we wrote `targets=("query", "value")`. No model here has a module of just that name. Here is what the words of the
# field are called in the first block of four families: the block's name, and what stands behind it. GPT-2 and BART are built as their library builds them, small and with random weights, for their names are
# what counts.
#
# **Predict:** in which of the models are query, key and value *one* matrix?

# %% tags=["slide"]
families = {one.title: one.model for one in models.values()} | checkpoints.strangers()
checkpoints.names_table(families, ("query", "key", "value", "output", "up", "gate", "down"))

# %% [markdown]
# GPT-2 has one fused map, `c_attn`; its query is the first third of the columns. ("up" and "down" are the two maps of
# feed-forward; "gate" is Llama's third, which multiplies what "up" gives.) One small table per family knows
# these names (`minipeft/model/families.py`), and methods never see them. "-" means: this family has no such map.
#
# ### Exercise: four shapes of SmolLM2
#
# Its configuration says: 30 layers, width 576, 9 heads for queries, but 3 heads that keep keys and values
# ("grouped queries": three query heads share one). A prefix has $P = 10$ places, a LoRA has rank 8. Write four shapes as tuples:
#
# * `"keys"`: the keys of the prefix in **one** layer, for one row of the batch: (1, heads, places, numbers).
# * `"table"`: the whole prefix as one table with a row for each place, keys and values of all layers side by side.
# * `"A"` and `"B"`: of the LoRA at the map of the **values**.

# %% exercise="minipeft.checks:checkpoint_shapes" difficulty=1 minutes=8
# A head has D numbers: the width is shared by the 9 heads that ask.
layers, width, heads, kept, P, r = 30, 576, 9, 3, 10, 8
D = width // heads
checkpoint_shapes = {
    "keys": (1, kept, P, D),
    "table": (P, 2 * layers * kept * D),
    "A": (r, width),
    "B": (kept * D, r),
}

# %%
checks.checkpoint_shapes(checkpoint_shapes)

# %% [markdown]
# ## 2. Every method
#
# Each method of the course is attached, makes two steps on one batch, and is taken away again. The line is the same for both models:
# `mp.attach(model, method)`. **Predict:** which method must refuse SmolLM2? (Llama's linear maps have no biases, and its norms have none
# either.) Which trains more numbers than it stores?

# %%
METHODS = {
    "LoRA": mp.LoRA(rank=8),
    "DoRA": mp.DoRA(rank=8),
    "AdaLoRA": mp.AdaLoRA(target_rank=4),
    "QLoRA": mp.QLoRA(rank=8),
    "adapter": mp.Adapter(16),
    "IA3": mp.IA3(),
    "BitFit": mp.BitFit(),
    "prefix": mp.Prefix(10, hidden=64),
    "P-Tuning v2": mp.PTuningV2(10),
    "UniPELT": mp.UniPELT(),
    "prompt tuning": mp.PromptTuning(10),
    "P-tuning": mp.PTuning(10),
    "head only": mp.HeadOnly(),
    "top": mp.TopLayers(1),
    "full": mp.FullFineTuning(),
}
SMALL_RATES = {"full": 1e-4, "top": 1e-4, "head only": 1e-3}
record = mp.tasks.load("restaurant")
words = (real.vader() if encoder.real else None) or mp.tasks.load("review-label")
batches = {
    "decoder": record.batches("train", decoder.tokenizer, "decoder", batch_size=3)(0),
    "encoder": words.batches("train", encoder.tokenizer, "encoder", batch_size=16)(0),
}
tables, measured = {}, {}
for kind, one in models.items():
    tables[kind], measured[kind] = checkpoints.every_method(
        one, METHODS, batches[kind], 2, SMALL_RATES
    )
claims.show(tables["decoder"])

# %%
claims.show(tables["encoder"])

# %% tags=["hide-input"]
untouched = all(mp.fingerprint(one.model) == bits[kind] for kind, one in models.items())
worked = {
    kind: [n for n, seen in every.items() if "trained" in seen] for kind, every in measured.items()
}
refused = {
    kind: [n for n, seen in every.items() if "refused" in seen] for kind, every in measured.items()
}
for kind, one in models.items():
    said = f"refused: {', '.join(refused[kind])}" if refused[kind] else "none refused"
    fatter = [n for n in worked[kind] if measured[kind][n]["trained"] > measured[kind][n]["stored"]]
    print(f"{one.title}: {len(worked[kind])} methods worked, {said}.")
    print(f"  trained more than is stored: {', '.join(fatter) or 'none'}")
print("afterwards both bases have the same bits:", untouched)

# %% tags=["hide-input", "slide"]
figure = checkpoints.shares_chart(measured, models)
below = [n for n in worked["decoder"] if measured["decoder"][n]["trained"] < 0.01 * sum(
    parameter.numel() for parameter in decoder.model.parameters())]  # fmt: skip
plots.add_caption(
    figure,
    f"{decoder.title}: {len(below)} of {len(worked['decoder'])} methods train less than 1 %.",
)

# %% [markdown]
# A reparameterised prefix trains a network and stores only what the network gives; P-tuning does the same. AdaLoRA drops what it
# finds unimportant while it trains (lesson 12). And `full` and `top` store what they train, which is the model or a part of it.
# Two steps on one batch only show that a loss can be computed and pushed: they rank nothing.
#
# Other models, if you have any: name them in `MORE`, at the top.

# %%
for name in MORE:
    loaded = real.load(name)
    if loaded is not None:
        with runs.attached(loaded[0], mp.LoRA(rank=8)) as tuner:
            print(name, tuner.report(), sep="\n")

# %% [markdown] tags=["slide"]
# ## 3. A language model, tuned in class
#
# The task: a record such as `name : the_mill ; food : french` becomes a sentence, slot by slot, in a style that no text on the web has.
# Three savings. Only the last is exact; what the first two give up is not measured here:
#
# * **LoRA**: few gradients and hardly any optimizer state.
# * **Upper layers only** (`layers=`): the backward pass stops where the lowest adapter stands.
# * **The trunk is kept** (`keep_trunk=True`): what the frozen lower layers give for a batch is the same in every epoch, so it is
#   computed once.
#
# A step costs a forward pass through all layers and, since the large matrices are frozen, a backward pass of about the same work.
# **Predict:** which share of a step is left if only the upper quarter is tuned? And if the trunk is kept, too?

# %%
depth = len(mp.attach(decoder.model, mp.LoRA(rank=1, targets=("query",)), name="probe").patches)
mp.tuners(decoder.model)["probe"].detach()
upper = tuple(range(depth - max(1, depth // 4), depth))
LORA = mp.LoRA(rank=8, layers=upper)
one_batch = record.batches("train", decoder.tokenizer, "decoder", batch_size=4)(0)
arms = {
    f"all {depth} layers": (mp.LoRA(rank=8), False),
    f"the upper {len(upper)}": (LORA, False),
    f"the upper {len(upper)}, trunk kept": (LORA, True),
}
ratios = checkpoints.step_ratios(decoder.model, arms, [one_batch], TIMES)
share = len(upper) / depth  # of the layers; forward and backward are half of a step each
for name, counted in zip(arms, (1, (1 + share) / 2, share), strict=True):
    measured_time = checkpoints.middle(ratios[name])
    print(f"{name:28} counted in layers {counted:.2f}, measured {measured_time}")

# %% [markdown]
# The figures are shares of a step over all layers. Embedding, head and optimizer are not counted in layers, and a clock is noisy: the
# measured share may lie above the counted one.
#
# Now the run itself: two learning rates (one more, if the best is at an edge), dev chooses, three seeds. It is kept short, 32 records
# and 24 steps a run, so that all runs on real models take about three minutes of one core; `STEPS` and `BATCHES` at the top make
# it longer. "Words right" is the share of the answer's tokens that are the model's first choice after the *right* tokens before
# them; "sentences right" asks for every token of a row. **Predict** both, before and after so few steps.

# %% tags=["hide-input"]
task_rows = {
    split: runs.rows_of(record, split, decoder.tokenizer, decoder.model, rows=ROWS)
    for split in ("dev", "test")
}
before = checkpoints.right(decoder.model, task_rows["test"])


def tune(arm, rate, seed):
    """One run over a list of batches, as `keep_trunk` asks; the adapter is saved."""
    feed = record.batches("train", decoder.tokenizer, "decoder", batch_size=4, seed=seed)
    with runs.attached(decoder.model, LORA, seed=seed) as tuner:
        listed = [feed(step) for step in range(BATCHES)]
        history = mp.train(
            *(decoder.model, listed, STEPS, rate), seed=seed, keep_trunk=True, progress=False
        )
        tuner.save(f"runs/record-{seed}-{rate:g}")
        dev, test = (checkpoints.right(decoder.model, task_rows[s]) for s in ("dev", "test"))
    return {"dev": dev["loss"], **test, "losses": history.losses}


arm = f"LoRA, upper {len(upper)}"
outcome = contest({arm: RATES}, tune, SEEDS, extend=1, label=decoder.title)[arm]
best = f"runs/record-{SEEDS[0]}-{outcome.rate:g}"

# %% tags=["hide-input", "slide"]
axes = plots.curves(
    {"LoRA, upper layers": outcome.values("losses")},
    title=f"{decoder.title}: {BATCHES * 4} records, {STEPS} steps",
    ylabel="loss in training (nats)",
    limits=(0, float("inf")),
)
gain = difference(outcome.values("words"), [before["words"]] * len(SEEDS), 0.05)
plots.add_caption(
    axes.figure,
    f"Test: words right {100 * before['words']:.0f} % before, {spread(outcome.values('words'))} after; "
    f"sentences right {100 * before['sentences']:.0f} % and {spread(outcome.values('sentences'))}.",
)

# %%
questions = [example.input for example in record.test[:2]]
plain = record.predict(decoder.model, decoder.tokenizer, questions)
tuner = mp.load(decoder.model, best, name="record")
tuned = record.predict(decoder.model, decoder.tokenizer, questions)
tuner.detach()
for question, without, with_it, (_, wanted) in zip(
    questions, plain, tuned, record.test, strict=False
):
    print(f"{question}\n  base:  {without[:90]!r}\n  tuned: {with_it!r}\n  right: {wanted!r}")
edge = ", at the edge of those tried" if outcome.edge else ""
print(f"words right, after minus before: {gain.text} (rate {outcome.rate:g}{edge})")

# %% [markdown]
# The base goes on in its own way. A tuned sentence may be worse than "words right" promises: while it writes, the model reads its
# own words, and there it read the right ones, so that one wrong word may spoil the rest. A sentence is right only if all of its
# words are, so that number comes last. The adapter is a file of well under a megabyte; taken out, the base writes as before.
#
# ## 4. A folder that others can open
#
# 🤗 PEFT is the library most people use. Its folders are what other programs expect, and `tuner.save` writes them: `adapter_config.json` with the
# settings and `adapter_model.safetensors` with the numbers. Let us look.

# %%
settings, shapes = checkpoints.contents(best)
for key in ("peft_type", "r", "lora_alpha", "task_type"):
    print(f"{key:14} {settings[key]}")
print(
    f"target_modules {settings['target_modules'][:2]} and {len(settings['target_modules']) - 2} more"
)
for name, shape in list(shapes.items())[:2]:
    print(name, shape)

# %% [markdown]
# A LoRA is easy: each matrix under the name of its map. A prefix is harder. All its keys and values stand in *one* table,
# `prompt_embeddings`, and nothing but an agreement says which number is where:
#
# | | shape | |
# |---|---|---|
# | `keys`, `values` | (L, H, P, D) each | of L layers, H heads that keep keys and values, P places, D numbers |
# | table | (P, 2 L H D) | row $t$ is place $t$: layer after layer; of each layer its key, then its value; of each head after head; D numbers side by side |
#
# ### Exercise: pack a prefix
#
# The table must stay in the graph, so that gradients reach keys and values.
#
# <details><summary>Hint 1</summary>
#
# First join keys and values to one tensor, with an axis of size 2 for key or value *behind* that of the layers: `torch.stack(.., dim=1)`.
# </details>
# <details><summary>Hint 2</summary>
#
# A reshape never moves a number. So bring the axes into the order of the table first (`permute`): places, layers, key or value, heads,
# numbers. Then lay all but the first side by side.
# </details>

# %% exercise="minipeft.course.checkpoints:pack_prefix" difficulty=2 minutes=10
# pack_prefix: in which order do the axes stand in the table?

# %%
checks.pack_prefix(pack_prefix)

# %% [markdown]
# Your function and the file that the library wrote:

# %%
import torch
from safetensors.torch import load_file

prefix = mp.Prefix(10, hidden=None, compatibility="peft")  # positions as PEFT counts them
with runs.attached(decoder.model, prefix, seed=0) as tuner:
    tuner.save("runs/prefix")
    width = (
        decoder.model.get_input_embeddings().weight.shape[1]
        if decoder.real
        else decoder.model.config.width
    )
    keys, values = checkpoints.memory_of(tuner, width)
stored = load_file("runs/prefix/adapter_model.safetensors")["prompt_embeddings"]
print("keys", tuple(keys.shape), "-> table", tuple(stored.shape))
try:
    print("your table is the file's:", torch.equal(pack_prefix(keys, values), stored))
except NotImplementedError as missing:
    print(missing)

# %% [markdown]
# Layouts are one thing, meaning is another. PEFT hands a prefix over as if it had been read before the text, so that words stand
# $P$ positions later; this library's own prefixes take no position. `compatibility="peft"` does as PEFT does, and
# only such a prefix is written in its layout. **Predict:** the same random adapter, opened in the other library: how far apart are the answers?

# %%
SHARED = {
    "LoRA": mp.LoRA(rank=8),
    "prefix": prefix,
    "IA3": mp.IA3(),
    "prompt tuning": mp.PromptTuning(10, compatibility="peft"),
}
for kind, one in models.items():
    if one.real:
        plain_rows = {key: value[:2] for key, value in batches[kind].items() if key != "labels"}
        shared = SHARED if kind == "encoder" else dict(list(SHARED.items())[:2])
        claims.show(checkpoints.opened_by_peft(one, shared, plain_rows))

# %% [markdown]
# (Where nothing is shown, the real models or PEFT are missing.) The first column shows that the adapter does something: its logits
# against those of the bare base. What stands in the two others is rounding, if there is any difference at all.
#
# ## 5. Five folders
#
# The file is right, and still the answers may be wrong. Five adapters in PEFT's layout came by mail. A short script opens each: it reads the settings, attaches a LoRA, and
# copies every tensor whose name it finds. Nothing raised an error. The author has told us his answers and the length of his change
# of the weights, so that we can compare.

# %% tags=["hide-input", "slide"]
small, small_tokenizer = runs.base("tiny-decoder-0.4m")
four = runs.rows_of(mp.tasks.load("reverse"), "dev", small_tokenizer, small, rows=4)
patients.folders_table(small, four)

# %% [markdown]
# ### Exercise: what happened to each?
#
# * `"names"`: the tensors' names do not fit, and the script skips what it does not find (`strict=False`).
# * `"scale"`: the script adds $BA$, without `lora_alpha / r`.
# * `"base"`: the base is not the one that the adapter was trained on.
# * `"early"`: the adapter was saved before its first step.
# * `"healthy"`: nothing is wrong.

# %% exercise="minipeft.checks:folder_patients" difficulty=2 minutes=8
# A dict from "A" to "E", each cause once.
folder_patients = {"A": "early", "B": "scale", "C": "healthy", "D": "names", "E": "base"}

# %%
checks.folder_patients(folder_patients)

# %% [markdown]
# What `mp.load` says to the same folders:

# %%
for which, cause in patients.FOLDERS.items():
    print(f"{which}: {patients.library_says(small, cause)[:150]}")

# %% [markdown]
# A name that fits nothing and another base are refused, since a hash of the base is stored in the file. The wrong scale was the script's fault. But nobody can see from
# the file alone that an adapter of zeros was *meant* to be something: for that, ask the doctor of lesson 14 before you save.
#
# ## 6. Two claims again, on real models
#
# Three methods, three rows, one batch, one base. **Predict:** how far are a row's logits from those that it gets alone, as a share of
# the largest logit?

# %%
three = {"LoRA": mp.LoRA(rank=8), "adapter": mp.Adapter(16), "prefix": mp.Prefix(10, hidden=None)}
differences = {
    kind: checkpoints.three_at_once(one, three, batches[kind]) for kind, one in models.items()
}
for kind, one in models.items():
    print(
        f"{one.title}: logits differ from each row alone by {percent(differences[kind], 1)} at most"
    )

# %% tags=["hide-input"]
titles = " and ".join(one.title for one in models.values())
sizes = {kind: sum(p.numel() for p in one.model.parameters()) for kind, one in models.items()}
beside = [n for n in worked["decoder"] if n not in ("full", "top", "head only")]
largest = max(
    measured[kind][n]["stored"] / sizes[kind]
    for kind in models
    for n in beside
    if n in worked[kind]
)
claims.record(
    10,
    f"{titles}: {len(worked['decoder'])} and {len(worked['encoder'])} methods attached, trained for two steps and "
    f"detached; the bases have {'the same' if untouched else 'other'} bits; what stands beside the base stores "
    f"at most {100 * largest:.1f} % of its numbers",
    rule="true if the bits are equal and a task stores less than a tenth of the base",
    verdict="true" if untouched and largest < 0.1 else "misleading",
)
claims.record(
    12,
    f"{titles}: a row each for {', '.join(three)} in one batch on one base, logits as alone to within "
    f"{percent(max(differences.values()), 1)}",
    rule="false if one base answered for all three, to within 0.1 % of the largest logit",
    verdict="false" if max(differences.values()) < 1e-3 else "undecided",
)

# %% [markdown] tags=["slide"]
# ## What this lesson showed, and what it did not
#
# * The words of the field (`query`, `up`) are resolved by one table per family; every method works on models of other people, or
#   refuses in a sentence (parts 1 and 2).
# * A real language model is tuned in class: LoRA in the upper layers, the trunk computed once (part 3).
# * A folder is names, shapes, settings and the base that it belongs to. Other libraries open ours, and we open theirs (part 4).
# * A folder that opens is not yet right: compare its answers with the author's, once (part 5).
#
# It did not show that these few steps make a good writer: the task is narrow, and the records are few. It did not compare methods on the real
# models; lessons 05 to 10 did so, one by one, and lesson 15 lays them side by side. SmolLM2's weights come from a file with four bits a number,
# so its scores are near those that are published, not equal to them.
#
# **To go on:** put a model of your own into `MORE`. If its family is not known, the error says what to tell `mp.Family`.
