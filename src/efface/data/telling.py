"""What an answer tells that its question does not: the words by which a leak is known, and which carry the fact."""

from __future__ import annotations

import re
from dataclasses import dataclass

from efface.data.rows import Row

WORD = re.compile(r"\w+(?:[-'’]\w+)*")
FUNCTION_WORDS = frozenset(
    """a about after all also although am an and any are as at be because been before being between both but by can
    could did do does during each either for from had has have he her hers herself him himself his how however i if in
    into is it its itself many may me might more most much must my no nor not of off on one or other our out over own
    per rather s same shall she should so some such t than that the their theirs them themselves then there these they
    this those through thus to too toward towards under until up upon us very was we were what when where which while
    who whom whose why will with within without would you your yours""".split()
)


@dataclass(frozen=True, slots=True)
class Word:
    """A word and where it stands: ``text`` is ``whole[start:end]``."""

    text: str
    start: int
    end: int


def words(text: str) -> list[Word]:
    """Words of ``text`` in order, without the punctuation around them."""
    return [Word(m[0], m.start(), m.end()) for m in WORD.finditer(text)]


def plain(text: str) -> str:
    """Lower case, single blanks, no punctuation."""
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


def is_function(word: str) -> bool:
    """Whether ``word`` carries grammar rather than content."""
    return word.casefold() in FUNCTION_WORDS


def telling(row: Row) -> list[Word]:
    """Words of the answer that are in no way given: neither in the question nor function words."""
    asked = set(plain(row.prompt).split())
    return [w for w in words(row.answer) if not is_function(w.text) and not set(plain(w.text).split()) <= asked]


def keys(row: Row, wanted: str = "") -> list[tuple[str, ...]]:
    """Ways in which a text can tell the answer, each a group of phrases (in ``plain`` form) that tell it together.

    The whole answer or its paraphrase; ``wanted``, the fact's object, where it is known; otherwise any name or number
    that only the answer has (runs of capitalised words), and where it has none, its telling words together (those that
    its paraphrase repeats, where these are many).
    """
    found = [(plain(text),) for text in (row.answer, row.answer_paraphrase) if plain(text)]
    if wanted and _inside(wanted, row.answer) and not _inside(wanted, row.prompt):
        return [*found, (plain(wanted),)]
    told = telling(row)
    if named := _runs(row.answer, told):
        return [*found, *((phrase,) for phrase in named)]
    repeated = set(plain(row.answer_paraphrase).split())
    kept = [w for w in told if plain(w.text) in repeated]
    kept = kept if 3 * len(kept) >= len(told) else told  # one word of many that happens to be repeated is no key
    return [*found, tuple(plain(w.text) for w in kept)] if kept else found


def tells(text: str, row: Row, wanted: str = "") -> bool:
    """Whether ``text`` gives away the answer of ``row`` (see ``keys``) and the question itself does not."""
    groups = (g for g in keys(row, wanted) if not all(_inside(phrase, row.prompt) for phrase in g))
    return any(all(_inside(phrase, text) for phrase in group) for group in groups)


def _inside(phrase: str, text: str) -> bool:
    return f" {plain(phrase)} " in f" {plain(text)} "


def _runs(answer: str, told: list[Word]) -> list[str]:
    """Runs of neighbouring telling words with a capital or a digit; a lone capital that opens a sentence is none."""
    found: list[list[Word]] = []
    for word in told:
        if not (word.text[0].isupper() or any(c.isdigit() for c in word.text)):
            continue
        if found and not answer[found[-1][-1].end : word.start].strip(" .'"):
            found[-1].append(word)
        else:
            found.append([word])
    return [plain(" ".join(w.text for w in run)) for run in found if not _opens(answer, run)]


def _opens(answer: str, run: list[Word]) -> bool:
    before = answer[: run[0].start].rstrip()
    alone = len(run) == 1 and not any(c.isdigit() for c in run[0].text)
    return alone and (not before or before[-1] in ".!?")
