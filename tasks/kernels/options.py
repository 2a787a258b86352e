"""What do the commands take, and how are sizes and operators written?"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tasks.errors import TaskError

if TYPE_CHECKING:
    from shiftadd_transformers.cost import AttentionShape
    from shiftadd_transformers.specs import Spec

COMMON_SHAPES = ((768, 768), (768, 3072), (3072, 768), (1024, 1024), (1024, 4096), (4096, 1024), (4096, 4096))
"""Input and output features of projections and feed-forward layers."""

COMMON_HEADS = "12x64"

TargetName = Annotated[str, typer.Option("--target", help="The machine; host is this one.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of a kernel.")]
Rpc = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="A TVM RPC tracker: measure on a machine there.")]
Key = Annotated[str | None, typer.Option(help="What that machine is registered under.")]
Model = Annotated[Path | None, typer.Option(help="A folder with a saved model, in the place of shapes.")]

_HEADS = re.compile(r"(\d+)x(\d+)((?::causal|:cross)?)")


def numbers_of(text: str, option: str) -> list[int]:
    """Positive numbers with commas between them."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise TaskError(f"{option}: {text!r} is no list of positive numbers such as 1,16,128")
    return [int(part) for part in parts]


def shapes_of(text: str) -> list[tuple[int, int]]:
    """Input and output features of layers: 768x768,768x3072."""
    found = []
    for part in text.split(","):
        numbers = numbers_of(part.replace("x", ","), f"--shapes {part}")
        if len(numbers) != 2:
            raise TaskError(f"--shapes {part!r}: write KxN, e.g. 768x3072")
        found.append((numbers[0], numbers[1]))
    return found


def lengths_of(text: str) -> list[tuple[int, int]]:
    """Target and source tokens of attentions: 16 is 16 of both, 1x64 is one that looks at 64."""
    found = []
    for part in text.split(","):
        numbers = numbers_of(part.replace("x", ","), f"--tokens {part}")
        if len(numbers) > 2:
            raise TaskError(f"--tokens {part!r}: write N for N tokens of one sequence, or TARGETSxSOURCES")
        found.append((numbers[0], numbers[-1]))
    return found


def heads_of(text: str) -> list[AttentionShape]:
    """Heads of attentions and what kind they are, without tokens: 12x64,8x64:causal,8x64:cross."""
    from shiftadd_transformers.cost import AttentionShape

    found = []
    for part in text.split(","):
        match = _HEADS.fullmatch(part.strip())
        if match is None or "0" in match.groups():
            raise TaskError(f"--heads {part!r}: write HEADSxWIDTH, with :causal or :cross behind, e.g. 8x64:causal")
        heads, width, kind = match.groups()
        found.append(AttentionShape(1, int(heads), int(width), 1, 1, kind == ":causal", kind == ":cross"))
    return found


def kernel_shape_of(text: str) -> tuple[str, int, int, int]:
    """A kernel with rows, input and output features: shift_linear:1,768,3072."""
    name, _, sizes = text.partition(":")
    numbers = numbers_of(sizes, f"--shape {text}")
    if len(numbers) != 3:
        raise TaskError(f"--shape {text!r}: write KERNEL:M,K,N, e.g. shift_linear:1,768,3072")
    return name, *numbers  # type: ignore[return-value]


def specs_of(operators: list[str] | None) -> tuple[Spec, ...]:
    """Operators by name or as JSON; without any, one per way of computing."""
    from shiftadd_transformers.specs import as_spec
    from tvm_kernels.samples import CORES, SPECS

    known = (*SPECS, *CORES)
    if not operators:
        return known
    chosen: list[Spec] = []
    for text in operators:
        named = [spec for spec in known if spec.kind == text]
        chosen += named or [as_spec(json.loads(text) if text.startswith("{") else text)]
    return tuple(dict.fromkeys(chosen))
