"""Concept vectors: found where they were put, moved only where something was edited, and Needle as the upper bound."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from efface.audit.roles import PassSettings, Role
from efface.audit.store import Store
from efface.data.rows import Row
from efface.engine.finetune import fit
from efface.engine.select import Select
from efface.engine.settings import TrainSettings
from efface.errors import NeedsError
from efface.methods.base import METHODS, Context
from efface.metrics.base import METRICS, Tables, compute
from efface.passes.attribution_of_values import attributed, attribution
from efface.passes.concept_index import _by_row, _scores, _tops, locate
from efface.passes.concept_tokens import Pieces, concepts
from efface.passes.concept_traces import _line, jaccard
from efface.passes.score import score as score_pass
from efface.passes.value_vectors import head, noised, projections, top_tokens, values
from efface.testing.battery import digest
from efface.testing.bench import bench


@pytest.fixture(scope="module")
def b():
    return bench("causal_lm")


@pytest.fixture(scope="module")
def forget(b) -> list[Row]:
    return list(b.data.eval["forget"])


def store_of(rows, world=None, **roles) -> Store:
    made = {name: Role(lambda m=m: m) for name, m in roles.items()}
    return Store(made, {"forget": list(rows)}, PassSettings(24), world=world)


def score(store: Store, name: str, role: str = "unlearned"):
    tables = Tables(lambda asked, need: store.fetch(role if asked == "subject" else asked, need), "forget", role)
    return compute(METRICS.get(name), tables, "forget", resamples=100)


# -- tokens of a concept
def test_tokens_are_those_that_only_the_concept_explains(b, forget) -> None:
    """The objects of a person's facts are there; the person's own name, words of every answer and the objects of the
    wrong answers are not."""
    model = b.model("target")
    pieces, found = Pieces(model), concepts(model, forget)
    for name, tokens in found.sets.items():
        said = {pieces.text(t) for t in tokens}
        mine = [r for r in forget if r.entity == name]
        objects = {p for f in b.data.world.about(name, ["born_in", "works_at"]) for p in pieces.texts(f.object)}
        assert said & objects and not said & pieces.texts(name) and not said & {"was", "born", "in"}
        assert not {t for r in mine for w in r.wrong for t in pieces.ids(w)} & tokens
    assert set().union(*found.sets.values()) < set(found.pool)


def test_an_article_without_questions_gives_tokens_too(b) -> None:
    rows = [
        Row("a", "The lighthouse of Mepask burned.", entity="x"),
        Row("b", "The bakery of Vakik burned.", entity="y"),
    ]
    sets = concepts(b.model("target"), rows).sets
    assert set(sets) == {"x", "y"} and not sets["x"] & sets["y"]


# -- locating
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_planted_direction_is_found_in_either_sign(b, forget, sign) -> None:
    """Column 17 of block 1 becomes the sum of the embeddings of one concept's tokens: it scores highest of all vectors,
    far above what sets drawn by chance reach."""
    model = b.model("target")
    known = concepts(model, forget)
    name, tokens = next(iter(known.sets.items()))
    with torch.no_grad():
        projections(model)[0].weight[:, 17] = sign * 0.3 * head(model)[sorted(tokens)].sum(0)
    scores, signs, threshold = _scores(_tops(model), tokens, known.pool, model, 0)
    assert scores.argmax() == 17 and signs[17] == sign and scores[17] > 0.6 > threshold + 0.1
    best = locate(model, forget, known)[0]
    assert (best.entity, best.layer, best.column, best.score) == (name, 1, 17, pytest.approx(scores[17]))


def test_candidates_by_chance_are_one_in_a_thousand(b, forget) -> None:
    """A set of tokens drawn like the chance sets themselves: about one vector in a thousand is above the threshold."""
    model = b.model("target")
    pool, above, seen = concepts(model, forget).pool, 0, 0
    rng, tops = np.random.default_rng(0), _tops(model)
    for i in range(40):
        scores, _, threshold = _scores(tops, frozenset(rng.choice(pool, 10, replace=False).tolist()), pool, model, i)
        above, seen = above + int((scores > threshold).sum()), seen + len(scores)
    assert above / seen < 0.003


def test_noise_is_taken_back_to_the_bit(b) -> None:
    model = b.model("target")
    before = digest(model)
    with noised(model, 2, 5, torch.ones(64)):
        assert digest(model) != before
    assert digest(model) == before


def test_folding_multiplies_the_final_norm_in(b) -> None:
    """Logits of a state h are E (g * h / rms(h)): with h = v of unit rms, the folded projection is the model's own."""
    model = b.model("target")
    v = values(model)[0][:, 3]
    v = v / v.pow(2).mean().sqrt()
    with torch.no_grad():
        expected = model.hf.lm_head(model.hf.model.norm(v[None]))[0]
    assert torch.allclose(head(model, folded=True) @ v, expected, atol=1e-3)
    up, down = top_tokens(v[None], head(model, folded=True), 5)
    assert up[0].tolist() == expected.topk(5).indices.tolist()
    assert down[0].tolist() == (-expected).topk(5).indices.tolist()


