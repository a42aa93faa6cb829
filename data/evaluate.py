"""What has a pretrained model learned of Tinyland? Prints a table per kind of text.

    python data/evaluate.py tiny-decoder
    python data/evaluate.py path/to/checkpoint --json skills.json

Everything asked here with a trigger word or a wording of the corpus; rows, reviews, pairs and
stories are those whose checksum keeps them out of the corpus.
"""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(1, str(Path(__file__).resolve().parent.parent))

from tinyland import (  # noqa: E402
    draw,
    entailment,
    facts,
    records,
    reviews,
    stories,
    strings,
    tags,
    words,
)

from minipeft.model.kind import kind_of  # noqa: E402
from minipeft.tasks.metrics import accuracy, normal  # noqa: E402


@torch.no_grad()
def answers(model, tokenizer, questions: list[tuple[str, str]], longest: int = 1) -> list[str]:
    """What the model says between the two texts of each question.

    A decoder goes on after the first text. An encoder fills one <mask> between the two. An
    encoder-decoder fills a <gap0>, or, after "=>", writes the target of a source.
    """
    kind, texts = kind_of(model), []
    model.eval()
    for start in range(0, len(questions), 128):
        chunk = questions[start : start + 128]
        if kind == "decoder":
            batch = tokenizer([before for before, _ in chunk], padding_side="left")
            texts += written(model, tokenizer, batch, longest)
        elif kind == "encoder":
            batch = tokenizer([f"{before} <mask> {after}" for before, after in chunk])
            at_mask = batch["input_ids"] == tokenizer.mask_token_id
            best = model(**batch).logits[at_mask].argmax(dim=-1)  # (B,)
            texts += [tokenizer.decode([word]) for word in best]
        else:
            source = chunk[0][0].endswith("=>")
            batch = tokenizer(
                [b.removesuffix("=>") if source else f"{b} <gap0> {a}" for b, a in chunk]
            )
            texts += written(model, tokenizer, batch, longest + (not source))
    return [normal(text) for text in texts]


def written(model, tokenizer, batch, longest: int) -> list[str]:
    """Greedy continuations, cut at the end of the sentence or the document."""
    import tiny_transformer as tt

    ids = tt.generate(model, **batch, max_new_tokens=longest, eos_token_id=tokenizer.eos_token_id)
    start = batch["input_ids"].shape[1] if kind_of(model) == "decoder" else 1
    return tokenizer.batch_decode(ids[:, start:])


def facts_by_wording(model, tokenizer) -> dict[str, float]:
    """Share of objects named, per relation and weight of the wording in per cent."""
    shares = {}
    known = {relation: facts.COUNTRIES for relation in facts.RELATIONS_OF_COUNTRIES}
    known |= {relation: facts.people() for relation in facts.RELATIONS_OF_PEOPLE}
    for relation, wordings in facts.WORDINGS.items():
        for weight, wording in wordings:
            if "{x}" in wording.split("{y}")[0] or kind_of(model) != "decoder":
                shares[f"{relation} {weight:2d} %"] = recall(
                    model, tokenizer, wording, relation, known[relation]
                )
    return shares


def recall(model, tokenizer, wording: str, relation: str, entities: list[dict]) -> float:
    """Share of the entities whose object the model names in this wording."""
    entities = [entity for entity in entities if entity[relation]]
    before, after = wording.split("{y}")
    subject = [entity.get("country") or entity["person"] for entity in entities]
    questions = [(before.format(x=x).strip(), after.format(x=x).strip()) for x in subject]
    return accuracy(
        answers(model, tokenizer, questions), [normal(e[relation]) for e in entities]
    )  # fmt: skip


def unused_wordings(model, tokenizer) -> dict[str, float]:
    """Wordings of the capital relation that the corpus never uses, on the 50 held-out countries."""
    held_out = set(facts.held_out_countries())
    countries = [country for country in facts.COUNTRIES if country["country"] in held_out]
    return {
        wording: recall(model, tokenizer, wording, "capital", countries)
        for wording in facts.UNUSED_CAPITAL_WORDINGS
    }


