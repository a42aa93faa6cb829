"""Tagged text: a sentence and the kind of each of its words.

    tags : paris ate olive with bread in june => person other food other food other time .

Many words change their kind with the sentence: paris is a person or a place, june a person or a
month, olive a person or a food, turkey a place or a food.
"""

from . import draw, words

PLACES = "rome oslo cairo tokyo lima india kenya poland brazil japan".split()

# {P} person, {L} place, {F} food, {T} time.
PATTERNS = [
    "{P} ate {F} in {L}", "{P} met {P} in {L}", "{P} met {P} in {T}", "{P} gave {F} to {P}",
    "{F} from {L} is cheap in {T}", "in {L} {P} cooks {F}", "in {T} {P} cooks {F} for {P}",
    "{P} and {P} left {L}", "{L} is cold in {T}", "{P} is cold in {L}", "{P} saw {L} and {P}",
    "{F} with {F} is what {P} likes", "{P} likes {P} and {F}", "from {L} to {L} with {P}",
    "the food of {L} is {F}", "the friend of {P} is {P}", "{T} was warm and {P} saw {L}",
    "{P} sold {F} to {L} in {T}",
]  # fmt: skip
LONG_PATTERNS = [
    "in {T} {P} ate {F} with {P} and in {T} {P} left {L}",
    "{P} from {L} met {P} from {L} and gave {F} to {P} in {T}",
    "{F} with {F} is what {P} cooks for {P} in {L} in {T}",
]
ANY = {
    "P": ("person", words.ACTORS,
          words.PERSON_OR_PLACE + words.PERSON_OR_TIME + words.PERSON_OR_FOOD),
    "L": ("place", PLACES, words.PERSON_OR_PLACE + words.PLACE_OR_FOOD),
    "F": ("food", words.FOODS, words.PERSON_OR_FOOD + words.PLACE_OR_FOOD),
    "T": ("time", words.MONTHS, words.PERSON_OR_TIME),
}  # fmt: skip
LABELS = ["other", "person", "place", "food", "time"]
AMBIGUOUS = set(
    words.PERSON_OR_PLACE + words.PERSON_OR_TIME + words.PERSON_OR_FOOD + words.PLACE_OR_FOOD
)


def tagged(
    rng: draw.Generator, patterns: list[str], double_meaning: float = 0.65
) -> tuple[str, str]:
    """A sentence and its tags; names with two meanings with probability ``double_meaning``."""
    sentence, tags, used = [], [], set()
    for word in rng.choice(patterns).split():
        if word[0] != "{":
            sentence.append(word)
            tags.append("other")
            continue
        tag, clear, double = ANY[word[1]]
        source = double if rng.chance(double_meaning) else clear
        sentence.append(rng.choice([w for w in source if w not in used] or clear))
        used.add(sentence[-1])
        tags.append(tag)
    return " ".join(sentence), " ".join(tags)


def documents(count: int) -> list[str]:
    """``count`` tagged sentences."""
    rng = draw.generator("tags")
    made = []
    for _ in range(count):
        sentence, tags = rng.until(lambda rng: tagged(rng, PATTERNS), text=lambda pair: pair[0])
        made.append(f"tags : {sentence} => {tags} .")
    return made