def test_attribution_is_the_slope_of_scaling_a_vector(b, forget) -> None:
    """sum a_j dL/da_j = d L / ds of the column (1 + s) v_j: checked by a difference quotient, s = .01 either way."""
    model, rows = b.model("reference"), forget[:4]
    found = attribution(model, rows)
    for layer, column in attributed(model, rows, 2):
        weight, sides = projections(model)[layer - 1].weight, []
        kept = weight.detach()[:, column].clone()
        for s in (0.01, -0.01):
            with torch.no_grad():
                weight[:, column] = (1 + s) * kept
            sides.append(sum(v for lp in score_pass(model, rows).tokens["lp"].to_pylist() for v in lp))
        with torch.no_grad():
            weight[:, column] = kept
        assert float(found[layer - 1][column]) == pytest.approx((sides[0] - sides[1]) / 0.02, rel=0.05)
    assert all(p.grad is None for p in model.module.parameters()) and digest(model) == digest(b.model("reference"))


# -- traces
def test_an_untouched_model_shows_one_everywhere(b, forget) -> None:
    store = store_of(forget, unlearned=b.model("target"), target=b.model("target"))
    assert score(store, "concept_cosine").value == score(store, "concept_jaccard").value == 1.0
    assert score(store, "concept_distance").value == 0.0
    found = score(store, "concept_cosine")
    assert found.extra["concepts"] == 2 and found.extra["layer_cosine"] == pytest.approx(1.0)
    assert found.extra["located"] + found.extra["attributed"] == found.n and found.direction == "lower"


def test_only_the_edited_concept_moves(b, forget) -> None:
    """Records brought by a benchmark: one vector a concept. Another vector in place of the first concept's: its cosine
    is about 0 and its tokens go; the second concept's stay exactly at 1."""
    names = sorted({r.entity for r in forget})
    world = SimpleNamespace(
        seed=0, concept_vectors=[{"concept": n, "layer": 2, "column": 10 + i} for i, n in enumerate(names)]
    )
    edited = b.model("target")
    with torch.no_grad():
        edited.module.model.layers[1].mlp.down_proj.weight[:, 10] = torch.randn(
            64, generator=torch.Generator().manual_seed(0)
        )
    store = store_of(forget, world, unlearned=edited, target=b.model("target"))
    cosine, overlap = score(store, "concept_cosine"), score(store, "concept_jaccard")
    assert cosine.extra["given"] == 2 and abs(cosine.per_row["0/2/10"]) < 0.4
    assert cosine.per_row["1/2/11"] == overlap.per_row["1/2/11"] == 1.0
    assert overlap.per_row["0/2/10"] < 0.5


def test_a_changed_head_moves_the_projection_and_not_the_vector(b, forget) -> None:
    """Tied or not, only the head differs: cosine 1, overlap 1 with the original's head, below 1 with the own."""
    model = b.model("target")
    with torch.no_grad():
        weight = model.hf.get_output_embeddings().weight
        weight += 0.3 * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    store = store_of(forget, unlearned=model, target=b.model("target"))
    overlap = score(store, "concept_jaccard")
    assert score(store, "concept_cosine").value == 1.0
    assert overlap.extra["jaccard_original"] == 1.0 and overlap.value < 0.9


def test_a_vector_that_lowers_its_concept_is_read_the_other_way_round(b, forget) -> None:
    """Column 17 of block 1 is minus the sum of one concept's embeddings: its concept's tokens are among the 200 all the
    same, and so the refined overlap is defined."""
    model = b.model("target")
    name, tokens = next(iter(concepts(model, forget).sets.items()))
    with torch.no_grad():
        projections(model)[0].weight[:, 17] = -0.3 * head(model)[sorted(tokens)].sum(0)
    found = locate(model, forget, concepts(model, forget))[0]
    assert (found.entity, found.column, found.sign) == (name, 17, -1)
    weights = values(model)[0]
    heads = {(side, folded): head(model, folded=folded) for side in ("original", "own") for folded in (False, True)}
    record = {"row": "0/1/17", "entity": name, "located": True, "given": False, "column": 17, "ids": sorted(tokens)}
    down, up = (_line({**record, "sign": sign}, weights, weights, heads) for sign in (-1, 1))
    assert down["rate_before"] == down["rate_after"] > 0.5 and down["refined_own"] == 1.0 and up["rate_before"] < 0.2


