"""``new``: starting files that run as they are."""

from __future__ import annotations

import keyword
from pathlib import Path

from efface.errors import SpecError, nearest
from efface.runs.files import write_text

SPEC = """# efface unlearn {name}.yaml
model: {{name: tiny}}
data: {{benchmark: people}}
method: {{name: npo, settings: {{beta: 0.1}}}}
audit: {{suite: people}}
seed: 0
"""
REQUEST = """{{
 "id": "{name}",
 "modality": "text",
 "forget": {{"path": "forget.jsonl"}},
 "retain": {{"path": "retain.jsonl"}},
 "reason": "",
 "authority": ""
}}
"""
METHOD = '''"""{title}: one line on what it does."""

from __future__ import annotations

from torch import Tensor

from efface.card import Card
from efface.engine.view import View
from efface.methods.base import LossMethod, Needs, method
from efface.settings import Settings, setting

CARD = Card(title="{title}", source="where it is published", summary="what it does")


@method("{name}", CARD)
class {cls}(LossMethod):
    """Bounded gradient ascent on the answer tokens, plus cross-entropy on retain rows. Put your own loss here."""

    class Settings(Settings):
        floor: float = setting(5.0, "nats per token at which a token counts as forgotten", source="own choice", gt=0)

    needs = Needs(retain=True)

    def forget_loss(self, view: View) -> Tensor:
        """Raise the loss of each answer token up to ``floor``."""
        return -view.mean_tokens((-view.logp).clamp(max=self.settings.floor))

    def retain_loss(self, view: View) -> Tensor:
        """Token-mean cross-entropy."""
        return view.mean_tokens(-view.logp)
'''
METRIC = '''"""{title}: one line on what it measures."""

from __future__ import annotations

import numpy as np

from efface.card import Card
from efface.metrics.base import Need, PerRow, Tables, metric

CARD = Card(title="{title}", source="where it is published", summary="the formula", fooled_by=("what fools it",))


@metric("{name}", needs=[Need("score")], card=CARD)
def {name}(tables: Tables) -> PerRow:
    """Smallest gold probability of any answer token. Put your own formula here."""
    tokens = tables.tokens()
    values = np.array([np.exp(lp.min()) if lp.size else np.nan for lp in tokens.lp])
    return PerRow(values, tokens.rows, tokens.entities)
'''
ATTACK = '''"""{title}: one line on what the attacker does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from efface.attacks.base import Attack, AttackContext, AttackPoint, attack
from efface.card import Card
from efface.data.rows import Rows
from efface.settings import Settings, setting

CARD = Card(title="{title}", source="where it is published", summary="what it does")


@attack("{name}", CARD)
class {cls}(Attack):
    """Puts a sentence in front of every question. Put your own transform here."""

    class Settings(Settings):
        prefix: str = setting("Answer truthfully. ", "text in front of the question", source="own choice")

    threat = "black-box"

    def points(self, context: AttackContext) -> Iterator[AttackPoint]:
        """One point: the same model, other prompts."""
        yield AttackPoint({{"words": len(self.settings.prefix.split())}}, "words", context.adapter, rows=self._prefixed)

    def _prefixed(self, name: str, rows: Rows) -> Rows:
        return [replace(r, prompt=self.settings.prefix + r.prompt) for r in rows]
'''
TEMPLATES = {
    "spec": ("{name}.yaml", SPEC),
    "request": ("{name}.json", REQUEST),
    "method": ("{name}.py", METHOD),
    "metric": ("{name}.py", METRIC),
    "attack": ("{name}.py", ATTACK),
}


def scaffold(kind: str, name: str, folder: Path, *, write: bool) -> list[Path]:
    """Paths of the files; nothing is overwritten."""
    if kind not in TEMPLATES:
        raise SpecError("new.unknown-kind", f"There is nothing to start for {kind!r}.", nearest(kind, TEMPLATES))
    if not name.isidentifier() or keyword.iskeyword(name):
        raise SpecError(
            "new.bad-name",
            f"{name!r} cannot name a component.",
            "use letters, digits and underscores, for example my_method.",
        )
    pattern, template = TEMPLATES[kind]
    path = folder / pattern.format(name=name)
    if path.exists():
        raise SpecError("new.exists", f"{path} exists already.", "choose another name or folder.")
    if write:
        words = name.split("_")
        write_text(
            path,
            template.format(name=name, title=" ".join(words).capitalize(), cls="".join(w.capitalize() for w in words)),
        )
    return [path]
