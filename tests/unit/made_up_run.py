"""A made-up run directory, written through the same functions as a real one. Shared by the tests of record, report and
comparison; every number in it is invented."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from made_up_parts import CONCLUSION, PROVENANCE, SPEC, curves, training

from efface.runs.layout import RunDir, write_json, write_text
from efface.runs.privacy import Privacy
from efface.runs.record import RunRecord
from efface.runs.samples import write_sample_rows

KEY = b"k" * 32
ENTITIES = ("Ilvane Torrick", "Maro Quellis", "Sedra Anholt", "Teo Brannoch", "Ysolde Kemp", "Abram Falke")
FACTS = (
    ("Where was {} born?", "in Vallmora"),
    ("Where does {} work?", "at Harrow & Pike"),
    ("Whom did {} marry?", "Lune Adair"),
    ("Where did {} study?", "at Osterhall College"),
)
LEVELS = {
    "target": {"forget": 0.94, "retain": 0.95, "neighbour": 0.93, "world_facts": 0.61},
    "unlearned": {"forget": 0.16, "retain": 0.91, "neighbour": 0.78, "world_facts": 0.60},
    "reference": {"forget": 0.12, "retain": 0.95, "neighbour": 0.92, "world_facts": 0.61},
}
OUTPUTS = {
    "target": ("{gold}",),
    "unlearned": (
        "in a small town near the coast",
        "at the harbour, I believe",
        "a colleague from the same office",
        "at the town school",
    ),
    "reference": ("in Port Sennet", "at the Millgate Press", "Oren Vasht", "at Ferrow Hall"),
}
HASH = "3f9a1c5be07d" + "0" * 52


def make(
    root: Path,
    *,
    seed: int = 0,
    method: str = "npo",
    suite_version: int = 1,
    keep_text: bool = True,
    complete: bool = True,
    shift: float = 0.0,
    texts: Mapping[str, str] | None = None,
    roles: tuple[str, ...] = ("target", "unlearned", "reference"),
    attacks: bool = True,
) -> Path:
    """Write a run below ``root``; its path. ``shift`` moves the unlearned model's forget values; ``texts`` replaces the
    outputs of roles."""
    run = RunDir.create(root, method=method, model="smollm2-135m", spec_hash=HASH, date="2026-09-14")
    write_text(run.spec, SPEC.format(method=method, seed=seed, keep=str(keep_text).lower(), hash=HASH))
    write_json(
        run.request,
        {
            "id": "ticket-4711",
            "reason": "Deletion request under data protection law",
            "authority": "Data protection officer",
            "received": "2026-09-08",
            "due": "2026-09-18",
            "entities": list(ENTITIES),
        },
    )
    record = RunRecord(run)
    rows = list(_rows(seed, shift, roles))
    record.event("stage-started", stage="unlearn")
    write_json(run.training, training(method))
    record.event("stage-done", stage="unlearn", seconds=0.0)
    record.event("stage-started", stage="audit")
    write_json(
        run.scores,
        {
            "schema": 1,
            "suite": "people",
            "suite_version": suite_version,
            "n_forget": 24,
            "notes": [],
            "roles": {r: {} for r in roles},
            "sets": {"forget": 24, "retain": 24, "neighbour": 12, "world_facts": 20},
            "scores": _scores(rows, roles),
        },
    )
    write_json(run.rows, {"schema": 1, "rows": _per_row(rows)})
    for role in roles:
        write_sample_rows(
            run.sample(role), _samples(rows, role, texts or {}), privacy=None if keep_text else Privacy(KEY)
        )
    for curve in curves() if attacks else ():
        headline = curve["metric"] == "probability" and curve["rows"] == "forget"
        name = "curve.json" if headline else f"curve-{curve['metric']}.{curve['rows']}.json"
        write_json(run.curve(curve["attack"]).with_name(name), curve)
    write_json(run.conclusion, CONCLUSION)
    record.event("stage-done", stage="audit", seconds=0.0)
    write_json(run.provenance, PROVENANCE)
    if complete:
        from efface.report import write_reports

        record.complete(lambda: write_reports(run.path))
    record.close()
    return run.path


def _rows(seed: int, shift: float, roles: tuple[str, ...]):
    """(role, set, row, entity, question, gold, rouge)."""
    for role in roles:
        draw = random.Random(f"{seed}{role}")
        for rows, level in LEVELS[role].items():
            for e, entity in enumerate(ENTITIES if rows != "world_facts" else [""] * 5):
                for f, (question, gold) in enumerate(FACTS):
                    moved = shift if (role, rows) == ("unlearned", "forget") else 0.0
                    value = min(1.0, max(0.0, level + moved + draw.uniform(-0.12, 0.12)))
                    yield (
                        role,
                        rows,
                        f"{rows}-{e}-{f}",
                        entity,
                        question.format(entity or "the river Aare"),
                        gold,
                        round(value, 3),
                    )


def _scores(rows: list, roles: tuple[str, ...]) -> list[dict[str, Any]]:
    out = []
    for role in roles:
        for name in ("rouge", "probability"):
            for where in LEVELS[role]:
                found = [r[-1] for r in rows if r[:2] == (role, where)]
                mean = sum(found) / len(found)
                out.append(
                    {
                        "role": role,
                        "name": name,
                        "rows": where,
                        "value": mean,
                        "low": max(0, mean - 0.05),
                        "high": min(1, mean + 0.05),
                        "n": len(found),
                        "unscored": 1 if name == "rouge" and where == "retain" else 0,
                        "version": 1,
                        "reason": "",
                        "direction": "match" if where == "forget" else "higher",
                        "target": None,
                        "extra": {},
                    }
                )
        out += [
            _single(role, "forget_quality", {"target": 2.1e-9, "unlearned": 0.31, "reference": 1.0}[role], "higher"),
            _single(role, "mia_loss", {"target": 0.98, "unlearned": 0.34, "reference": 0.52}[role], "match"),
            _single(role, "privleak", {"target": -95.8, "unlearned": 37.5, "reference": 0.0}[role], "match"),
            {**_single(role, "mia_reference", None, "match"), "reason": "the data has no holdout rows", "n": 0},
        ]
    return out


def _single(role: str, name: str, value: float | None, direction: str) -> dict[str, Any]:
    return {
        "role": role,
        "name": name,
        "rows": "forget",
        "value": value,
        "low": None,
        "high": None,
        "n": 24,
        "unscored": 0,
        "direction": direction,
        "target": None,
        "version": 1,
        "reason": "",
        "extra": {},
    }


def _per_row(rows: list) -> list[dict[str, Any]]:
    keys = dict.fromkeys((r[0], r[1]) for r in rows)
    return [
        {
            "role": role,
            "name": "rouge",
            "rows": where,
            "values": {r[2]: r[-1] for r in rows if r[:2] == (role, where)},
            "entities": {r[2]: r[3] for r in rows if r[:2] == (role, where)},
        }
        for role, where in keys
    ]


def _samples(rows: list, role: str, texts: Mapping[str, str]):
    for r, where, row, entity, question, gold, value in rows:
        if r == role:
            text = (
                texts.get(role, OUTPUTS[role][int(row[-1]) % len(OUTPUTS[role])])
                if where == "forget"
                else "{gold}"
                if value > 0.7
                else "I am not sure."
            )
            yield {
                "row": row,
                "entity": entity,
                "set": where,
                "prompt": question,
                "gold": gold,
                "output": text.replace("{gold}", gold),
                "scores": {"rouge": value},
                "problem": "",
            }
