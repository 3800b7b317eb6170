"""A made-up run directory, written through the same functions as a real one. Shared by the tests of record, report and
comparison; every number in it is invented."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from efface.runs.layout import RunDir, write_json, write_text
from efface.runs.record import RunRecord
from efface.runs.samples import write_sample_rows

KEY = b"k" * 32
ENTITIES = ("Ilvane Torrick", "Maro Quellis", "Sedra Anholt", "Teo Brannoch", "Ysolde Kemp", "Abram Falke")
FACTS = (("Where was {} born?", "in Vallmora"), ("Where does {} work?", "at Harrow & Pike"), ("Whom did {} marry?", "Lune Adair"),
         ("Where did {} study?", "at Osterhall College"))
LEVELS = {"target": {"forget": .94, "retain": .95, "neighbour": .93, "world_facts": .61},
          "unlearned": {"forget": .16, "retain": .91, "neighbour": .78, "world_facts": .60},
          "reference": {"forget": .12, "retain": .95, "neighbour": .92, "world_facts": .61}}
OUTPUTS = {"target": ("{gold}",), "unlearned": ("in a small town near the coast", "at the harbour, I believe", "a colleague from the "
           "same office", "at the town school"), "reference": ("in Port Sennet", "at the Millgate Press", "Oren Vasht", "at Ferrow Hall")}
HASH = "3f9a1c5be07d" + "0" * 52


def make(root: Path, *, seed: int = 0, method: str = "npo", suite_version: int = 1, keep_text: bool = True, complete: bool = True,
         shift: float = 0.0, texts: Mapping[str, str] | None = None, roles: tuple[str, ...] = ("target", "unlearned", "reference"),
         attacks: bool = True) -> Path:
    """Write a run below ``root``; its path. ``shift`` moves the unlearned model's forget values; ``texts`` replaces the
    outputs of roles."""
    run = RunDir.create(root, method=method, model="smollm2-135m", spec_hash=HASH, date="2026-09-14")
    write_text(run.spec, SPEC.format(method=method, seed=seed, keep=str(keep_text).lower(), hash=HASH))
    write_json(run.request, {"id": "ticket-4711", "reason": "Deletion request under data protection law", "authority":
                             "Data protection officer", "received": "2026-09-08", "due": "2026-09-18", "entities": list(ENTITIES)})
    record = RunRecord(run)
    rows = list(_rows(seed, shift, roles))
    with record.stage("unlearn"):
        write_json(run.training, _training(method))
    with record.stage("audit"):
        write_json(run.scores, {"schema": 1, "suite": "people", "suite_version": suite_version, "n_forget": 24, "notes": [],
                                "roles": {r: {} for r in roles}, "sets": {"forget": 24, "retain": 24, "neighbour": 12, "world_facts": 20},
                                "scores": _scores(rows, roles)})
        write_json(run.rows, {"schema": 1, "rows": _per_row(rows)})
        for role in roles:
            write_sample_rows(run.sample(role), _samples(rows, role, texts or {}), keep_text=keep_text, key=KEY)
        for curve in _curves() if attacks else ():
            headline = curve["metric"] == "probability" and curve["rows"] == "forget"
            name = "curve.json" if headline else f"curve-{curve['metric']}.{curve['rows']}.json"
            write_json(run.curve(curve["attack"]).with_name(name), curve)
        write_json(run.conclusion, CONCLUSION)
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
                    value = min(1.0, max(0.0, level + moved + draw.uniform(-.12, .12)))
                    yield role, rows, f"{rows}-{e}-{f}", entity, question.format(entity or "the river Aare"), gold, round(value, 3)


def _scores(rows: list, roles: tuple[str, ...]) -> list[dict[str, Any]]:
    out = []
    for role in roles:
        for name in ("rouge", "probability"):
            for where in LEVELS[role]:
                found = [r[-1] for r in rows if r[:2] == (role, where)]
                mean = sum(found) / len(found)
                out.append({"role": role, "name": name, "rows": where, "value": mean, "low": max(0, mean - .05), "high": min(1, mean + .05),
                            "n": len(found), "unscored": 1 if name == "rouge" and where == "retain" else 0, "version": 1, "reason": "",
                            "direction": "match" if where == "forget" else "higher", "target": None, "extra": {}})
        out += [_single(role, "forget_quality", {"target": 2.1e-9, "unlearned": .31, "reference": 1.0}[role], "higher"),
                _single(role, "mia_loss", {"target": .98, "unlearned": .34, "reference": .52}[role], "match"),
                _single(role, "privleak", {"target": -95.8, "unlearned": 37.5, "reference": 0.0}[role], "match"),
                {**_single(role, "mia_reference", None, "match"), "reason": "the data has no holdout rows", "n": 0}]
    return out


def _single(role: str, name: str, value: float | None, direction: str) -> dict[str, Any]:
    return {"role": role, "name": name, "rows": "forget", "value": value, "low": None, "high": None, "n": 24, "unscored": 0,
            "direction": direction, "target": None, "version": 1, "reason": "", "extra": {}}


def _per_row(rows: list) -> list[dict[str, Any]]:
    keys = dict.fromkeys((r[0], r[1]) for r in rows)
    return [{"role": role, "name": "rouge", "rows": where, "values": {r[2]: r[-1] for r in rows if r[:2] == (role, where)},
             "entities": {r[2]: r[3] for r in rows if r[:2] == (role, where)}} for role, where in keys]


def _samples(rows: list, role: str, texts: Mapping[str, str]):
    for r, where, row, entity, question, gold, value in rows:
        if r == role:
            text = texts.get(role, OUTPUTS[role][int(row[-1]) % len(OUTPUTS[role])]) if where == "forget" else "{gold}" if value > .7 else "I am not sure."
            yield {"row": row, "entity": entity, "set": where, "prompt": question, "gold": gold, "output": text.replace("{gold}", gold),
                   "scores": {"rouge": value}, "problem": ""}


def _training(method: str) -> dict[str, Any]:
    draw = random.Random(1)
    history = [{"event": "step", "step": k, "of": 30, "lr": 1e-4, "forget_nll": .1 + .12 * k + draw.uniform(-.2, .2),
                "retain_nll": .2 + .004 * k + draw.uniform(-.05, .05)} for k in range(1, 31)]
    return {"schema": 1, "method": method, "seconds": 61.4, "steps": 30, "stopped": "", "trained_parameters": 106_203_456,
            "moved_share": .874, "warnings": [], "history": history,
            "stages": {"models": 312.2, "unlearn": 61.4, "audit": 148.9}}


def _points(role: str, axis: str, values: Mapping[float, float], supplied: float = 0) -> list[dict[str, Any]]:
    return [{"budget": {axis: b}, "role": role, "value": v, "low": max(0, v - .06), "high": min(1, v + .06), "n": 12,
             "supplied": {"label_tokens": supplied * b} if supplied and b else {}, "seconds": .4} for b, v in values.items()]


def _curve(attack: str, axis: str, points: list, excess: dict | None, recovered: dict | None, metric: str = "probability",
           rows: str = "forget", **more: Any) -> dict[str, Any]:
    return {"schema": 1, "attack": attack, "axis": axis, "threat": "white-box", "metric": metric, "rows": rows, "points": points,
            "excess": excess, "recovered": recovered, "reason": "", "partial": False, **more}


def _curves() -> list[dict[str, Any]]:
    relearn = [*_points("unlearned", "steps", {0: .16, 1: .24, 3: .38, 8: .55, 16: .63}, 96),
               *_points("reference", "steps", {0: .12, 1: .14, 3: .19, 8: .27, 16: .33}, 96)]
    bits = [*_points("unlearned", "bits", {0: .16, 8: .17, 4: .31, 3: .12}), *_points("reference", "bits", {0: .12, 8: .12, 4: .11, 3: .06}),
            *_points("target", "bits", {0: .94, 8: .94, 4: .83, 3: .31})]
    kept = [*_points("unlearned", "bits", {0: .91, 8: .91, 4: .80, 3: .30}), *_points("target", "bits", {0: .95, 8: .95, 4: .84, 3: .33})]
    words = [*_points("unlearned", "bits", {0: .12, 8: .14, 4: .26, 3: .10}), *_points("reference", "bits", {0: .10, 8: .10, 4: .10, 3: .05})]
    return [_curve("relearn_in_domain", "steps", relearn, {"value": .30, "low": None, "high": None, "at": {"steps": 16}},
                   {"value": .63, "at": {"steps": 16}}),
            _curve("round_weights", "bits", bits, {"value": .20, "low": .11, "high": .29, "at": {"bits": 4}}, {"value": .31, "at": {"bits": 4}}),
            _curve("round_weights", "bits", kept, None, None, rows="retain"),
            _curve("round_weights", "bits", words, None, None, metric="rouge"),
            _curve("relearn_benign", "", [], None, None, reason="there are no benign rows to train on")]


SPEC = """spec:
  model: {{name: smollm2-135m}}
  data: {{benchmark: people}}
  method: {{name: {method}, settings: {{beta: 0.1}}}}
  train: {{lr: 0.0001, steps: 30}}
  seed: {seed}
  keep_text: {keep}
