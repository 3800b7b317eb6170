"""Tasks of lm-evaluation-harness: our model as it wants one, and the values that come back."""

from __future__ import annotations

import math
from importlib.util import find_spec

import pytest
import torch

from efface.audit.roles import PassSettings, Role
from efface.audit.store import Store
from efface.errors import NeedsError
from efface.metrics.base import METRICS, Tables, compute
from efface.passes import harness as harness_pass
from efface.passes.harness_model import likelihoods, pair, rolling, start, until, windows
from efface.passes.registry import PASSES
from efface.testing.bench import bench

needs_harness = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is not installed (efface[harness])")


@pytest.fixture(scope="module")
def model():
    return bench("causal_lm").model("target")


@pytest.fixture(scope="module")
def asked(model) -> str:
    """The text of a trained prompt, so that the model has something to say."""
    row = bench("causal_lm").data.eval["retain"][0]
    return model.tokenizer.decode(model.template.prompt_ids(model.tokenizer, row.prompt))


def score(adapter, name):
    store = Store({"unlearned": Role(lambda: adapter)}, {}, PassSettings())
    tables = Tables(lambda asked, need: store.fetch("unlearned", need), "harness", "unlearned")
    return compute(METRICS.get(name), tables, "harness", resamples=100)


def plain(model, before: list[int], after: list[int]) -> torch.Tensor:
    """Float[tokens] log-probs of ``after`` by one plain forward."""
    with torch.no_grad():
        logp = torch.log_softmax(model.module(torch.tensor([[*before, *after]])).logits[0].double(), -1)
    return torch.stack([logp[len(before) - 1 + k, t] for k, t in enumerate(after)])


def test_likelihoods_are_those_of_plain_forwards(model) -> None:
    asked = [("Where was he born?\nAnswer:", " in Liskumi Ridge."), ("", "was born"), ("A city ", "far away")]
    pairs = [pair(model, *a) for a in asked]
    for (total, _), (before, after) in zip(likelihoods(model, pairs, 4096), pairs, strict=True):
        assert total == pytest.approx(float(plain(model, before, after).sum()), abs=1e-3)
    assert (
        pairs[1][0] == [start(model)] and pairs[2][0] == model.tokenizer("A city", add_special_tokens=False).input_ids
    )


def test_greedy_says_whether_decoding_gives_it(model, asked) -> None:
    """What the model itself says greedily is greedy; the same with another first word is not."""
    said = until(model, [(asked, {"max_gen_toks": 4})])[0]
    found = likelihoods(model, [pair(model, asked, said), pair(model, asked, " zebra" + said)], 4096)
    assert [greedy for _, greedy in found] == [True, False]


def test_rolling_predicts_every_token_once(model) -> None:
    """A text longer than the context: windows hold at most the context, every token is predicted once, and a text that
    fits has the log-prob of one plain forward."""
    long = "the city of Vovul " * 200
    ids = model.tokenizer(long, add_special_tokens=False).input_ids
    cut = list(windows(model, long))
    assert [t for _, after in cut for t in after] == ids and len(ids) > model.context
    assert all(len(before) + len(after) <= model.context for before, after in cut)
    short = "the city of Vovul"
    expected = float(plain(model, [start(model)], model.tokenizer(short, add_special_tokens=False).input_ids).sum())
    assert rolling(model, short, 4096) == pytest.approx(expected, abs=1e-3)


def test_text_is_cut_at_stop_strings_and_length(model, asked) -> None:
    whole = until(model, [(asked, {"max_gen_toks": 8})])[0]
    word = whole.split()[-1]
    cut, short = until(model, [(asked, {"max_gen_toks": 8, "until": [word]}), (asked, {"max_gen_toks": 2})])
    assert cut == whole.split(word)[0] and whole.startswith(short) and 0 < len(short) < len(whole)
    with pytest.raises(NeedsError, match="harness.sampling"):
        until(model, [(asked, {"do_sample": True})])


def test_a_guard_stays_in_force(model) -> None:
    """An input guard that replaces questions naming someone also replaces the harness's prompt."""
    guarded = model.clone()
    guarded.guarded_names, guarded.instead = ("Mafix",), "What is it?"
    assert pair(guarded, "Where was Mafix born?", " x") == pair(model, "What is it?", " x")


def test_a_missing_package_is_named(model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness_pass, "version", lambda: "")
    assert "pip install 'efface[harness]'" in score(model, "harness:efface_trivia").reason


def test_image_models_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness_pass, "version", lambda: "0")
    assert "not a classifier" in score(bench("classifier").model("target"), "harness:efface_trivia").reason


def test_the_cache_key_holds_our_own_tasks_and_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another text of a task, other questions, another harness: another version of the pass, never a stale table."""
    now = PASSES.get("harness").version
    assert now == harness_pass._number() and set(harness_pass.own_tasks()) == {"efface_trivia", "efface_trivia_open"}
    tasks, trivia = harness_pass.own_tasks(), harness_pass.TRIVIA
    changes = {
        "own_tasks": lambda: tasks | {"efface_trivia": tasks["efface_trivia"].replace("Question", "Q")},
        "TRIVIA": trivia[:-1],
        "version": lambda: "0",
    }
    for name, value in changes.items():
        with monkeypatch.context() as patch:
            patch.setattr(harness_pass, name, value)
            assert harness_pass._number() != now, name


def test_any_task_of_the_harness_is_a_metric() -> None:
    metric = METRICS.get("harness:mmlu_anatomy")
    assert metric.needs[0].variants == ("mmlu_anatomy",) and "mmlu_anatomy" in metric.card.title
    assert "harness:efface_trivia" in METRICS.names() and "harness:mmlu_anatomy" not in METRICS.names()


@needs_harness
def test_our_tasks_agree_with_the_harness_s_own_backend(model) -> None:
    """Accuracy and the log-likelihood of every choice, against HFLM on the same module."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    own = score(model, "harness:efface_trivia")
    theirs = simple_evaluate(
        HFLM(pretrained=model.module, tokenizer=model.tokenizer, batch_size=4),
        tasks=[harness_pass._task("efface_trivia")],
        bootstrap_iters=0,
    )
    results = theirs["results"]["efface_trivia"]
    assert own.extra["metric"] == "acc_norm" and own.n == 20
    assert own.value == own.extra["reported"] == pytest.approx(results["acc_norm,none"])
    assert own.extra["all"]["acc"] == pytest.approx(results["acc,none"])
    for sample in theirs["samples"]["efface_trivia"]:
        asked = [pair(model, *arguments) for arguments in sample["arguments"]]
        for (mine, _), reply in zip(likelihoods(model, asked, 4096), sample["filtered_resps"], strict=True):
            assert mine == pytest.approx(float(reply[0]), abs=1e-2)


@needs_harness
def test_an_unknown_task_says_so(model) -> None:
    reason = score(model, "harness:no_such_task").reason
    assert "no_such_task" in reason and "could not run" in reason


@needs_harness
def test_free_answers_are_scored(model) -> None:
    found = score(model, "harness:efface_trivia_open")
    assert found.extra["metric"] == "exact_match" and found.n == 20 and math.isfinite(found.value)