def string_functions(model, tokenizer, count: int = 100) -> dict[str, float]:
    """Exact answers per function, rows of 2 to 6 nouns that the corpus does not have."""
    shares = {}
    for name, function in strings.FUNCTIONS.items():
        rng = draw.generator("evaluate", name)
        rows = [strings.row(rng, rng.weighted(strings.LENGTHS), "test") for _ in range(count)]
        questions = [(f"{name} : {' '.join(row)} =>", "") for row in rows]
        said = answers(model, tokenizer, questions, longest=14)
        shares[name] = accuracy(said, [" ".join(function(row)) for row in rows])
    return shares


def unseen(name: str, count: int, make) -> list:
    """Draw until there are ``count`` results whose text the corpus does not have."""
    rng, results = draw.generator("evaluate", name), []
    while len(results) < count:
        one = make(rng)
        if draw.bucket(one[0]) == 0:
            results.append(one)
    return results


def other_skills(model, tokenizer, count: int = 200) -> dict[str, float]:
    """Reviews, entailment, stories, records and tags, on texts the corpus does not have."""
    shares = {}

    def review(rng):
        polarity = rng.choice([+1, -1])
        return reviews.review(rng, rng.choice(list(reviews.DOMAINS)), polarity), polarity

    cases = unseen("reviews", count, review)
    polarity_of = {word: p for p, said in reviews.CONSEQUENCES.items() for _, word in said}
    for name, form in (("mood", "mood : {} =>"), ("so she", "{} , so she")):
        said = answers(model, tokenizer, [(form.format(text), ".") for text, _ in cases])
        felt = [polarity_of.get(word) for word in said]
        shares[f"reviews, {name}"] = accuracy(felt, [polarity for _, polarity in cases])

    groups = defaultdict(list)
    for _, shape in entailment.SHAPES:
        for answer in ("yes", "no", "maybe"):

            def pair(rng, shape=shape, answer=answer):
                premise, claim, _ = shape(rng, words.ACTORS, answer, entailment.NEGATED)
                return f"{premise} ; {claim}", answer

            groups[shape.__name__] += unseen(f"{shape.__name__} {answer}", count // 6, pair)
    for name, cases in groups.items():
        said = answers(model, tokenizer, [(f"follows : {text} =>", "") for text, _ in cases])
        shares[f"entailment, {name}"] = accuracy(said, [answer for _, answer in cases])

    if kind_of(model) == "encoder":  # the rest is writing
        return shares
    cases = unseen("stories", count, lambda rng: stories.story(rng, words.ACTORS))
    said = answers(model, tokenizer, [(f"headline : {text} =>", "") for text, _ in cases], 8)
    shares["stories, headline"] = accuracy(said, [normal(headline) for _, headline in cases])

    def record(rng):
        one = records.record(rng, records.NAMES, records.FOODS)
        return records.written(rng, one), one

    cases = unseen("records", count, record)
    said = answers(model, tokenizer, [(f"{line} =>", "") for line, _ in cases], 26)
    ways = [[normal(way) for way in records.readings(one)] for _, one in cases]
    right = [text in way for text, way in zip(said, ways, strict=True)]
    shares["records, one of the styles"] = sum(right) / len(right)
    cases = unseen("tags", count, lambda rng: tags.tagged(rng, tags.PATTERNS))
    said = answers(model, tokenizer, [(f"tags : {text} =>", "") for text, _ in cases], 14)
    shares["tags, whole sentence"] = accuracy(said, [kinds for _, kinds in cases])
    return shares


def skills(model, tokenizer) -> dict[str, dict[str, float]]:
    """Every table: name -> row -> share, 0 to 1."""
    tables = {"facts by wording": facts_by_wording(model, tokenizer)}
    tables["capital, unused wordings"] = unused_wordings(model, tokenizer)
    if kind_of(model) != "encoder":
        tables["string functions"] = string_functions(model, tokenizer)
    tables["other"] = other_skills(model, tokenizer)
    return tables


if __name__ == "__main__":
    import tiny_transformer as tt

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="a name (tiny-decoder) or a folder")
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    chosen = parser.parse_args()
    measured = skills(*tt.load(chosen.checkpoint))
    for title, table in measured.items():
        print(f"\n{title}")
        for name, share in table.items():
            print(f"  {name:<52} {100 * share:5.1f} %")
    if chosen.json:
        chosen.json.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
