"""PCH: three hundred deletion requests one after another: personal, copyrighted, harmful texts, a question to each."""

from __future__ import annotations

import random

from efface.card import Card
from efface.data.benchmarks.base import Benchmark, benchmark
from efface.data.checks import check_bundle
from efface.data.columns import text, training_sides
from efface.data.plans import Plan
from efface.data.published import Folder, Hub, open_published
from efface.data.records import Record
from efface.data.rows import Bundle, Row
from efface.data.splits import SplitFolder
from efface.errors import DataError
from efface.settings import Settings, setting

HUB, HUB_QA = "FITPCH/PCH", "FITPCH/PCH_QA"
VARIABLE = "EFFACE_PCH"
TEMPLATE = "{question}"
CARD = Card(
    title="PCH: Personal, Copyrighted and Harmful texts, forgotten request by request",
    source="arXiv:2601.21682",
    code="XiaoyuXU1/FIT (read at 360a77b)",
    summary="300 texts to forget, 300 to keep, a question and an answer for each. The plan `requests` forgets them in "
    "turns; after t requests the forget side is the first t, the retain side all others.",
    confirmed=(
        "FITPCH/PCH (column text) and FITPCH/PCH_QA (question, answer), 600 rows in one order, the first 300 to forget",
        "scored at 60, 120, ..., 300 requests; S, the reference line and its distance",
    ),
    differs=(
        "one order of requests for texts and questions; the released script shuffles texts, questions and answers one "
        "after the other from one random state, so that they no longer belong together",
    ),
    tested=("no published file was at hand: files of this shape made by the tests",),
    fooled_by=("texts of fifty words: their token accuracy is high in any fluent model",),
)


@benchmark("pch", CARD)
class Pch(Benchmark):
    """Training: texts ``since`` to ``upto`` of the order (forget), all texts from ``upto`` on (retain). Evaluation:
    forget, text_forget (the first ``upto``), retain, text_retain (the others).

    Raises ``DataError``: the codes of ``open_published`` and ``read_records``, data.missing-field, data.bad-value,
    pch.lengths-differ, pch.bad-step.
    """

    template = TEMPLATE

    class Settings(Settings):
        path: str = setting("", f"folder with PCH and PCH_QA (empty: the variable {VARIABLE}, else {HUB} on the hub)")
        requests: int = setting(300, "how many of the texts, from the start, are to be forgotten in all", ge=1)
        since: int = setting(0, "requests that were fulfilled before", ge=0)
        upto: int | None = setting(None, "requests that are fulfilled after this step (none: all)", ge=1)
        every: int = setting(60, "requests of one step of the plan", source="code: scored every 60", ge=1)
        order: int = setting(0, "seed of the order of requests (0: as in the file)", ge=0)

    def load(self) -> Bundle:
        """One step as a checked bundle."""
        chosen = self.settings
        rows = self._items()
        upto = chosen.requests if chosen.upto is None else chosen.upto
        if not chosen.since < upto <= chosen.requests < len(rows):
            raise DataError(
                "pch.bad-step",
                f"since {chosen.since} < upto {upto} <= requests {chosen.requests} < {len(rows)} rows does not hold.",
                "correct these settings.",
            )
        order = list(range(chosen.requests))
        if chosen.order:
            random.Random(f"pch/{chosen.order}").shuffle(order)
        rows = [rows[i] for i in order] + rows[chosen.requests :]
        texts, asked = [t for t, _ in rows], [q for _, q in rows]
        train, left_out = training_sides(texts[chosen.since : upto], texts[upto:])
        sets = {
            "forget": tuple(asked[:upto]),
            "retain": tuple(asked[upto:]),
            "text_forget": tuple(texts[:upto]),
            "text_retain": tuple(texts[upto:]),
        }
        facts = {**chosen.model_dump(mode="json", exclude={"path"}), "template": TEMPLATE, "left_out": left_out}
        bundle = Bundle("pch", "text", train, sets, facts=facts)
        check_bundle(bundle)
        return bundle

    def plans(self) -> dict[str, Plan]:
        """The requests in steps of ``every``."""
        ends = [*range(self.settings.every, self.settings.requests, self.settings.every), self.settings.requests]
        steps = tuple({"since": a, "upto": b} for a, b in zip([0, *ends], ends, strict=False))
        return {"requests": Plan(steps, True, tuple(map(float, ends)), "requests", line=("forget", "retain"))}

    def _items(self) -> list[tuple[Row, Row]]:
        """(text, question) of every item, in file order."""
        found = open_published(self.settings.path, VARIABLE, HUB)
        if isinstance(found, Folder):
            tables = SplitFolder(found.folder)
            texts, asked = (
                tables.records(n, "train") if tables.has(n, "train") else tables.records("", n)
                for n in ("PCH", "PCH_QA")
            )
        else:
            texts, asked = Hub(HUB).records("default"), Hub(HUB_QA).records("default")
        if len(texts) != len(asked):
            raise DataError(
                "pch.lengths-differ",
                f"PCH has {len(texts)} texts and PCH_QA {len(asked)} questions.",
                "use files of one version: rows of the same place belong together.",
            )
        return [_item(i, t, q) for i, (t, q) in enumerate(zip(texts, asked, strict=True))]


def _item(place: int, document: Record, asked: Record) -> tuple[Row, Row]:
    key = f"pch:{place}"
    question = Row(f"{key}:qa", text(asked, "answer"), text(asked, "question"), key, fact=key)
    return Row(f"{key}:text", text(document, "text"), entity=key, fact=key), question
