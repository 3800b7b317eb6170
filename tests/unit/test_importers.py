"""Result files of other programs: recomputed from their rows, planted disagreements found, other versions named."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import hmean, ks_2samp

from efface.errors import DataError
from efface.importers.read import check

TINY = 1e-10


def put(path: Path, values) -> Path:
    path.write_text(json.dumps(values))
    return path


def refuse(code: str, path: Path, *words: str) -> None:
    with pytest.raises(DataError) as error:
        check(path)
    assert error.value.code == code and error.value.fix, error.value
    assert all(word in str(error.value) for word in words), error.value


# -- the common harness --------------------------------------------------------------------------------------------
def by_index(key, values):
    return {str(i): {key: v} for i, v in enumerate(values)}


def losses(values):
    """Rows as the harness writes a probability: average loss and its exp; a list for several answers."""
    exp = [[math.exp(-x) for x in v] if isinstance(v, list) else math.exp(-v) for v in values]
    return {str(i): {"prob": p, "avg_loss": v} for i, (v, p) in enumerate(zip(values, exp, strict=True))}


def entry(rows, value):
    return {"agg_value": float(value), "value_by_index": rows}


def ratio(correct, wrong):
    return np.exp(-np.mean(wrong, axis=1)) / (np.exp(-np.array(correct)) + TINY)


def harness_log(seed: int = 0) -> dict:
    """A log of the harness with everything consistent; two wrong answers a row, five rows."""
    rng = np.random.default_rng(seed)
    log = {}
    for name in ("retain", "ra", "wf", "forget"):
        own, wrong = rng.uniform(0.1, 1, 5).tolist(), rng.uniform(1, 2, (5, 2)).tolist()
        paraphrase = rng.uniform(0.2, 1.5, 5).tolist()
        log[f"{name}_Q_A_Prob"] = entry(losses(own), np.mean(np.exp(-np.array(own))))
        log[f"{name}_Q_A_PERT_Prob"] = entry(losses(wrong), np.mean(np.exp(-np.array(wrong)).mean(1)))
        rouge = rng.uniform(0.2, 1, 5)
        log[f"{name}_Q_A_ROUGE"] = entry(by_index("rougeL_recall", rouge.tolist()), rouge.mean())
        if name in ("retain", "forget"):
            log[f"{name}_Q_A_PARA_Prob"] = entry(losses(paraphrase), np.mean(np.exp(-np.array(paraphrase))))
            r = ratio(paraphrase, wrong)
        else:
            r = ratio(own, wrong)
            p, q = np.exp(-np.array(own)), np.exp(-np.array(wrong)).sum(1)
            log[f"{name}_Q_A_Prob_normalised"] = entry(
                by_index("prob", (p / (p + q + TINY)).tolist()), np.mean(p / (p + q + TINY))
            )
        name = "forget_truth_ratio" if name == "forget" else f"{name}_Truth_Ratio"
        value = np.mean(np.minimum(r, 1 / (r + TINY))) if "forget" in name else np.mean(np.maximum(0, 1 - r))
        log[name] = entry(by_index("score", r.tolist()), value)
    parts = ["retain_Q_A_Prob", "retain_Q_A_ROUGE", "retain_Truth_Ratio"]
    parts += [f"{n}_{p}" for n in ("ra", "wf") for p in ("Q_A_Prob_normalised", "Q_A_ROUGE", "Truth_Ratio")]
    log["model_utility"] = {"agg_value": float(hmean([log[p]["agg_value"] for p in parts]))}
    log["extraction_strength"] = entry({"0": {"score": 0.5}, "1": {"score": 0.0}, "2": {"score": None}}, 0.25)
    scores = {"forget": [1.0, 2.0], "holdout": [3.0, 1.5]}  # larger: less familiar; 3 of 4 pairs in order
    log["mia_min_k"] = {"agg_value": 0.75} | {s: {"value_by_index": by_index("score", v)} for s, v in scores.items()}
    log["privleak"] = {"agg_value": ((1 - 0.75) - 0.5) / (0.5 + TINY) * 100}
    return log


def stored_ratios(log):
    return [row["score"] for row in log["forget_truth_ratio"]["value_by_index"].values()]


def test_a_consistent_log_is_recomputed_to_what_it_prints(tmp_path):
    mine, theirs = harness_log(0), harness_log(1)
    mine["forget_quality"] = {"agg_value": float(ks_2samp(stored_ratios(mine), stored_ratios(theirs)).pvalue)}
    del mine["privleak"]
    log = check(put(tmp_path / "TOFU_EVAL.json", mine), put(tmp_path / "retain.json", theirs))
    assert log.format == "common harness" and not log.to_json()["findings"]
    assert {v.name for v in log.values if v.again is None} == set()
    assert log.value("forget_quality").corrected == pytest.approx(math.log10(mine["forget_quality"]["agg_value"]))
    assert (log.value("extraction_strength").n, log.value("extraction_strength").unscored) == (2, 1)


@pytest.mark.parametrize(
    "name", ["forget_quality", "model_utility", "forget_truth_ratio", "wf_Q_A_Prob_normalised", "mia_min_k"]
)
def test_a_planted_disagreement_is_found(name, tmp_path):
    mine, theirs = harness_log(0), harness_log(1)
    mine["forget_quality"] = {"agg_value": float(ks_2samp(stored_ratios(mine), stored_ratios(theirs)).pvalue)}
    del mine["privleak"]
    mine[name]["agg_value"] *= 1.01
    log = check(put(tmp_path / "TOFU_EVAL.json", mine), put(tmp_path / "retain.json", theirs))
    findings = log.to_json()["findings"]
    assert len(findings) == 1 and findings[0].startswith(f"{name}: the file says")


def test_changed_rows_move_everything_made_of_them(tmp_path):
    """One loss of a paraphrased answer changed: its probability row no longer follows, nor does the truth ratio."""
    log = harness_log()
    log["retain_Q_A_PARA_Prob"]["value_by_index"]["0"]["avg_loss"] += 0.5
    found = check(put(tmp_path / "TOFU_EVAL.json", log)).to_json()["findings"]
    assert {text.split(":")[0] for text in found} == {"retain_Truth_Ratio", "model_utility"}


def test_without_a_reference_the_half_is_named_and_forget_quality_is_not_made_up(tmp_path):
    log = harness_log()
    log["forget_quality"] = {"agg_value": None}
    found = check(put(tmp_path / "TOFU_EVAL.json", log))
    assert found.value("privleak").note == "reference AUC .5 assumed" and not found.value("privleak").differs
    assert found.value("privleak").corrected is None
    assert found.value("forget_quality").again is None and "--reference" in found.value("forget_quality").reason


def test_the_newer_form_of_the_truth_ratio_is_recognised(tmp_path):
    """c / (c + w) per row, their mean: the form prob_mean. Recomputed in that form and said so."""
    log = harness_log()
    r = np.array(stored_ratios(log))
    log["forget_truth_ratio"] = entry(by_index("score", (1 / (1 + r)).tolist()), np.mean(1 / (1 + r)))
    value = check(put(tmp_path / "TOFU_EVAL.json", log)).value("forget_truth_ratio")
    assert not value.differs and value.note == "form: prob mean"


def test_the_newer_form_of_improbable_answers(tmp_path):
    """P(correct) = P(wrong) = e^-28 = 6.9e-13, far below the 1e-10: c / (c + w + 1e-10) = .0068, where
    1 / (1 + w / (c + 1e-10)) would say .993. A row without a loss is NaN on both sides. Other rows are not taken for
    it."""
    log = harness_log()
    for name in ("retain_Q_A_PARA_Prob", "retain_Q_A_PERT_Prob"):
        log[name]["value_by_index"] = losses([28.0] * 3) | {"3": {"prob": None, "avg_loss": None}}
    c = math.exp(-28)
    share = c / (2 * c + TINY)
    log["retain_Truth_Ratio"] = entry(by_index("score", [share] * 3 + [None]), share)
    value = check(put(tmp_path / "TOFU_EVAL.json", log)).value("retain_Truth_Ratio")
    assert (value.again, value.n, value.unscored) == (pytest.approx(share), 3, 1)
    assert share == pytest.approx(0.0068, rel=0.01) and value.note == "form: prob mean"
    log["retain_Truth_Ratio"] = entry(by_index("score", [share / 2] * 3 + [None]), 1 - c / (c + TINY))
    value = check(put(tmp_path / "TOFU_EVAL.json", log)).value("retain_Truth_Ratio")
    assert not value.differs and value.note == ""


@pytest.mark.parametrize("name", ["ra_Q_A_PERT_Prob", "ra_Q_A_Prob"])
def test_unequal_rows_are_named(name, tmp_path):
    log = harness_log()
    del log["ra_Truth_Ratio"], log[name]["value_by_index"]["4"], log["model_utility"]
    refuse("import.other-version", put(tmp_path / "a.json", log), "ra_Q_A_Prob and ra_Q_A_PERT_Prob have", "5", "4")
    log = tofu_log()
    del log["eval_real_world_wo_options.json"]["average_perturb_loss"]["0"]
    refuse("import.other-version", put(tmp_path / "b.json", log), "average_perturb_loss in eval_real_world", "5")


def test_a_nan_is_null_in_json(tmp_path, capsys):
    """The harness prints NaN where one empty answer poisons a mean: said by the finding, null in JSON, no crash."""
    from efface.cli.import_ import command

    log = harness_log()
    log["retain_Q_A_Prob"]["agg_value"] = math.nan
    assert command(put(tmp_path / "TOFU_EVAL.json", log), as_json=True) == 1
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    (value,) = (v for v in told["values"] if v["name"] == "retain_Q_A_Prob")
    assert value["printed"] is None and value["again"] > 0 and value["differs"] is True
    assert told["findings"][0].startswith("retain_Q_A_Prob: the file says nan")


def test_what_is_no_number_is_named(tmp_path):
    """A list, a text or an object where the format has a number: file and key, not a TypeError."""

    def changed(name, *keys, value):
        log = harness_log()
        place = log[name]
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
        return put(tmp_path / "TOFU_EVAL.json", log)

    bad = "import.other-version"
    refuse(bad, changed("privleak", "agg_value", value=[0.5]), "TOFU_EVAL.json", "agg_value of privleak is a list")
    row = ("value_by_index", "3", "prob")
    refuse(bad, changed("retain_Q_A_Prob", *row, value="high"), "'prob' in row 3 of retain_Q_A_Prob is a str")
    refuse(bad, changed("ra_Q_A_PERT_Prob", *row, value=[0.5, {}]), "'prob' in row 3 of ra_Q_A_PERT_Prob is a dict")
    path = changed("privleak", "agg_value", value=0.0)
    put(tmp_path / "TOFU_SUMMARY.json", {"privleak": "low"})
    refuse(bad, path, "TOFU_SUMMARY.json: privleak is a str")
    (tmp_path / "TOFU_SUMMARY.json").unlink()
    log = tofu_log()
    log["eval_log.json"]["rougeL_recall"]["2"] = "high"
    refuse(bad, put(tmp_path / "a.json", log), "row 2 of rougeL_recall in eval_log.json is a str")
    with pytest.raises(DataError, match="retain.json: 'avg_loss' in row 0 of forget_Q_A_PARA_Prob is a str"):
        theirs, mine = harness_log(1), harness_log() | {"forget_quality": {"agg_value": 0.5}}
        theirs["forget_Q_A_PARA_Prob"]["value_by_index"]["0"]["avg_loss"] = "low"
        check(put(tmp_path / "b.json", mine), put(tmp_path / "retain.json", theirs))


def test_a_row_without_a_rouge_is_unscored(tmp_path):
    """null beside texts is no contradiction; it is a row less."""
    texts = {"ground_truth": "a red fox", "generation": "a red fox"}
    rows = {"0": {"rougeL_recall": None, **texts}, "1": {"rougeL_recall": 1.0, **texts}}
    log = check(put(tmp_path / "TOFU_EVAL.json", {"forget_Q_A_ROUGE": entry(rows, 1.0)}))
    value = log.value("forget_Q_A_ROUGE")
    assert (value.again, value.n, value.unscored) == (1.0, 1, 1) and not log.findings


def test_stored_texts_must_give_the_stored_rouge(tmp_path):
    rows = {
        "0": {"rougeL_recall": 1.0, "rougeL_f1": 1.0, "ground_truth": "a red fox", "generation": "a red fox"},
        "1": {"rougeL_recall": 0.9, "rougeL_f1": 0.5, "ground_truth": "a red fox", "generation": "a dog"},
    }
    log = {"forget_Q_A_ROUGE": entry(rows, 0.95)}
    found = check(put(tmp_path / "TOFU_EVAL.json", log)).to_json()["findings"]
    assert "forget_Q_A_ROUGE: 1 of 2 rows have texts that do not give their rougeL_recall" in found


def test_muse_logs_use_f1(tmp_path):
    rows = {"0": {"rougeL_recall": 0.9, "rougeL_f1": 0.4}, "1": {"rougeL_recall": 0.9, "rougeL_f1": 0.6}}
    log = {"forget_verbmem_ROUGE": entry(rows, 0.5)}
    assert check(put(tmp_path / "MUSE_EVAL.json", log)).value("forget_verbmem_ROUGE").again == pytest.approx(0.5)


def test_a_summary_is_held_against_its_log(tmp_path):
    log = harness_log()
    put(tmp_path / "TOFU_EVAL.json", log)
    summary = {name: value["agg_value"] for name, value in log.items()} | {"model_utility": 0.9, "gone": 1.0}
    findings = check(put(tmp_path / "TOFU_SUMMARY.json", summary)).to_json()["findings"]
    assert any(f.startswith("model_utility: TOFU_SUMMARY.json says 0.9") for f in findings)
    assert "gone: in TOFU_SUMMARY.json, but not in the log" in findings
    assert findings == check(tmp_path / "TOFU_EVAL.json").to_json()["findings"]  # found beside the log as well
    (tmp_path / "TOFU_EVAL.json").unlink()
    refuse("import.no-rows", tmp_path / "TOFU_SUMMARY.json", "TOFU_EVAL.json")


# -- TOFU's own logs -----------------------------------------------------------------------------------------------
FILES = ("eval_log.json", "eval_real_author_wo_options.json", "eval_real_world_wo_options.json", "eval_log_forget.json")


def tofu_log(seed: int = 0, rows: int = 6) -> dict:
    rng = np.random.default_rng(seed)
    log = {}
    for file in FILES:
        gold, para, wrong = rng.uniform(0.1, 1, rows), rng.uniform(0.3, 1.5, rows), rng.uniform(0.5, 2, (rows, 3))
        measures = {
            "avg_gt_loss": gold,
            "avg_paraphrased_loss": para,
            "average_perturb_loss": wrong,
            "rougeL_recall": rng.uniform(0.2, 1, rows),
            "truth_ratio": np.exp(para - wrong.mean(1)),
        }
        log[file] = {name: {str(i): v for i, v in enumerate(values.tolist())} for name, values in measures.items()}
    return log


def independent(log):
    """The aggregation script's own steps, written down separately: its curr_stat is 1/r."""
    out = {}
    for file, name in zip(FILES, ("Retain", "Real Authors", "Real World", "Forget"), strict=True):
        get = {k: np.array(list(v.values())) for k, v in log[file].items()}
        prob = np.exp(-get["avg_gt_loss"])
        if "eval_log" not in file:
            prob = prob / np.concatenate([prob[:, None], np.exp(-get["average_perturb_loss"])], axis=1).sum(-1)
        stat = np.exp(get["average_perturb_loss"].mean(-1) - get["avg_paraphrased_loss"])
        form = np.minimum(stat, 1 / stat) if "forget" in file else np.maximum(0, 1 - 1 / stat)
        out |= {
            f"Prob. {name}": prob.mean(),
            f"ROUGE {name}": get["rougeL_recall"].mean(),
            f"Truth Ratio {name}": form.mean(),
        }
    out["Model Utility"] = hmean([v for k, v in out.items() if "Forget" not in k])
    return out


