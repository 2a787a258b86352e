"""Which machine do the operators of this process compute on?"""

from __future__ import annotations

from functools import cache

from ..targets import Target, target


@cache
def machine() -> Target:
    """The target of this machine."""
    return target("host")
