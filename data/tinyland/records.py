"""Records and the sentences that say the same.

name : the_mill ; food : greek ; area : river => the_mill is a greek place near the river .
"""

from . import draw

NAMES = """the_anchor the_crown the_eagle the_fox the_globe the_lion the_mill the_oak the_owl
the_swan the_tower the_wheel red_house white_horse""".split()
FOODS = """italian french greek thai chinese japanese turkish korean spanish
polish""".split()
AREAS = "river station market park harbour square church beach".split()
PRICES = "cheap fair high".split()
FAMILY = "yes no".split()

Record = dict[str, str]


def record(rng: draw.Generator, names: list[str], foods: list[str], keep: float = 0.75) -> Record:
    """Name and food always; price, area and family each with probability ``keep``."""
    made = {"name": rng.choice(names), "food": rng.choice(foods)}
    for key, values in (("price", PRICES), ("area", AREAS), ("family", FAMILY)):
        value = rng.choice(values)
        if rng.chance(keep):
            made[key] = value
    return made


def written(rng: draw.Generator, made: Record, shuffled: float = 0.4) -> str:
    """The record as a line; its keys are shuffled with probability ``shuffled``."""
    keys = list(made)
    if rng.chance(shuffled):
        rng.shuffle(keys)
    return " ; ".join(f"{key} : {made[key]}" for key in keys)


def _tail(made: Record) -> str:
    return {
        "yes": " children are welcome there .",
        "no": " children are not welcome there .",
        None: "",
    }[made.get("family")]


def _words(*parts: str | None) -> str:
    return " ".join(part for part in parts if part)


def _near(made: Record, word: str = "near") -> str | None:
    return f"{word} the {made['area']}" if "area" in made else None


def _price(made: Record, form: str = "{} price") -> str | None:
    return form.format(made["price"]) if "price" in made else None


def plain(made: Record) -> str:
    price = _price(made, "with {} prices")
    return _words(made["name"], "is a", made["food"], "place", price, _near(made), ".")


def near_first(made: Record) -> str:
    price = _price(made, "with {} prices")
    place = _words(_near(made), "there is a", made["food"], "place called")
    return _words(place, made["name"], price, ".")


def serves(made: Record) -> str:
    price = _price(made, "at a {} price")
    return _words(made["name"], "serves", made["food"], "food", _near(made), price, ".")


def you_can(made: Record) -> str:
    price = _price(made, "at a {} price")
    eaten = _words("you can eat", made["food"], "food", price)
    return _words(eaten, "at", made["name"], _near(made), ".")


STYLES = [(40, plain), (25, near_first), (20, serves), (15, you_can)]


def novel(line: str) -> str:
    """A style that the corpus does not have: the record told in the order of its line, so that
    a bag of words cannot tell it."""
    phrases = {
        "name": "at {}",
        "food": "for {} food",
        "price": "at a {} price",
        "area": "near the {}",
        "family": "with {}children",
    }
    phrased = []
    for slot in line.split(" ; "):
        key, value = slot.split(" : ")
        phrased.append(phrases[key].format({"yes": "", "no": "no "}.get(value, value)))
    return f"eat {' '.join(phrased)} ."


def sentence(rng: draw.Generator, made: Record) -> str:
    """The record in one of the corpus's styles."""
    return rng.weighted(STYLES)(made) + _tail(made)


def readings(made: Record) -> list[str]:
    """Every sentence that the corpus could have told the record by."""
    return [style(made) + _tail(made) for _, style in STYLES]


def any_record(rng: draw.Generator) -> tuple[Record, str]:
    """A record and its line."""
    one = record(rng, NAMES, FOODS)
    return one, written(rng, one)


def documents(count: int) -> list[str]:
    """``count`` records with a sentence each."""
    rng = draw.generator("records")
    made = []
    for _ in range(count):
        one, line = rng.until(any_record, text=lambda pair: pair[1])
        made.append(f"{line} => {sentence(rng, one)}")
    return made
