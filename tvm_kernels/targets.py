"""Which machines are kernels built for, and what can each of them do?

A target is a name, the words that LLVM wants to hear, and the few features that schedule rules ask for. Everything
else that differs between machines follows from these.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Target:
    """A kind of machine.

    Args:
        name: what users write.
        cpu: LLVM's name of the processor; empty for the oldest of its architecture.
        triple: LLVM's triple; empty for this machine's.
        features: what rules may use, among ``avx2``, ``avx512``, ``vnni``, ``vbmi``, ``neon``, ``dotprod``.
        attributes: further ``+feature`` words for LLVM.
    """

    name: str
    cpu: str = ""
    triple: str = ""
    features: frozenset[str] = frozenset()
    attributes: tuple[str, ...] = ()

    @property
    def lanes(self) -> int:
        """32-bit lanes of a vector register; layouts are made of rows of this many outputs."""
        if "avx512" in self.features:
            return 16
        return 8 if "avx2" in self.features else 4

    @property
    def registers(self) -> int:
        """Vector registers that a tile may occupy."""
        return 32 if self.features & {"avx512", "neon"} else 16

    def has(self, *features: str) -> bool:
        """Whether all of these features are there."""
        return self.features.issuperset(features)

    def llvm(self) -> dict[str, object]:
        """The target in TVM's words."""
        words: dict[str, object] = {"kind": "llvm"}
        if self.cpu:
            words["mcpu"] = self.cpu
        if self.triple:
            words["mtriple"] = self.triple
        if self.attributes:
            words["mattr"] = list(self.attributes)
        return words


_AVX512 = frozenset({"avx2", "avx512"})
_ARM = "aarch64-linux-gnu"

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("icelake-server", "icelake-server", "", _AVX512 | {"vnni", "vbmi"}),
        Target("cascadelake", "cascadelake", "", _AVX512 | {"vnni"}),
        Target("skylake-avx512", "skylake-avx512", "", _AVX512),
        Target("haswell", "haswell", "", frozenset({"avx2"})),
        Target("cortex-a76", "cortex-a76", _ARM, frozenset({"neon", "dotprod"}), ("+neon", "+dotprod")),
        Target("cortex-a72", "cortex-a72", _ARM, frozenset({"neon"}), ("+neon",)),
        Target("generic"),
        Target("riscv64", "", "riscv64-linux-gnu", attributes=("+m", "+a", "+f", "+d", "+c")),
    )
}
"""Best first within an architecture; ``generic`` is any machine that LLVM knows, by the portable rules alone."""

_X86_FLAGS = {"avx2": "avx2", "avx512_vnni": "vnni", "avx512vbmi": "vbmi"}
_AVX512_FLAGS = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
_ARM_FLAGS = {"asimd": "neon", "asimddp": "dotprod"}


def target(name: str | Target = "host") -> Target:
    """Look a target up.

    Args:
        name: a name of :data:`TARGETS`, or ``host`` for the best one that this machine can run.

    Returns:
        the target.

    Raises:
        ValueError: there is no such target; the message proposes the nearest.

    >>> target("haswell").lanes
    8
    >>> target("haswel")
    Traceback (most recent call last):
    ...
    ValueError: unknown target 'haswel': did you mean 'haswell'? Known: host, icelake-server, cascadelake, ...
    """
    if isinstance(name, Target):
        return name
    if name == "host":
        return _host()
    if name not in TARGETS:
        close = get_close_matches(name, TARGETS, 1, 0.5)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"unknown target {name!r}: {hint}Known: host, {', '.join(TARGETS)}")
    return TARGETS[name]


def runs_here(wanted: Target) -> bool:
    """Whether this machine executes code built for the target."""
    foreign = bool(wanted.triple) and wanted.triple.split("-")[0] != platform.machine()
    return not foreign and wanted.features <= _machine_features()


@cache
def _host() -> Target:
    return next(candidate for candidate in TARGETS.values() if runs_here(candidate))


@cache
def _machine_features() -> frozenset[str]:
    """Features of this processor as Linux reports them; none elsewhere, which selects the portable rules."""
    cpuinfo = Path("/proc/cpuinfo")
    words = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    found = {feature for flag, feature in (_X86_FLAGS | _ARM_FLAGS).items() if flag in words}
    return frozenset(found | {"avx512"} if words >= _AVX512_FLAGS else found)
