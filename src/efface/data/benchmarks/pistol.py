"""PISTOL: contracts between invented parties as the edges of a graph; whole edges are to be forgotten."""

from __future__ import annotations

from typing import Literal

from efface.card import Card
from efface.data.benchmarks.base import Benchmark, benchmark
from efface.data.checks import check_bundle
from efface.data.columns import text, training_sides
from efface.data.records import Record
from efface.data.rows import Bundle, Row
from efface.data.splits import open_splits
from efface.errors import DataError, nearest
from efface.settings import Settings, setting

HUB = "xinchiqiu/PISTOL"
VARIABLE = "EFFACE_PISTOL"
CARD = Card(
    title="PISTOL: Dataset Compilation Pipeline for Structural Unlearning",
    source="arXiv:2406.16810",
    code="bill-shen-BS/PISTOL (read at 9851fb5)",
    summary="Twenty questions a contract; one contract or several are to be forgotten, those that share a party with "
    "them (neighbour) and those in no way connected to them (independent) are to be kept.",
    confirmed=(
        "columns question, answer, edge; an edge is named after its two parties; 20 questions an edge",
        "edge A_C is the default to forget; factual_data holds general knowledge in the same form",
        "at most 200 rows of a set are scored",
    ),
    derived=("neighbour: shares a party with a forgotten edge; independent: in another component of the graph",),
    tested=("read from the repository's files: 20 edges of 20 rows in sample 1, 75 of 20 in sample 2",),
    fooled_by=("one question belongs to one contract only: nothing is learnt about facts that follow from two",),
)
MOST = 200


@benchmark("pistol", CARD)
class Pistol(Benchmark):
    """Training: the forgotten edges and all others. Evaluation: forget, retain, neighbour, independent, world_facts.

    Row ids are ``pistol:<edge>:<n>``, entities are edges. Raises ``DataError``: the codes of ``open_splits`` and
    ``read_records``, data.missing-field, data.bad-value, pistol.unknown-edge.
    """

    class Settings(Settings):
        sample: Literal[1, 2] = setting(1, "published sample: 1 (20 edges) or 2 (75 edges of growing degree)")
        edges: tuple[str, ...] = setting((), "edges to forget (empty: A_C in sample 1, 0_1 in sample 2)")
        path: str = setting("", f"folder with the files (empty: the variable {VARIABLE}, else {HUB} on the hub)")

    def load(self) -> Bundle:
        """The graph as a checked bundle."""
        chosen = self.settings
        tables = open_splits(chosen.path, VARIABLE, HUB)
        rows = _rows(tables.records("", f"sample_data_{chosen.sample}"))
        edges = list(dict.fromkeys(row.entity for row in rows))
        gone = chosen.edges or (("A_C",) if chosen.sample == 1 else ("0_1",))
        for edge in gone:
            if edge not in edges:
                raise DataError("pistol.unknown-edge", f"There is no edge {edge!r}.", nearest(edge, edges))
        near, joined = neighbours(edges, gone), component(edges, gone)
        train, left_out = training_sides(_of(rows, gone), [r for r in rows if r.entity not in gone])
        kept = train["retain"]
        sets = {
            "forget": train["forget"],
            "retain": kept[:MOST],
            "neighbour": _of(kept, near)[:MOST],
            "independent": tuple(row for row in kept if row.entity not in joined)[:MOST],
        }
        if tables.has("", "factual_data"):
            sets["world_facts"] = _general(tables.records("", "factual_data"))[:MOST]
        degree = {edge: len(neighbours(edges, (edge,))) for edge in gone}
        facts = {"sample": chosen.sample, "edges": list(gone), "neighbours": degree, "source": tables.source}
        facts |= {"left_out": left_out}
        bundle = Bundle("pistol", "text", train, {n: found for n, found in sets.items() if found}, facts=facts)
        check_bundle(bundle)
        return bundle


def parties(edge: str) -> set[str]:
    """The two parties of an edge "A_C"."""
    return set(edge.split("_"))


def neighbours(edges: list[str], gone: tuple[str, ...]) -> set[str]:
    """Edges that share a party with one of ``gone``."""
    named = set().union(*map(parties, gone))
    return {edge for edge in edges if edge not in gone and parties(edge) & named}


def component(edges: list[str], gone: tuple[str, ...]) -> set[str]:
    """Edges that are connected to one of ``gone`` by any path, ``gone`` included."""
    reached, joined = set().union(*map(parties, gone)), set(gone)
    while more := {edge for edge in edges if edge not in joined and parties(edge) & reached}:
        joined |= more
        reached = reached.union(*map(parties, more))
    return joined


def _rows(records: list[Record]) -> tuple[Row, ...]:
    counts: dict[str, int] = {}
    rows = []
    for record in records:
        edge = text(record, "edge")
        number = counts[edge] = counts.get(edge, -1) + 1
        key = f"pistol:{edge}:{number}"
        rows.append(Row(key, text(record, "answer"), text(record, "question"), edge, fact=key))
    return tuple(rows)


def _of(rows: tuple[Row, ...], edges: set[str] | tuple[str, ...]) -> tuple[Row, ...]:
    return tuple(row for row in rows if row.entity in edges)


def _general(records: list[Record]) -> tuple[Row, ...]:
    return tuple(Row(f"pistol:factual:{i}", text(r, "answer"), text(r, "question")) for i, r in enumerate(records))
