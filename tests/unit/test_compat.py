"""The common harness's own forms against a restatement of its code (locuslab/open-unlearning at d3d7cf9), by hand, and
against a number it printed."""

from __future__ import annotations

import json
import math
import os
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.stats import hmean, ks_2samp
from sklearn.metrics import roc_auc_score

from efface import suites
from efface.data.rows import Row
from efface.metrics.base import METRICS, Need, NotComputed, Tables, compute
from efface.models.cachedir import cache_root
from efface.models.causal_lm import CausalLM
from efface.models.tiny import build_tokenizer, tiny_model
from efface.passes.compat_score import COMPAT, compat_gradient, compat_score, conversation
from efface.passes.registry import PassInput
from efface.testing.tables import hand_tables

USERS_CACHE = cache_root()  # read before the tests get a cache of their own
END = "<|im_end|>"
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ROWS = [
    Row("a", "Ada lives in Oslo.", "Where does Ada live?", wrong=("In Rome.", "Ada lives in Cairo."),
        answer_paraphrase="It is Oslo where Ada lives."),
    Row("b", "Red.", "Which colours does Bob like best of all?", wrong=("Blue.", "Green and grey."),
        answer_paraphrase="Bob likes red."),
    Row("c", "", "And then?", wrong=("Nothing.", "More."), answer_paraphrase="Silence."),
]  # fmt: skip
HOLDOUT = [Row("d", "Eve sings.", "What does Eve do?"), Row("e", "Cy lives in Rome.", "Where does Cy live?")]


