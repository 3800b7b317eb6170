"""Benchmark: where the data of a run comes from. One file each, for example ``benchmarks/people.py``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from efface.card import Card
from efface.data.rows import Bundle
from efface.registry import Registry
from efface.settings import Settings, parse

BENCHMARKS: Registry[type[Benchmark]] = Registry("benchmark", "efface.data.benchmarks")


class Benchmark(ABC):
    """Base of all benchmarks: settings in, ``Bundle`` out. Same settings, same bundle (``Bundle.digest``).

    ``load`` ends with ``checks.check_bundle``; it raises ``DataError`` for what is wrong with the data.
    """

    name: ClassVar[str]
    card: ClassVar[Card]
    modality: ClassVar[str] = "text"
    template: ClassVar[str] = ""  # format of prompts in the published protocol ("": the model's own)
    pretrained: ClassVar[bool] = False  # what is to be forgotten is what a pretrained model knows: nothing is taught

    class Settings(Settings):
        """Settings of the benchmark."""

    def __init__(self, **settings: Any) -> None:
        self.settings = parse(self.Settings, settings, "benchmark")

    @abstractmethod
    def load(self) -> Bundle:
        """The data, checked."""


def benchmark(name: str, card: Card) -> Callable[[type[Benchmark]], type[Benchmark]]:
    """Register a benchmark class under ``name`` with its Card."""

    def add(cls: type[Benchmark]) -> type[Benchmark]:
        cls.name, cls.card = name, card
        return BENCHMARKS.register(name, cls)

    return add
