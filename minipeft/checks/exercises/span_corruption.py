"""Span corruption: Raffel et al. 2020, section 3.1.4."""

from __future__ import annotations

import torch

from minipeft.checks.exercises.batches import tensors_of
from minipeft.checks.framework import OMIT, Case, Check, Draw, Trial, call, expect
from tiny_transformer import tokenizer as words

TOKENIZERS = {
    kind: words.WordTokenizer([f"w{n}" for n in range(200)]) for kind in ("usual", "other")
}
TOKENIZERS["other"].bos_token_id, TOKENIZERS["other"].eos_token_id = 2, 1
TOKENIZERS["other"].pad_token_id, TOKENIZERS["other"].unk_token_id = 3, 0
FIRST = TOKENIZERS["usual"].vocab["w0"]
SENTINELS = [id for name, id in TOKENIZERS["usual"].vocab.items() if name.startswith("<gap")]
LENGTHS = {
    "mixed": [1, 2, 3, 3, 5, 8, 40, 40, 120],
    "one": [1],
    "short": [1] * 12 + [2] * 12 + [3] * 12,
    "equal": [40] * 12,
    "many": [40] * 60,
}


def inputs(case: Case, draw: Draw) -> dict:
    """Documents, rows of ids without <bos> and <eos>."""
    documents = [
        torch.randint(FIRST, FIRST + 200, (length,), generator=draw.generator).tolist()
        for length in LENGTHS[case.documents]
    ]
    generator = (
        torch.Generator().manual_seed(case.seed) if case.generator is True else case.generator
    )
    return {"documents": documents, "tokenizer": TOKENIZERS[case.tokenizer], "generator": generator}


def run(span_corruption, case: Case, given):
    """Two calls, one after the other, with one generator."""
    return [
        call(
            span_corruption,
            given.documents,
            given.tokenizer,
            generator=given.generator,
            corruption_rate=case.corruption_rate,
            mean_span=case.mean_span,
        )
        for _ in range(2)
    ]


def judge(case: Case, given: dict, batches) -> None:
    """Every document can be put together again; nothing is asked twice or forgotten."""
    documents = given["documents"]
    seen = [rows_of(batch, len(documents), given["tokenizer"]) for batch in batches]
    for sources, targets in seen:
        for document, source, target in zip(documents, sources, targets, strict=True):
            one_document(document, source, target, given["tokenizer"])
    if case.documents != "one":
        begins = all(
            source[1] in SENTINELS and sum(word in SENTINELS for word in source) == 1
            for source in seen[0][0]
        )
        expect(
            not begins or seen[0] != seen[1],
            "it is always the first words that are cut out: draw where a run begins",
        )
        expect(
            seen[0] != seen[1],
            "two calls cut out the same runs: draw anew from the generator each time",
        )


def rows_of(batch, count: int, tokenizer) -> tuple[list[list[int]], list[list[int]]]:
    """Sources and targets of a batch, without padding."""
    inputs, mask, labels = tensors_of(batch, "input_ids", "attention_mask", "labels")
    expect(len(inputs) == count, f"{count} documents should give {count} rows, not {len(inputs)}")
    expect(
        len(labels) == count, f"{count} documents should give {count} targets, not {len(labels)}"
    )
    expect(
        bool(((inputs != tokenizer.pad_token_id) == (mask != 0)).all()),
        "attention_mask is 1 on the tokens of a source and 0 on padding",
    )
    expect(
        not (labels == tokenizer.pad_token_id).any(),
        "padding of the targets has the label 0, which would be learnt: it should be -100",
    )
    for part, what in ((mask != 0, "sources"), (labels != -100, "targets")):
        expect(
            bool((part[:, 1:] <= part[:, :-1]).all()),
            f"padding stands before or inside the {what}: it comes after the last token",
        )
    sources = [row[keep != 0].tolist() for row, keep in zip(inputs, mask, strict=True)]
    return sources, [row[row != -100].tolist() for row in labels]


