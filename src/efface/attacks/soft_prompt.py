"""Soft-prompt attack: a few free input vectors, trained on some forgotten facts and tested on others."""

from __future__ import annotations

from collections.abc import Iterator

from efface.attacks.base import AttackContext, AttackPoint, attack
from efface.attacks.free_inputs import Rule, around, descend, free_ids, random_targets, start_vectors
from efface.attacks.splits import SplitAttack, SplitSettings, label_tokens
from efface.card import Card
from efface.data.rows import Bundle
from efface.settings import setting

CARD = Card(
    title="Soft prompt (universal embedding suffix)",
    source="evaluation sheet 11 c3 and c4; arXiv:2402.09063 (universal suffix), arXiv:2409.18025",
    code="SchwinnL/LLM_Embedding_Attack",
    summary="Trains k input vectors on the answers to some forgotten questions, with the weights fixed, and asks the "
    "others with the same vectors.",
    confirmed=("vectors start as `!`; sign steps or Adam", "trained and tested facts are disjoint"),
    derived=(
        "step size in units of the spread of the input embeddings",
        "random-target control: a twin trained with the same budget on answers with random tokens in place of what "
        "they tell; random_loss beside gold_loss says how much of the fit is the vectors' own doing",
    ),
    differs=(
        "the vectors stand behind the question, not in front of the whole prompt",
        "a guard stays on: what taking it off shows is another attack",
    ),
    tested=(
        "planted ladder 0, other facts of the same people, answer probability at 0, 10, 30 steps: HeadOnly .44, .60, "
        ".77; Guard .22, .41, .50; SmallLR .07, .28, .43; references .02, .07, .11 and .01, .06, .12",
        "ROUGE-L at 30 steps: HeadOnly .96, Guard .20, SmallLR .38, references .18 and .36",
    ),
    fooled_by=(
        "k vectors carry thousands of bits: the reference under the same attack says what they bring themselves",
    ),
)


@attack("soft_prompt", CARD)
class SoftPrompt(SplitAttack):
    """Measured at rising numbers of steps."""

    class Settings(SplitSettings):
        vectors: int = setting(8, "free input vectors", source="sheet 11: 1-20", ge=1)
        steps: tuple[int, ...] = setting((10, 30), "steps at which is measured", source="derived", min_length=1)
        rule: Rule = setting("adam", "how the vectors move", source="sheet 11 c3, c4")
        rate: float = setting(0.2, "step size in units of the spread of the input embeddings", source="derived", gt=0)
        control: bool = setting(True, "also train the twin with random targets", source="sheet 11 (g)")

    threat = "white-box"
    controls = ("reference", "base")
    version = 2

    def forwards(self, data: Bundle) -> float:
        """Three per training row and step, twice with the control, and the tested rows at every stop."""
        rows = len(self.training(data))
        tested = sum(map(len, self.measured(data).values()))
        return 3.0 * rows * max(self.settings.steps) * (1 + self.settings.control) + 5.0 * tested * (
            1 + len(self.settings.steps)
        )

    def points(self, context: AttackContext) -> Iterator[AttackPoint]:
        """Yields after each number of steps; the vectors move on."""
        chosen, adapter = self.settings, context.adapter
        rows = self.training(context.data)
        ids = free_ids(adapter, chosen.vectors)
        runs, models = [], []
        for twin in range(1 + chosen.control):
            vectors = start_vectors(adapter, chosen.vectors)
            model = around(adapter, {"": ids}, vectors)
            encoded = [model.encode(r) for r in rows]
            encoded = random_targets(model, rows, encoded, context.seed) if twin else encoded
            runs.append(descend(model, encoded, vectors, steps=max(chosen.steps), rate=chosen.rate, rule=chosen.rule))
            models.append((model, vectors))
        supplied = {
            "trained_parameters": chosen.vectors * models[0][1].shape[1],
            "bits": 32.0 * models[0][1].numel(),
            "rows": len(rows),
            "label_tokens": label_tokens(adapter, rows),
            "context_tokens": chosen.vectors,
        }
        for step, slopes in enumerate(zip(*runs, strict=True)):
            if step not in chosen.steps:
                continue
            losses = dict(zip(("gold_loss", "random_loss"), (float(s.loss.mean()) for s in slopes), strict=False))
            fixed = around(adapter, {"": ids}, models[0][1].detach().clone())
            yield AttackPoint({"steps": step}, "steps", fixed, supplied=supplied | losses)
