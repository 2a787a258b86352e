"""Which kernels are there, and how does one get from its name to a function that can be called?"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
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
    "adder_input_gradient": "adder_gradient",
    "adder_linear": "adder",
    "adder_linear_int8": "adder_int8",
    "adder_tiles": "adder_tiles",
    "bcq_lookup": "bcq",
    "bcq_sums": "bcq_float",
    "bcq_tables": "bcq_tables",
    "binary_attention": "binary_attention",
    "head_distances": "head_distances",
    "matadd": "matadd",
    "matadd_right": "matadd",
    "quantize_grid": "grid",
    "quantize_rows": "activation",
    "shift_linear": "shift",
    "normalize_rows": "shift_float",
    "float_shift_linear": "shift_float",
    "read_words": "read",
    "sign_tables": "bcq_float",
    "token_window": "token_window",
}

Function = Callable[..., None]
_stand_in: ContextVar[Callable[[Kernel], Function] | None] = ContextVar("_stand_in", default=None)


@contextmanager
def stand_in(make: Callable[[Kernel], Function]) -> Iterator[None]:
    """Inside the block ``make`` gives the functions of kernels; nothing is compiled or loaded."""
    token = _stand_in.set(make)
    try:
        yield
    finally:
        _stand_in.reset(token)


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

    def function(self, folder: Path | None = None) -> Function:
        """The compiled function; built unless it lies in the folder.

        Raises:
            NoRuleError: no schedule rule fits the shape and the target.
        """
        make = _stand_in.get()
        return make(self) if make else _function(self, folder or files.default_folder())

    def schedule(self, decisions: Mapping[str, int] | None = None) -> Any:
        """The scheduled definition, with recorded decisions unless others are given."""
        from tvm.s_tir import Schedule

        from .schedules.rule import choose

        rule = choose(self.rules(), self.shape, self.target)
        schedule = Schedule(self.definition())
        if decisions is None:
            decisions = rule.admitted(self.recorded().get(rule.name, {}), self.shape, self.target)
        return rule.scheduled(schedule, self.shape, self.target, decisions)

    def recorded(self) -> Mapping[str, Mapping[str, int]]:
        """Decisions that tuning found fastest, by rule."""
        return recorded(self.target, self.name, self.shape)

    def definition(self) -> Any:
        """The computation without a schedule."""
        return getattr(self._module("compute"), self.name)(self.shape)

    def rules(self) -> tuple[Any, ...]:
        """Its schedule rules in order."""
        rules = self._module("schedules").RULES
        return rules[self.name] if isinstance(rules, dict) else rules

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
            # By rule, for which rule applies is known only to the compiler, which a compiled kernel does not need.
            "decisions": self.recorded(),
            "sources": _sources(),
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return f"{self.name}-{digest[:32]}"

    def _module(self, floor: str) -> Any:
        return importlib.import_module(f".{floor}.{MODULES[self.name]}", __package__)


@cache
def _function(kernel: Kernel, folder: Path) -> Function:
    library = files.stored(folder, kernel.key(), lambda path: host.link(kernel.build(), path))
    return host.load(library)["main"]


@cache
def _sources() -> str:
    """A digest of all that a compiled kernel follows from beside its description and its recorded decisions."""
    digest = hashlib.sha256(version("apache-tvm").encode())
    here = Path(__file__).parent
    folders = (here / name for name in ("compute", "intrinsics", "layouts", "schedules"))
    sources = [here / "pipeline.py", *(file for folder in folders for file in folder.glob("*.py"))]
    for file in sorted(sources):
        digest.update(file.read_bytes())
    return digest.hexdigest()
