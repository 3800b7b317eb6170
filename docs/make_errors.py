"""Writes docs/errors.md from the source: every place that makes an error, with its code, cause and fix. Nothing is run.

``python docs/make_errors.py`` writes the page, ``--check`` says whether it is up to date.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src" / "efface"
BASE = "EffaceError"
SHORT = 24  # a calculation up to so many characters is shown as it is
INTRO = """# Errors

Generated from the source by `python docs/make_errors.py`.

What Efface refuses, and what makes a run fail, has a code that does not change, a cause and a fix. The command line
prints all three and no traceback; with `--json` it prints the keys `error`, `cause` and `fix`; in Python they are
`error.code`, `error.cause` and `error.fix` of an `efface.errors.EffaceError`. The exit code is 1 where the user has to
fix something, and 2 where the run itself failed. Words in {braces} stand for what the message names.

| class | what is wrong | exit code |
|---|---|---|
"""
AREAS = {
    "artifact": "What a method left behind",
    "attack": "Attacks",
    "audit": "Auditing a model that exists already",
    "bench": "Tables of methods",
    "cache": "The cache folder",
    "cli": "The command line",
    "compare": "Comparing runs",
    "data": "Data files",
    "disk": "Space on the disk",
    "efface": "Defects",
    "images": "Image data",
    "idx": "Image files in IDX format",
    "list": "Listing components",
    "method": "Methods",
    "model": "Models, tokenizers and templates",
    "new": "Starting files",
    "os": "The operating system",
    "people": "The built-in fictitious world",
    "recipe": "Recipes",
    "record": "Run directories",
    "reference": "Reference models",
    "registry": "Names of components",
    "report": "Reports",
    "request": "Forget requests",
    "show": "Showing components",
    "spec": "Specs and settings",
    "suite": "Suites",
    "tampering": "What attacks may change of a model",
    "testing": "The conformance battery",
    "tofu": "TOFU",
    "train": "Training",
}


@dataclass(frozen=True)
class Place:
    """One place in the source that makes an error."""

    code: str
    kind: str
    cause: str
    fix: str
    file: str

    @property
    def area(self) -> str:
        """What stands before the dot."""
        return self.code.split(".")[0]


class Module:
    """One file, read and not run."""

    def __init__(self, path: Path, root: Path = SOURCE) -> None:
        self.path, self.root = path, root
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}

    @cached_property
    def constants(self) -> dict[str, ast.expr]:
        """Values of names that the file assigns at its top."""
        found: dict[str, ast.expr] = {}
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                found[node.targets[0].id] = node.value
        return found

    @cached_property
    def imported(self) -> dict[str, Path]:
        """Name -> file of this package that it is imported from."""
        found = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{self.root.name}."):
                path = self.root.joinpath(*str(node.module).split(".")[1:])
                path = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
                found |= {alias.asname or alias.name: path for alias in node.names if path.is_file()}
        return found

    def places(self, kinds: dict[str, int], package: dict[Path, Module]) -> Iterator[Place]:
        """Every call that makes one of the classes ``kinds``; once for each value of what its function is handed."""
        file = str(self.path.relative_to(self.root.parent))
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call) and (kind := _called(node)) in kinds:
                given = dict(zip(("code", "cause", "fix"), node.args, strict=False))
                given |= {word.arg: word.value for word in node.keywords if word.arg}
                parts = [*given.values(), *(n for n in ast.walk(given["code"]) if isinstance(n, ast.Name))]
                handed = [name for value in parts if (name := self._parameter(value, node))]
                for words in self._callers(node, handed, package) if handed else [{}]:
                    said = {k: self.text(v, node, words) for k, v in given.items()}
                    yield Place(said["code"], kind, said.get("cause", ""), said.get("fix", ""), file)

    def _parameter(self, value: ast.expr, node: ast.AST) -> str:
        """The name of the parameter of the function around ``node`` that ``value`` is ("" if it is none)."""
        function = self._function(node)
        names = [a.arg for a in function.args.args] if function else []
        return value.id if isinstance(value, ast.Name) and value.id in names else ""

    def _callers(self, node: ast.AST, handed: list[str], package: dict[Path, Module]) -> list[dict[str, str]]:
        """What the callers of the function around ``node`` pass for the parameters ``handed``, and their defaults."""
        function = self._function(node)
        assert function is not None
        names = [a.arg for a in function.args.args]
        defaults = dict(zip(reversed(names), reversed(function.args.defaults), strict=False))
        found = []
        for module in (m for m in package.values() if m is self or m.imported.get(function.name) == self.path):
            for call in (n for n in ast.walk(module.tree) if isinstance(n, ast.Call) and _called(n) == function.name):
                passed = dict(zip(names, call.args, strict=False)) | {w.arg: w.value for w in call.keywords if w.arg}
                words = {k: module.text(passed[k], call) for k in handed if k in passed}
                words |= {k: self.text(defaults[k], self.tree) for k in handed if k not in passed and k in defaults}
                found.append(words)
        return found or [{}]

    def text(self, value: ast.expr, node: ast.AST, words: Mapping[str, str] = MappingProxyType({})) -> str:
        """What ``value`` says, with ``{name}`` for what is only known when it runs. ``words``: names that are known."""
        if isinstance(value, ast.Constant):
            return str(value.value)
        if isinstance(value, ast.JoinedStr):
            return "".join(self.text(part, node, words) for part in value.values)
        if isinstance(value, ast.FormattedValue):
            return self.text(value.value, node, words)
        if isinstance(value, ast.BinOp):
            return self._joined(value, node)
        if isinstance(value, ast.IfExp):
            both = dict.fromkeys(self.text(v, node, words) for v in (value.body, value.orelse))
            return " or ".join(filter(None, both))
        if isinstance(value, ast.Name) and value.id in words:
            return words[value.id]
        if isinstance(value, ast.Call):
            return "{the nearest known name, and all of them}" if _called(value) == "nearest" else _name(value)
        return self._known(value, node) if isinstance(value, ast.Name) else _name(value)

    def _joined(self, value: ast.BinOp, node: ast.AST) -> str:
        """Two texts one after the other, two parts of a path, or one figure worked out of two."""
        texts = any(isinstance(n, ast.JoinedStr) or _is_text(n) for n in ast.walk(value))
        if isinstance(value.op, ast.Add) and texts:
            return self.text(value.left, node) + self.text(value.right, node)
        if isinstance(value.op, ast.Div) and (texts or isinstance(value.right, ast.Name)):
            return f"{self.text(value.left, node)}/{self.text(value.right, node)}"
        figure = ast.unparse(value).replace("self.", "").replace("_", " ")
        return f"{{{figure}}}" if len(figure) <= SHORT else _name(value)

    def _known(self, value: ast.Name, node: ast.AST) -> str:
        """A name that stands for a text: assigned in the same function, at the top of this file or of another one."""
        function = self._function(node)
        for other in ast.walk(function) if function else ():
            if isinstance(other, ast.Assign) and any(_is(t, value.id) for t in other.targets):
                if isinstance(other.value, ast.Constant | ast.JoinedStr | ast.BinOp | ast.IfExp):
                    return self.text(other.value, node)
        if value.id in self.constants:
            return self.text(self.constants[value.id], self.tree)
        if value.id in self.imported and value.id.isupper():
            there = Module(self.imported[value.id], self.root)
            if value.id in there.constants:
                return there.text(there.constants[value.id], there.tree)
        return _name(value)

    def _function(self, node: ast.AST) -> ast.FunctionDef | None:
        while node in self.parents and not isinstance(node, ast.FunctionDef):
            node = self.parents[node]
        return node if isinstance(node, ast.FunctionDef) else None


def classes(root: Path = SOURCE) -> dict[str, tuple[str, int]]:
    """Error classes of errors.py: name -> (what it says of itself, exit code)."""
    found: dict[str, tuple[str, int]] = {}
    for node in Module(root / "errors.py", root).tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        bases = [b.id for b in node.bases if isinstance(b, ast.Name)]
        if node.name != BASE and not set(bases) & set(found):
            continue
        codes = [n.value.value for n in node.body if isinstance(n, ast.Assign) and _is(n.targets[0], "exit_code")]
        inherited = next((found[b][1] for b in bases if b in found), 1)
        says = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")
        found[node.name] = says, int(codes[0]) if codes else inherited
    return found


def places(root: Path = SOURCE) -> list[Place]:
    """Every place of the package that makes an error, by code and file."""
    kinds = {name: code for name, (_, code) in classes(root).items()}
    package = {path: Module(path, root) for path in sorted(root.rglob("*.py")) if path.name != "errors.py"}
    found = {place for module in package.values() for place in module.places(kinds, package)}
    return sorted(found, key=lambda p: (p.code, p.file, p.cause, p.fix))


def page(root: Path = SOURCE) -> str:
    """The whole page."""
    known, found = classes(root), places(root)
    lines = [INTRO + "\n".join(f"| `{name}` | {says} | {code} |" for name, (says, code) in known.items()), ""]
    for area in sorted({place.area for place in found}):
        lines += [f"## {area}", "", *([f"{AREAS[area]}.", ""] if area in AREAS else [])]
        lines += ["| code | class | cause | fix | made in |", "|---|---|---|---|---|"]
        here = (place for place in found if place.area == area)
        lines += [f"| `{p.code}` | {p.kind} | {_cell(p.cause)} | {_cell(p.fix)} | `{p.file}` |" for p in here] + [""]
    return "\n".join(lines).rstrip() + "\n"


def _called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")


def _is(target: ast.expr, name: str) -> bool:
    return isinstance(target, ast.Name) and target.id == name


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _name(value: ast.expr) -> str:
    """``{word}`` for an expression: the last name in it."""
    names = [n.attr if isinstance(n, ast.Attribute) else n.id for n in ast.walk(value) if _named(n)]
    plain = isinstance(value, ast.Name | ast.Attribute)
    word = (names[0] if plain and names[0] != "__name__" else names[-1]) if names else "value"
    kind = "class of " if "__name__" in names else ""
    count = "number of " if isinstance(value, ast.Call) and _called(value) == "len" else ""
    return f"{{{kind}{count}{word.strip('_').replace('_', ' ')}}}"


def _named(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute | ast.Name) and not (
        isinstance(node, ast.Name) and node.id in ("self", "type")
    )


def _cell(text: str) -> str:
    """One cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    path, text = HERE / "errors.md", page()
    if "--check" in sys.argv:
        sys.exit(None if path.is_file() and path.read_text(encoding="utf-8") == text else "out of date: errors")
    path.write_text(text, encoding="utf-8")