def one_document(document: list, source: list, target: list, tokenizer) -> None:
    bos, eos, gaps = tokenizer.bos_token_id, tokenizer.eos_token_id, SENTINELS
    expect(source[:1] == [bos], "a source begins with <bos>")
    expect(source[-1:] == [eos], "a source ends with <eos>")
    expect(target[:1] != [bos], "a target has no <bos>: the model puts its start token in front")
    expect(target[-1:] == [eos], "a target ends with <eos>, so that the model learns to stop")
    source, target = source[1:-1], target[:-1]
    expect(
        bos not in source + target and eos not in source + target,
        "<bos> or <eos> stands inside a text: once at the ends is enough",
    )
    expect(
        tokenizer.mask_token_id not in source,
        "words become <mask>: a whole run of words becomes one <gap>",
    )
    asked = [word for word in source if word in gaps]
    expect(
        asked or source != document,
        f"nothing was cut out of a text of {len(document)} words: at least one word is",
    )
    expect(asked, "no gap stands where words were cut out of a source")
    pairs = zip(source, source[1:], strict=False)
    expect(
        not any(a in gaps and b in gaps for a, b in pairs),
        "two gaps stand side by side: neighbours that are cut out are one run, with one gap",
    )
    expect(
        len(set(asked)) == len(asked),
        "a gap stands twice in a source: the first run is <gap0>, the next <gap1>, and so on",
    )
    expect(asked == gaps[: len(asked)], "gaps are counted from <gap0> on, in order")
    answered = [word for word in target if word in gaps]
    expect(answered, "the target holds no gaps: each run stands behind its gap")
    expect(
        target[0] in gaps,
        "the target begins with a word: the gap stands before its run, not behind it",
    )
    expect(answered == asked, "the target should hold the same gaps as the source, in order")
    runs: dict[int, list[int]] = {}
    for word in target:
        if word in gaps:
            gap = word
            runs[gap] = []
        else:
            runs[gap].append(word)
    expect(all(runs.values()), "a gap in the target has no words behind it")
    rebuilt = [w for word in source for w in (runs[word] if word in gaps else [word])]
    in_target, in_source = (sum(w not in gaps for w in text) for text in (target, source))
    expect(
        in_target < len(document) or not in_source,
        "the target holds the whole text: it holds what was cut out, nothing else",
    )
    expect(
        rebuilt == document,
        "putting the runs back into their gaps does not give the text: a word is lost, doubled or "
        "in the wrong gap",
    )


# -- how much, and where ---------------------------------------------------------------------------


def measure(span_corruption, case: Case, given) -> dict:
    """Which places are cut out of 60 texts of 40 words, for several shares and spans."""
    amounts = {}
    for name, options in {
        "corruption_rate": {"corruption_rate": 0.2},
        "more": {"corruption_rate": 0.4, "mean_span": 3.0},
        "short": {"corruption_rate": 0.15, "mean_span": 1.0},
        "long": {"corruption_rate": 0.3, "mean_span": 5.0},
        "few": {"corruption_rate": 0.1, "mean_span": 2.0},
        "defaults": {},
        "as defaults": {"corruption_rate": 0.25, "mean_span": 2.0},
        "few long": {"corruption_rate": 0.1, "mean_span": 4.0},
    }.items():
        batch = span_corruption(given.documents, given.tokenizer, given.generator, **options)
        sources, targets = rows_of(batch, len(given.documents), given.tokenizer)
        amounts[name] = runs_in(given.documents, sources, targets)
    return amounts


def runs_in(documents: list, sources: list, targets: list) -> tuple[float, float, list[int]]:
    """Share of words cut out, mean length of a run, how often each place is cut out."""
    runs, cut, places = 0, 0, [0] * max(map(len, documents))
    for source, target in zip(sources, targets, strict=True):
        runs += sum(word in SENTINELS for word in target)
        lengths, place = _lengths(target), 0
        cut += sum(lengths.values())
        for word in source[1:-1]:
            for step in range(lengths.get(word, 1) if word in SENTINELS else 1):
                if word in SENTINELS and place + step < len(places):
                    places[place + step] += 1
            place += lengths.get(word, 1) if word in SENTINELS else 1
    return cut / sum(map(len, documents)), cut / max(1, runs), places


