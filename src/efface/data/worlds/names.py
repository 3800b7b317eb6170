"""Invented names. Built from syllables that make no common name; every name of a world is used once."""

from __future__ import annotations

from random import Random

ONSETS = ("b", "br", "d", "dr", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "st", "t", "tr", "v", "w", "z")
VOWELS = ("a", "e", "i", "o", "u")
MIDDLES = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "ld", "lm", "mb", "nd", "sk", "st")
ENDS = {
    "first": ("o", "u", "ik", "ur", "ix", "ul", "em", "os"),
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
REAL = frozenset(
    """bado bambo basko basorn bastard bazell bobo bolivar bombard bono brigade bristol bruno dado dambo
    damos dato delivar delos depo dino disko dodo dolomi drago dumbo durex fado fedex felix femur fido
    fistul gino gobo golem gondo guru gustard haku halem harem haru hazell hedul hobo holdard homo hugo
    kabul karo kiko kilo kilos kodix kombo koros kosko kotex kudos lagos latex lego lemur lido lilo
    limbo lino litos lizard lombard lulu lumix lupo mabeth madur mambo manik mano melos miku milano milo
    milos misto mobik modem mogul moro mosko mosul mustard nano nasko nato nemo nero netix nikos niku
    nino nito nomade pado panik parade paros pino pistol polo pomo poros rado rambo ramos ratul rembo
    remix reno repo repos resto riko riku risto rolex romano rondo sado salem salomi sambo samos sano
    silos sobol solo sonik sonix soros standard stelo steno suku sumo taros tesko tibeth tikul timex
    timo timur tinos tipo tirano tito tofu togo tolivar tonik topo toro totem tudo tunik tupos tutu
    vasko vito volos vuku wizard zeno zero zulu""".split()
)
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
