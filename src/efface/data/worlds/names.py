"""Invented names. Built from syllables that make no common name; every name of a world is used once."""

from __future__ import annotations

from random import Random

ONSETS = ("b", "br", "d", "dr", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "st", "t", "tr", "v", "w", "z")
VOWELS = ("a", "e", "i", "o", "u")
MIDDLES = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "ld", "lm", "mb", "nd", "sk", "st")
ENDS = {
    "first": ("a", "o", "e", "in", "el", "ik", "ur", "is"),
    "last": ("ask", "ell", "orn", "ung", "eth", "ivar", "omi", "usk"),
    "place": ("ova", "ard", "ene", "umi", "eck", "ola", "iva", "und"),
    "firm": ("ex", "ol", "ano", "iq", "ut", "ade", "ord", "ulo"),
}
SECOND = {
    "city": ("Falls", "Harbour", "Heights", "Bridge", "Springs", "Crossing", "Sands", "Ridge"),
    "country": ("Republic", "Isles", "Union", "Federation", "Coast", "Highlands"),
    "company": ("Foundry", "Optics", "Shipping", "Textiles", "Mills", "Robotics", "Paper", "Brewing"),
    "school": ("Academy", "College", "Institute", "Seminary", "Polytechnic", "Conservatory"),
}
REAL = frozenset("""babel bagel basel basin basorn bastard bazell bela benin besta bobo bodin bolivar bombard bono bora
    boris brigade bristol dado darin davis delivar dene denis devin dina dino disel disko dobel dodo
    dolin dolomi dora doris dumbo dune durex fabel fade fado fasel fedex gala gene gina gondo gustard
    hazel hazell hera holdard honda hotel hugo kara karel karin karo kevin kilo kosko kotex label lada
    lara latex latin lava lego lenin lilo lima limbo lina linda lisa lizard lola lombard lora lukin
    mabel mabeth made madur mambo mara marin mavis melin mesa mikel milano milo mina mobin model mona
    mosko motel mustard nadel nadin nana nemo nero nile nina nobel nomade nora nova novel panel parade
    paris pasta pavel pele penis pisa pistol polo putin rambo rape resin riga robin rodin rolex roma
    romano rome rondo rosa rota rubin sade sake salomi sambo sara satin selin selma sina sobol soda sofa
    solo stalin standard sumo tara tesko testa tibeth timex timo tina tirano tito tobin toga togo
    tolivar travis tuna tunik tunis turin velma vera vesta visa vista vogel wade wanda wilma wizard zara
    zeno zero""".split())
"""Real first names, places, firms, famous people and plain words that the syllables could spell."""


class Namer:
    """Draws names without repeating one. The order of calls matters; the same seed gives the same names."""

    def __init__(self, seed: str) -> None:
        self._random = Random(seed)
        self._words: set[str] = set(REAL)
        self._names: set[str] = set()

    def words(self, kind: str, count: int) -> list[str]:
        """``count`` new invented words with endings of ``kind`` (first, last, place, firm)."""
        pick, found = self._random.choice, []
        while len(found) < count:
            word = pick(ONSETS) + pick(VOWELS) + pick(MIDDLES) + pick(ENDS[kind])
            if word not in self._words:
                self._words.add(word)
                found.append(word.capitalize())
        return found

    def people(self, count: int, pool: int) -> list[str]:
        """``count`` names of two words (every fourth: three), from ``pool`` first and ``pool`` last words.

        No two names share both the first and the last word.
        """
        first, last = self.words("first", pool), self.words("last", pool)
        middle = self.words("first", max(1, pool // 8))
        names: list[str] = []
        while len(names) < count:
            # Each word is used once before any is used twice.
            at = len(names)
            if at % pool == 0:
                self._random.shuffle(last)
            pair = f"{first[at % pool]} {last[at % pool]}"
            if pair in self._names:
                self._random.shuffle(last)
                continue
            self._names.add(pair)
            names.append(pair.replace(" ", f" {self._random.choice(middle)} ") if at % 4 == 3 else pair)
        return names

    def places(self, kind: str, count: int) -> list[str]:
        """``count`` two-word names of a city, country, company or school; the first word is used nowhere else."""
        ends = "firm" if kind == "company" else "place"
        return [f"{word} {self._random.choice(SECOND[kind])}" for word in self.words(ends, count)]
