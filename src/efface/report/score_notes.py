"""What a score carries beside its number, in one sentence: floors, controls, parts, power. Read from ``extra`` alone.

``extra`` stands in a file that anybody may have written: a value of the wrong kind is left out, names pass ``visible``,
and the formats escape the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from efface.report.text import amount, interval, number, visible
from efface.runs.results import ScoreRow

Extra = Mapping[str, Any]
LARGEST = 1e300
MOST_PARTS = 16
SEEN = math.log10(0.05)  # below this log10 p two samples differ at 5%
ALWAYS = (
    ("chance", "guessing gives {}"),
    ("this_try", "this try alone {}"),
    ("judge_accuracy", "the judge itself is right on {} of labelled answers"),
    ("target_rate", "share flagged before {}"),
    ("rate", "after {}"),
    ("weights", "{} weights"),
    ("loss", "loss {}"),
    ("perplexity", "perplexity {}"),
    ("distinct_1", "distinct words {}"),
    ("distinct_3", "distinct triples of words {}"),
    ("consistent", "right in every order of the options {}"),
    ("most_picked", "share of the letter picked most {}"),
    ("forgotten", "forgotten {}"),
    ("retained", "retained {}"),
    ("score", "score {}"),
    ("reference", "the reference's score {}"),
    ("floor", "floor {}"),
)
IF_ANY = (
    ("empty", "share of empty answers {}"),
    ("cut", "share cut at the length limit {}"),
    ("unscored_samples", "samples not scored {}"),
)
COUNTS = ("concepts", "given", "located", "attributed", "weights", "unscored_samples")
GROUPS = ("parts", "terms", "levels", "styles", "gaps")


def figure(extra: Extra, key: str) -> float | None:
    """A finite number of ``extra``, None for anything else."""
    found = extra.get(key)
    usable = isinstance(found, int | float) and not isinstance(found, bool) and -LARGEST < found < LARGEST
    return float(found) if usable else None  # type: ignore[arg-type]


def told(extra: Extra, *texts: tuple[str, str]) -> str:
    """The texts whose key holds a number, each with it, in one list."""
    found = ((key, text, figure(extra, key)) for key, text in texts)
    return ", ".join(text.format((amount if k in COUNTS else number)(v)) for k, text, v in found if v is not None)


def joined(*clauses: str) -> str:
    """One sentence of several clauses; empty ones are left out."""
    return "; ".join(filter(None, clauses))


def name_of(key: object) -> str:
    """``retain.truth_ratio`` as ``retain truth ratio``."""
    return visible(key, 60).replace("_", " ").replace(".", " ").strip()


def numbers(extra: Extra, key: str = "parts") -> str:
    """A mapping of names to numbers as a list; nothing for anything else."""
    values = extra.get(key)
    if not isinstance(values, Mapping):
        return ""
    found = [f"{name_of(k)} {number(v)}" for k in values if (v := figure(values, k)) is not None]
    more = f" and {len(found) - MOST_PARTS} more" if len(found) > MOST_PARTS else ""
    return f"{key}: {', '.join(found[:MOST_PARTS])}{more}" if found else ""


def plain(extra: Extra) -> str:
    """Any metric: its parts, what guessing gives, what the judge is, what is empty."""
    some = tuple((key, text) for key, text in IF_ANY if (figure(extra, key) or 0) > 0)
    words = "judged by words, not by an entailment model" if figure(extra, "proxy") == 1 else ""
    judge = f"judge: {visible(extra['judge'], 80)}" if isinstance(extra.get("judge"), str) else ""
    note = visible(extra["note"], 200) if isinstance(extra.get("note"), str) else ""
    below = "below the floor under which it does not count" if extra.get("below_floor") is True else ""
    return joined(*(numbers(extra, key) for key in GROUPS), told(extra, *ALWAYS, *some), below, words, judge, note)


def ks(extra: Extra) -> str:
    """Forget quality: p without underflow, the least that so many rows can give, the side of the shift, power."""
    log_p, floor = figure(extra, "log10_p"), figure(extra, "log10_floor")
    if log_p is None:
        return ""
    p = number(10.0**log_p) if -300 < log_p <= 0 else "under 10⁻³⁰⁰" if log_p < 0 else "1"
    least = f" (the least that {_sizes(extra)} can give: {number(floor)})" if floor is not None else ""
    if floor is not None and floor > SEEN:
        power = "so few rows can tell nothing apart at 5%"
    else:
        power = told(extra, ("detectable", "a KS distance under {} would be missed"))
    return joined(
        f"p {p}" if p.startswith("under") else f"p = {p}", f"log10 p = {number(log_p)}{least}", _side(extra), power
    )


def _sizes(extra: Extra) -> str:
    n, m = figure(extra, "n"), figure(extra, "n_reference")
    return f"{n:,.0f} against {m:,.0f} rows" if n and m else "so many rows"


def _side(extra: Extra) -> str:
    """Where the truth ratio r lies; called by its name only where the test sees it."""
    means = {"above": "over-forgotten", "below": "still knows"}
    side = extra.get("shift")
    if not isinstance(side, str) or side not in means:
        return ""
    if (figure(extra, "log10_p") or 0.0) <= SEEN:
        return f"r lies {side} the reference's: {means[side]}"
    return f"r leans {side} the reference's ({means[side]}), by less than these rows can tell"


def fade(extra: Extra) -> str:
    """FADE: both directions, and its place between seed noise and the target."""
    ways = told(
        extra,
        ("forward", "forward {} (what the reference says and the model does not)"),
        ("reverse", "reverse {} (the other way round)"),
        ("error", "standard error {}"),
    )
    ends = told(extra, ("floor", "seed noise {}"), ("anchor", "the target {}"))
    place = told(extra, ("normalised", "normalised {}")) + (f" ({ends})" if ends else "")
    why = extra.get("why_not_normalised")
    if extra.get("normalised") is None and isinstance(why, str):
        place = f"not normalised, because {visible(why, 200)}" + (f" ({ends})" if ends else "")
    return joined(ways, place.strip(), plain(_only(extra, "note", "unscored_samples")))


def _only(extra: Extra, *keys: str) -> Extra:
    return {key: extra[key] for key in keys if key in extra}


def cka(extra: Extra) -> str:
    """CKA: what shuffled rows and two references give, and the place between them."""
    return told(
        extra,
        ("floor", "floor {} (rows shuffled)"),
        ("ceiling", "ceiling {} (two references)"),
        ("normalised", "normalised {}"),
    )


def probe(extra: Extra) -> str:
    """Probes: the same with shuffled labels, chance, and the best layer beside its own control."""
    return told(
        extra,
        ("control", "control {} (labels shuffled)"),
        ("chance", "guessing gives {}"),
        ("best", "best layer {}"),
        ("best_control", "its control {}"),
        ("knn", "by nearest neighbours {}"),
        ("question", "from the question alone {}"),
    )


def invalid_pair(extra: Extra) -> str:
    """Said where a model that was trained on neither set separates them."""
    if extra.get("shifted") is not True:
        return ""
    at = told(extra, ("auc_base", " (the base model, trained on neither, is at {})"))
    return f"this pair of sets is invalid: it differs by itself{at}, and the number says nothing about membership"


def membership(extra: Extra) -> str:
    """Membership: hits at few false alarms, and what the controls show."""
    hits = [
        f"{number(value)}{f' ({span})' if span else ''} at {rate}% false alarms"
        for rate in ("1", "10")
        if (value := figure(extra, f"tpr_at_{rate}")) is not None
        for span in [interval(figure(extra, f"tpr_at_{rate}_low"), figure(extra, f"tpr_at_{rate}_high"))]
    ]
    return joined(
        told(extra, ("auc", "AUC {}")),
        told(extra, ("auc_reference", "the reference is at {}"), ("auc_base", "the base model at {}")),
        f"share recognised {', '.join(hits)}" if hits else "",
        told(
            extra, ("attack_accuracy", "the attack tells trained from unseen rows with accuracy {}; 0.5 sees nothing")
        ),
        told(extra, ("detectable", "a difference in AUC to the reference under {} would be missed")),
    )


def leak(extra: Extra) -> str:
    """PrivLeak and its kin: the two AUCs behind the percentage."""
    assumed = "a reference AUC of one half was assumed" if extra.get("reference_assumed") is True else ""
    return joined(
        told(
            extra,
            ("auc", "AUC {}"),
            ("auc_reference", "the reference's {}"),
            ("assumed_reference_auc", "the reference's assumed to be {}"),
            ("difference", "difference {}"),
            ("rel_diff", "relative difference {} percent"),
        ),
        assumed,
        told(extra, ("detectable_difference", "a difference in AUC under {} would be missed")),
    )


def worst(extra: Extra) -> str:
    """The most telling attack, and the gap of each."""
    attack = extra.get("attack")
    return joined(f"by {name_of(attack)}" if isinstance(attack, str) else "", numbers(extra, "gaps"))


def fingerprint(extra: Extra) -> str:
    """How many of the forget rows stand out, beside chance."""
    return told(
        extra,
        ("separation", "either way {}"),
        ("found", "share of the forget rows among the strangest {}"),
        ("found_by_chance", "by chance {}"),
    )


def average_gap(extra: Extra) -> str:
    """The four gaps to the reference."""
    names = ("unlearning_accuracy", "retain_accuracy", "test_accuracy", "mia_confidence")
    return numbers({"gaps": _only(extra, *names)}, "gaps")


def layers(extra: Extra) -> str:
    """Readings that go by layer: what else was read."""
    return told(
        extra,
        ("first", "first token alone {}"),
        ("shift_full", "in all directions {}"),
        ("cosine", "cosine of the first components {}"),
    )


def concept(extra: Extra) -> str:
    """Concept vectors: how many, how they were found, and how far whole blocks moved."""
    return joined(
        told(
            extra,
            ("concepts", "{} concepts"),
            ("given", "vectors given {}"),
            ("located", "located {}"),
            ("attributed", "attributed {}"),
            ("layer_cosine", "cosine of whole blocks {}"),
        ),
        plain(_only(extra, "note")),
    )


def harness(extra: Extra) -> str:
    """The harness's own headline beside ours."""
    name = extra.get("metric")
    return told(
        extra, ("reported", f"the harness reports {{}}{f' ({_braceless(name)})' if isinstance(name, str) else ''}")
    )


