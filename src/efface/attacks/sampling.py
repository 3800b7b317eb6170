"""Sampling attack: ask again and again at a temperature, and count each row with its best answer."""

from __future__ import annotations

from collections.abc import Iterator

from efface.attacks.base import Attack, AttackContext, AttackPoint, attack
from efface.card import Card
from efface.data.rows import Bundle
from efface.engine.seeds import derive
from efface.passes.generate import GenerateSettings
from efface.settings import Settings, setting

CARD = Card(
    title="Best of n samples",
    source="evaluation sheet 11 c8 (sampled decoding, best of n)",
    summary="Draws n answers per question at a temperature; each row counts with its best so far. Greedy answers can "
    "hide what a sample in ten still tells.",
    confirmed=("sheet 11 (h): the maximum is compared with the same maximum of the reference",),
    derived=("n up to 16, temperature 1",),
    tested=(
        "tiny ladder, seed 0, ROUGE greedy and best of 8: HeadOnly .15 -> .55, references .33 -> .52 and .37 -> .51: "
        "sampling ends its refusals, but with answers this alike no excess shows",
        "ladder, five seeds: Hesitant flagged in 4 (+.18 beyond R1), R2 and R3 in none",
    ),
    fooled_by=(
        "best of many rises for any model: only the excess over the reference counts",
        "scores that read log-probs (probability) do not see samples: read it with a score of generated text (rouge)",
    ),
)


@attack("sampling", CARD)
class Sampling(Attack):
    """Points at 1, 4, 16 ... samples: each is the best of the greedy answer and so many samples."""

    class Settings(Settings):
        samples: int = setting(16, "answers drawn per question", source="derived", ge=1)
        temperature: float = setting(1.0, "sampling temperature", source="the model's own distribution", gt=0)
        top_k: int = setting(0, "sample from the k most likely tokens only; 0 = all", ge=0)

    threat = "black-box"
    reads = "rouge"
    controls = ("reference",)
    families = ("causal_lm",)

    def forwards(self, data: Bundle) -> float:
        """Every measured row for every sample."""
        return 5.0 * sum(map(len, self.measured(data).values())) * (1 + self.settings.samples)

    def points(self, context: AttackContext) -> Iterator[AttackPoint]:
        """Sample after sample, each with its own seed; a row's sample depends on the seed and its id alone."""
        for n in range(1, self.settings.samples + 1):
            decoding = GenerateSettings(
                temperature=self.settings.temperature,
                top_k=self.settings.top_k,
                seed=derive(context.seed, "sampling", n),
            )
            quiet = n not in (1, 4, 16, 64) and n < self.settings.samples
            yield AttackPoint(
                {"samples": n},
                "samples",
                context.adapter,
                decoding=decoding,
                best=True,
                quiet=quiet,
                scores_as_before=True,
            )
