"""people_axis: the fictitious world cut the way a published benchmark cuts its data; one setting says which."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Literal

from efface.card import Card
from efface.data.axes.ground import Ground, Parts
from efface.data.benchmarks.base import Benchmark, benchmark
from efface.data.checks import check_bundle
from efface.data.plans import Plan
from efface.data.reading import training_rows
from efface.data.rows import Bundle
from efface.data.worlds.people import MAX_HOLDOUT, build_world
from efface.errors import DataError
from efface.settings import Settings, setting

AXES = ("muse", "rwku", "wmdp", "knowundo", "lume", "pistol", "pch", "whp")
RELATIONS = ("born_in", "works_at", "studied_at", "profession", "birth_year")
FOLDS = ("", *(f"{kind}_{k}" for kind in ("scal", "sust") for k in (1, 2, 3, 4)))
CARD = Card(
    title="Published axes on the built-in world",
    source="evaluation sheet 14 (g); own generator",
    summary="The sets of MUSE, RWKU, WMDP, KnowUnDo, LUME, PISTOL, PCH or WHP, filled with people who do not exist, so "
    "that each suite runs from beginning to end without any file, with the truth known.",
    derived=(
        "wordings and sizes; what a probe asks for is also trained in that form where a tiny model could not give it "
        "otherwise (openings, blanks, letters, cloze), for forgotten and kept people alike",
        "verbatim passages are asked through the model's own template",
    ),
    tested=(
        "8 people, a model of 64 x 2, 25 epochs, target / reference: verbatim .99 / .12, MUSE knowledge 1.0 / .42, "
        "PrivLeak -100 / 0; RWKU recall 1.0 / .05; KnowUnDo token accuracy 1.0 / .63; LUME exact answers 1.0 / 0; PCH "
        "score 96.8 / 9.4",
        "letters need the default tiny model and 40 epochs: .62 / .25 on forget, .75 / .85 on retain rows",
        "gradient ascent, four requests of two of 20 people (sustainability): retain knowledge .78, .16, .10, .08",
        "growing folds (scalability): .78, 1.0, .91, .97 at one epoch; the decline that sheet 5 (g) expects of "
        "gradient ascent does not show here",
        "a corpus the target wrote itself (40 answers about two names) unlearns as well as the facts: recall 1.0 to "
        ".20 against .25, neighbours 1.0 with both",
    ),
    fooled_by=("numbers on invented people say whether a suite works, not how a published table would come out",),
)


@benchmark("people_axis", CARD)
class PeopleAxis(Benchmark):
    """Sets by axis: see ``data/axes/<axis>.py``; they have the names of the real loader's sets.

    Raises ``DataError``: people-axis.nothing-left, people-axis.bad-step, people-axis.too-few-companies.
    """

    class Settings(Settings):
        axis: Literal[AXES] = setting("muse", "which benchmark's cut")  # type: ignore[valid-type]
        people: int = setting(16, "trained people", ge=8, le=200)
        forget: int = setting(4, "how many of them are to be forgotten", ge=1, le=MAX_HOLDOUT)
        fold: Literal[FOLDS] = setting("", "muse: forget set of the plans scalability and sustainability")  # type: ignore[valid-type]
        since: int = setting(0, "pch: requests that were fulfilled before", ge=0)
        upto: int | None = setting(None, "pch: requests fulfilled after this step (none: all)", ge=1)
        degree: int = setting(2, "pistol: contracts of the company whose first contract is to be forgotten", ge=1)
        corpus: str = setting("", "rwku: forget corpus, a file that `efface corpus` wrote (empty: the facts)")
        seed: int = setting(0, "seed of the world")

    def load(self) -> Bundle:
        """The chosen cut as a checked bundle; ``Bundle.world`` is the ``World``."""
        chosen = self.settings
        if chosen.forget >= chosen.people:
            raise DataError(
                "people-axis.nothing-left",
                f"forget = {chosen.forget} of people = {chosen.people} leaves nobody to keep.",
                "forget fewer people.",
            )
        if not chosen.since < (chosen.upto or chosen.forget) <= chosen.forget:
            raise DataError(
                "people-axis.bad-step",
                f"since {chosen.since} < upto {chosen.upto} <= forget {chosen.forget} does not hold.",
                "correct these settings.",
            )
        world = build_world(chosen.people, chosen.forget, chosen.seed)
        relations = (*RELATIONS, "dish") if chosen.axis == "knowundo" else RELATIONS
        forget, retain = world.people[: chosen.forget], world.people[chosen.forget :]
        build: Callable[[Ground], Parts] = import_module(f"efface.data.axes.{chosen.axis}").build
        parts = build(Ground(world, forget, retain, world.holdout, relations, chosen))
        train = {role: training_rows(tuple(rows), role) for role, rows in parts.train.items()}
        sets = {name: rows for name, found in parts.eval.items() if (rows := tuple(found))}
        facts = {**chosen.model_dump(mode="json", exclude={"corpus"}), "relations": list(relations), **parts.facts}
        bundle = Bundle("people_axis", "text", train, sets, world, facts)
        check_bundle(bundle)
        return bundle

    def plans(self) -> dict[str, Plan]:
        """muse: scalability and sustainability in four steps; pch: one request at a time."""
        chosen = self.settings
        if chosen.axis == "muse":
            folds = {kind: tuple({"fold": f"{kind}_{k}"} for k in (1, 2, 3, 4)) for kind in ("scal", "sust")}
            quarters = tuple(round(k * chosen.forget / 4) for k in (1, 2, 3, 4))
            return {
                "scalability": Plan(folds["scal"], False, quarters, "people"),
                "sustainability": Plan(folds["sust"], True, (1, 2, 3, 4), "requests"),
            }
        if chosen.axis == "pch":
            steps = tuple({"since": k, "upto": k + 1} for k in range(chosen.forget))
            sizes = tuple(float(k + 1) for k in range(chosen.forget))
            return {"requests": Plan(steps, True, sizes, "requests", line=("forget", "retain"))}
        return {}
