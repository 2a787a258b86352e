"""Fixtures of the task tests."""

import json

import pytest
from translation.toy import mo_bytes, reverse_pairs


@pytest.fixture
def locale_dir(tmp_path):
    """A function that writes one catalog: locale_dir("de", "prog", {...}) -> the locale folder."""
    root = tmp_path / "locale"

    def write(language, program, messages, **kwargs):
        path = root / language / "LC_MESSAGES" / f"{program}.mo"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(messages if isinstance(messages, bytes) else mo_bytes(messages, **kwargs))
        return str(root)

    return write


@pytest.fixture(scope="session")
def reverse_file(tmp_path_factory):
    """The reverse task as JSONL."""
    path = tmp_path_factory.mktemp("reverse") / "pairs.jsonl"
    rows = [json.dumps({"source": source, "target": target}) for source, target in reverse_pairs(600)]
    path.write_text("\n".join(rows), encoding="utf-8")
    return path
