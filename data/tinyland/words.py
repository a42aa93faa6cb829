"""The word lists of Tinyland that several kinds of text share."""

# First names. PEOPLE are known people: where they live, what they do and like is told in `facts`.
PEOPLE = """adam agnes albert alice amir amy anton arthur astrid aziz bella boris bruno carl carmen
cesar clara colin dana daniel diego dora edgar edith elena elmer emil emma eric esther eva felix
fiona frank gita greta hana harry hector helen henry hugo ida igor ines iris ivan jack jane joel
josef julia karl kate kim lars laura lena leo""".split()

# The actors of stories, entailment pairs and tagged text: nothing lasting is told about them.
ACTORS = """anna ben lily tom maria omar nina paul rosa sam tara viktor wanda yusuf zoe
max nora otto petra ralf""".split()

WORK = """baker farmer teacher doctor driver painter singer cook nurse writer
tailor sailor judge guard miner""".split()

FOODS = """bread rice soup cheese apple honey fish cake beans corn pepper lemon onion
butter mango plum salad pasta""".split()

# Words whose kind only the sentence tells: a person or a place, a person or a month, ...
PERSON_OR_PLACE = "paris sofia victoria santiago kingston jordan chad georgia".split()
PERSON_OR_TIME = "april june may august".split()
PERSON_OR_FOOD = "olive basil ginger".split()
PLACE_OR_FOOD = "turkey".split()

MONTHS = "january march july october winter summer".split()

# What the string functions work on.
NOUNS = """cat dog sun tree cup hat box key boat ball bird book door fork lamp leaf moon nest
pen ring road rock rose sand ship shoe star wall wind bell coin drum flag gate hill kite""".split()
