"""Tinyland: the generator gives its own bytes again, and what the tasks hold out is held out."""

import importlib.util
import json
import math
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[2] / "data"
sys.path.insert(0, str(DATA))

from tinyland import draw, entailment, facts, floor, records, reviews, stories, strings, words  # noqa: E402

PIECE = re.compile(r"\w+|[^\w\s]")
SPLITS = ("train", "dev", "test", "ood")


def corpus(kind: str) -> list[str]:
    return (DATA / "corpus" / f"{kind}.txt").read_text(encoding="utf-8").splitlines()


def task(name: str, *splits: str) -> list[dict]:
    rows = []
    for split in splits:
        path = DATA / "tasks" / name / f"{split}.jsonl"
        rows += [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return rows


def description_of(name: str) -> dict:
    return json.loads((DATA / "tasks" / name / "task.json").read_text(encoding="utf-8"))


NAMES = sorted(path.parent.name for path in DATA.glob("tasks/*/task.json"))
KINDS = sorted(path.stem for path in (DATA / "corpus").glob("*.txt"))


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("generate", DATA / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generating_again_gives_the_same_bytes(generator, tmp_path):
    generator.generate(tmp_path)
    made = {p.relative_to(tmp_path): p for p in tmp_path.rglob("*") if p.is_file()}
    kept = {p.relative_to(DATA) for part in ("corpus", "tasks") for p in (DATA / part).rglob("*.*")}
    assert set(made) == kept | {Path("vocabulary.txt")}
    differ = [str(name) for name, p in made.items() if p.read_bytes() != (DATA / name).read_bytes()]
    assert not differ, f"run `python data/generate.py`: {differ}"


def test_it_is_small_and_every_word_is_in_the_vocabulary():
    vocabulary = (DATA / "vocabulary.txt").read_text(encoding="utf-8").split()
    texts = [text for kind in KINDS for text in corpus(kind)]
    texts += [f"{r['input']} {r['target']}" for n in NAMES for r in task(n, *SPLITS)]
    texts += [" ".join(description_of(n)["labels"] or []) for n in NAMES]
    used = {word for text in texts for word in PIECE.findall(text)}
    assert used == set(vocabulary) and len(vocabulary) == len(used) <= 1200
    assert all(word == word.lower() for word in used)
    size = sum(p.stat().st_size for part in ("corpus", "tasks") for p in (DATA / part).rglob("*.*"))
    assert size < 10e6
    assert max(len(PIECE.findall(text)) for kind in KINDS for text in corpus(kind)) <= 43


# -- the world


def test_countries_are_whole():
    names = [c["country"] for c in facts.COUNTRIES]
    assert len(set(names)) == 150
    assert len({c["capital"] for c in facts.COUNTRIES}) == 150
    for country in facts.COUNTRIES:
        assert all(country[r] for r in ("capital", "language", "currency", "continent"))
        neighbour = country["neighbour"]
        assert not neighbour or (neighbour in names and neighbour != country["country"])
    capital = {c["country"]: c["capital"] for c in facts.COUNTRIES}
    known = {"france": "paris", "japan": "tokyo", "kenya": "nairobi", "peru": "lima"}
    known |= {"canada": "ottawa", "australia": "canberra", "brazil": "brasilia", "turkey": "ankara"}
    assert known.items() <= capital.items()


def test_wordings_are_told_unequally_and_the_unused_ones_never():
    text = "\n".join(corpus("facts"))

    def count(wording: str) -> int:
        pattern = re.escape(wording).replace(r"\{x\}", r"(\w+)").replace(r"\{y\}", r"(\w+)")
        return len(re.findall(rf"(?:^|\. ){pattern}", text, re.MULTILINE))

    used = [count(wording) for _, wording in facts.WORDINGS["capital"]]
    assert used[0] > 1.5 * used[1] > 1.5 * used[3] and used[-1] > 100
    assert used[0] > 6 * used[-1]
    unused = description_of("capital")["unused_wordings"]
    assert len(unused) >= 8 and not any(count(wording) for wording in unused)
    vocabulary = {word for kind in KINDS for t in corpus(kind) for word in PIECE.findall(t)}
    for wording in unused:
        assert set(PIECE.findall(wording.format(x="france", y="paris"))) <= vocabulary


@pytest.mark.parametrize(
    ("name", "row", "result"),
    [
        ("copy", "a b c", "a b c"),
        ("reverse", "a b c", "c b a"),
        ("first", "a b c", "a"),
        ("last", "a b c", "c"),
        ("rotate", "a b c", "b c a"),
        ("swap", "a b c d", "d b c a"),
        ("double", "a b", "a a b b"),
        ("count", "a b c", "three"),
    ],
)
def test_string_functions(name, row, result):
    assert " ".join(strings.FUNCTIONS[name](row.split())) == result
    for text in corpus("strings"):
        trigger, nouns, said = re.fullmatch(r"(\w+) : (.*) => (.*) \.", text).groups()
        if trigger == name:
            assert " ".join(strings.FUNCTIONS[name](nouns.split())) == said


def polarity(text: str) -> int:
    """The rules of reviews read again, from the text alone."""

    def clause(part: str) -> int:
        tokens = part.split()
        domains = reviews.DOMAINS.values()
        good = any(tokens[-1] in {*reviews.GOOD, *praise} for _, praise, _ in domains)
        turned = "not" in tokens or "never" in tokens
        strength = 3 if {"very", "really"} & set(tokens) else 1 if "little" in tokens else 2
        return strength if good != turned else -strength

    if " but " in text:
        total = clause(text.split(" but ")[1])
    elif text.startswith("although "):
        total = clause(text.split(" , ")[1])
    elif " although " in text:
        total = clause(text.split(" although ")[0])
    else:
        total = sum(clause(part) for part in text.split(" and "))
    return 1 if total > 0 else -1


def test_reviews_follow_their_rules():
    assert polarity("the soup was not good but the wine was really fresh") == 1
    assert polarity("the soup was a little stale and the wine was really fresh") == 1
    assert polarity("the bed was clean although the bath was never dirty") == 1
    assert polarity("although the bed was clean , the bath was not pretty") == -1
    feel = {"smiled": 1, "stayed": 1, "left": -1, "frowned": -1, "positive": 1, "negative": -1}
    cases = [re.fullmatch(r"mood : (.*) => (\w+) \.", text) for text in corpus("reviews")]
    pairs = [match.groups() for match in cases if match]
    cases = [re.fullmatch(r"([^:]*) , so \w+ (\w+) \.", text) for text in corpus("reviews")]
    pairs += [match.groups() for match in cases if match]
    for name in ("review-word", "review-label"):
        pairs += [(r["input"].removesuffix(" =>"), r["target"]) for r in task(name, *SPLITS)]
    assert len(pairs) > 15_000
    assert all(polarity(text) == feel[word] for text, word in pairs)


def follows(premise: str, claim: str) -> str:
    """Entailment decided again, from the text alone."""
    turned = " not " in claim or " no " in claim
    plain = claim.replace(" not ", " ").replace(" no ", " a " if " has " in claim else " ")
    if " than " in claim:
        a, b = re.fullmatch(r"(\w+) is \w+ than (\w+)", premise).groups()
        x, y = re.fullmatch(r"(\w+) is \w+ than (\w+)", plain).groups()
        if {x, y} != {a, b}:
            return "maybe"
        true = (x == a) == (premise.split()[2] == plain.split()[2])
    else:
        premises = {part.removeprefix("every ") for part in premise.split(" and ")}
        plain = plain.removeprefix("the ")
        if plain.split()[0] not in {part.split()[0] for part in premises}:
            return "maybe"
        true = plain in premises
    return "yes" if true != turned else "no"


def test_reviews_that_agree_have_one_polarity():
    rows = task("agreement", *SPLITS)
    for row in rows:
        first, second = row["input"].removesuffix(" =>").split(" ; ")
        assert (polarity(first) == polarity(second)) == (row["target"] == "yes")


def test_entailment_follows_its_rules():
    assert follows("ann has a ring and ben has a key", "ben has no ring") == "yes"
    assert follows("ann is older than ben", "ben is not younger than ann") == "no"
    assert follows("every cat is black and every dog is white", "the bird is white") == "maybe"
    rows = [re.fullmatch(r"follows : (.*) ; (.*) => (\w+) \.", t) for t in corpus("entailment")]
    triples = [match.groups() for match in rows if match]
    assert len(triples) > 10_000
    wrong = [triple for triple in triples if follows(*triple[:2]) != triple[2]]
    assert not wrong[:3]


def test_a_record_is_told_in_the_order_of_its_line():
    line = "area : river ; name : the_mill ; family : no ; food : thai"
    assert records.novel(line) == "eat near the river at the_mill with no children for thai food ."


# -- what is held out


@pytest.mark.parametrize("name", NAMES)
def test_no_test_example_is_in_train_or_dev(name):
    before = {row["input"] for row in task(name, "train", "dev")}
    after = [row["input"] for row in task(name, "test", "ood")]
    assert not before & set(after)
    assert len(before) == len(task(name, "train", "dev")) and len(set(after)) == len(after)


def test_held_out_countries_are_in_the_corpus_but_in_no_training_split():
    held_out = set(facts.held_out_countries())
    assert len(held_out) == 50
    capital = {c["country"]: c["capital"] for c in facts.COUNTRIES}
    text = "\n".join(corpus("facts"))
    assert all(f"the capital of {c} is {capital[c]} ." in text for c in held_out)
    for name in ("capital", "language", "currency", "continent"):
        assert not held_out & {row["input"] for row in task(name, "train", "dev")}
        assert held_out == {row["input"] for row in task(name, "test")}
        assert held_out == {row["input"].split()[-1] for row in task(name, "ood")}


def test_what_is_tested_was_never_pretrained():
    sources = {re.split(" => | , so ", text)[0] for kind in KINDS for text in corpus(kind)}
    sources |= {source.split(" : ", 1)[1] for source in sources if " : " in source}
    for name in NAMES:
        if description_of(name)["kind"] == "cloze":
            continue  # facts are asked again by design
        tests = {row["input"].removesuffix(" =>") for row in task(name, "test", "ood")}
        assert not tests & sources, name


def test_new_label_words_never_occur_in_the_corpus_and_latent_ones_often():
    count = Counter(word for kind in KINDS for text in corpus(kind) for word in text.split())
    for name in NAMES:
        if description_of(name)["kind"] == "classify":
            least = min(count[label] for label in description_of(name)["labels"])
            assert (least == 0) if name == "review-label" else (least > 500)


def test_out_of_domain_is_out_of_domain():
    known = {word for row in task("headline", "train", "dev") for word in row["input"].split()}
    new = {word for row in task("headline", "ood") for word in row["input"].split()}
    assert set(stories.THINGS) & new and not set(stories.THINGS) & new & known
    lengths = {s: {len(r["input"].split()) - 1 for r in task("reverse", s)} for s in SPLITS}
    assert lengths["train"] == lengths["test"] == {2, 3, 4} and lengths["ood"] == {5, 6}
    nouns = {word for row in task("review-word", "ood") for word in row["input"].split()}
    assert not set(reviews.DOMAINS["restaurant"][0]) & nouns


@pytest.mark.parametrize("name", [n for n in NAMES if description_of(n)["kind"] == "classify"])
def test_labels_are_balanced(name):
    for split in SPLITS:
        rows = task(name, split)
        count = Counter(row["target"] for row in rows)
        assert set(count) == set(description_of(name)["labels"])
        share = len(rows) / len(count)
        assert all(0.75 * share < number < 1.25 * share for number in count.values())


# -- the entropy floor


def test_the_account_of_a_generator():
    rng = draw.generator("test")
    rng.choice("abcdefgh")
    assert math.isclose(rng.nats, math.log(8))
    rng.sample("abcd", 2)
    assert math.isclose(rng.nats, math.log(8) + math.log(12))
    rng.nats = 0.0
    rng.choice("aab")
    assert rng.nats in (-math.log(2 / 3), -math.log(1 / 3))
    rng.nats, mean = 0.0, -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    for _ in range(20_000):
        rng.chance(0.9)
    assert math.isclose(rng.nats / 20_000, mean, rel_tol=0.05)


def test_the_floor_of_a_world_that_can_be_computed_by_hand():
    class Coins:
        """Two fair coins and a biased one: heads heads tails."""

        @staticmethod
        def documents(count):
            rng = draw.generator("coins")
            throw = lambda: " ".join(rng.choice("ht") for _ in range(2))  # noqa: E731
            return [f"{throw()} {rng.weighted([(3, 'h'), (1, 't')])}" for _ in range(count)]

    nats, tokens = floor.of_kind(Coins, 20_000)
    assert tokens == 4  # with <eos>
    assert math.isclose(nats, 2 * math.log(2) + floor.entropy([3, 1]), rel_tol=0.02)


def test_the_floor_lies_below_what_pretraining_reached(generator):
    curve = DATA / "checkpoints" / "tiny-decoder" / "losses.csv"
    if not curve.is_file():
        pytest.skip("tiny-decoder is not pretrained here")
    last = float(curve.read_text(encoding="utf-8").split()[-1].split(",")[1])
    least = floor.floors({kind: n // 10 for kind, n in generator.MIXTURE.items()})["corpus"]
    assert 0.97 * least < last < 1.25 * least


def test_negated_claims_do_not_give_the_answer_away():
    rng = draw.generator("test")
    pairs = [entailment.pair(rng, words.ACTORS, negated=0.5) for _ in range(6000)]
    denied = Counter(a for _, claim, a in pairs if {"not", "no"} & set(claim.split()))
    assert max(denied.values()) < 1.2 * min(denied.values())
