"""Where were figures taken, and with which versions? Without that they say little."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tvm_kernels.bridge.machine import machine

from .timing import last_level_cache

_PACKAGES = ("torch", "apache-tvm", "onnxruntime", "openvino", "torchao")


def description() -> str:
    """One line about the processor, one about versions."""
    versions = [f"{package} {found}" for package in _PACKAGES if (found := _version(package))]
    cache = last_level_cache() / 2**20
    return f"{_processor()}, {cache:.0f} MiB last-level cache, kernels for {machine().name}\n{', '.join(versions)}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
