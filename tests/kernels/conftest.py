"""What holds for kernel tests: in CI nothing that a kernel needs to run may be missing."""

import os

import pytest
from qemu import AVAILABLE


@pytest.fixture(autouse=True, scope="session")
def _arm_runs_in_ci():
    if os.environ.get("SHIFTADD_CI") == "1":
        assert AVAILABLE, "install qemu-user and gcc-aarch64-linux-gnu: kernels for ARM must be run"
