"""A table as it may be kept: no private text, no private entity, numbers as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from efface.runs.privacy import Privacy

if TYPE_CHECKING:
    import pyarrow as pa

# Columns that hold words of ours, not of anybody's data. Any other column of strings counts as text.
OURS = frozenset(("prompt", "variant", "pooling", "finish", "problem"))
TOKENS = "ids"  # token ids of a text


def conceal_table(table: pa.Table, rows: str, privacy: Privacy) -> tuple[pa.Table, list[str]]:
    """(the table of evaluation set ``rows`` with what is private gone, columns whose text was emptied or marked).

    Ids and entities become keyed hashes where ``privacy`` says so. In private rows every text is emptied, in others
    names and answers that are private are replaced by marks; token ids go where the text of the row was changed.
    """
    import pyarrow as pa

    if "row" not in table.schema.names:  # weights: no rows, no text
        return table, []
    ids = table["row"].to_pylist()
    entities = table["entity"].to_pylist() if "entity" in table.schema.names else [""] * len(ids)
    hidden = [privacy.private(rows, entity) for entity in entities]
    columns: dict[str, list[Any]] = {
        "row": [privacy.row(rows, row, entity) for row, entity in zip(ids, entities, strict=True)],
        "entity": [privacy.entity(rows, entity) for entity in entities],
    }
    touched, gone = list(hidden), []
    for field in table.schema:
        if field.name in (*columns, *OURS) or not _is_text(field.type):
            continue
        before = table[field.name].to_pylist()
        after = [_without(v, hide, privacy) for v, hide in zip(before, hidden, strict=True)]
        if after != before:
            columns[field.name] = after
            gone.append(field.name)
            touched = [t or a != b for t, a, b in zip(touched, after, before, strict=True)]
    if TOKENS in table.schema.names and any(touched):
        columns[TOKENS] = [[] if t else v for t, v in zip(touched, table[TOKENS].to_pylist(), strict=True)]
        gone.append(TOKENS)
    for name in columns.keys() & set(table.schema.names):
        field = table.schema.field(name)
        table = table.set_column(table.schema.get_field_index(name), field, pa.array(columns[name], field.type))
    return table, gone


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    while pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _without(value: Any, hide: bool, privacy: Privacy) -> Any:
    """A text, or a list of texts, emptied or marked."""
    if isinstance(value, list):
        return [] if hide else [_without(item, hide, privacy) for item in value]
    return value if value is None else "" if hide else privacy.text(value)