def test_tofu_log_gives_the_scripts_numbers(tmp_path):
    mine, theirs = tofu_log(0), tofu_log(1)
    log = check(put(tmp_path / "a.json", mine), put(tmp_path / "b.json", theirs))
    for name, value in independent(mine).items():
        assert log.value(name).again == pytest.approx(value, rel=1e-9), name
    ratios = [list(x["eval_log_forget.json"]["truth_ratio"].values()) for x in (mine, theirs)]
    assert log.value("Forget Quality").again == pytest.approx(ks_2samp(*ratios).pvalue)
    assert not log.to_json()["findings"] and log.format == "TOFU log"


def test_tofu_table_and_rows_disagree(tmp_path):
    """The CSV prints another model utility; one stored truth ratio is not what its losses give."""
    mine = tofu_log()
    mine["eval_log_forget.json"]["truth_ratio"]["2"] *= 2
    row = independent(mine) | {"Method": "npo"}
    row["Model Utility"] += 0.01
    with (tmp_path / "stat.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, row)
        writer.writeheader(), writer.writerow(row)
    found = check(put(tmp_path / "a.json", mine), printed=tmp_path / "stat.csv").to_json()["findings"]
    assert len(found) == 2 and found[0].startswith("Model Utility: the file says")
    assert found[1] == "eval_log_forget.json: 1 of 6 stored truth ratios are not what the losses give"


def test_unscorable_rows_are_counted(tmp_path):
    log = tofu_log()
    log["eval_log.json"]["avg_gt_loss"]["0"] = None
    value = check(put(tmp_path / "a.json", log)).value("Prob. Retain")
    assert (value.n, value.unscored) == (5, 1)


# -- the LM evaluation harness inside the common one ---------------------------------------------------------------
def samples(*rights: bool) -> list[dict]:
    """Four options; the second is the target and the likeliest, or the third is."""
    return [
        {
            "doc_id": i,
            "doc": {"question": f"Q{i}?"},
            "target": 1,
            "filtered_resps": [[-3.0, False], [-1.0, False], [-0.5 if not right else -2.0, False], [-4.0, False]],
            "filter": "none",
            "acc": float(right),
        }
        for i, right in enumerate(rights)
    ]


def lm_eval_log() -> dict:
    """One task, and a group of two subtasks of unequal size."""
    return {
        "wmdp_cyber": {"wmdp_cyber": samples(True, False, True, True)},
        "mmlu": {"mmlu_law": samples(True, True, False), "mmlu_art": samples(False, True, False, False, False)},
    }


def test_lm_eval_accuracy_and_error_are_recomputed(tmp_path):
    """3 of 4: .75, error sqrt(.25 / 4) = .25. Group: 3 of 8 = .375 (not the mean of 2/3 and 1/5); variances 1/3 and
    1/5: sqrt((2/3 + 4/5) / (8 - 2) / 8)."""
    path = put(tmp_path / "LMEval_EVAL.json", lm_eval_log())
    group = math.sqrt((2 / 3 + 4 / 5) / 6 / 8)
    said = {"wmdp_cyber/acc": 0.75, "wmdp_cyber/acc_stderr": 0.25, "mmlu/acc": 0.375, "mmlu/acc_stderr": group}
    put(tmp_path / "LMEval_SUMMARY.json", said | {"mmlu/perplexity": 3.0})
    for start in (path, tmp_path / "LMEval_SUMMARY.json"):
        log = check(start)
        assert log.format == "LM evaluation harness log" and not log.to_json()["findings"]
        assert {name: log.value(name).again for name in said} == pytest.approx(said)
        assert log.value("mmlu/acc").n == 8 and "no perplexity" in log.value("mmlu/perplexity").reason
    put(tmp_path / "LMEval_SUMMARY.json", said | {"mmlu/acc": 0.43, "gsm8k/acc": 0.1})
    findings = check(path).to_json()["findings"]
    assert findings[0].startswith("mmlu/acc: the file says 0.43, its rows give 0.375") and "gsm8k" in findings[1]
    (tmp_path / "LMEval_SUMMARY.json").unlink()
    assert check(path).value("wmdp_cyber/acc").again == 0.75


def test_lm_eval_answers_are_chosen_again(tmp_path):
    log = lm_eval_log()
    log["mmlu"]["mmlu_law"][2]["acc"] = 1.0
    findings = check(put(tmp_path / "LMEval_EVAL.json", log)).to_json()["findings"]
    assert findings == ["mmlu_law: 1 of 3 samples have log-likelihoods that do not give their acc"]


def test_lm_eval_files_without_samples_or_of_another_kind_are_named(tmp_path):
    own = {"results": {"mmlu": {"acc,none": 0.5}}, "configs": {}, "versions": {"mmlu": 2}}
    refuse("import.no-rows", put(tmp_path / "results.json", own), "only means", "LMEval_EVAL.json")
    refuse("import.no-rows", put(tmp_path / "LMEval_SUMMARY.json", {"mmlu/acc": 0.5}), "LMEval_EVAL.json")
    log = lm_eval_log()
    log["mmlu"]["mmlu_art"][1]["acc"] = "right"
    refuse("import.other-version", put(tmp_path / "LMEval_EVAL.json", log), "'acc' in sample 1 of mmlu_art is a str")
    log = lm_eval_log()
    log["wmdp_cyber"]["wmdp_cyber"][0]["filter"] = "strict"
    put(tmp_path / "LMEval_SUMMARY.json", {"wmdp_cyber/acc": 0.75})
    value = check(put(tmp_path / "LMEval_EVAL.json", log)).value("wmdp_cyber/acc")
    assert value.again is None and "several ways" in value.reason


# -- bad input -----------------------------------------------------------------------------------------------------
def test_files_of_other_versions_and_kinds_are_named(tmp_path):
    log = tofu_log()
    del log["eval_log_forget.json"]["avg_paraphrased_loss"]
    refuse("import.other-version", put(tmp_path / "a.json", log), "eval_log_forget.json", "avg_paraphrased_loss")
    refuse("import.one-task", put(tmp_path / "b.json", tofu_log()["eval_log.json"]), "eval_log_aggregated.json")
    harness = harness_log()
    harness["retain_Q_A_Prob"]["value_by_index"]["3"] = {"probability": 0.5}
    refuse("import.other-version", put(tmp_path / "c.json", harness), "row 3 of retain_Q_A_Prob", "'prob'")
    refuse("import.unknown-format", put(tmp_path / "d.json", {"results": {"acc": {"mean": 1}}}), "_EVAL.json")
    refuse("import.unknown-format", put(tmp_path / "e.json", [1, 2]))
    (tmp_path / "f.json").write_text('{"a": ')
    refuse("import.malformed", tmp_path / "f.json", "line 1")
    (tmp_path / "g.json").write_bytes(b'{"a": "\xff"}')
    refuse("import.malformed", tmp_path / "g.json")


def test_command_line(tmp_path, capsys):
    """Exit 0 when all follows from the rows, 1 with a finding; JSON on demand."""
    from efface.cli.import_ import command

    log = harness_log()
    path = put(tmp_path / "TOFU_EVAL.json", log)
    assert command(path) == 0 and "all printed numbers follow from the rows" in capsys.readouterr().out
    log["model_utility"]["agg_value"] = 0.99
    assert command(put(path, log), as_json=True) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["findings"][0].startswith("model_utility: the file says 0.99")
