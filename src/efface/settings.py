"""Typed settings: every value carries its help text and the source it was taken from."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from efface.errors import SpecError, nearest


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
        raise SpecError(
            "spec.bad-value",
            f"{path}: {first['msg']} (got {first.get('input')!r}).",
            f"see `efface show` for the settings of {where or model.__name__}.",
        ) from None


def _siblings(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    """Names that would have been accepted at the place of an unknown key."""
    current: Any = model
    for part in loc[:-1]:
        field = current.model_fields.get(part) if hasattr(current, "model_fields") else None
        current = field.annotation if field is not None else None
        if not (isinstance(current, type) and issubclass(current, BaseModel)):
            return []
    return list(current.model_fields)
