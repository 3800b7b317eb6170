"""Typed settings: every value carries its help text and the source it was taken from."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from efface.errors import SpecError, nearest

LIMITS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "min_length": "length >=", "max_length": "length <="}


class Settings(BaseModel):
    """Base of all settings. Unknown keys are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def setting(default: Any, help: str, *, source: str = "", **limits: Any) -> Any:
    """One setting: default, one-line help, and where the default comes from (paper section, code, derived)."""
    return Field(default, description=help, json_schema_extra={"source": source}, **limits)


def describe(model: type[BaseModel]) -> list[dict[str, Any]]:
    """Rows of the documentation table of a settings model."""
    rows = []
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        default = field.get_default(call_default_factory=True)
        rows.append(
            {"name": name, "default": default, "help": field.description or "", "source": extra.get("source", "")}
        )
    return rows


def parse(model: type[BaseModel], values: dict[str, Any], where: str) -> Any:
    """Validate ``values``; an unknown or malformed key is a ``SpecError`` naming the nearest known one."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in (where, *first["loc"]) if str(part))
        if first["type"] == "extra_forbidden":
            known = _siblings(model, first["loc"])
            raise SpecError(
                "spec.unknown-setting", f"{path} is not a setting.", nearest(str(first["loc"][-1]), known)
            ) from None
        got = repr(first.get("input"))
        raise SpecError(
            "spec.bad-value",
            f"{path}: {first['msg']} (got {got if len(got) <= 200 else f'{got[:200]}...'}).",
            _allowed(model, first["loc"]) if first["loc"] else "give a mapping, one `name: value` for each setting.",
        ) from None


def _allowed(model: type[BaseModel], loc: tuple[Any, ...]) -> str:
    """What a setting is, in its own words, with its limits and default."""
    name, field = _field(model, loc)
    if field is None:
        return "correct it as the message says."
    signs = [(m, limit, sign) for m in field.metadata for limit, sign in LIMITS.items() if hasattr(m, limit)]
    limits = [f"{sign} {getattr(m, limit)}" for m, limit, sign in signs]
    if choices := [repr(value) for kind in _parts(field.annotation) for value in _choices(kind)]:
        limits.append(f"one of {', '.join(choices)}")
    default = field.get_default(call_default_factory=True)
    plain = [] if field.is_required() or isinstance(default, BaseModel) else [f"default {default!r}"]
    told = ", ".join([*limits, *plain])
    return f"{name} is: {field.description or field.annotation}" + (f" ({told})." if told else ".")


def _field(model: type[BaseModel], loc: tuple[Any, ...]) -> tuple[str, Any]:
    """(name, field) at the place of a bad value: the last part of ``loc`` that names one; None if none does."""
    found: tuple[str, Any] = ("", None)
    current: Any = model
    for part in loc:
        field = current.model_fields.get(part) if current is not None else None
        if field is not None:
            found = (str(part), field)
            nested = (kind for kind in _parts(field.annotation) if isinstance(kind, type))
            current = next((kind for kind in nested if issubclass(kind, BaseModel)), None)
    return found


def _parts(annotation: Any) -> list[Any]:
    """``annotation`` and everything it is made of."""
    return [annotation, *(inner for part in get_args(annotation) for inner in _parts(part))]


def _choices(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _siblings(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    """Names that would have been accepted at the place of an unknown key."""
    current: Any = model
    for part in loc[:-1]:
        field = current.model_fields.get(part) if hasattr(current, "model_fields") else None
        current = field.annotation if field is not None else None
        if not (isinstance(current, type) and issubclass(current, BaseModel)):
            return []
    return list(current.model_fields)
