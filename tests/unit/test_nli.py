"""The NLI judge: verdicts equal one plain call per pair, its files are part of the key, what is no judge is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from efface.audit.roles import PassSettings, Role
from efface.audit.store import Store
from efface.errors import ModelError
from efface.metrics.base import METRICS, Tables, compute
from efface.models.nli import NLI, check_nli, nli_digest
from efface.passes.cache import Cache
from efface.testing.bench import bench

WORDS = "[PAD] [UNK] [CLS] [SEP] a b c d e f g h".split()


def judge(folder: Path, seed: int = 0) -> Path:
    """A tiny BERT with three labels and weights from ``seed``."""
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text(
        "\n".join([*WORDS, *"ijklmnopqrstuvwxyz", *(f"##{c}" for c in map(chr, range(97, 123)))])
    )
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=256).save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=256,
        initializer_range=1.0,
        id2label={0: "contradiction", 1: "neutral", 2: "entailment"},
        label2id={"contradiction": 0, "neutral": 1, "entailment": 2},
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return judge(tmp_path_factory.mktemp("judge") / "nli")


def plain(folder: Path, premise: str, hypothesis: str) -> bool:
    """One pair, no padding."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    words = AutoTokenizer.from_pretrained(folder)(premise, hypothesis, return_tensors="pt")
    with torch.no_grad():
        logits = AutoModelForSequenceClassification.from_pretrained(folder).eval()(**words).logits[0]
    return int(logits.argmax()) == 2


def test_verdicts_equal_one_call_per_pair(folder: Path) -> None:
    texts = ["a b c", "d", "e f g h a b", "zebra", "c c c c", "b a"]
    pairs = [(a, b) for a in texts for b in texts]
    found = NLI(folder).entails(*map(list, zip(*pairs, strict=True)))
    assert found.tolist() == [plain(folder, a, b) for a, b in pairs] and 0 < found.sum() < len(pairs)


def test_what_is_longer_than_the_model_reads_is_cut(folder: Path) -> None:
    """The longer text first: 300 words of answer beside two of gold are cut to what fits."""
    from transformers import AutoTokenizer

    fits = AutoTokenizer.from_pretrained(folder).num_special_tokens_to_add(pair=True) + 2
    long, cut = "a b " * 150, ("a b " * 150).split()[: 256 - fits]
    assert NLI(folder).entails([long, "c d"], ["c d", long]).tolist() == [
        plain(folder, " ".join(cut), "c d"),
        plain(folder, "c d", " ".join(cut)),
    ]


def entailment(judge: str, cache: Path):
    b = bench("causal_lm")
    rows = list(b.data.eval["forget"])[:8]
    store = Store(
        {"subject": Role(lambda: b.model("reference"))}, {"forget": rows}, PassSettings(24, judge=judge), Cache(cache)
    )
    score = compute(METRICS.get("entailment"), Tables(store.fetch, "forget", "subject"), "forget", resamples=100)
    said = store.fetch(
        "subject", next(n for n in METRICS.get("entailment").bound_needs("forget") if n.kind == "generate")
    )
    return score, said.to_pylist()


def test_the_metric_takes_the_judges_verdict_and_says_so(folder: Path, tmp_path: Path) -> None:
    """Without a judge it is the proxy; with one it is the judge's verdict; another judge is another table."""
    by_words, said = entailment("", tmp_path)
    judged, _ = entailment(str(folder), tmp_path)
    assert by_words.extra["proxy"] == 1.0 and judged.extra["proxy"] == 0.0
    assert list(judged.per_row.values()) == [float(plain(folder, s["text"], s["gold"])) for s in said]
    other = judge(tmp_path / "other" / "nli", seed=3)
    again, _ = entailment(str(other), tmp_path)
    assert list(again.per_row.values()) == [float(plain(other, s["text"], s["gold"])) for s in said]
    assert nli_digest(folder) != nli_digest(other)
    assert not np.allclose(list(again.per_row.values()), list(judged.per_row.values()))


def test_what_is_no_judge_is_refused(tmp_path: Path) -> None:
    folder = judge(tmp_path / "nli")
    config = json.loads((folder / "config.json").read_text())
    for change in ({"id2label": {"0": "yes", "1": "no"}}, {"architectures": ["BertModel"]}):
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ModelError, match=r"model\.no-nli"):
            check_nli(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"model\.pickle-only"):
        check_nli(folder)
    with pytest.raises(ModelError, match=r"model\.missing"):
        check_nli(tmp_path / "nothing")