def _lengths(target: list[int]) -> dict[int, int]:
    lengths, gap = {}, None
    for word in target[:-1]:
        if word in SENTINELS:
            gap = word
            lengths[gap] = 0
        elif gap is not None:
            lengths[gap] += 1
    return lengths


def judge_amounts(case: Case, given: dict, amounts: dict) -> None:
    cut = amounts["corruption_rate"][0]
    expect(
        0.12 < cut < 0.28,
        f"with corruption_rate=0.2 the model is asked for {cut:.0%} of the words",
    )
    most, short, long = amounts["more"][0], amounts["short"][1], amounts["long"][1]
    expect(most > 1.4 * cut, "corruption_rate changes nothing: it says how much is cut out")
    expect(long > 1.7 * short, "mean_span changes nothing: it says how long a run is on average")
    for name, largest in (("few", 0.135), ("few long", 0.15)):
        expect(
            0.065 < amounts[name][0] < largest,
            f"with corruption_rate=0.1 the model is asked for {amounts[name][0]:.1%} of the words",
        )
    for name, span, least in (("few", 2.0, 1.64), ("few long", 4.0, 3.0), ("short", 1.0, 0.75)):
        length = amounts[name][1]
        expect(
            least < length < 1.35 * span,
            f"with mean_span={span:g} a run has {length:.2g} words on average",
        )
    plain, same = amounts["defaults"], amounts["as defaults"]
    expect(
        abs(plain[0] - same[0]) < 0.05 and abs(plain[1] - same[1]) < 0.5,
        f"without corruption_rate and mean_span {plain[0]:.0%} of the words are cut out in runs of "
        f"{plain[1]:.1f}: the defaults are corruption_rate=0.25 and mean_span=2.0",
    )
    _places(amounts["corruption_rate"][2])


def _places(counts: list[int]) -> None:
    """Runs may stand anywhere: each fifth of a text gets its part."""
    whole, fifth = sum(counts), len(counts) // 5
    parts = [sum(counts[i : i + fifth]) / whole for i in range(0, len(counts), fifth)]
    if parts[0] > 0.5 or parts[-1] > 0.5:
        end = "first" if parts[0] > 0.5 else "last"
        expect(False, f"it is always the {end} words that are cut out: draw where a run begins")
    expect(
        min(parts) > 0.05,
        "some part of the texts is never cut out: a run may begin anywhere",
    )
    spread = sum(1 for n in counts if n > 0)
    expect(
        spread > 0.8 * len(counts),
        f"only {spread} of {len(counts)} places are ever cut out: a run may begin anywhere",
    )


OPTIONS = {
    "documents": ("mixed", "equal", "one", "short"),
    "corruption_rate": (OMIT, 0.25, 0.1, 0.4),
    "mean_span": (OMIT, 2.0, 1.0, 4.5),
    "generator": (True, OMIT, None),
    "tokenizer": ("usual", "other"),
}

span_corruption = Check(
    "span_corruption",
    "tiny_transformer.objectives:span_corruption",
    "every word in the source or behind its gap, gaps in order, short texts too, the rate obeyed",
    [
        Trial(
            "the batch",
            inputs,
            run,
            axes=OPTIONS,
            dtypes=("float32",),
            layouts=("plain",),
            gradients=("on",),
            judge=judge,
            draws=True,
            fresh=lambda case: case.documents in ("mixed", "equal"),
        ),
        Trial(
            "the amounts",
            inputs,
            measure,
            axes={
                "documents": ("many",),
                "corruption_rate": (OMIT,),
                "mean_span": (OMIT,),
                "generator": (True,),
                "tokenizer": ("usual",),
            },
            dtypes=("float32",),
            layouts=("plain",),
            gradients=("on",),
            judge=judge_amounts,
            draws=True,
        ),
    ],
)