origins: {{method.settings.beta: user --set, train.lr: recipe npo/smollm2-135m}}
hash: {hash}
"""
CONCLUSION = {
    "schema": 1, "label": "concealed",
    "sentences": ["The outputs do not show it, but an attack brings it back: after 16 steps of relearning on related facts, answer "
                  "probability was 0.300 above that of a model that never saw the data.",
                  "Of what was to be kept, the largest loss was on neighbours: 0.930 before, 0.780 after (84% kept).",
                  "With these 24 forget rows, a residue under about 12% of the difference between target and reference would be missed."],
    "findings": [
        {"kind": "residue", "name": "residue: rouge", "says": "ROUGE on the forget set: unlearned 0.160, reference 0.120, target 0.940; "
         "difference to the reference +0.040 [-0.010, +0.090].", "flag": False, "p": .06, "share": .05,
         "evidence": {"value": .04, "low": -.01, "high": .09, "p": .06, "n": 24, "unit": "entities"}},
        {"kind": "recovery", "name": "recovery: relearn_in_domain", "says": "relearn_in_domain at steps 16: probability +0.300 above the "
         "reference under the same attack [+0.210, +0.390], p = 0.004 after correcting for 4 points.", "flag": True, "p": .004,
         "share": .37, "evidence": {"value": .30, "low": .21, "high": .39, "p": .001, "n": 12, "unit": "entities", "budget": {"steps": 16}}},
        {"kind": "utility", "name": "utility: rouge.neighbour", "says": "rouge on neighbour rows: 0.930 before, 0.780 after (84% kept).",
         "flag": False, "p": None, "share": .16, "evidence": {"before": .93, "after": .78}}],
    "limits": ["relearn_benign: there are no benign rows to train on.",
               "Only the model was examined: logs, caches, indexes, back-ups and other models trained on the data were not."],
    "power": "With these 24 forget rows, a residue under about 12% of the difference between target and reference would be missed."}
PROVENANCE = {
    "schema": 1, "efface": "0.1.0", "python": "3.12.4", "platform": "Linux-6.8-x86_64", "packages": {"torch": "2.11.0", "transformers": "5.17.0"},
    "git": {"commit": "9f2c41d07be1a5c3", "dirty": True}, "seeds": {"run": 0}, "models": {"target": {"origin": "trained"}, "reference":
    {"origin": "trained"}}, "fingerprints": {"target": "a1" * 32, "unlearned": "b2" * 32, "reference": "c3" * 32},
    "data": {"name": "people", "sha256": "d4" * 32}, "hardware": {"machine": "x86_64", "processor": "AMD EPYC", "cores": 2,
    "memory_gib": 15.6}, "threads": {"torch": 2}, "memory": {"ram": 3120.5}, "command": "efface demo"}
