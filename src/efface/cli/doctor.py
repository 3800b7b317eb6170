"""Say what this machine has, what Efface can use of it, and where the cache is."""

from __future__ import annotations

from efface.cli.console import emit, table
from efface.cli.options import Json


def command(as_json: Json = False) -> int:
    from efface import api

    rows = api.doctor()
    emit(rows, as_json, table(["what", "value", "note"], [[r["what"], r["value"], r["note"]] for r in rows]))
    return 0
