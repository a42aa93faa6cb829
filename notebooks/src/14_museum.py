# ---
# jupyter:
#   minipeft:
#     title: Museum of silent failures
#     question: A run ends without an error, and it is broken. How would you know?
#     minutes: 1
# ---

# %% [markdown] tags=["slide"]
# No line is red. Losses were printed, the file is written, the run is done. And nothing was learnt, or it was learnt and
# lost on the way out. Fine-tuning a frozen model has many such faults, because most of the model is *meant* to stand still:
# nobody notices when a little more of it does.
#
# This is a museum. It has two rooms, with five runs each. Every run is broken in one way, and every way happens in real
# projects, in every library. All runs are tiny and are trained on eight made-up sentences, so that you can look inside.
# You are the doctor first. Then you meet `mp.doctor`.

# %%
import minipeft as mp
from minipeft import checks
from minipeft.course import museum
from minipeft.course import museum_charts as charts

# %% [markdown]
# ## 1. What a healthy run looks like
#
# A LoRA on a small decoder, twenty steps in a plain loop of PyTorch.

# %% fast="steps = 8"
steps = 20

# %%
run = museum.exhibit("zero start", mended=True)
losses = run.train(steps)
print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}")
for name, tensor in run.model.named_parameters():
    if ".patches." in name and "blocks.0" in name:
        print(f"{name.split('attention.')[-1]:45} gradient {tensor.grad.norm():.1e}")

# %% [markdown] tags=["slide"]
# Three questions belong to every run, whatever its loss says:
#
# 1. **Does a gradient come to every new tensor?** At the first step LoRA's $A$ gets all zeros, since $B = 0$. So look after the
#    *second* step. "None" and "all zeros" are two different answers.
# 2. **Do the numbers move?** A gradient is not yet a change.
# 3. **Does what was learnt survive?** Merging, saving, loading, padding: the answers must stay the same.
#
# ## 2. Room one: what is trained is not what was meant
#
# Five colleagues started five runs, A to E. Here is all that can be seen from outside. "Places called" counts the layers
# with a patch that a pass really calls; a dash: run C has no patches, its own weights are trained. "No gradient" and "gradient all 0" count tensors after the last step.
#
# **Predict**, before you run the cell: the loss of three of the five does not fall at all, or hardly. The loss of the two
# others falls. How can a loss fall while most new tensors learn nothing?

# %% tags=["slide"]
charts.chart_one(museum.FIRST, steps)

# %% [markdown]
# Two losses fall because *something* is trained: the head in one run, two of eight places in the other. That is what makes
# them hard to see. (The loss of B is nan, "not a number": the mean over no labels is 0 / 0, and a loop goes on with it.)
#
# ### Exercise: five runs, five causes
#
# Each cause is used once:
#
# * `"labels"`: the prompt filled the row and the answers were cut off, so that hardly any label is left.
# * `"zero start"`: $A$ and $B$ are both zero. The gradient of each is a product with the other.
# * `"checkpointing"`: layers are computed again in the backward pass, in torch's older, "reentrant" way. It gives gradients
#   only if the *input* of the layers needs one, and the output of a frozen embedding does not.
# * `"reach"`: patches stand at layers that no pass calls.
# * `"precision"`: the numbers are stored with few digits, and the steps are small.

# %% exercise="minipeft.checks:room_one" difficulty=2 minutes=8
# A dict from "A" to "E". Begin with the columns where only one run differs from the healthy one.
room_one = {"A": "checkpointing", "B": "labels", "C": "precision", "D": "reach", "E": "zero start"}

# %%
checks.room_one(room_one)

# %% [markdown]
# ## 3. The doctor
#
# `mp.doctor(model, batch)` makes two steps, looks, and takes them back: afterwards the model is the same to the last bit.
# It works on a model that was tuned here and on one that 🤗 PEFT has wrapped. What it finds is one sentence each, with what
# to do.

# %% tags=["slide"]
run = museum.exhibit(museum.FIRST["A"])
before = mp.fingerprint(run.model)
print(mp.doctor(run.model, run.batch))
print("the same model afterwards:", mp.fingerprint(run.model) == before)

# %% [markdown]
# Do as it says, and ask again. A mended run is made by the museum; only what was wrong is different.

# %%
charts.answers_of(museum.FIRST)

# %% [markdown] tags=["slide"]
# ## 4. A number by hand: the step that is lost
#
# Run C has a gradient everywhere and a rate of 0.00001. Its weights are bfloat16: 8 bits for the digits, of which
# the first is always 1. So 7 bits stand behind the leading one, and between $2^{-4}$ and $2^{-3}$ the numbers lie
# $2^{-4} \cdot 2^{-7}$ apart. A sum is rounded to the nearest of them.
#
# ### Exercise: how small is too small?
#
# A weight is 0.1, and its neighbours are as far away as said above. Which is the smallest step (roughly) that still moves it?
# Write a number or the line that computes it.

# %% exercise="minipeft.checks:smallest_step" difficulty=1 minutes=5
# How far is the next number? And from where on is a sum rounded up to it?
gap = 2**-4 * 2**-7
smallest_step = gap / 2

# %%
checks.smallest_step(smallest_step)

# %% tags=["hide-input", "slide"]
figure = charts.steps_that_move([10 ** (power / 4) for power in range(-32, -7)])

