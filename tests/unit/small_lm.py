"""An untrained language model of two blocks and five rows, for tests of what a method touches and refuses."""

from __future__ import annotations

from functools import cache

from efface.data.rows import Row
from efface.models.causal_lm import CausalLM
from efface.models.tiny import build_tokenizer, tiny_model

FORGET = [
    Row("a", "Ada lives in Oslo.", "Where does Ada live?", entity="Ada"),
    Row("b", "Red and blue.", "Which colours does Bob like best of all?", entity="Bob"),
]
RETAIN = [
    Row("c", "Cy lives in Rome.", "Where does Cy live?", entity="Cy"),
    Row("d", "Green.", "Which colour does Dot like?", entity="Dot"),
    Row("e", "Eve sings.", "What does Eve do?", entity="Eve"),
]
SETTINGS = {
    "alt_po": {"answers": 1, "max_new_tokens": 4},
    "llmu": {"answers": 1},
    "opt_ascent": {"answers": 1},
    "task_vector": {"scale": 1.0},
}
"""Settings without which a method cannot run on so few rows."""


@cache
def start(tied: bool = True) -> CausalLM:
    """Width 32; ``tied`` embeddings or a head of its own."""
    tokenizer = build_tokenizer([text for row in FORGET + RETAIN for text in (row.prompt, row.answer)], vocab=320)
    return CausalLM(tiny_model(tokenizer, width=32, layers=2, ff=64, heads=2, seed=1, tied=tied), tokenizer)