def model(template: str = "auto", seed: int = 1) -> CausalLM:
    """An untrained model whose end of turn, EOS and padding are one token, as in ChatML."""
    tokenizer = build_tokenizer([t for row in ROWS + HOLDOUT for t in (row.prompt, row.answer)], vocab=320)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", END]})
    tokenizer.eos_token = tokenizer.pad_token = END
    tokenizer.chat_template = CHATML
    made = tiny_model(tokenizer, width=32, layers=2, ff=64, heads=2, seed=seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(4.0 if parameter.dim() > 1 else 1.0)  # so that what is hidden matters
    return CausalLM(made, tokenizer, template=template)


def run(function, lm: CausalLM, rows: list[Row], stem: str = "answer", name: str = "forget"):
    return function(PassInput(lm, rows, Need(function.__name__, name, variants=(stem,)), None, None))  # type: ignore[arg-type]


def compat_tables(models: dict[str, CausalLM], sets: dict[str, list[Row]], rows: str = "forget") -> Tables:
    """Tables of real passes; the subject's first."""

    def fetch(role: str, need: Need):
        if role not in models:
            raise NotComputed(f"there is no {role} model")
        function = {"compat_score": compat_score, "compat_gradient": compat_gradient}[need.kind]
        return run(function, models[role], sets[need.rows], need.variants[0], need.rows)

    return Tables(fetch, rows, "unlearned", 0, 50)


# -- the harness's code, restated -----------------------------------------------------------------------------------
def instance(lm: CausalLM, question: str, answer: str) -> tuple[list[int], int]:
    """preprocess_chat_instance: ids of the conversation and the length of the prompt."""
    tokenizer, chat = lm.tokenizer, [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    if lm.template.kind == "chat":
        ids = tokenizer(tokenizer.apply_chat_template(chat, tokenize=False), add_special_tokens=False)["input_ids"]
        text = tokenizer.apply_chat_template(chat[:-1], tokenize=False, add_generation_prompt=True)
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    else:
        prompt = tokenizer(f"Question: {question}\nAnswer: ")["input_ids"]
        ids = tokenizer(f"Question: {question}\nAnswer: {answer}")["input_ids"]
    if ids[-1] != tokenizer.eos_token_id:
        ids = ids + [tokenizer.eos_token_id]
    return ids, len(prompt)


def batch_of(lm: CausalLM, texts: list[tuple[list[int], int]]) -> dict[str, torch.Tensor]:
    """The collator: right padding, mask = ids.ne(pad)."""
    ids = [torch.tensor(i) for i, _ in texts]
    labels = [torch.tensor([-100] * n + i[n:]) for i, n in texts]
    pad = torch.nn.utils.rnn.pad_sequence
    padded = pad(ids, batch_first=True, padding_value=lm.tokenizer.pad_token_id)
    mask = padded.ne(lm.tokenizer.pad_token_id)
    return {"input_ids": padded, "attention_mask": mask, "labels": pad(labels, batch_first=True, padding_value=-100)}


def avg_losses(lm: CausalLM, texts: list[tuple[list[int], int]]) -> np.ndarray:
    """evaluate_probability."""
    batch = batch_of(lm, texts)
    with torch.no_grad():
        logits = lm.module(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    loss = torch.nn.CrossEntropyLoss(ignore_index=-100, reduction="none")
    total = loss(logits[..., :-1, :].transpose(-1, -2), batch["labels"][..., 1:]).sum(-1)
    return (total / (batch["labels"] != -100).sum(-1)).numpy()


def vocab_logprobs(lm: CausalLM, texts: list[tuple[list[int], int]], grad: bool = False):
    """tokenwise_vocab_logprobs and its labels: the last label left out."""
    batch = batch_of(lm, texts)
    with torch.set_grad_enabled(grad):
        logits = lm.module(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    log_probs = torch.log_softmax(logits, -1)[:, :-1]
    out = []
    for i, labels in enumerate(batch["labels"]):
        at = (labels != -100).nonzero(as_tuple=True)[0][:-1]
        out.append((log_probs[i, at - 1], labels[at]))
    return out


def harness_strength(log_probs: torch.Tensor, labels: torch.Tensor) -> float:
    predicted = log_probs.argmax(-1)
    if not len(labels):
        return 0.0
    for k in range(len(labels)):
        if torch.equal(predicted[k:], labels[k:]):
            break
    return 1 - k / len(labels)


def harness_min_k(log_probs: torch.Tensor, labels: torch.Tensor, *, plus: bool) -> float:
    values = log_probs.gather(1, labels[:, None]).squeeze(1)
    if not len(values):
        return 0.0
    if plus:
        mu = (log_probs.exp() * log_probs).sum(-1)
        sigma = (log_probs.exp() * log_probs.square()).sum(-1) - mu.square()
        values = (values - mu) / sigma.clamp(min=1e-6).sqrt()
    lowest = np.sort(values.numpy())[: max(1, int(len(values) * 0.4))]
    return float(-lowest.mean())


def harness_gradnorm(lm: CausalLM, text: tuple[list[int], int]) -> float:
    lm.module.train()
    ((log_probs, labels),) = vocab_logprobs(lm, [text], grad=True)
    lm.module.zero_grad()
    (-log_probs.gather(1, labels[:, None]).mean()).backward()
    norms = torch.stack([p.grad.detach().norm(p=2) for p in lm.module.parameters() if p.grad is not None])
    lm.module.zero_grad(set_to_none=True)
    lm.module.eval()
    return float(norms.mean())


@pytest.mark.parametrize("template", ["auto", "plain"])
def test_every_table_form_equals_the_restated_code(template: str) -> None:
    """One batch of three answers, ChatML (four hidden tokens a row, two labels too many) and plain."""
    lm = model(template)
    lm.module.eval()
    texts = [instance(lm, row.prompt, row.answer) for row in ROWS]
    tables = compat_tables({"subject": lm}, {"forget": ROWS})
    parts = vocab_logprobs(lm, texts)

    def values(name: str) -> list[float]:
        return list(compute(METRICS.get(name), tables, "forget", resamples=50).per_row.values())

    assert values("probability_compat") == pytest.approx(np.exp(-avg_losses(lm, texts)), rel=1e-4)
    assert values("extraction_strength_compat") == pytest.approx([harness_strength(*p) for p in parts])
    share = [(p.argmax(-1) == y).float().mean().item() for p, y in parts]
    assert values("exact_memorisation_compat") == pytest.approx(share, nan_ok=True)
    scores = {
        "loss": avg_losses(lm, texts),
        "min_k": [harness_min_k(*p, plus=False) for p in parts],
        "min_k_plus": [harness_min_k(*p, plus=True) for p in parts],
    }
    from efface.metrics import compat_privacy as forms

    for name, expected in scores.items():
        found = getattr(forms, f"{name}_compat")(tables, "forget", "subject").values
        assert -found == pytest.approx(expected, rel=1e-3, abs=1e-5), name
    decoded = [lm.tokenizer.decode(ids[n:], skip_special_tokens=True) for ids, n in texts]
    per_byte = scores["loss"] / [len(zlib.compress(text.encode())) for text in decoded]
    assert -forms.zlib_compat(tables, "forget", "subject").values == pytest.approx(per_byte, rel=1e-4)
    norms = forms.gradient_norm_compat(tables, "forget", "subject").values
    expected = [harness_gradnorm(lm, t) if len(t[0]) - t[1] > 1 else np.nan for t in texts]
    assert -norms == pytest.approx(expected, rel=1e-3, nan_ok=True)
    assert np.isnan(norms[2]) == (template == "plain")  # an empty answer: EOS alone, or what ChatML writes after it


def test_ratios_utility_and_attacks_equal_the_restated_code() -> None:
    lm, other = model(), model(seed=2)
    rows = ROWS[:2]
    sets = {"forget": rows, "holdout": HOLDOUT}
    tables = compat_tables({"subject": lm, "reference": other}, sets)

    def parts(of: CausalLM):
        paraphrased = avg_losses(of, [instance(of, r.prompt, r.answer_paraphrase) for r in rows])
        wrong = [avg_losses(of, [instance(of, r.prompt, w) for w in r.wrong]) for r in rows]
        return np.exp(-paraphrased), np.exp(-np.mean(wrong, axis=1)), np.exp(-np.array(wrong)).sum(1)

    correct, wrong, total = parts(lm)
    ratio = wrong / (correct + 1e-10)
    own = np.exp(-avg_losses(lm, [instance(lm, r.prompt, r.answer) for r in rows]))
    theirs = parts(other)
    for name, expected in {
        "truth_ratio_compat": np.mean(correct / (correct + wrong + 1e-10)),
        "truth_ratio_tofu_compat": np.mean(np.minimum(ratio, 1 / (ratio + 1e-10))),
        "truth_ratio_true_better_compat": np.mean(np.maximum(0, 1 - ratio)),
        "options_probability_compat": np.mean(own / (own + total + 1e-10)),
        "probability_paraphrased_answer_compat": np.mean(correct),
        "forget_quality_compat": ks_2samp(ratio, theirs[1] / (theirs[0] + 1e-10)).pvalue,
    }.items():
        assert compute(METRICS.get(name), tables, "forget", resamples=50).value == pytest.approx(expected, rel=1e-4), (
            name
        )
    texts = {side: [instance(lm, r.prompt, r.answer) for r in sets[side]] for side in sets}
    gaps = [avg_losses(lm, texts[side]) - avg_losses(other, texts[side]) for side in sets]
    auc = roc_auc_score([0, 0, 1, 1], np.concatenate(gaps))
    assert compute(METRICS.get("mia_reference_compat"), tables, "forget", resamples=50).value == pytest.approx(auc)


def test_labels_and_mask_by_hand() -> None:
    """ChatML: labels end with <|im_end|>, a line break and an EOS again; all four ends of turn are hidden. A document
    has no end token, and its first id no label; a continuation is joined by a blank."""
    lm = model()
    found = conversation(lm, "Where?", "Oslo.")
    assert lm.tokenizer.decode(list(found.labels)) == f"Oslo.{END}\n{END}"
    rows = [Row("t", "Ada lives in Oslo.", "")]
    bare = lm.tokenizer("Ada lives in Oslo.")["input_ids"]
    assert len(run(compat_score, lm, rows)["lp"].to_pylist()[0]) == len(bare) - 1
    opened = run(compat_score, lm, [Row("v", "Oslo.", "Ada lives in")], name="verbatim_forget")
    whole, prefix = (lm.tokenizer(t)["input_ids"] for t in ("Ada lives in Oslo.", "Ada lives in"))
    assert len(opened["lp"].to_pylist()[0]) == len(whole) - len(prefix)
    from efface.passes.compat_score import harness_mask

    ids, real = torch.tensor([[9, 5, 7, 9, 9]]), torch.tensor([[True, True, True, True, False]])
    expected = [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 0, 0]]
    assert harness_mask(ids, real, 9)[0, 0].int().tolist() == expected


def test_attacks_and_lacking_answers_are_named() -> None:
    from efface.models.tampering import Tampering

    lm = model()
    table = run(compat_score, lm, [replace(ROWS[0], answer_paraphrase="")], "answer_paraphrase")
    assert table["problem"].to_pylist() == ["no answer_paraphrase"]
    with pytest.raises(NotComputed, match="no such attack"):
        run(compat_score, lm.tampered(Tampering(forced={"a": "Ada"})), ROWS)
    long = run(compat_score, lm, [Row("l", "word " * 900, "why?")])
    assert long["problem"].to_pylist()[0].startswith("longer than the context")


def test_gradients_and_flags_are_left_as_they_were() -> None:
    lm = model()
    first = next(lm.module.parameters())
    first.requires_grad_(False)
    run(compat_gradient, lm, ROWS)
    assert not first.requires_grad and first.grad is None and not lm.module.training


# -- by hand --------------------------------------------------------------------------------------------------------
def by_hand(sets: dict, rows: str = "forget") -> Tables:
    """Hand-made tables of the harness's labels: columns as in ``hand_tables``, "wrong" as its lists."""
    held = {key if "/" in key else f"subject/{key}": dict(value) for key, value in sets.items()}
    plain = hand_tables(sets, rows=rows)

    def fetch(role: str, need: Need):
        if need.kind != "compat_score":
            return plain._fetch(role, need)
        if f"{role}/{need.rows}" not in held:
            raise NotComputed(f"there is no {role} model")
        content, stem = held[f"{role}/{need.rows}"], need.variants[0]
        if stem == "answer_paraphrase" and stem not in content:
            content = {**content, stem: {"lp": [[]] * len(content["answer"]), "problem": f"no {stem}"}}
        given = content.get(stem, [])
        if stem == "wrong":
            return table([(f"r{i}", lp) for i, row in enumerate(given) for lp in row], {})
        columns = given if isinstance(given, dict) else {"lp": given}
        lists = columns.get("lp", columns.get("hit"))
        return table([(f"r{i}", lp) for i, lp in enumerate(lists)], columns)

    return Tables(fetch, rows, "unlearned", 0, 50)


def table(lines: list, columns: dict) -> pa.Table:
    blank = {"lp": 0.0, "hit": False, "mu": 0.0, "sigma": 1.0}
    made = {name: columns.get(name, [[value] * len(values) for _, values in lines]) for name, value in blank.items()}
    if not columns:
        made["lp"] = [values for _, values in lines]
    problem = columns.get("problem", "")
    made |= {"row": [row for row, _ in lines], "entity": [""] * len(lines), "variant": [""] * len(lines)}
    made |= {"zlib": [10] * len(lines), "problem": [problem] * len(lines) if isinstance(problem, str) else problem}
    return pa.table({f.name: pa.array(made[f.name], f.type) for f in COMPAT}, schema=COMPAT)


def score(name: str, tables: Tables, rows: str = "forget"):
    return compute(METRICS.get(name), tables, rows, seed=0, resamples=100)


def test_extraction_strength_never_falls_to_zero():
    """7 tokens and an end token. All wrong: 1/7 = .143 instead of 0 (what the harness gave for n = 7); last token right
    alone: 1/7 in both; only the end token: 0 instead of unscored."""
    answer = {"hit": [[False] * 8, [False] * 6 + [True, False], [True], [True, False, True, True]], "eos": True}
    theirs = list(score("extraction_strength_compat", by_hand({"forget": {"answer": answer}})).per_row.values())
    ours = list(score("extraction_strength", hand_tables({"forget": {"answer": answer}})).per_row.values())
    assert theirs == pytest.approx([1 / 7, 1 / 7, 0.0, 1 / 3])
    assert ours[:2] == pytest.approx([0.0, 1 / 7]) and math.isnan(ours[2]) and ours[3] == pytest.approx(1 / 3)


def test_an_answer_without_labels_is_zero_or_left_out():
    """As the harness has it (n = 0 gives 0); a row that does not fit the context is not such a one."""
    answer = {"hit": [[True, True], [], []], "problem": ["", "empty answer", "longer than the context (9 > 8)"]}
    tables = by_hand({"forget": {"answer": answer}})
    found = score("extraction_strength_compat", tables)
    assert (found.value, found.n, found.unscored) == (0.5, 2, 1)
    assert score("exact_memorisation_compat", tables).n == 1 and score("probability_compat", tables).unscored == 2


def test_the_last_label_is_dropped_whatever_it_is():
    """Forget rows differ from holdout rows only in the last label: min-k does not see it, the loss does."""
    tables = by_hand({"forget": {"answer": [[-1.0, -0.1]] * 3}, "holdout": {"answer": [[-1.0, -5.0]] * 3}})
    assert score("mia_loss_compat", tables).value == score("mia_zlib_compat", tables).value == 1.0
    assert score("mia_min_k_compat", tables).value == 0.5


def test_min_k_scores_an_empty_answer_zero():
    """Nothing left, 0, which looks more familiar than any real answer."""
    problems = {"problem": ["empty answer", "longer than the context (9 > 8)", ""], "lp": [[], [], [-1.0, -9.0]]}
    tables = by_hand({"forget": {"answer": problems}, "holdout": {"answer": [[-0.5, -0.1]] * 2}})
    found = score("mia_min_k_compat", tables)
    assert (found.value, found.n, found.unscored) == (0.5, 2, 1) and score("privleak_compat", tables).n == 2


def test_privleak_assumes_one_half_and_says_so():
    """A = .75 by min-k: (.25 - .5) / (.5 + 1e-10) * 100 = -50; members in full view -100, as the measured target."""
    sets = {"forget": {"answer": [[-1.0, 0.0], [-3.0, 0.0]]}, "holdout": {"answer": [[-2.0, 0.0], [-4.0, 0.0]]}}
    found = score("privleak_compat", by_hand(sets))
    assert found.value == pytest.approx(-50.0) and found.extra["reference_assumed"] is True
    assert score("rel_diff_compat", by_hand(sets)).value == pytest.approx(50.0)
    sets["forget"] = {"answer": [[-0.1, 0.0]] * 2}
    assert score("privleak_compat", by_hand(sets)).value == pytest.approx(-100.0)


def test_ratios_carry_the_added_constant():
    """P_c = P_w = 1e-10: r = 1e-10 / 2e-10 = .5 instead of 1; options 1e-10 / 3e-10 = 1/3 instead of 1/2."""
    tiny = math.log(1e-10)
    sets = {"forget": {"answer": [[tiny]], "wrong": [[[tiny]]]}}
    tables = by_hand(sets)
    assert score("truth_ratio_tofu_compat", tables).value == pytest.approx(0.5, rel=1e-4)
    assert score("truth_ratio_tofu", hand_tables(sets)).value == pytest.approx(1.0)
    assert score("truth_ratio_compat", tables).value == pytest.approx(1 / 3, rel=1e-4)
    assert score("truth_ratio_true_better_compat", tables).value == pytest.approx(0.5, rel=1e-4)
    assert score("options_probability_compat", tables).value == pytest.approx(1 / 3, rel=1e-4)


def test_model_utility_is_the_harmonic_mean_of_its_nine_parts():
    """P .5, options .5 / (.5 + .25), ROUGE 1, ratio .25 / .5: 1 - r = .5; retain's probability stands alone. One part
    at 0 makes it 0."""
    rows = {
        "answer": [[math.log(0.5)]],
        "wrong": [[[math.log(0.25)]]],
        "generations": {"text": ["a cat"], "gold": "a cat"},
    }
    sets = {name: dict(rows) for name in ("retain", "real_authors", "world_facts")}
    found = score("model_utility_compat", by_hand(sets, "retain"), "retain")
    assert found.value == pytest.approx(hmean([0.5, *[0.5 / 0.75] * 2, *[1.0] * 3, *[0.5] * 3]), rel=1e-6)
    sets["world_facts"]["generations"] = {"text": ["dog"], "gold": "a cat"}
    assert score("model_utility_compat", by_hand(sets, "retain"), "retain").value == 0.0


def test_muse_texts_are_stemmed_of_their_own_length_against_the_whole_gold():
    """32 tokens for knowledge, 128 for passages, whatever the suite generates; the gold text of the table is cut, the
    answer is not."""
    said = {"text": ["run shoe Question: x"], "gold": ["running"]}
    sets = {"forget": {"32": said, "128": said, "answer": {"lp": [[-1.0]], "text": ["running shoes"]}}}
    assert score("knowmem_compat", hand_tables(sets)).value == 1.0
    assert score("verbmem_compat", hand_tables(sets)).value == pytest.approx(2 * 0.5 / 1.5)
    wanted = {name: METRICS.get(name).needs[0] for name in ("knowmem_compat", "verbmem_compat")}
    assert {name: (need.kind, need.variants) for name, need in wanted.items()} == {
        "knowmem_compat": ("continuation", ("32",)), "verbmem_compat": ("continuation", ("128",))
    }  # fmt: skip
    tables = hand_tables({"forget": {"generations": {"gold": ["...", "a cat"], "text": ["x", "cat"]}}})
    assert list(score("rouge_compat", tables).per_row.values()) == [0.0, 0.5]


def test_the_suites_hold_every_form_of_the_harness():
    """All names in _compat, but of those of other programs; and nothing that is not one."""
    held = {n for name in ("tofu_compat", "muse_compat") for names in suites.load(name).metrics.values() for n in names}
    known = {name for name in METRICS.names() if name.endswith("_compat")}
    assert held == known - {"letter_accuracy_compat", "cka_reference_compat"}
    assert {suites.load(name).benchmark for name in ("tofu_compat", "muse_compat")} == {"tofu", "muse"}


# -- against a number that the harness printed ----------------------------------------------------------------------
@pytest.mark.smollm2
def test_smollm2_gives_the_loss_that_the_harness_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    """Untrained SmolLM2-135M, the first 20 rows of forget01, measured with the harness in bf16 under the system prompt
    of its model files: 90 tokens in the first row, 4 of them hidden; mean loss 1.881, probability .182; under the right
    mask, 1.749 and .206. To .005, what bf16 may differ by."""
    from efface.errors import EffaceError
    from efface.models.sources import resolve
    from efface.passes import compat_score as module

    place = Path(os.environ.get("EFFACE_TOFU", "../shared/data/tofu")) / "forget01.json"
    if not place.is_file():
        pytest.skip("the TOFU files are not there")
    monkeypatch.setenv("EFFACE_CACHE", str(USERS_CACHE))
    try:
        lm = CausalLM.load(resolve("smollm2-135m").folder, compute="bf16", device="cpu")
    except EffaceError as error:
        pytest.skip(f"SmolLM2 cannot be had: {error.cause}")
    own = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    lm.template = replace(lm.template, source=lm.template.source.replace(own, "You are a helpful assistant."))
    read = [json.loads(line) for line in place.read_text().splitlines()[:20]]
    rows = [Row(str(i), r["answer"], r["question"]) for i, r in enumerate(read)]
    ids = conversation(lm, rows[0].prompt, rows[0].answer).ids
    assert (len(ids), ids.count(lm.tokenizer.pad_token_id)) == (90, 4)

    def measured() -> tuple[float, float]:
        means = np.array([np.mean(lp) for lp in run(compat_score, lm, rows)["lp"].to_pylist()])
        return -means.mean(), np.exp(means).mean()

    assert measured() == pytest.approx((1.881, 0.182), abs=5e-3)
    masked = module.harness_mask
    monkeypatch.setattr(module, "harness_mask", lambda ids, real, pad: masked(ids, real, -1))
    assert measured() == pytest.approx((1.749, 0.206), abs=5e-3)
