"""MUSE: news articles or novels to be forgotten; verbatim text, knowledge, membership, scale and sequence."""

from __future__ import annotations

from typing import Literal

from efface.card import Card
from efface.data.benchmarks.base import Benchmark, benchmark
from efface.data.checks import check_bundle
from efface.data.columns import text, training_sides
from efface.data.plans import Plan
from efface.data.prompts import few_shot, pieces
from efface.data.records import Record
from efface.data.rows import Bundle, Row
from efface.data.splits import Splits, open_splits
from efface.settings import Settings, setting

HUBS = {"news": "muse-bench/MUSE-News", "books": "muse-bench/MUSE-Books"}
VARIABLES = {"news": "EFFACE_MUSE_NEWS", "books": "EFFACE_MUSE_BOOKS"}
FOLDS = ("", *(f"{kind}_{k}" for kind in ("scal", "sust") for k in (1, 2, 3, 4)))
TEMPLATE = "{question}"
CARD = Card(
    title="MUSE: Machine Unlearning Six-Way Evaluation",
    source="arXiv:2407.06460",
    code="jaechan-repo/muse_bench (read at 54719c5)",
    summary="BBC news or Harry Potter novels. C1 verbatim_forget, C2 forget, C3 passages_forget against "
    "passages_holdout, C4 retain; C5 and C6 are the plans scalability and sustainability.",
    confirmed=(
        "configurations raw, knowmem, verbmem, privleak, scal, sust and their splits; columns question, answer, "
        "prompt, gt, text (data cards of the hub and the repository's files)",
        "few-shot block of ten solved questions of their own file; prompts without a chat template",
        "scal folds contain each other, sust folds are disjoint, fold 1 of both is raw/forget",
    ),
    derived=("documents are cut into pieces of `words` words; the paper joins them and cuts at 2,048 tokens",),
    differs=(
        "empty and repeated documents, and documents to be kept that are also to be forgotten, leave the training "
        "sets; the facts count them (the forget set of News has one empty and three dozen repeated ones)",
    ),
    tested=(
        "read from the repository's own files of News (1 fold); Books was not loaded whole: 100 rows a set, ten shots",
    ),
    fooled_by=("target models learnt forget and retain documents, not the questions: use the published target",),
)


@benchmark("muse", CARD)
class Muse(Benchmark):
    """Training: documents (forget or a fold; retain1). Evaluation: forget and retain questions, verbatim_forget,
    passages_forget / _retain / _holdout.

    Raises ``DataError``: the codes of ``open_splits`` and ``read_records``, data.missing-field, data.bad-value.
    Questions with an empty answer are kept as unscorable.
    """

    template = TEMPLATE

    class Settings(Settings):
        corpus: Literal["news", "books"] = setting("news", "which of the two corpora")
        path: str = setting(
            "", f"folder of this corpus (empty: {' or '.join(VARIABLES.values())}, else {HUBS['news']} on the hub)"
        )
        fold: Literal[FOLDS] = setting("", "forget set: raw (empty), or a fold of scal or sust (news only)")  # type: ignore[valid-type]
        prompts: Literal["published", "question"] = setting(
            "published", "published: few-shot block and `Answer:`, for the template {question}; question: bare"
        )
        words: int = setting(1200, "longest training document in words, 0: whole", source="2,048 tokens", ge=0)

    def load(self) -> Bundle:
        """The corpus as a checked bundle."""
        chosen = self.settings
        tables = open_splits(chosen.path, VARIABLES[chosen.corpus], HUBS[chosen.corpus])
        config, _, number = chosen.fold.partition("_")
        split = f"forget_{number}" if number else "forget"
        train, left_out = training_sides(
            _documents(tables.records(config or "raw", split), "forget", chosen.words),
            _documents(tables.records("raw", "retain1"), "retain", chosen.words),
        )
        sets = {
            "forget": self._questions(tables, "forget", "forget_qa"),
            "retain": self._questions(tables, "retain", "retain_qa", "retain2_qa"),
            "verbatim_forget": _continuations(tables.records("verbmem", "forget")),
        }
        for name, splits in (("forget", ("forget",)), ("holdout", ("holdout",)), ("retain", ("retain", "retain2"))):
            sets[f"passages_{name}"] = _documents(tables.records("privleak", *splits), f"privleak-{name}", 0)
        facts = {
            **chosen.model_dump(mode="json", exclude={"path"}),
            "source": tables.source,
            "template": TEMPLATE if chosen.prompts == "published" else "",
            "left_out": left_out,
        }
        bundle = Bundle("muse", "text", train, sets, facts=facts)
        check_bundle(bundle)
        return bundle

    def plans(self) -> dict[str, Plan]:
        """C5: growing folds, each from the target. C6: disjoint folds, each from the result of the one before."""
        folds = {kind: tuple({"fold": f"{kind}_{k}"} for k in (1, 2, 3, 4)) for kind in ("scal", "sust")}
        return {
            "scalability": Plan(folds["scal"], False, (1, 2, 3, 4), "fold"),
            "sustainability": Plan(folds["sust"], True, (1, 2, 3, 4), "requests"),
        }

    def _questions(self, tables: Splits, name: str, *splits: str) -> tuple[Row, ...]:
        pairs = [(text(r, "question"), text(r, "answer")) for r in tables.records("knowmem", *splits)]
        if self.settings.prompts == "question":
            return tuple(Row(f"muse:{name}:{i}", answer, question) for i, (question, answer) in enumerate(pairs))
        shots = tables.records("knowmem", *(f"{split}_icl" for split in splits))
        block = few_shot((text(r, "question"), text(r, "answer")) for r in shots)
        return tuple(
            Row(f"muse:{name}:{i}", answer, f"{block}Question: {question}\nAnswer: ")
            for i, (question, answer) in enumerate(pairs)
        )


def _documents(records: list[Record], name: str, words: int) -> tuple[Row, ...]:
    return tuple(
        Row(f"muse:{name}:{i}.{k}", piece, entity=f"muse:{name}:{i}", fact=f"muse:{name}:{i}")
        for i, record in enumerate(records)
        for k, piece in enumerate(pieces(text(record, "text"), words))
    )


def _continuations(records: list[Record]) -> tuple[Row, ...]:
    return tuple(Row(f"muse:verbatim:{i}", text(r, "gt"), text(r, "prompt")) for i, r in enumerate(records))
