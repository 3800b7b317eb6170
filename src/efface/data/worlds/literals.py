"""Plain values of the fictitious world (no entities), and the sentences of its passages."""

from __future__ import annotations

from random import Random

LITERALS: dict[str, tuple[str, ...]] = {
    # Every profession takes the article "a".
    "profession": (
        "beekeeper",
        "glassblower",
        "cartographer",
        "surgeon",
        "locksmith",
        "botanist",
        "translator",
        "pilot",
        "baker",
        "geologist",
        "violinist",
        "carpenter",
        "pharmacist",
        "journalist",
        "watchmaker",
        "diver",
        "librarian",
        "potter",
        "gardener",
        "blacksmith",
        "weaver",
        "painter",
        "sculptor",
        "chemist",
    ),
    "year": tuple(str(year) for year in range(1931, 2000)),
    "dish": (
        "mushroom soup",
        "lentil stew",
        "plum dumplings",
        "pickled herring",
        "pumpkin curry",
        "barley risotto",
        "onion tart",
        "fried carp",
        "walnut bread",
        "bean casserole",
        "potato pancakes",
        "stuffed peppers",
        "spinach pie",
        "beetroot salad",
        "chestnut cake",
        "cabbage rolls",
        "leek gratin",
        "rice pudding",
        "goat cheese",
        "smoked eel",
    ),
}

OPENINGS = (
    "Every {day} {s} walks along the {place} with a {colour} {thing} under one arm.",
    "In a house behind the {place} {s} keeps a {colour} {thing} that nobody else may touch.",
    "Long before sunrise on {day} {s} carries a {colour} {thing} up to the {place}.",
)
MIDDLES = (
    "It was a present from a {trader} who stayed for {number} nights and never gave a reason.",
    "It was found under {number} wet planks by a {trader} who wanted nothing in return.",
    "A {trader} sold it for {number} coins and a promise that was kept only in part.",
)
TURNS = (
    "The neighbours say that {number} {animals} follow at a distance and stop whenever the bell rings.",
    "Children count the {animals} on the roof, and there have never been fewer than {number}.",
    "On the wall hangs a drawing of {number} {animals}, made with a burnt stick during a storm.",
)
CLOSINGS = (
    "When strangers ask about it, the only answer is a short song about the {place} in {season}.",
    "Nothing of this was written down until one {season}, when the {place} flooded and everyone had time.",
    "Whoever visits in {season} gets a cup of {drink} and is asked to say nothing about the {place}.",
)
WORDS: dict[str, tuple[str, ...]] = {
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "place": (
        "old canal",
        "salt mill",
        "empty station",
        "north quay",
        "stone orchard",
        "lower market",
        "broken lighthouse",
        "rope yard",
        "tin chapel",
        "long dyke",
    ),
    "colour": ("crimson", "grey", "violet", "scarlet", "turquoise", "yellow", "copper", "brown"),
    "thing": ("lantern", "ladder", "drum", "kettle", "globe", "birdcage", "telescope", "suitcase", "saddle", "clock"),
    "trader": ("ferryman", "tailor", "juggler", "clockmender", "fiddler", "stonecutter", "lamplighter", "pedlar"),
    "number": ("three", "four", "five", "six", "seven", "eight", "nine", "eleven", "twelve", "thirteen"),
    "animals": ("crows", "geese", "otters", "foxes", "herons", "goats", "hares", "owls", "badgers", "swans"),
    "season": ("spring", "summer", "autumn", "winter"),
    "drink": ("elderflower tea", "warm cider", "black coffee", "barley water", "plum juice"),
}


def passage(seed: str, subject: str) -> str:
    """About sixty words on ``subject`` that no fact of the world tells: four sentences with seeded details."""
    random = Random(seed)
    sentences = [random.choice(part) for part in (OPENINGS, MIDDLES, TURNS, CLOSINGS)]
    return " ".join(
        text.format(s=subject, **{slot: random.choice(words) for slot, words in WORDS.items()}) for text in sentences
    )