def _braceless(name: str) -> str:
    return visible(name, 60).replace("{", "").replace("}", "")


NOTES: dict[str, Callable[[Extra], str]] = {
    "forget_quality": ks,
    "fade": fade,
    "fade_exact": fade,
    "cka_reference": cka,
    "cka_target": cka,
    "knn_accuracy": probe,
    "linear_probe": probe,
    "attribute_probe": probe,
    "pca_shift": layers,
    "privleak": leak,
    "privleak_half": leak,
    "rel_diff": leak,
    "mia_worst": worst,
    "lume_mia": membership,
    "avg_gap": average_gap,
}
FAMILIES: dict[str, Callable[[Extra], str]] = {
    "mia_": membership,
    "fingerprint_": fingerprint,
    "concept_": concept,
    "lens_rank": layers,
    "harness:": harness,
}
OVER_ROWS = "intervals over rows, for want of entities, are too narrow"
OWN_POWER = (ks, membership)


def note(row: ScoreRow) -> str:
    """What is to be read beside a score ("" if nothing, or if it was not computed)."""
    if row.value is None:
        return ""
    tell = teller(row.name)
    extra = {**row.extra, "n": row.n}
    return joined(invalid_pair(extra), tell(extra), "" if tell in OWN_POWER else power(extra), resampled(extra))


def teller(name: str) -> Callable[[Extra], str]:
    """The function of a metric; a compatibility form has that of the corrected one."""
    stem = name.removesuffix("_compat")
    family = next((tell for start, tell in FAMILIES.items() if stem.startswith(start)), plain)
    return NOTES.get(stem, family)


def power(extra: Extra) -> str:
    """The smallest residue that these rows would have shown."""
    return told(extra, ("detectable", "a difference to the reference under {} would be missed"))


def resampled(extra: Extra) -> str:
    """Said where an interval goes over rows for want of entities (``OVER_ROWS`` says once what that means)."""
    return "interval over rows" if extra.get("interval_over") == "rows" else ""
