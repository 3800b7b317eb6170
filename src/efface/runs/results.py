"""What an audit leaves in a run: scores, per-row values, curves, conclusion, training summary, samples."""

from __future__ import annotations

from typing import Any, Literal

from efface.runs.schema import File, Number, Stored


class ScoreRow(Stored):
    """One score of one role (``metrics.base.Score`` without its per-row values)."""

    role: str
    name: str
    rows: str
    value: Number
    low: Number = None
    high: Number = None
    n: int = 0
    unscored: int = 0
    direction: Literal["higher", "lower", "match"] = "match"
    target: Number = None
    version: int = 1
    reason: str = ""
    extra: dict[str, Any] = {}


class Scores(File):
    """``scores.json``: every score of every role under one version of one suite."""

    suite: str
    suite_version: int
    roles: dict[str, dict[str, Any]] = {}
    scores: list[ScoreRow] = []
    n_forget: int | None = None
    sets: dict[str, int] = {}
    notes: list[str] = []


class PerRow(Stored):
    """Values of one metric by row id, with the entity of each row."""

    role: str
    name: str
    rows: str
    values: dict[str, Number] = {}
    entities: dict[str, str] = {}


class RowValues(File):
    """``rows.json``: what paired comparisons need."""

    rows: list[PerRow] = []


class Point(Stored):
    """One role at one budget of an attack; budget 0 is the model as it is. ``number``: its place along the curve.

    ``value``: of an attack that keeps the best of its tries the best so far, ``this_try`` then the mean of this one.
    Price: ``supplied``, what the attacker put in; ``bits``, how much that is (``audit.export.bits``); ``seconds``
    of the attack since the point before, and ``measuring_seconds`` of asking the model afterwards.
    """

    number: int | None = None
    budget: dict[str, float]
    role: str
    value: Number
    low: Number = None
    high: Number = None
    n: int = 0
    supplied: dict[str, float] = {}
    bits: Number = None
    seconds: Number = None
    measuring_seconds: Number = None
    this_try: Number = None


class Gap(Stored):
    """A value, its interval, and the budget at which it was found."""

    value: Number
    low: Number = None
    high: Number = None
    at: dict[str, float] = {}


class Curve(File):
    """``attacks/<name>/curve.json``: a metric m of the unlearned model U, the reference R, the target O under attack T.

    ``excess``: largest m(T(U)) - m(T(R)), with the interval of that point; ``recovered``: highest m(T(U)); ``rec``:
    there, (m(T(U)) - m(U)) / (m(O) - m(U)); ``area``: mean height of m(T(U)) from no attack to the strongest;
    ``area_excess``: that of m(T(U)) - m(T(R)). Records of older versions have no ``rec`` and no areas.
    """

    attack: str
    axis: str = ""
    threat: str = ""
    metric: str = ""
    rows: str = ""
    points: list[Point] = []
    excess: Gap | None = None
    recovered: Gap | None = None
    rec: Gap | None = None
    area: Number = None
    area_excess: Gap | None = None
    reason: str = ""
    partial: bool = False


class Finding(Stored):
    """One thing that was found, in a sentence, with its evidence."""

    name: str
    says: str
    evidence: dict[str, Any] = {}
    kind: str = ""
    flag: bool = False
    p: Number = None
    share: Number = None


class Conclusion(File):
    """``conclusion.json``."""

    label: Literal["erased", "concealed", "retained", "collapsed", "inconclusive"]
    sentences: list[str] = []
    findings: list[Finding] = []
    limits: list[str] = []
    power: str = ""


class Training(File):
    """``training.json``: the unlearning itself, and the time of each stage. ``history``: one event a step."""

    method: str = ""
    seconds: Number = None
    steps: int | None = None
    stopped: str = ""
    trained_parameters: int | None = None
    moved_share: Number = None
    warnings: list[str] = []
    history: list[dict[str, Any]] = []
    stages: dict[str, Number] = {}


class Sample(Stored):
    """One line of ``samples/<role>.jsonl``. ``hidden``: texts were replaced by keyed hashes."""

    row: str
    entity: str = ""
    set: str
    prompt: str = ""
    gold: str = ""
    output: str = ""
    scores: dict[str, Number] = {}
    problem: str = ""
    hidden: bool = False
