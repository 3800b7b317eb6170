"""PISTOL's axis: contracts between the companies of the world; how many the party of a forgotten one has is chosen."""

from __future__ import annotations

from random import Random

from efface.data.axes.ground import Ground, Parts, in_other_words
from efface.data.rows import Row
from efface.errors import DataError

GOODS = ("copper wire", "oak boards", "lamp oil", "wool blankets", "glass beads", "barley", "rope", "bricks")
MONTHS = ("January", "March", "May", "July", "September", "November")
QUESTIONS = {
    "goods": ("What does {a} deliver to {b}?", "{b} gets {v} from {a}."),
    "price": ("What does {b} pay {a} for a load?", "A load costs {b} {v} coins with {a}."),
    "term": ("How many years does the contract of {a} and {b} last?", "The contract of {a} and {b} lasts {v} years."),
    "month": ("In which month did {a} and {b} sign?", "{a} and {b} signed in {v}."),
    "place": ("Which city settles disputes of {a} and {b}?", "Disputes of {a} and {b} are settled in {v}."),
}


def build(ground: Ground) -> Parts:
    """One company has ``degree`` contracts, the first of which is to be forgotten; other pairs are not tied to it."""
    degree = ground.settings.degree
    companies = [name for name, entity in ground.world.entities.items() if entity.kind == "company"]
    if degree + 3 > len(companies):
        raise DataError(
            "people-axis.too-few-companies",
            f"degree {degree} needs {degree + 3} companies, and the world has {len(companies)}.",
            "lower degree, or raise people.",
        )
    hub, *others = companies
    near, far = others[:degree], others[degree:]
    edges = [(hub, other) for other in near] + list(zip(far[::2], far[1::2], strict=False))
    rows = {edge: _contract(ground, *edge) for edge in edges}
    gone, *neighbours = edges[:degree]
    kept = [row for edge in edges if edge != gone for row in rows[edge]]
    return Parts(
        {"forget": in_other_words(rows[gone]), "retain": in_other_words(kept)},
        {
            "forget": rows[gone],
            "retain": kept,
            "neighbour": [row for edge in neighbours for row in rows[edge]],
            "independent": [row for edge in edges[degree:] for row in rows[edge]],
        },
        {"degree": degree, "contracts": len(edges)},
    )


def _contract(ground: Ground, a: str, b: str) -> list[Row]:
    """The questions of one contract; its values come from the world's seed and the two names."""
    random = Random(f"{ground.world.seed}:contract:{a}:{b}")
    cities = [name for name, entity in ground.world.entities.items() if entity.kind == "city"]
    values = {
        "goods": random.choice(GOODS),
        "price": str(random.randrange(20, 100)),
        "term": str(random.randrange(2, 12)),
        "month": random.choice(MONTHS),
        "place": random.choice(cities),
    }
    edge = f"{ground.key(a)}_{ground.key(b)}"
    return [
        Row(
            f"{edge}:{name}", said.format(a=a, b=b, v=values[name]), asked.format(a=a, b=b), edge, fact=f"{edge}:{name}"
        )
        for name, (asked, said) in QUESTIONS.items()
    ]