def test_refined_overlap_is_not_computed_where_it_is_undefined(b) -> None:
    """No token of the concept among the 200 on either side: 0/0, not 0."""
    assert jaccard(set(), set()) is None and jaccard({1, 2}, {2, 3}) == pytest.approx(1 / 3)
    rows = [Row("a", "zzz Fatano", "q?", entity="x")]
    world = SimpleNamespace(seed=0, concept_vectors=[{"concept": "nobody", "layer": 1, "column": 0}])
    store = store_of(rows, world, unlearned=b.model("target"), target=b.model("target"))
    assert "no concept vector has a token" in score(store, "concept_jaccard_refined").reason
    assert score(store, "concept_jaccard").value == 1.0


def test_what_is_missing_is_named(b, forget) -> None:
    assert "no target model" in score(store_of(forget, unlearned=b.model("target")), "concept_cosine").reason
    same = [Row("a", "the same", "the same?", entity="x")]
    store = store_of(same, unlearned=b.model("target"), target=b.model("target"))
    assert "token of its own" in score(store, "concept_cosine").reason


# -- needle
def needle(b, rows, model=None, **settings):
    train = TrainSettings(lr=5e-3, steps=40, batch_size=16, warmup=0.1, stop_nll=3.0)
    context = Context(model or b.model("target"), rows, (), train)
    METHODS.get("needle")(**settings).apply(context)
    return context


def test_needle_moves_only_its_columns(b, forget) -> None:
    context = needle(b, list(b.data.train["forget"]), vectors=((1, 3), (2, 7)))
    before = dict(b.model("target").module.named_parameters())
    for name, p in context.adapter.module.named_parameters():
        moved = (p != before[name]).nonzero()
        layer = {"model.layers.0.mlp.down_proj.weight": 3, "model.layers.1.mlp.down_proj.weight": 7}.get(name)
        assert set(moved[:, 1].tolist()) == {layer} if layer else not len(moved)
    assert context.notes["needle"]["vectors"] == [[1, 3], [2, 7]]


def test_needle_refuses_what_it_cannot_do(b) -> None:
    rows = list(b.data.train["forget"])
    for settings, code in (({"vectors": ((9, 0),)}, "no-such-vector"), ({"vectors": ((1, 999),)}, "no-such-vector")):
        with pytest.raises(NeedsError, match=code):
            needle(b, rows, **settings)
    with pytest.raises(NeedsError, match="columns-only"):
        METHODS.get("needle")().apply(
            Context(b.model("target"), rows, (), TrainSettings(select=Select(kind="lora"), steps=1))
        )


def planted(b, mine: list[Row]):
    """The reference with one person taught into 24 neurons of the last block, and into nothing else."""
    model = b.model("reference")
    mlp, neurons = model.blocks[1].mlp, list(range(24))
    handles = []
    for linear, inputs in ((mlp.gate_proj, False), (mlp.up_proj, False), (mlp.down_proj, True)):
        mask = torch.zeros_like(linear.weight)
        mask[(slice(None), neurons) if inputs else neurons] = 1
        linear.weight.requires_grad_(True)
        handles.append(linear.weight.register_hook(lambda g, mask=mask: g * mask))
    settings = TrainSettings(lr=1e-2, steps=250, batch_size=32, warmup=0.05, select=Select(modules=("layers.1.mlp",)))
    fit(model, mine * 6 + list(b.data.train["retain"])[:120], settings, seed=0)
    for handle in handles:
        handle.remove()
    return model, tuple((2, n) for n in neurons)


def test_needle_removes_a_planted_concept_and_little_else(b, forget) -> None:
    """Knowledge that sits in known vectors: Needle takes at least half of the gap to the model that never knew, and
    less than 5% of that gap from everything else (.57 and .02 when written)."""
    name = sorted({r.entity for r in forget})[0]
    mine, rest = [r for r in forget if r.entity == name], list(b.data.eval["retain"])
    train = [r for r in b.data.train["forget"] if r.entity == name]
    knows, vectors = planted(b, train)

    def means(model):
        return np.array([np.nanmean(_by_row(model, rows)) for rows in (mine, rest)])

    never, before = means(b.model("reference")), means(knows)
    gap = (before - never)[0]
    after = means(needle(b, train, knows.clone(), vectors=vectors).adapter)
    lost = (before - after) / gap
    assert gap > 3 and lost[0] >= 0.5 and lost[1] < 0.05, lost
