"""Which kernels are there, and how does one get from its name to a function that can be called?"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from . import cache as files
from . import host
from .records import recorded
from .targets import Target

# The file that holds each kernel's definition, and under the same name its schedule rules.
MODULES = {
    "quantize_rows": "activation",
    "shift_linear": "shift",
}


@dataclass(frozen=True)
class Kernel:
    """One function to compile.

    Args:
        name: a name of :data:`MODULES`.
        shape: the static shape, of the class that the definition takes.
        target: the machine.
    """

    name: str
    shape: Any
    target: Target

    def function(self, folder: Path | None = None) -> Callable[..., None]:
        """The compiled function; built unless it lies in the folder.

        Raises:
            NoRuleError: no schedule rule fits the shape and the target.
        """
        return _function(self, folder or files.default_folder())

    def schedule(self, decisions: Mapping[str, int] | None = None) -> Any:
        """The scheduled definition, with recorded decisions unless others are given."""
        from tvm.s_tir import Schedule

        from .schedules.rule import choose

        rule = choose(self.rules(), self.shape, self.target)
        schedule = Schedule(self.definition())
        known = recorded(self.target, self.name, self.shape, rule.name) if decisions is None else decisions
        return rule.scheduled(schedule, self.shape, self.target, known)

    def definition(self) -> Any:
        """The computation without a schedule."""
        return getattr(self._module("compute"), self.name)(self.shape)

    def rules(self) -> tuple[Any, ...]:
        """Its schedule rules in order."""
        return self._module("schedules").RULES

    def build(self, decisions: Mapping[str, int] | None = None) -> Any:
        """A compiled module; ``inspect_source("asm")`` shows the code."""
        from .pipeline import build

        return build(self.schedule(decisions).mod, self.target)

    def key(self) -> str:
        """Names the compiled function by everything that it is made of."""
        content = {
            "kernel": self.name,
            "shape": asdict(self.shape),
            "target": self.target.llvm(),
            "features": sorted(self.target.features),
            "sources": _sources(),
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return f"{self.name}-{digest[:32]}"

    def _module(self, floor: str) -> Any:
        return importlib.import_module(f".{floor}.{MODULES[self.name]}", __package__)


@cache
def _function(kernel: Kernel, folder: Path) -> Callable[..., None]:
    library = files.stored(folder, kernel.key(), lambda path: host.link(kernel.build(), path))
    return host.load(library)["main"]


@cache
def _sources() -> str:
    """A digest of all that a compiled kernel follows from beside its description."""
    digest = hashlib.sha256(version("apache-tvm").encode())
    here = Path(__file__).parent
    for file in sorted([*here.rglob("*.py"), *here.rglob("*.c"), *here.rglob("*.json")]):
        digest.update(file.read_bytes())
    return digest.hexdigest()
