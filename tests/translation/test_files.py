"""A user's own files: every format, and a clear word about every mistake."""

import json

import pytest

from tasks.errors import TaskError
from tasks.translation.config import DataConfig
from tasks.translation.data import load_pairs, load_split, save_corpus
from tasks.translation.files import read_pairs, read_parallel
from tasks.translation.pairs import Pair

CAT = [Pair("a cat", "eine Katze"), Pair("a dog", "ein Hund")]


def read(path, **kwargs):
    return read_pairs(str(path), DataConfig(**kwargs))


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def jsonl(path, rows):
    return write(path, "\n".join(json.dumps(row, ensure_ascii=False) for row in rows))


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        ([{"source": s, "target": t} for s, t in CAT], {}),
        ([{"en": s, "de": t, "id": "7"} for s, t in CAT], {"target_language": "de"}),
        ([{"en": s, "de": t} for s, t in CAT], {}),
        ([{"de": t, "en": s} for s, t in CAT], {}),
        ([{"translation": {"en": s, "de": t}} for s, t in CAT], {"target_language": "de"}),
        ([{"question": s, "answer": t, "n": 3} for s, t in CAT], {}),
        ([{"x": s, "y": t, "z": "no"} for s, t in CAT], {"source_column": "x", "target_column": "y"}),
    ],
)
def test_jsonl_columns(tmp_path, rows, options):
    assert read(jsonl(tmp_path / "a.jsonl", rows), **options) == CAT


def test_tables(tmp_path):
    assert read(write(tmp_path / "a.tsv", "a cat\teine Katze\na dog\tein Hund\n")) == CAT
    assert read(write(tmp_path / "b.tsv", "id\tsource\ttarget\n1\ta cat\teine Katze\n2\ta dog\tein Hund\n")) == CAT
    assert read(write(tmp_path / "c.tsv", 'say "hi\tsag "hallo\n')) == [Pair('say "hi', 'sag "hallo')]
    assert read(write(tmp_path / "d.csv", 'en,de\n"a cat","eine Katze"\na dog,ein Hund\n'), target_language="de") == CAT


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"source": [p.source for p in CAT], "target": [p.target for p in CAT]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == CAT
    write(tmp_path / "b.parquet", "no")
    with pytest.raises(TaskError, match="not a readable parquet"):
        read(tmp_path / "b.parquet")


def test_two_text_files(tmp_path):
    a, b = write(tmp_path / "a.en", "a cat\na dog\n"), write(tmp_path / "a.de", "eine Katze\nein Hund\n")
    assert read_parallel(str(a), str(b)) == CAT
    write(b, "eine Katze\n")
    with pytest.raises(TaskError, match=r"2 lines but .* has 1"):
        read_parallel(str(a), str(b))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"source": "a", "target": "b"}\n{"source": "a", "targ', r"a\.jsonl:2: not valid JSON"),
        ("a.jsonl", '{"source": "a", "target": "b"}\n{"source": "a"}', r"a\.jsonl:2: no column 'target'"),
        (
            "a.jsonl",
            '{"source": "a", "target": "b"}\n{"source": "a", "target": 3}',
            r"a\.jsonl:2: .*both be texts",
        ),
        ("a.jsonl", '["a", "b"]', r"a\.jsonl:1: expected an object"),
        ("a.jsonl", '{"text": "a"}', "only one text column.*'text'"),
        ("a.jsonl", '{"x": "a", "y": "b", "z": "c"}', "cannot tell which columns.*'x', 'y', 'z'"),
        ("a.jsonl", "", "holds no sentence pairs"),
        ("a.tsv", "a\tb\nc\n", r"a\.tsv:2: 1 columns where 2"),
        ("a.tsv", "a\nb\n", "only one text column"),
        ("a.docx", "x", r"unknown kind of file; one of \.jsonl"),
    ],
)
def test_bad_files(tmp_path, name, text, message):
    with pytest.raises(TaskError, match=message):
        read(write(tmp_path / name, text))


def test_missing_file_and_column(tmp_path):
    path = jsonl(tmp_path / "pairs.jsonl", [{"source": "a", "target": "b"}])
    with pytest.raises(TaskError, match=r"no data file.*did you mean .*pairs\.jsonl"):
        read(tmp_path / "pair.jsonl")
    with pytest.raises(TaskError, match="no column 'sorce'; did you mean 'source'"):
        read(path, source_column="sorce")


def test_not_utf8(tmp_path):
    (tmp_path / "a.tsv").write_bytes("ok\tgut\nsize\tGröße\n".encode("latin-1"))
    with pytest.raises(TaskError, match=r"a\.tsv:2: not UTF-8"):
        read(tmp_path / "a.tsv")


def test_corpus_from_a_file_and_back(tmp_path):
    rows = [{"source": f"the {a} {b} here", "target": f"{b} {a}"} for a in "abcdefgh" for b in "klmnopqr"]
    corpus = load_pairs(DataConfig(source=str(jsonl(tmp_path / "a.jsonl", rows))))
    assert (len(corpus.train), len(corpus.validation), len(corpus.test)) == (58, 3, 3)
    save_corpus(corpus, tmp_path / "data")
    assert load_split(tmp_path / "data", "test") == corpus.test


def test_own_test_file_is_kept_out_of_training(tmp_path):
    rows = [{"source": f"word {a}", "target": a} for a in ("one", "two", "three", "four", "five", "six")]
    train, test = jsonl(tmp_path / "a.jsonl", rows), jsonl(tmp_path / "t.jsonl", rows[:2])
    corpus = load_pairs(DataConfig(source=str(train), test=str(test)))
    assert [pair.target for pair in corpus.test] == ["one", "two"]
    assert len(corpus.train) == 3
    assert len(corpus.validation) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "data.source is not set"),
        ({"source": "gettext:"}, "expected a language code"),
        ({"source": "nowhere.jsonl"}, "no data file"),
    ],
)
def test_bad_sources(options, message):
    with pytest.raises(TaskError, match=message):
        load_pairs(DataConfig(**options))


def test_nothing_left_after_cleaning(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", [{"source": "", "target": "x"}, {"source": "y", "target": " "}])
    with pytest.raises(TaskError, match=r"empty after cleaning.*2 empty side"):
        load_pairs(DataConfig(source=str(path)))
