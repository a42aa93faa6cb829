"""Stories of three sentences with headlines and questions. The headline tells who did the one
thing worth telling, in the present tense, and the place, which stands in another sentence.

    headline : one morning anna and ben walked to the market in rome . ben slept .
               anna found a ring there . => anna finds ring in rome .
    hero : ... => anna .        thing : ... => ring .        place : ... => rome .
"""

from . import draw, words

PLACES = "rome oslo cairo tokyo lima quito athens dublin".split()
SPOTS = "market park harbour church beach station".split()
WHEN = ["one morning", "one day", "in summer", "in winter", "at night"]
DEEDS = [("found", "finds"), ("lost", "loses"), ("bought", "buys"), ("sold", "sells"),
         ("broke", "breaks"), ("painted", "paints"), ("stole", "steals")]  # fmt: skip
THINGS = "ring book key lamp coin cup hat bell kite drum flag boat".split()
DULL = ["slept", "waited", "sat", "talked", "was tired", "was hungry"]
SETTING = ["the sky was grey", "the sun was warm", "the wind was cold"]


def story(
    rng: draw.Generator, people: list[str], company: float = 0.6, things: list[str] = THINGS
) -> tuple[str, str]:
    """A story and its headline. With probability ``company`` the other one does something dull."""
    a, b = rng.sample(people, 2)
    who, idle = rng.sample([a, b], 2)
    place, thing = rng.choice(PLACES), rng.choice(things)
    past, present = rng.choice(DEEDS)
    opening = f"{rng.choice(WHEN)} {a} and {b} walked to the {rng.choice(SPOTS)} in {place} ."
    dull = f"{idle} {rng.choice(DULL)} ." if rng.chance(company) else f"{rng.choice(SETTING)} ."
    main = f"{who} {past} a {thing} there ."
    rest = rng.sample([dull, main], 2)
    return " ".join([opening, *rest]), f"{who} {present} {thing} in {place} ."


def documents(count: int) -> list[str]:
    """``count`` stories, each with its headline or one word of it."""
    rng = draw.generator("stories")
    made = []
    for _ in range(count):
        text, headline = rng.until(lambda rng: story(rng, words.ACTORS), text=lambda pair: pair[0])
        who, _, thing, _, place, _ = headline.split()
        asked, said = rng.weighted(
            [(64, ("headline", headline)), (12, ("hero", f"{who} .")),
             (12, ("thing", f"{thing} .")), (12, ("place", f"{place} ."))],
        )  # fmt: skip
        made.append(f"{asked} : {text} => {said}")
    return made
