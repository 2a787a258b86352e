"""Distances between queries and keys, head by head: against their definition, whole or in groups."""

from __future__ import annotations

import pytest
import torch
from conformance import normal

from shiftadd_transformers.operators import head_distances as module
from shiftadd_transformers.operators.head_distances import head_distance_gradients, head_distances

SHAPES = [(3, 5, 7, 4), (1, 1, 1, 1), (2, 6, 3, 9), (0, 2, 3, 4), (2, 0, 3, 4), (2, 3, 0, 4), (2, 3, 4, 0)]


@pytest.mark.parametrize("tile", [1, 60, 1 << 19], ids=["head by head", "in groups", "at once"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_definition(shape, tile, monkeypatch):
    monkeypatch.setattr(module, "TILE", tile)
    n, t, s, e = shape
    query, key = normal(n, t, e, dtype=torch.float64), normal(n, s, e, seed=1, dtype=torch.float64)
    grad = normal(n, t, s, seed=2, dtype=torch.float64)
    difference = key.unsqueeze(1) - query.unsqueeze(2)
    torch.testing.assert_close(head_distances(query, key), -difference.abs().sum(-1), rtol=1e-12, atol=1e-12)
    step = grad.unsqueeze(-1) * difference.clamp(-1, 1)
    to_query, to_key = head_distance_gradients(grad, query, key)
    torch.testing.assert_close(to_query, step.sum(2), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(to_key, -step.sum(1), rtol=1e-12, atol=1e-12)


def test_operator_is_registered_whole():
    query, key = normal(2, 3, 4), normal(2, 5, 4, seed=1)
    torch.library.opcheck(torch.ops.shiftadd.head_distances.default, (query, key))
