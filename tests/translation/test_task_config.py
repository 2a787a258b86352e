"""TOML to dataclass: every mistake names the key and proposes the nearest."""

from pathlib import Path

import pytest

from tasks.config import (
    apply_overrides,
    build,
    parse_override,
    read_config,
    to_tables,
    write_config,
    write_text,
)
from tasks.dispatch import read_task_config, shipped_configs
from tasks.errors import TaskError
from tasks.translation.config import TranslationConfig


def written(tmp_path, text):
    path = tmp_path / "c.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_values_and_defaults(tmp_path):
    path = written(
        tmp_path, 'seed = 3\n[data]\nsource = "gettext:de"\nlocale_dirs = ["a"]\n[train]\nlearning_rate = 1\n'
    )
    config = read_config(TranslationConfig, path)
    assert (config.seed, config.data.source, config.data.locale_dirs) == (3, "gettext:de", ("a",))
    assert config.train.learning_rate == 1
    assert config.plan is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train]\nlearning_rat = 1", "unknown key 'train.learning_rat'; did you mean 'train.learning_rate'"),
        ("sed = 1", "unknown key 'sed'; did you mean 'seed'"),
        ("[trian]\nepochs = 1", "unknown key 'trian'; did you mean 'train'"),
        ('[train]\nlearning_rate = "fast"', "train.learning_rate must be a number, got 'fast'"),
        ("[train]\neval_steps = 1.5", "train.eval_steps must be a whole number, got 1.5"),
        ("[train]\neval_steps = true", "must be a whole number"),
        ('[train]\nschedule = "cos"', "one of 'cosine'"),
        ("train = 3", "train must be a table"),
        ("[data]\nlocale_dirs = [1]", "data.locale_dirs must be a list"),
        ("[model]\nd_model = 10\nheads = 4", "multiple of model.heads"),
        ("[plan]\npack = true", "no rules"),
        ("seed = = 1", "not valid TOML"),
    ],
)
def test_mistakes(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(TaskError, match=r"c.toml") as error:
        read_config(TranslationConfig, path)
    assert message in str(error.value)


def test_missing_file_proposes_a_neighbour(tmp_path):
    written(tmp_path, "")
    with pytest.raises(TaskError, match=r"did you mean .*c\.toml"):
        read_config(TranslationConfig, tmp_path / "cc.toml")


def test_overrides(tmp_path):
    texts = [
        "train.learning_rate=1e-3",
        "data.source=1.jsonl",
        "train.max_minutes=.5",
        "seed=7",
        "train.bf16=true",
    ]
    config = read_config(TranslationConfig, written(tmp_path, "[train]\nlearning_rate = 9\n"), texts)
    assert config.train.learning_rate == 1e-3
    assert config.data.source == "1.jsonl"
    assert config.train.max_minutes == 0.5
    assert config.seed == 7
    assert config.train.bf16 is True


def test_optional_values_and_nested_tables_can_be_overridden():
    texts = [
        "train.max_steps=5",
        "data.test=none",
        'plan.rules=[{role="mlp.*",op={kind="shift"}}]',
        "plan.distill.alpha=0.3",
    ]
    config = build(TranslationConfig, apply_overrides(TranslationConfig, {}, texts))
    assert config.train.max_steps == 5
    assert config.data.test is None
    assert config.plan.rules == ({"role": "mlp.*", "op": {"kind": "shift"}},)
    assert config.plan.distill.alpha == 0.3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.learning_rat=1", "did you mean 'train.learning_rate'"),
        ("trian.epochs=1", "unknown key 'trian'"),
        ("train.epochs", "not of the form key=value"),
        ("=3", "not of the form"),
    ],
)
def test_bad_overrides(text, message):
    with pytest.raises(TaskError, match="override") as error:
        parse_override(TranslationConfig, text)
    assert message in str(error.value)


def test_an_override_of_the_wrong_type(tmp_path):
    with pytest.raises(TaskError, match=r"train.eval_steps must be a whole number, got 'many'"):
        read_config(TranslationConfig, written(tmp_path, ""), ["train.eval_steps=many"])


def test_the_resolved_config_reads_back_equal(tmp_path):
    tables = {
        "data": {"source": 'a "b".tsv', "locale_dirs": ["x", "y"]},
        "plan": {
            "rules": [{"match": "*.fc1", "op": {"kind": "shift", "bits": 4}}],
            "distill": {"alpha": 0.25},
        },
    }
    config = build(TranslationConfig, tables)
    write_config(config, tmp_path / "out.toml")
    assert read_config(TranslationConfig, tmp_path / "out.toml") == config
    assert "max_steps" not in to_tables(config)["train"]


@pytest.mark.parametrize("path", shipped_configs(), ids=lambda path: path.stem)
def test_shipped_configs_are_valid(path):
    assert path.parent.parent.name == read_task_config(path).task
    assert path.read_text(encoding="utf-8").startswith("# ")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_text(path, "old")

    def full(self, text, encoding):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
