"""How long do attention cores take, beside dense attention of the same size?

    python benchmarks/attention.py --json attention.json

`torch.nn.functional.scaled_dot_product_attention` in float32 (PyTorch's fused kernel) is what a user would otherwise
run; `softmax` is the same in three steps, as cores that keep a softmax compute it. Cores run with compiled kernels and
without, in evaluation. Contenders take turns in one process; medians and ratios to the first contender are printed.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import tvm_kernels
from shiftadd_transformers import AdderAttentionSpec, BinaryLinearSpec, MixerSpec, Spec
from shiftadd_transformers.layers.attention import Visibility, core_type
from tasks.bench.timing import interleaved

SPECS: dict[str, Spec] = {
    "binary_linear": BinaryLinearSpec(),
    "binary_linear, signs": BinaryLinearSpec(codes="sign"),
    "binary_linear, quadratic": BinaryLinearSpec(form="quadratic"),
    "adder_attention, int8": AdderAttentionSpec(bits=8),
    "adder_attention, float": AdderAttentionSpec(),
    "mixer conv": MixerSpec(),
    "mixer add": MixerSpec(op="add"),
}


def contenders(batch: int, heads: int, tokens: int, width: int) -> dict[str, Callable[[], Tensor]]:
    """What is compared at one size."""
    query, key, value = (torch.randn(batch, heads, tokens, width) for _ in range(3))
    scaling = width**-0.5
    calls: dict[str, Callable[[], Tensor]] = {
        "scaled_dot_product_attention": lambda: F.scaled_dot_product_attention(query, key, value),
        "softmax": lambda: (query @ key.mT * scaling).softmax(-1) @ value,
    }
    for name, spec in SPECS.items():
        core = core_type(spec)(spec, heads, width).eval()

        def plain(core: torch.nn.Module = core) -> Tensor:
            return core(query, key, value, Visibility(), scaling)

        def compiled(call: Callable[[], Tensor] = plain) -> Tensor:
            with tvm_kernels.enabled():
                return call()

        calls |= {name: plain, f"{name}, kernels": compiled}
    return calls


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--tokens", type=int, nargs="+", default=[196, 1024])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the rows there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for tokens in options.tokens:
        calls = contenders(options.batch, options.heads, tokens, options.width)
        with torch.no_grad():
            times = interleaved({name: [call] for name, call in calls.items()}, options.rounds)
        dense = statistics.median(times["scaled_dot_product_attention"])
        print(
            f"\n{options.batch} × {options.heads} heads, {tokens} tokens × {options.width}, {options.threads} thread(s)"
        )
        for name, seconds in times.items():
            ms, ratio = 1e3 * statistics.median(seconds), dense / statistics.median(seconds)
            print(f"  {name:36} {ms:10.2f} ms   {ratio:6.2f}× the speed of dense")
            rows.append({"contender": name, "tokens": tokens, "ms": ms, "speed": ratio, **vars(options), "json": None})
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
