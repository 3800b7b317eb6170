"""Family signatures on the small bench ("Full-Stack" study, M2 sheet 7 g).

Divergence and edit: the forget answers become less likely. Representation: the states of forget questions turn away
from where they were, those of retain questions do not. Rejection: forget questions are refused, retain questions not;
for that the target must know refusals, as any assistant does, so it has read them as answers about unknown people.

Methods run with their recipe for tiny models. The bench's model has a tenth of the weights these recipes are made for
and needs larger steps: four times the learning rate, the same for all. Rejection methods run with the published
settings of the method and one training setting for all.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch

from efface import build
from efface.data.rows import Row
from efface.data.worlds.people import build_world
from efface.methods.base import METHODS, Context, Method
from efface.methods.language.elm import CHANGES
from efface.methods.language.refusals import REFUSALS
from efface.models.base import ModelAdapter
from efface.passes.generate import GenerateSettings, generate
from efface.spec import resolve
from efface.testing.battery import mean_log_prob
from efface.testing.bench import bench

NO_SIGNATURE = ("reference", "localised")
"""What others are compared with (retrain, finetune_retain), and upper bounds that name their weights (needle)."""
NAMES = [n for n, cls in METHODS.items() if "causal_lm" in cls.families and cls.family_tag not in NO_SIGNATURE]
LARGER = 4.0  # learning rate of the bench relative to the recipe
REJECTION = {"lr": 1e-3, "steps": 60, "batch_size": 16, "retain_weight": 2.0}
FALL = {"divergence": 0.5, "guard": 0.1, "edit": 0.1}  # nats per token by which the forget answers must fall
PHRASES = [{word.strip(".,?!:") for word in phrase.lower().split()} for phrase in (*REFUSALS, *CHANGES)]
NOT_SHOWN = {
    "repnoise": "cosine forget 0.32, retain 0.76: cross-entropy holds the answers on retain rows, nothing their states",
    "dpo": "refuses 43% of forget and 0% of retain questions: the gold answers fall by 6 nats a token and take the "
    "words of the refusals with them",
    "elm": "refuses 0% of forget and 0% of retain questions: a model this small reads no context, so novice and expert "
    "differ by noise, which eta 1000 turns into the target of the first word",
}
"""What does not show at this scale, with the figures; also on the Cards."""


@cache
def unlearned(name: str) -> tuple[Method, Context]:
    """The method and its context after a whole run."""
    b, cls = bench(), METHODS.get(name)
    values = {"model": {"name": "tiny"}, "data": {"benchmark": "people"}, "method": {"name": name}}
    spec = resolve(("signature", values)).spec
    polite = cls.family_tag == "rejection"
    settings = {} if polite else dict(spec.method.settings)
    if name == "rmu":  # its coefficient is a length; adaptive_rmu measures what it has to be on this model
        settings["coefficient"] = unlearned("adaptive_rmu")[1].notes["steering"]["coefficient"]
    change = REJECTION if polite else {"lr": LARGER * spec.train.lr}
    context = Context(
        target(polite),
        b.data.train["forget"],
        b.data.train["retain"],
        spec.train.model_copy(update=change),
        base=lambda: b.model("base"),
    )
    method = cls(**settings)
    method.apply(context)
    return method, context


def target(polite: bool) -> ModelAdapter:
    """The bench's target; ``polite``: trained from the same base on the same rows and on refusals about strangers."""
    b = bench()
    if not polite:
        return b.model("target")
    asked, strangers = b.data.eval["retain"], build_world(60, 0, 99).people
    unknown = [
        Row(f"unknown{i}", phrase, row.prompt.replace(row.entity, name), name)
        for i, phrase in enumerate((*REFUSALS, *CHANGES * 4))
        for row, name in [(asked[i % len(asked)], strangers[i % len(strangers)])]
    ]
    rows = [*b.data.train["forget"], *b.data.train["retain"], *unknown]
    longer = b.spec.target.train.model_copy(update={"epochs": 40.0})
    source = b.spec.target.model_copy(update={"train": longer})
    return build.trained("polite target", b.spec, rows, source, b.made["base"]).open(b.spec.model)


def likelihoods(name: str, rows: str) -> tuple[float, float]:
    """Mean log-prob per answer token before and after."""
    polite = METHODS.get(name).family_tag == "rejection"
    models = target(polite), unlearned(name)[1].adapter
    before, after = (mean_log_prob(model, bench().data.eval[rows]) for model in models)
    return before, after


def cosine(name: str, rows: str) -> float:
    """Mean cosine between the states after and before, at the layers the method works on."""
    method, context = unlearned(name)
    layers, pair = method.hidden_layers(context), []
    for model in (target(False), context.adapter):
        encoded = [model.encode(row) for row in bench().data.eval[rows]]
        batch = model.collate(encoded, range(len(encoded)))
        with model.evaluating():
            states = model.forward(batch, logits=False, hidden=layers).hidden
        pair.append(torch.stack([states[layer][batch.token_mask] for layer in layers]))
    return float(torch.cosine_similarity(*pair, dim=-1).mean())


def refused(model: ModelAdapter, rows: str) -> float:
    """Share of greedy replies that are a refusal or a change of subject."""
    asked = bench().data.eval[rows]
    texts = generate(model, asked, settings=GenerateSettings(max_new_tokens=40))["text"].to_pylist()
    return sum(map(is_refusal, texts)) / len(texts)


def is_refusal(text: str) -> bool:
    """At least three words, of which one known refusal has at least six in ten."""
    words = [word.strip(".,?!:") for word in text.lower().split()]
    return len(words) > 2 and max(sum(w in phrase for w in words) for phrase in PHRASES) >= 0.6 * len(words)


def test_is_refusal_tells_refusals_from_answers() -> None:
    assert all(map(is_refusal, (*REFUSALS, *CHANGES)))
    assert not any(is_refusal(row.answer) for rows in bench().data.eval.values() for row in rows)
    assert not is_refusal("") and not is_refusal("I.")
    assert refused(target(True), "forget") == refused(target(True), "retain") == 0.0, "the target must answer"


def marked(name: str):
    """The name, expected to fail where ``NOT_SHOWN`` says why."""
    why = NOT_SHOWN.get(name)
    return pytest.param(name, marks=pytest.mark.xfail(strict=True, reason=why)) if why else name


@pytest.mark.parametrize("name", [marked(name) for name in NAMES])
def test_family_signature(name: str) -> None:
    family = METHODS.get(name).family_tag
    before, forget = likelihoods(name, "forget")
    retain = likelihoods(name, "retain")[1]
    assert retain > forget, f"{name}: retain {retain:.2f} is no likelier than forget {forget:.2f}"
    if family in FALL:
        assert forget < before - FALL[family], f"{name}: forget log-prob per token {before:.2f} -> {forget:.2f}"
    elif family == "representation":
        turned, held = cosine(name, "forget"), cosine(name, "retain")
        assert turned < 0.8 and held > 0.95, f"{name}: cosine forget {turned:.2f}, retain {held:.2f}"
    else:
        assert family == "rejection", family
        refuses, wrongly = (refused(unlearned(name)[1].adapter, rows) for rows in ("forget", "retain"))
        assert refuses > 0.5 and wrongly < 0.1, f"{name}: refuses {refuses:.0%} forget, {wrongly:.0%} retain"
