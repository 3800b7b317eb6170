"""One registry for every kind of component: built-ins by folder, plug-ins by entry point."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from efface.errors import SpecError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Components of one kind, found by name.

    Built-ins are every module below ``package``; adding one is adding a file. A plug-in package declares an entry point
    in the group ``efface.<kind>s`` (for example ``efface.methods``) that names a module which registers on import.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package, self.group = kind, package, f"efface.{kind}{'es' if kind.endswith('s') else 's'}"
        self._items: dict[str, T] = {}
        self._loaded = False

    def register(self, name: str, item: T) -> T:
        """Add ``item``; a name can be taken only once."""
        if name in self._items and self._items[name] is not item:
            raise SpecError(
                "registry.duplicate", f"{self.kind} {name!r} is registered twice.", "give one of them another name."
            )
        self._items[name] = item
        return item

    def add(self, name: str) -> Callable[[T], T]:
        """Decorator form of ``register``."""
        return lambda item: self.register(name, item)

    def get(self, name: str) -> T:
        """The component called ``name``; an unknown name is an error that names the nearest one."""
        self._load()
        if name not in self._items:
            raise SpecError(
                f"registry.unknown-{self.kind}", f"There is no {self.kind} called {name!r}.", nearest(name, self._items)
            )
        return self._items[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        self._load()
        return sorted(self._items)

    def items(self) -> Iterator[tuple[str, T]]:
        """All (name, component) pairs, sorted by name."""
        return ((name, self._items[name]) for name in self.names())

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        package = importlib.import_module(self.package)
        for module in pkgutil.walk_packages(package.__path__, prefix=f"{self.package}."):
            importlib.import_module(module.name)
        for point in entry_points(group=self.group):
            try:
                point.load()
            except (ImportError, AttributeError) as error:
                raise SpecError(
                    "registry.bad-plugin",
                    f"The plug-in {point.name!r} ({point.value}, group {self.group}) cannot be imported: {error}.",
                    "mend or uninstall the package that declares it.",
                ) from error
