"""What do the operators cost in plain PyTorch, beside what a user would otherwise call?

    python benchmarks/operators.py --json operators.json

Contenders run interleaved in one process, so that a noisy machine slows all of them alike; the table gives medians and
the ratio to the first contender of each case. These are the definitions that kernels will replace: the packed shift
layer decodes its weight in each call and is slower than a dense layer. The adder is compared with `torch.cdist`, the
fastest L1 distance that PyTorch has.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from shiftadd_transformers import BcqSpec, ShiftSpec, Spec
from shiftadd_transformers.layers import latent_type
from shiftadd_transformers.operators import adder_linear

Case = dict[str, Callable[[], object]]


def interleaved_medians(case: Case, rounds: int) -> dict[str, float]:
    """Median milliseconds per contender; each round runs every contender once."""
    seconds: dict[str, list[float]] = {name: [] for name in case}
    for turn in range(rounds + 2):
        for name, call in case.items():
            start = time.perf_counter()
            call()
            if turn >= 2:  # the first rounds allocate and warm up
                seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(times) for name, times in seconds.items()}


def linear_case(spec: Spec, m: int, n: int, k: int) -> Case:
    """Dense, latent and packed forward, and a training step of the first two."""
    dense = nn.Linear(k, n)
    latent = latent_type(spec).from_dense(nn.Linear(k, n), spec)
    packed, x = latent.pack(), torch.randn(m, k)
    return {
        "dense": lambda: _without_gradient(dense, x),
        "latent": lambda: _without_gradient(latent, x),
        "packed": lambda: _without_gradient(packed, x),
        "dense, forward and backward": lambda: dense(x).sum().backward(),
        "latent, forward and backward": lambda: latent(x).sum().backward(),
    }


def adder_case(m: int, n: int, k: int) -> Case:
    """The L1 distance forward, and with both gradients."""
    x, w = torch.randn(m, k, requires_grad=True), torch.randn(n, k, requires_grad=True)
    return {
        "torch.cdist": lambda: _without_gradient(lambda a: torch.cdist(a, w, p=1.0), x),
        "adder_linear": lambda: _without_gradient(lambda a: adder_linear(a, w), x),
        "torch.cdist, forward and backward": lambda: torch.cdist(x, w, p=1.0).sum().backward(),
        "adder_linear, forward and backward": lambda: adder_linear(x, w).sum().backward(),
    }


def _without_gradient(call: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.no_grad():
        return call(x)


def main() -> None:
    """Run all cases and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the rows there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cases: dict[str, Case] = {}
    for m in (1, 512):
        for spec in (ShiftSpec(), ShiftSpec(terms=2), BcqSpec()):
            cases[f"{spec}, {m}×512×2048"] = linear_case(spec, m, 2048, 512)
    cases["L1 distance, 512×256×256"] = adder_case(512, 256, 256)
    rows = []
    for name, case in cases.items():
        medians = interleaved_medians(case, options.rounds)
        first = next(iter(medians.values()))
        print(f"\n{name} (M×K×N), {options.threads} thread(s)")
        for contender, ms in medians.items():
            print(f"  {contender:36} {ms:10.3f} ms {ms / first:8.2f}×")
            rows.append({"case": name, "contender": contender, "ms": ms, "threads": options.threads})
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
