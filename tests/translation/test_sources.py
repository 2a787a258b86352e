"""The hub, CLDR, and `auto:` as sources."""

import datasets
import pytest

from tasks.errors import TaskError
from tasks.translation.cldr import compose
from tasks.translation.config import DataConfig
from tasks.translation.data import load_pairs
from tasks.translation.hub import read_hub
from tasks.translation.pairs import Pair
from tasks.translation.split import template

pytestmark = pytest.mark.usefixtures("few_phrases")
ROWS = [{"translation": {"en": "a cat", "de": "eine Katze"}}]


@pytest.fixture
def few_phrases(monkeypatch):
    monkeypatch.setattr("tasks.translation.cldr.COMPOSED", 2000)


@pytest.fixture
def hub(monkeypatch):
    loaded = datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS)})
    monkeypatch.setattr(datasets, "load_dataset", lambda name, subset: loaded)


@pytest.mark.usefixtures("hub")
def test_hub_splits():
    parts = read_hub("wmt", DataConfig(target_language="de"))
    assert parts == {"train": [Pair("a cat", "eine Katze")], "test": [Pair("a cat", "eine Katze")]}
    with pytest.raises(TaskError, match="no split 'tran'; did you mean 'train'"):
        read_hub("wmt", DataConfig(train_split="tran"))


def test_hub_offline(monkeypatch):
    def offline(name, subset):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(TaskError, match=r"hub:wmt14 could not be loaded (.|\n)*data.source = \"pairs.jsonl\""):
        load_pairs(DataConfig(source="hub:wmt14"))


def test_hub_subset(monkeypatch):
    def needs_subset(name, subset):
        raise ValueError("Config name is missing. Please pick one among: ['de-en']")

    monkeypatch.setattr(datasets, "load_dataset", needs_subset)
    with pytest.raises(TaskError, match="pick one among"):
        load_pairs(DataConfig(source="hub:wmt14"))


def test_cldr_is_parallel_and_repeatable():
    pairs, _ = compose("de", count=300)
    assert pairs == compose("de", count=300)[0]
    assert Pair("Germany", "Deutschland") in pairs
    assert len(pairs) > 800


def test_cldr_corpus_is_cleaned_and_split():
    corpus = load_pairs(DataConfig(source="cldr:fr"))
    assert len(corpus.train) > 1500
    train = {template(pair.source) for pair in corpus.train}
    assert not train & {template(pair.source) for pair in corpus.test}
    assert corpus.target_language == "fr"


def test_cldr_unknown_language():
    with pytest.raises(TaskError, match="CLDR has no data for language 'xq'"):
        compose("xq")


def test_auto_takes_cldr_where_catalogs_are_few(locale_dir):
    root = locale_dir("de", "a", {"File": "Datei"})
    corpus = load_pairs(DataConfig(source="auto:de", locale_dirs=(root,)))
    assert "auto: CLDR, because catalogs give only 1 pairs" in corpus.report.notes[-1]


def test_auto_takes_catalogs_where_they_suffice(locale_dir, monkeypatch):
    monkeypatch.setattr("tasks.translation.data.ENOUGH_CATALOGS", 10)
    words = ["open", "close", "read", "write", "move", "copy"]
    root = locale_dir("de", "a", {f"{a} and {b} it": f"{b}, dann das {a}" for a in words for b in words})
    corpus = load_pairs(DataConfig(source="auto:de", locale_dirs=(root,)))
    assert "auto: message catalogs" in corpus.report.notes[-1]
    assert corpus.report.kept == 36
