"""Fixtures of the vision tests."""

import pytest
from vision.toy import class_folders, small_config

from tasks.image_classification.train import train


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folders(tmp_path):
    """Three classes of ten images."""
    return class_folders(tmp_path / "images")


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A finished run of ten steps on digits; not to be changed."""
    return train(small_config(tmp_path_factory.mktemp("trained") / "run"), quiet=True)
