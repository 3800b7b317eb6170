"""Relearning attack: a few steps of fine-tuning, and a look at what comes back that was not trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from efface.attacks.bare import bare
from efface.attacks.base import Attack, AttackContext, AttackPoint, attack
from efface.attacks.held_out import Split, overlap, split
from efface.attacks.relearn_rows import attack_rows
from efface.attacks.training import Course, worst_case
from efface.card import Card
from efface.data.reading import read_rows
from efface.data.rows import Bundle, Row, Rows, digest_rows
from efface.engine.settings import Select, TrainSettings
from efface.passes.score import score
from efface.settings import Settings, setting

__all__ = ["Relearn", "overlap"]

CARD = Card(
    title="Relearning",
    source="arXiv:2406.13356 (benign relearning), arXiv:2410.08827 (RTT: train on some facts, test on others), "
    "arXiv:2510.07626 (out-of-domain fine-tuning), arXiv:2602.03379 (similar wording brings back more than topic)",
    summary="Fine-tunes on data that does not hold the tested answers and measures how fast they return, against a "
    "model that never knew them.",
    confirmed=(
        "train, validation and test facts are disjoint",
        "equal steps, batch, optimizer and rows for unlearned and reference model",
    ),
    derived=(
        "default learning rate: a fifth of the one that taught the target, with LoRA that rate itself",
        "`sweep`: the worst case is the rate with the highest answer probability on the validation facts at any stop; "
        "each model is attacked with its own worst rate, chosen in the same way",
        "validation facts belong to entities that are not tested where four or more are forgotten, else to tested ones",
        "benign rows: retain rows that name no forgotten entity and give no tested answer away",
        "similarity of questions (`order`): word n-grams (n = 1 to 3, names and function words among them) shared with "
        "the nearest forgotten question, of all that either has; ties in row order",
        "out of domain: retain questions with each other's answers, thirty everyday questions of our own, or a file; "
        "the papers use GSM8K, SST-2, MNLI or AG News, which are downloads",
        "a model with something around it (instruction, logit bias, LoRA adapter) is attacked behind it: the guard is "
        "taken off and the adapter merged before the first step. What that alone shows is the curve of `remove_guard`",
    ),
    differs=("what is called all weights leaves out embeddings and output head, which stay as they are",),
    tested=(
        "tiny ladder, seed 0, forget probability at 0 and 16 steps, in_domain: SmallLR .07 -> .87, HeadOnly "
        ".44 -> .98, references .01 -> .11 and .02 -> .11; with LoRA .07 -> .84, .44 -> .97, .01 -> .12, .02 -> .12",
        "benign: SmallLR .10 -> .31, HeadOnly .44 -> .51, references .01 -> .01 and .02 -> .02. shuffled: SmallLR "
        ".10 -> .20, HeadOnly .44 -> .51, references unmoved. everyday: nothing comes back (a tiny tokenizer knows "
        "none of its words)",
    ),
    fooled_by=(
        "a rate that is too low finds nothing, one that is too high destroys the memory: use `sweep`",
        "answers that training facts imply: only a bundle whose facts are independent tests residue alone",
    ),
)


@attack("relearn", CARD)
class Relearn(Attack):
    """``in_domain``: half of the forgotten facts of every entity, tested on the other half. ``benign``: retain rows
    only. ``out_of_domain``: text about none of them."""

    class Settings(Settings):
        data: Literal["in_domain", "benign", "out_of_domain"] = setting(
            "in_domain", "what the attacker trains on", source="evaluation sheet 11 c1"
        )
        unrelated: Literal["shuffled", "everyday"] = setting(
            "shuffled",
            "out_of_domain: shuffled (retain questions, others' answers) or everyday (thirty questions of our own)",
            source="sheet 11 (g): shuffled retain text",
        )
        path: str = setting(
            "", "file with the rows to train on, instead of the bundle's; refused if it tells the answers"
        )
        rows: int = setting(
            0, "most rows the attacker has, chosen as `order` says (0: all)", source="sheet 11: 1, 5, 10, 50", ge=0
        )
        order: Literal["spread", "similar"] = setting(
            "spread",
            "which rows: spread (evenly), or benign rows whose questions are most similar to the forgotten ones first",
            source="arXiv:2602.03379",
        )
        steps: tuple[int, ...] = setting(
            (1, 3, 8, 16),
            "optimizer steps at which is measured",
            source="sheet 11: 0..60; short for two cores [derived]",
            min_length=1,
        )
        batch_size: int = setting(8, "rows per step", source="arXiv:2406.13356", ge=1)
        lr: float | None = setting(
            None,
            "learning rate (none: a fifth of the target's own, with LoRA the target's own; where that is unknown 5e-5 "
            "and 2e-4)",
            source="derived; 2e-4: arXiv:2406.13356",
        )
        sweep: tuple[float, ...] = setting(
            (),
            "factors on the rate; the worst case is chosen on validation facts (none: the rate itself, no validation)",
            source="sheet 11 (h): {1e-5, 5e-5, 2e-4}, which is 0.2, 1, 4 times 5e-5",
        )
        lora: bool = setting(
            False, "train a LoRA adapter instead of all weights (but embeddings and output head, which stay fixed)"
        )
        test_share: float = setting(
            0.5, "in_domain: share of each entity's facts that is held out, never trained", source="RTT", gt=0, lt=1
        )
        validation_share: float = setting(
            0.2, "sweep: share of entities, or of held-out facts, that choose the rate and are not tested", gt=0, lt=1
        )

    threat = "white-box"
    controls = ("reference", "base")
    families = ("causal_lm",)
    version = 3

    def measured(self, data: Bundle) -> dict[str, Rows]:
        """Only facts that are neither trained nor used to choose the rate."""
        return {"forget": self.parts(data).rows("test", data.eval["forget"])}  # type: ignore[arg-type]

    def parts(self, data: Bundle) -> Split:
        """Facts that are trained, that choose the rate and that are tested."""
        chosen = self.settings
        return split(
            data.eval["forget"],  # type: ignore[arg-type]
            test_share=chosen.test_share if chosen.data == "in_domain" else 1.0,
            validation_share=chosen.validation_share if chosen.sweep else 0.0,
        )

    def check(self, data: Bundle) -> str:
        """In-domain needs at least two facts per entity, a sweep also one for validation; benign needs retain rows."""
        if "forget" not in data.eval or not self.measured(data)["forget"]:
            return "no fact is left to be tested"
        if self.settings.sweep and not self.parts(data).validation:
            return "no fact is left for validation (relearn.sweep)"
        if self.settings.order == "similar" and not (self.settings.data == "benign" and self.settings.rows):
            return "relearn.order: similar chooses among benign rows, so data must be benign and rows say how many"
        if self.settings.path and self.settings.data == "in_domain":
            return "relearn.path goes with benign or out_of_domain data: forgotten facts come from the bundle"
        if self.settings.path:
            read_rows(self.settings.path)  # a file that cannot be read is the user's to mend, now
            return ""
        return "" if self._rows(data) else f"there are no {self.settings.data} rows to train on"

    def key(self) -> str:
        """Hash of the file's rows, where one is named."""
        return digest_rows(read_rows(self.settings.path)) if self.settings.path else ""

    def forwards(self, data: Bundle) -> float:
        """Three per trained row and step, for every rate; validation and tested rows at every stop."""
        parts, forget, stops = self.parts(data), data.eval["forget"], len(self.settings.steps)
        validation, tested = (len(parts.rows(name, forget)) for name in ("validation", "test"))  # type: ignore[arg-type]
        trained = 3.0 * max(self.settings.steps) * self.settings.batch_size + validation * stops
        return max(1, len(self.settings.sweep)) * trained + 4.0 * tested * (1 + stops)

    def points(self, context: AttackContext) -> Iterator[AttackPoint]:
        """Yields after each number of steps. The optimizer goes on from one to the next; with a sweep, the weights of
        the worst case are kept at each stop and not trained again."""
        rows = self._rows(context.data)
        validation = self.parts(context.data).rows("validation", context.data.eval["forget"])  # type: ignore[arg-type]
        adapter = bare(context.adapter)
        score(adapter, rows[:1])  # a model that hides its logits cannot be trained: refused here, by name
        rates = [self._rate(context) * factor for factor in self.settings.sweep or (1.0,)]
        if len(rates) == 1:
            course = Course(adapter, rows, self._train(rates[0]), context)
            trail = ((step, course) for step in course.run(self.settings.steps))
        else:
            courses = (Course(adapter.clone(), rows, self._train(rate), context) for rate in rates)
            trail = worst_case(courses, self.settings.steps, validation)
        for step, course in trail:
            supplied = course.supplied(step) | {"rates_tried": len(rates), "validation_rows": len(validation)}
            yield AttackPoint({"steps": step}, "steps", course.adapter, supplied=supplied)

    def _rate(self, context: AttackContext) -> float:
        if self.settings.lr:
            return self.settings.lr
        if context.built_with is None:
            return 2e-4 if self.settings.lora else 5e-5
        return context.built_with.lr / (1 if self.settings.lora else 5)

    def _train(self, lr: float) -> TrainSettings:
        kind = "lora" if self.settings.lora else "full"
        size = self.settings.batch_size
        return TrainSettings(lr=lr, batch_size=size, schedule="constant", warmup=0.0, select=Select(kind=kind))

    def _rows(self, data: Bundle) -> list[Row]:
        s = self.settings
        parts = self.parts(data)
        return attack_rows(s.data, data, parts, unrelated=s.unrelated, path=s.path, most=s.rows, order=s.order)
