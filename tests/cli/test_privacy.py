"""A run that keeps no text: its directory names nobody who was forgotten, and its numbers can still be checked."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pyarrow.feather as feather

from efface.audit.rederive import verify_run
from efface.data.benchmarks.people import People
from efface.runs import manifest
from efface.runs.files import write_json
from tests.cli.conftest import SMALL

ASKED = {"people": 8, "world_facts": False, "everyday": False}


def lower(data: dict) -> None:
    """The unlearned model's ROUGE on the forget set, which reads answers, says less."""
    for score in data["scores"]:
        if (score["role"], score["name"], score["rows"]) == ("unlearned", "rouge", "forget"):
            score.update(value=score["value"] / 2, low=score["low"] / 2)


FORGED = {
    "scores.json": lower,
    "conclusion.json": lambda data: data.update(label="erased" if data["label"] != "erased" else "concealed"),
}


def contents(run: Path) -> Iterable[tuple[str, str]]:
    """(file, all its text) of everything in a run but its model folder, whose tokenizer holds words."""
    for path in sorted(p for p in run.rglob("*") if p.is_file() and "model" not in p.relative_to(run).parts[:1]):
        data = path.read_bytes()
        if path.suffix == ".arrow":
            table = feather.read_table(path)
            data += json.dumps([table.to_pydict(), str(table.schema)], ensure_ascii=False).encode()
        yield str(path.relative_to(run)), data.decode("utf-8", "replace")


def found(run: Path, secrets: Iterable[str]) -> list[tuple[str, str]]:
    """(file, what it should not hold)."""
    files = [(name, text.casefold()) for name, text in contents(run)]
    return [(name, secret) for name, text in files for secret in secrets if secret.casefold() in text]


def test_a_run_without_text_names_nobody(cli, run: Path, tmp_path: Path) -> None:
    """Names and answers of the forgotten and held-out people are nowhere, also not in what others say of them; the demo
    that keeps text shows that they would be found. ``verify`` computes the same numbers again."""
    code, out, err = cli(
        "unlearn", "--benchmark", "people", "--suite", "people", "--model", "tiny", "--method", "npo", "--json",
        "--out", str(tmp_path), *SMALL, "--set", "audit.attacks=[round_weights]",
        "--set", "data.world_facts=false", "--set", "data.everyday=false",
    )  # fmt: skip
    assert code in (0, 3), err
    quiet = Path(json.loads(out)["run"])
    data = People(**ASKED).load()
    hidden = [row for name in ("forget", "holdout") for row in data.eval[name]]
    secrets = {r.entity for r in hidden} | {t for r in hidden for t in (r.answer, r.prompt, r.answer_paraphrase)}
    mentioned = {r.id for r in data.eval["retain"] if any(h.entity in r.answer for h in hidden)}
    assert mentioned and len(secrets) > 40  # kept rows speak of forgotten people: these must be marked
    assert found(quiet, secrets) == []
    shown = {name.split("/")[0] for name, _ in found(run, secrets)}
    assert {"rows.json", "tables", "samples", "report.html"} <= shown

    rows = [r for r in json.loads((quiet / "rows.json").read_text())["rows"] if r["rows"] == "forget"]
    kept = [r for r in json.loads((run / "rows.json").read_text())["rows"] if r["rows"] == "forget"]
    assert len(set(rows[0]["entities"].values())) == len(set(kept[0]["entities"].values())) == 2
    code, out, _ = cli("verify", str(quiet), "--json")
    checked = json.loads(out)
    assert code == 0 and checked["findings"] == [] and checked["rederived"] > 40 and checked["not_rederived"] > 0
    assert checked["conclusion"] == "derived again"
    for name, change in FORGED.items():  # a mean whose text is concealed must be that of its rows
        data = json.loads((quiet / name).read_text())
        before = json.dumps(data)
        change(data)
        write_json(quiet / name, data)
        manifest.write(quiet)
        assert verify_run(quiet)["findings"], name
        write_json(quiet / name, json.loads(before))
    samples = (quiet / "samples" / "target.jsonl").read_text()
    assert "hmac-sha256:" in samples and "[hidden:" in samples
