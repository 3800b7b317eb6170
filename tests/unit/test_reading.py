"""Files to rows: every failure has its code and names file and line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from efface.data.reading import read_rows, training_rows
from efface.data.records import read_records
from efface.data.rows import Row
from efface.errors import DataError

QA = [{"question": "Wo?", "answer": "Tarsova, für immer\u2028."}, {"question": "Wer?", "answer": "Maro"}]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def lines(path: Path, records: list[dict]) -> Path:
    return write(path, "\n".join(json.dumps(record, ensure_ascii=False) for record in records))


def refuse(code: str, call, *words: str) -> DataError:
    with pytest.raises(DataError) as error:
        call()
    assert error.value.code == code, error.value
    assert all(word in str(error.value) for word in words), error.value
    assert error.value.cause and error.value.fix
    return error.value


def test_every_format_gives_the_same_rows(tmp_path):
    files = [
        lines(tmp_path / "a.jsonl", QA),
        lines(tmp_path / "lines.json", QA),
        write(tmp_path / "list.json", json.dumps(QA, indent=2)),
        write(tmp_path / "a.csv", 'question,answer\nWo?,"Tarsova, für immer\u2028."\n\nWer?,Maro\n'),
        write(tmp_path / "a.tsv", "question\tanswer\r\nWo?\tTarsova, für immer\u2028.\r\nWer?\tMaro\r\n"),
        write(tmp_path / "bom.jsonl", b"\xef\xbb\xbf" + (tmp_path / "a.jsonl").read_bytes()),
    ]
    pq.write_table(pa.Table.from_pylist(QA), tmp_path / "a.parquet")
    read = [read_rows(file) for file in [*files, tmp_path / "a.parquet"]]
    assert all(rows == read[0] for rows in read)
    assert [(row.prompt, row.answer) for row in read[0]] == [(r["question"], r["answer"]) for r in QA]
    assert read_rows(write(tmp_path / "data.bin", files[0].read_bytes()), format="jsonl") == read[0]


@pytest.mark.parametrize(
    ("prompt", "answer"), [("prompt", "response"), ("instruction", "output"), ("question", "completion")]
)
def test_usual_column_names_are_understood(tmp_path, prompt, answer):
    (row,) = read_rows(
        lines(
            tmp_path / "a.jsonl",
            [
                {
                    prompt: "q",
                    answer: "a",
                    "id": 7,
                    "entity": "Maro",
                    "fact": "f",
                    "paraphrased_question": "p",
                    "perturbed_answer": ["x", "y"],
                }
            ],
        )
    )
    assert row == Row("7", "a", "q", "Maro", "p", "", ("x", "y"), "f")


def test_mapping_wins_and_documents_have_no_prompt(tmp_path):
    file = lines(tmp_path / "a.jsonl", [{"q": "Wo?", "question": "ignored?", "a": "Da."}])
    (row,) = read_rows(file, fields={"prompt": "q", "answer": "a"}, strict=False)
    assert (row.prompt, row.answer) == ("Wo?", "Da.")
    (document,) = read_rows(lines(tmp_path / "d.jsonl", [{"text": "Es war einmal."}]))
    assert (document.prompt, document.answer) == ("", "Es war einmal.")
    (body,) = read_rows(lines(tmp_path / "b.jsonl", [{"body": "Es war."}]), fields={"answer": "body"})
    assert (body.prompt, body.answer) == ("", "Es war.")


def test_ids_come_from_content_and_do_not_depend_on_order(tmp_path):
    forward, backward = (read_rows(lines(tmp_path / f"{i}.jsonl", r)) for i, r in enumerate((QA, QA[::-1])))
    assert {row.id for row in forward} == {row.id for row in backward} and forward[0].id == backward[1].id
    changed = read_rows(lines(tmp_path / "c.jsonl", [{**QA[0], "answer": "anders"}]))
    assert changed[0].id not in {row.id for row in forward}


def test_csv_wrong_answers_are_a_json_list_or_one_text(tmp_path):
    file = write(tmp_path / "a.csv", 'prompt,answer,wrong\nq,a,"[""x"", ""y""]"\nr,b,z\ns,c,\n')
    assert [row.wrong for row in read_rows(file)] == [("x", "y"), ("z",), ()]
    refuse("data.malformed-line", lambda: read_rows(write(file, "prompt,answer,wrong\nq,a,[x\n")), "line 2")


def test_missing_empty_and_foreign_files(tmp_path):
    refuse("data.missing-file", lambda: read_rows(tmp_path / "no.jsonl"), "no.jsonl")
    refuse("data.empty-file", lambda: read_rows(write(tmp_path / "e.jsonl", "\n \n")), "e.jsonl")
    refuse("data.empty-file", lambda: read_rows(write(tmp_path / "e.csv", "prompt,answer\n")), "e.csv")
    refuse("data.unknown-format", lambda: read_rows(write(tmp_path / "a.pkl", "x")), "parquet")
    (tmp_path / "folder.jsonl").mkdir()
    refuse("data.not-a-file", lambda: read_rows(tmp_path / "folder.jsonl"))
    os.mkfifo(tmp_path / "pipe.jsonl")
    refuse("data.not-a-file", lambda: read_rows(tmp_path / "pipe.jsonl"))
    broken = write(tmp_path / "a.parquet", b"PAR1 no parquet PAR1")
    refuse("data.malformed-file", lambda: read_rows(broken), "a.parquet")


GOOD = '{"prompt": "q", "answer": "a"}\n'


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("{", "data.malformed-line"),
        ("[1]", "data.malformed-line"),
        ("7", "data.malformed-line"),
        ("[" * 100_000, "data.malformed-line"),
        ('{"prompt": "q", "prompt": "r", "answer": "a"}', "data.malformed-line"),
        ('{"prompt": "r"}', "data.missing-field"),
        ('{"promt": "r", "answer": "a"}', "data.missing-field"),
        ('{"prompt": "r", "answer": 5}', "data.bad-value"),
        ('{"prompt": "r", "answer": null}', "data.bad-value"),
        ('{"prompt": "r", "answer": "\\ud800"}', "data.bad-value"),
        ('{"prompt": "r", "answer": "a", "id": true}', "data.bad-value"),
        ('{"prompt": "r", "answer": "a", "wrong": [1]}', "data.bad-value"),
        ('{"prompt": "r", "answer": "a", "wrong": 1}', "data.bad-value"),
        ('{"prompt": "r", "answer": " "}', "data.empty-answer"),
        ('{"prompt": " ", "answer": "a"}', "data.empty-prompt"),
        ('{"prompt": "r", "question": "r", "answer": "a"}', "data.ambiguous-field"),
        ('{"prompt": "r", "answer": "a", "text": "t"}', "data.ambiguous-field"),
        ('{"prompt": "r", "answer": "a", "entitty": "t"}', "data.unknown-field"),
        ('{"prompt": "q", "answer": "a"}', "data.duplicate-row"),
    ],
)
def test_every_bad_line_is_named_with_its_number(tmp_path, line, code):
    file = write(tmp_path / "bad.jsonl", GOOD + "\n" + line)
    refuse(code, lambda: read_rows(file), "bad.jsonl, line 3")


def test_unknown_field_names_the_nearest_and_can_be_left_out(tmp_path):
    file = lines(tmp_path / "a.jsonl", [{"prompt": "q", "answer": "a", "entitty": "Maro"}])
    refuse("data.unknown-field", lambda: read_rows(file), "'entitty'", "Did you mean 'entity'")
    assert read_rows(file, strict=False)[0].entity == ""
    refuse("data.unknown-field", lambda: read_rows(file, fields={"promt": "prompt"}), "Did you mean 'prompt'")
    refuse("data.missing-field", lambda: read_rows(file, fields={"entity": "entity_"}), "'entitty'")


def test_duplicate_ids_name_both_lines(tmp_path):
    rows = [
        {"id": 1, "prompt": "q", "answer": "a"},
        {"id": 2, "prompt": "r", "answer": "b"},
        {"id": "1", "prompt": "s", "answer": "c"},
    ]
    refuse("data.duplicate-id", lambda: read_rows(lines(tmp_path / "a.jsonl", rows)), "line 3", "line 1")


def test_encodings_and_sizes(tmp_path):
    mixed = GOOD.encode() + '{"prompt": "r", "answer": "für"}\n'.encode("latin-1")
    refuse("data.not-utf8", lambda: read_rows(write(tmp_path / "mixed.jsonl", mixed)), "line 2", "0xfc")
    refuse("data.not-utf8", lambda: read_rows(write(tmp_path / "wide.csv", GOOD.encode("utf-16"))), "line 1")
    refuse("data.too-large", lambda: read_rows(write(tmp_path / "big.jsonl", GOOD), max_bytes=10), "limit is 10")
    table = pa.table({"prompt": [str(i) for i in range(20_000)], "answer": ["a" * 500] * 20_000})
    pq.write_table(table, tmp_path / "bomb.parquet", compression="zstd", use_dictionary=False)
    size = (tmp_path / "bomb.parquet").stat().st_size
    assert size < 1_000_000  # 10 MB of answers: the limit must hold for what it unpacks to
    refuse("data.too-large", lambda: read_rows(tmp_path / "bomb.parquet", max_bytes=1_000_000), "unpacks")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("prompt,answer\nq,a\nr\n", 3),
        ("prompt,answer\nq,a,b\n", 2),
        ("prompt,prompt\nq,a\n", 1),
        ('prompt,answer\n"a\nb",c\nx,"y"z\n', 4),
        ("prompt,answer\nq," + "x" * 200_000, 2),
    ],
)
def test_bad_csv_names_the_line(tmp_path, text, line):
    refuse("data.malformed-line", lambda: read_rows(write(tmp_path / "a.csv", text)), f"a.csv, line {line}:")


def test_errors_never_quote_the_content(tmp_path):
    file = write(tmp_path / "a.jsonl", GOOD + '{"secret-7": ')
    assert "secret" not in str(refuse("data.malformed-line", lambda: read_rows(file)))


def test_training_rows_drop_what_is_scored_and_refuse_empty_answers():
    row = Row("1", "a", "q", "e", "p", "ap", ("w",), "f")
    assert training_rows([row], "forget") == (Row("1", "a", "q", "e", fact="f"),)
    refuse("data.empty-answer", lambda: training_rows([Row("2", " ", "q")], "forget"), "forget: row 2")


def test_a_parquet_file_that_names_one_long_value_many_times_is_refused(tmp_path):
    """Half a megabyte, stored once and named 2,000 times: what is packed looks small, the values are a gigabyte."""
    file = tmp_path / "names.parquet"
    for column in (pa.array(["x" * 2**19] * 2000), pa.array(["x" * 2**19] * 2000).dictionary_encode()):
        pq.write_table(pa.table({"prompt": ["q"] * 2000, "answer": column}), file, compression="zstd")
        assert file.stat().st_size < 2**20
        refuse("data.too-large", lambda: read_records(file, max_bytes=2**22), "names.parquet")
    assert len(read_records(write_small(tmp_path), max_bytes=2**12)) == 50


def write_small(folder: Path) -> Path:
    pq.write_table(pa.table({"prompt": ["q"] * 50, "answer": ["a"] * 50}), folder / "small.parquet")
    return folder / "small.parquet"