# %% [markdown]
# Many schedules end with steps a hundred times smaller than they began with, so the doctor asks about a hundredth of the
# learning rate. What helps: keep what is trained in float32, whatever the base is stored in. `mp.attach` and
# `get_peft_model` do so for new tensors. A cast of the whole model *afterwards* undoes it. Parameters of a half-precision base
# that are trained in place get float32 copies from `mp.train`; a loop of one's own must think of it.
#
# ## 5. Mend the doctor
#
# The first thing the doctor asks is whether the labels ask for anything. In a causal model place $t$ answers the label at
# $t + 1$: the labels are *shifted*. So a row's first label is answered by nobody, and run B, which has eight labels
# left, one per row, is asked for nothing at all.
#
# ### Exercise: eight labels, and nothing is asked
#
# A colleague wrote this function, and it says that run B is fine. `labels` is (B, T), or (B,) with one label a row. The result
# has the same shape: True where a label is asked for. Nothing is asked where the label is −100. If `shifted`, a row's first
# label is not asked for either. Labels (B,) are never shifted.

# %% exercise="minipeft.analysis.examinations.labels:asked_for" broken="asked[:, 0] = False => asked[:, -1] = False" difficulty=1 minutes=5
# Which end of the row has nobody to answer it?

# %%
checks.asked_for(asked_for)
labels = museum.exhibit("labels").batch["labels"]
print("labels that are not -100:", int((labels != -100).sum()))
print("asked for:", int(asked_for(labels, shifted=True).sum()))

# %% [markdown] tags=["slide"]
# ## 6. Room two: the loss falls, and something is wrong all the same
#
# Runs F to J train well. The chart asks what becomes of their answers. "Merged by hand" adds $s\,BA$ to the weights, as a
# script would that does not ask who else uses them. "Saved and loaded" is the next process: the base as it is loaded, a
# fresh head as it is drawn, and the file. "Padding taken off" gives the first row alone. A dash: it does not apply.
#
# **Predict**: which of these faults would you notice on the day of training, and which a month later?

# %% tags=["slide"]
charts.chart_two(museum.SECOND, steps)

# %% [markdown] tags=["slide"]
# None on the day of training: the loss of each falls as it should. Two show when the model leaves the process (merged, or
# loaded). One shows when rows of other lengths come. And two never show: the model is only worse than it could be.
#
# ### Exercise: five more
#
# * `"targets"`: a pattern such as `blocks.[0-9]` that misses some layers.
# * `"experts"`: a layer with experts, whose weights stand in one tensor of three axes. No linear map, so no target.
# * `"tied weights"`: the map that writes words and the embedding that reads them are one matrix, and a merge changes both.
# * `"head"`: the head was drawn at random and trained, but it is not part of what is saved.
# * `"padding"`: a soft prompt stands in front of the padding, so its distance to the text depends on the batch.

# %% exercise="minipeft.checks:room_two" difficulty=2 minutes=8
# A dict from "F" to "J", each cause once.
room_two = {"F": "padding", "G": "targets", "H": "head", "I": "tied weights", "J": "experts"}

# %%
checks.room_two(room_two)

# %% [markdown]
# What the doctor says of the head and of the tied matrix:

# %%
for kind in ("head", "tied weights"):
    print(charts.examined(museum.exhibit(kind)), "\n")
charts.answers_of(museum.SECOND)

# %% [markdown] tags=["slide"]
# This library refuses to merge into a tied matrix. Others do it with a warning, or without. That is why the doctor tells you
# before, and not the merge.
#
# ## 7. One fault, one finding
#
# A doctor who finds something in everybody helps as little as one who finds nothing. So every examination is tested from two
# sides: on broken runs, and on healthy runs of every method and many architectures, where it must be silent.

# %% tags=["hide-input", "slide"]
figure = charts.who_sees_what(museum.FIRST | museum.SECOND)

# %% [markdown]
# On the command line the doctor reads the folder of a run, or an adapter of 🤗 PEFT with its base. Its exit code is 1 if it
# finds anything, so a script can stop before an expensive training begins.

# %%
import torch

import tiny_transformer as tt
from minipeft.__main__ import main

model, _ = tt.load("tiny-decoder-0.4m")
tuner = mp.attach(model, mp.LoRA(rank=4))
with torch.no_grad():
    for tensor in tuner.parameters():
        tensor.zero_()  # as a careless script does that "resets the adapter"
tuner.save("runs/zero")
code = main(["doctor", "runs/zero", "--base", "tiny-decoder-0.4m"])
print("\nexit code:", code)

# %% [markdown] tags=["slide"]
# `python -m minipeft doctor runs/mine --data mine.jsonl` is the line for your own runs.
#
# ## What this lesson showed, and what it did not
#
# * Look after the second step, at every new tensor: no gradient, a gradient of zeros, and a step that is rounded away are
#   three different faults (room one, part 4).
# * A falling loss proves that *something* is trained. It does not prove what, nor that it survives merging, saving or another
#   batch (room two).
# * Ten kinds of silent failure, each with what can be seen of it from outside, and with what to do.
#
# It did not show every silent failure there is. A wrong tokenizer, a leak of test examples into training, or a template
# that differs between training and use leave all these charts healthy. The doctor looks at one batch: what that batch does
# not contain, such as a language whose experts got no token, it cannot see. And the museum's runs are small: where a large run
# is broken, several faults may hide one another, so mend what is found and ask again.
#
# **To go on:** break a healthy run in an eleventh way, and see whether the doctor notices. If not, what would it have to look at?
