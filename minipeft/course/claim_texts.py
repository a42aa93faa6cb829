"""What people say about these methods, word for word or nearly so, and where it is said.

number: (claim, source, lessons that answer it). Whether it is true is not said here: that is
measured in the lessons and recorded with `minipeft.course.claims.record`.
"""

HEARD = "heard in lectures"

TEXTS: dict[int, tuple[str, str, tuple[str, ...]]] = {
    1: (
        "Adapters are within 0.4 % of full fine-tuning with 3.6 % of the parameters.",
        "Houlsby et al. 2019, arXiv 1902.00751, abstract (the ICML version says 0.8 %)",
        ("05",),
    ),
    2: (
        "The cost of adapters is 3 % of the original.",
        HEARD,
        ("05", "13"),
    ),
    3: (
        "Fine-tuning the top layers needs a hundred to a thousand times more trained parameters "
        "for the same quality.",
        HEARD + "; after Houlsby et al. 2019, figures 1 and 3",
        ("05",),
    ),
    4: (
        "Less freezing is always better.",
        HEARD,
        ("03", "05", "15"),
    ),
    5: (
        "There are two adapters in every layer: down, a non-linearity, up, and a skip connection; "
        "LayerNorm is trained too.",
        "Houlsby et al. 2019, section 2.1",
        ("05",),
    ),
    6: (
        "The skip connection of an adapter is there against vanishing gradients.",
        HEARD,
        ("05",),
    ),
    7: (
        "An adapter that learns nothing does no harm.",
        HEARD,
        ("05",),
    ),
    8: (
        "Adapters are more robust to the choice of the learning rate than fine-tuning is.",
        "Houlsby et al. 2019, figure 7",
        ("05",),
    ),
    9: (
        "An adapter learns a change dh, so that h' = h + dh, and the original is untouched.",
        HEARD,
        ("05",),
    ),
    10: (
        "Adapters can be plugged in and out: the base is never damaged, and a task needs tiny "
        "storage.",
        HEARD,
        ("05", "16", "17"),
    ),
    11: (
        "With few trained parameters there is no over-fitting.",
        HEARD,
        ("05", "15"),
    ),
    12: (
        "Adapters and prefixes need one full model per task, unlike prompt tuning.",
        HEARD,
        ("05", "16", "17"),
    ),
    13: (
        "Prefix-tuning, prompt tuning and P-tuning need not load the whole model, as adapters do; "
        "that is why models of 100 billion parameters can be tuned.",
        HEARD,
        ("06", "13"),
    ),
    14: (
        "With a prefix, the computation of the base is unchanged.",
        HEARD,
        ("06",),
    ),
    15: (
        "A prefix or a soft prompt is made of generated tokens.",
        HEARD,
        ("06",),
    ),
    16: (
        "The prefix of each layer is a complex network of its own that is very hard to train.",
        HEARD,
        ("06",),
    ),
    17: (
        "Prefix-tuning beats fine-tuning everywhere, summarization included.",
        HEARD + "; after Li & Liang 2021, arXiv 2101.00190",
        ("06", "15"),
    ),
    18: (
        "A prefix beats fine-tuning whatever the amount of data.",
        HEARD + "; after Li & Liang 2021, section 6.3",
        ("06", "15"),
    ),
    19: (
        "The prefix eats up the context window.",
        HEARD,
        ("06",),
    ),
    20: (
        "The length of the prefix hardly matters for summarization.",
        HEARD + "; after Li & Liang 2021, figure 4",
        ("06",),
    ),
    21: (
        "Prompts at the embedding only are clearly worse than prompts in every layer.",
        "Li & Liang 2021, section 7.2",
        ("06",),
    ),
    22: (
        "A prefix in front of the input is better than the same vectors between input and output "
        "(infix).",
        "Li & Liang 2021, section 7.3",
        ("06",),
    ),
    23: (
        "Starting from random numbers is bad; meaningful words are better.",
        HEARD + "; after Li & Liang 2021, figure 5",
        ("06",),
    ),
    24: (
        "Prompt tuning is a simplified prefix-tuning: at the input only, without an MLP.",
        "Lester et al. 2021, arXiv 2104.08691, section 4",
        ("06",),
    ),
    25: (
        "Prompt tuning trains many tasks together into one model of about 20 thousand parameters "
        "that solves any task.",
        HEARD,
        ("07", "17"),
    ),
    26: (
        "The prompts of prompt tuning are descriptions of the task, written by hand.",
        HEARD,
        ("07",),
    ),
    27: (
        "One prompt token is enough; twenty are the best choice.",
        HEARD + "; after Lester et al. 2021, figure 3a",
        ("07",),
    ),
    28: (
        "At 10 billion parameters the length of the prompt, its start and the pretraining "
        "objective stop mattering.",
        "Lester et al. 2021, section 3.2",
        ("07",),
    ),
    29: (
        "A frozen language model with a small prompt over-fits; fine-tuning is safer.",
        HEARD,
        ("07", "15"),
    ),
    30: (
        "One wrong word in a written prompt can be catastrophic.",
        "Liu et al. 2021, arXiv 2103.10385, table 1",
        ("04",),
    ),
    31: (
        "P-tuning trains the embedding layer of the language model itself and so erodes its "
        "general ability.",
        HEARD,
        ("08",),
    ),
    32: (
        "P-tuning needs no network and is simpler than prefix-tuning.",
        HEARD,
        ("08",),
    ),
    33: (
        "P-tuning beats fine-tuning.",
        HEARD + "; after Liu et al. 2021",
        ("08",),
    ),
    34: (
        "P-tuning clearly beats prompt tuning.",
        HEARD,
        ("08",),
    ),
    35: (
        "P-tuning is weak on small models, P-Tuning v2 works at every scale.",
        "Liu et al. 2022, arXiv 2110.07602, abstract",
        ("09",),
    ),
    36: (
        "P-Tuning v2 has a prompt in every layer, an idea taken from prefix-tuning.",
        "Liu et al. 2022, section 3.2",
        ("09",),
    ),
    37: (
        "P-Tuning v2 adds a reparameterisation to reach its results.",
        HEARD,
        ("09",),
    ),
    38: (
        "The best length of a prompt depends on the task.",
        "Liu et al. 2022, section 3.3",
        ("09",),
    ),
    39: (
        "P-Tuning v2 prefers to train each task alone, to avoid conflicts.",
        HEARD,
        ("09",),
    ),
    40: (
        'P-Tuning v2 drops the "prediction of verbs".',
        HEARD,
        ("09",),
    ),
    41: (
        "LoRA is a rotation along eigenvectors.",
        HEARD,
        ("10b",),
    ),
    42: (
        "LoRA sits on the feed-forward layers.",
        HEARD,
        ("10",),
    ),
    43: (
        "LoRA stores little and changes many weights.",
        HEARD,
        ("10",),
    ),
    44: (
        "4.7 million parameters are nearly the best, and more parameters keep improving it.",
        HEARD + "; after Hu et al. 2021, arXiv 2106.09685, table 4",
        ("10",),
    ),
    45: (
        "LoRA is as good as full fine-tuning.",
        "Hu et al. 2021, abstract",
        ("10", "15"),
    ),
    46: (
        "The other methods get worse when they are enlarged, because they over-fit.",
        HEARD + "; after Hu et al. 2021, figure 2",
        ("06",),
    ),
    47: (
        "No single method is best; a union of methods with gates wins and is larger.",
        "Mao et al. 2022, arXiv 2110.07577",
        ("11", "15"),
    ),
    48: (
        "A gate switches a method on or off.",
        HEARD,
        ("11",),
    ),
    49: (
        "Training needs (12 + 2 + 2) bytes of memory per parameter.",
        HEARD,
        ("13",),
    ),
    50: (
        "A model in int4 is a tenth of its size.",
        HEARD,
        ("13",),
    ),
    51: (
        "int4 can be slower than float.",
        HEARD,
        ("13",),
    ),
    52: (
        "In-context learning changes nothing in the model, and yet it learns.",
        HEARD,
        ("04",),
    ),
    53: (
        "Freeze the convolutions and retrain the fully connected head: that is transfer for "
        "convolutional networks.",
        HEARD,
        ("03",),
    ),
    54: (
        "More diverse instructions make a model better on tasks that it never saw.",
        HEARD,
        ("19",),
    ),
    55: (
        "Feedback from human preferences improves answers to prompts that nobody wrote data for.",
        HEARD,
        ("19",),
    ),
    56: (
        "Prefixes of many users can be mixed in one batch, adapters cannot.",
        HEARD + "; after Li & Liang 2021, section 8",
        ("07", "17"),
    ),
    57: (
        "LoRA wants about ten times the learning rate of full fine-tuning, whatever its rank.",
        "Schulman et al. 2025, LoRA Without Regret",
        ("10", "15"),
    ),
    58: (
        "LoRA equals full fine-tuning until the data hold more than it can store.",
        "Schulman et al. 2025, LoRA Without Regret",
        ("10", "15"),
    ),
    59: (
        "DoRA (PiSSA, LoRA+, rsLoRA) is better than LoRA.",
        "the papers of these methods",
        ("10", "15"),
    ),
    60: (
        "In a union of methods it is the gates that make the difference.",
        "Mao et al. 2022, arXiv 2110.07577",
        ("11",),
    ),
    61: (
        "P-Tuning v2 beats full fine-tuning on small tasks of language understanding.",
        "Liu et al. 2022, table 2",
        ("09",),
    ),
    62: (
        "A leaderboard tells which method is best.",
        HEARD,
        ("15",),
    ),
    63: (
        "A preference-tuned adapter needs a second, frozen model as its reference.",
        HEARD,
        ("19",),
    ),
}
