"""Which weights have been laid out for kernels already?

A kernel reads a weight in tiles, which are made from the operator's own format once and kept as long as the weight
lives. A weight that is changed in place, or replaced, is laid out again.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

from torch import Tensor

Prepared = TypeVar("Prepared")


class Operands(Generic[Prepared]):
    """Prepared forms of weights, found by the identity of their tensors.

    Args:
        make: prepares a form from the tensors and the static arguments that it is asked for with.
    """

    def __init__(self, make: Callable[..., Prepared]) -> None:
        self._make = make
        self._known: dict[tuple[object, ...], tuple[list[int], Prepared]] = {}

    def get(self, tensors: tuple[Tensor | None, ...], static: tuple[object, ...]) -> Prepared:
        """The prepared form of the tensors as they are now."""
        key = (*map(id, tensors), *static)
        versions = list(map(_version, tensors))
        found = self._known.get(key)
        if found is not None and found[0] == versions:
            return found[1]
        prepared = self._make(*tensors, *static)
        if found is None:
            for tensor in tensors:  # when one goes, its identity may be given to another tensor
                if tensor is not None:
                    weakref.finalize(tensor, self._known.pop, key, None)
        self._known[key] = (versions, prepared)
        return prepared


def _version(tensor: Tensor | None) -> int:
    """Counts changes in place; tensors made in inference mode keep no count, and are taken not to change."""
    try:
        return tensor._version if tensor is not None else -1
    except RuntimeError:
        return -1
