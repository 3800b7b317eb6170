"""The scan of prefixes: hand-made models whose continuations are known, and the tiny bench against one forced pass."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from efface.audit.roles import PassSettings, Role
from efface.audit.store import Store
from efface.data.rows import Row
from efface.metrics.base import METRICS, Need, Tables, compute
from efface.metrics.memorisation import extraction_strength_similar
from efface.models.base import Encoded
from efface.models.packing import Text
from efface.passes.prefix_scan import common, exact, prefix_scan, similar
from efface.passes.registry import PassInput
from efface.testing.bench import bench

END, VOCABULARY = 10, 128
ALPHABET = "abcdefgh"


class Speller:
    """A model of single letters. ``next_letter(what was said so far)`` is its argmax; "\\n" ends the answer."""

    def __init__(self, next_letter: Callable[[str], str]) -> None:
        self.next_letter, self.device, self.pad, self.context, self.stops = next_letter, "cpu", 0, 64, {END}
        self.hf = self
        self.head, self.started = torch.nn.Identity(), []

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.head

    @contextmanager
    def evaluating(self):
        yield

    def encode(self, row: Row, *, prompt: str = "prompt") -> Encoded:
        text = Text(tuple(map(ord, row.prompt)), ((*map(ord, row.answer), END),))
        problem = "" if row.answer else "empty answer"
        return Encoded(row.id, row.entity, text, ("answer",), text.size, len(row.answer) + 1, problem)

    def call(self, *, input_ids, last_prompt, attention_mask, **_):
        said = [
            "".join(map(chr, ids[start + 1 : length]))
            for ids, start, length in zip(
                input_ids.tolist(), last_prompt.tolist(), attention_mask.sum(1).tolist(), strict=True
            )
        ]
        self.started.append(said)
        prompt = last_prompt[0] + 1  # "?" for every row
        letters = [
            [self.next_letter(text[: max(0, t + 1 - prompt)]) for t in range(input_ids.shape[1])] for text in said
        ]
        states = torch.nn.functional.one_hot(torch.tensor([[ord(c) for c in row] for row in letters]), VOCABULARY)
        cache = SimpleNamespace(layers=[object()])  # one that cannot be cut: every step is a forward of its own
        return SimpleNamespace(logits=self.head(states.float()), past_key_values=cache)


def follow(text: str) -> str:
    """The next letter of the alphabet."""
    return (ALPHABET + "\n")[len(text)]


MODELS: dict[str, Callable[[str], str]] = {
    "knows it": follow,
    "knows it from the middle on": lambda t: follow(t) if t.startswith("abcd") else "z",
    "never": lambda t: "z",
    "the first half, then something else": lambda t: follow(t) if len(t) < 4 and ALPHABET.startswith(t) else "z",
    "three letters and the end": lambda t: follow(t) if t in ("", "a", "ab") else "\n",
    "well after one letter, badly after more": lambda t: "x" if t == "a" else follow(t) if t[:2] == "ax" else "z",
}


def scanned(model: Speller, reading: str, *answers: str) -> list[dict]:
    rows = [Row(f"r{i}", answer, "?") for i, answer in enumerate(answers)]
    need = Need("prefix_scan", "forget", variants=(reading,))
    return prefix_scan(PassInput(model, rows, need, lambda role: model, lambda role, need: None)).to_pylist()


@pytest.mark.parametrize(
    ("name", "strict", "loose"),
    [
        ("knows it", 1.0, 1.0),
        ("knows it from the middle on", 0.5, 0.5),
        ("never", 0.0, 0.0),
        ("the first half, then something else", 0.0, 1.0),  # abcdzzzz: 4 of 8 in order
        ("three letters and the end", 0.0, 0.0),  # abc: 3 of 8; after a, bc: 2 of 7; after ab, c: 1 of 6; then nothing
        ("well after one letter, badly after more", 0.0, 7 / 8),  # a, then xcdefgh: 6 of 7
    ],
)
def test_strength_by_hand(name: str, strict: float, loose: float) -> None:
    """The answer is abcdefgh, so n = 8."""
    for reading, value in (("exact", strict), ("similar", loose)):
        (line,) = scanned(Speller(MODELS[name]), reading, ALPHABET)
        assert 1 - line["prefix"] / line["tokens"] == value and line["tokens"] == 8, (name, reading)


def test_a_longer_prefix_may_do_worse() -> None:
    """k = 1 is enough, 2 to 7 are not, so a bisection would miss it."""
    model = Speller(MODELS["well after one letter, badly after more"])
    said = {k: ALPHABET[:k] for k in range(8)}
    for text in said:
        while len(said[text]) < 8:
            said[text] += model.next_letter(said[text])
    good = [k for k, text in said.items() if similar(text[k:], ALPHABET[k:])]
    assert good == [1] and scanned(model, "similar", ALPHABET)[0]["prefix"] == 1


def test_only_rows_that_are_not_satisfied_go_on() -> None:
    """Two rows: one is known at once, the other never; after the first round the second is alone. The empty one is no
    number, and more than is left is never said."""
    model = Speller(follow)
    lines = scanned(model, "exact", "abcd", "zzz", "")
    assert [(line["tokens"], line["prefix"], line["problem"]) for line in lines] == [
        (4, 0, ""),
        (3, 3, ""),
        (0, 0, "empty answer"),
    ]
    assert [sorted(texts) for texts in model.started if all(set(t) <= {"z"} for t in texts)] == [
        ["", ""],
        ["z"],
        ["zz"],
    ]
    assert max(len(text) for texts in model.started for text in texts) == 3


def test_common_subsequence_equals_the_textbook() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        a, b = (rng.integers(0, 4, rng.integers(0, 12)).tolist() for _ in range(2))
        table = np.zeros((len(a) + 1, len(b) + 1), int)
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
        assert common(a, b) == table[-1, -1]


def test_a_reading_decides_as_early_as_it_can_and_never_otherwise() -> None:
    """Half of four: two. What is said later cannot change a decision."""
    assert similar("ab", "abcd") is True and similar("a", "abcd") is None and similar("xyz", "abcd") is False
    assert exact("ab", "abcd") is None and exact("abcd", "abcd") is True and exact("ax", "abcd") is False
    rng = np.random.default_rng(1)
    for _ in range(200):
        said, rest = (rng.integers(0, 3, 7).tolist() for _ in range(2))
        for reading, whole in ((exact, said == rest), (similar, 2 * common(said, rest) >= 7)):
            decided = [reading(said[:t], rest) for t in range(1, 8)]
            assert decided[-1] is whole and {d for d in decided if d is not None} == {whole}


# -- the tiny bench --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("model", "budget"), [("target", 4096), ("reference", 4096), ("reference", 100)])
def test_free_decoding_agrees_with_one_forced_pass(model: str, budget: int) -> None:
    """The exact reading of the scan is extraction_strength, item by item; the similar one is never below it."""
    b = bench("causal_lm")
    rows = [*b.data.eval["forget"][:12], *b.data.eval["retain"][:4], Row("document", b.data.eval["forget"][0].answer)]
    store = Store({"unlearned": Role(lambda: b.model(model))}, {"forget": rows}, PassSettings(token_budget=budget))
    tables = Tables(lambda role, need: store.fetch("unlearned", need), "forget")
    forced = compute(METRICS.get("extraction_strength"), tables, "forget", resamples=20).per_row
    lines = store.fetch("unlearned", Need("prefix_scan", "forget", variants=("exact",))).to_pylist()
    assert {line["row"]: 1 - line["prefix"] / line["tokens"] for line in lines} == pytest.approx(forced)
    loose = extraction_strength_similar(tables)
    assert all(value >= forced[row] - 1e-12 for row, value in zip(loose.rows, loose.values, strict=True))
    if model == "reference":
        assert sum(forced.values()) < loose.values.sum()


def test_a_row_without_an_answer_is_unscored() -> None:
    b = bench("causal_lm")
    rows = [b.data.eval["forget"][0], Row("empty", "", "Where?")]
    store = Store({"unlearned": Role(lambda: b.model("target"))}, {"forget": rows}, PassSettings())
    tables = Tables(lambda role, need: store.fetch("unlearned", need), "forget")
    found = compute(METRICS.get("extraction_strength_similar"), tables, "forget", resamples=20)
    assert (found.value, found.n, found.unscored) == (1.0, 1, 1)
