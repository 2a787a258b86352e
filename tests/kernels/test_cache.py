"""The kernel cache: one build for many processes, and nothing that happens to it does harm."""

import multiprocessing
import os
import signal
import time

import pytest
import torch

from tvm_kernels import target
from tvm_kernels.cache import default_folder, stored
from tvm_kernels.kernels import Kernel
from tvm_kernels.layouts.activation import RowsShape


def count_and_write(log, content=b"kernel"):
    """A builder that leaves a mark for each time it runs."""

    def make(path):
        with log.open("a") as file:
            file.write("built\n")
        time.sleep(0.2)
        path.write_bytes(content)

    return make


def test_a_file_is_made_once(tmp_path):
    log = tmp_path / "log"
    first = stored(tmp_path / "kernels", "key", count_and_write(log))
    second = stored(tmp_path / "kernels", "key", count_and_write(log))
    assert first == second
    assert first.read_bytes().startswith(b"kernel")
    assert log.read_text() == "built\n"


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"x" + b[1:], lambda b: b"", lambda b: b + b"tail"])
def test_a_damaged_file_is_made_again(tmp_path, damage, caplog):
    log = tmp_path / "log"
    path = stored(tmp_path, "key", count_and_write(log))
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert stored(tmp_path, "key", count_and_write(log)).read_bytes() == whole
    assert log.read_text() == "built\nbuilt\n"
    assert "damaged" in caplog.text


def test_a_failed_build_leaves_nothing_behind(tmp_path):
    def fail(path):
        path.write_bytes(b"half")
        raise ValueError("out of luck")

    with pytest.raises(ValueError, match="luck"):
        stored(tmp_path, "key", fail)
    assert not list(tmp_path.glob("*.so"))
    assert not list(tmp_path.glob(".building-*"))


def build_in(folder, log):
    stored(folder, "key", count_and_write(log))


def hang_in(folder, log):
    def make(path):
        path.write_bytes(b"half")
        log.write_text("started")
        time.sleep(60)

    stored(folder, "key", make)


def process(function, *arguments):
    started = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    started.start()
    return started


def test_two_processes_build_once(tmp_path):
    log = tmp_path / "log"
    both = [process(build_in, tmp_path / "kernels", log) for _ in range(2)]
    for one in both:
        one.join()
    assert [one.exitcode for one in both] == [0, 0]
    assert log.read_text() == "built\n"


def test_a_killed_build_blocks_nobody(tmp_path):
    log = tmp_path / "log"
    victim = process(hang_in, tmp_path / "kernels", log)
    while not log.exists():
        time.sleep(0.05)
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    path = stored(tmp_path / "kernels", "key", count_and_write(tmp_path / "again"))
    assert path.read_bytes().startswith(b"kernel")


def test_a_folder_that_cannot_be_written_says_what_to_do(tmp_path, monkeypatch):
    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(OSError, match="XDG_CACHE_HOME"):
        stored(tmp_path / "kernels", "key", count_and_write(tmp_path / "log"))


def test_the_folder_follows_the_desktop_convention(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "shiftadd" / "kernels"


def quantize(kernel, folder):
    x, codes = torch.randn(3, 1, 2, 16), torch.empty(3, 1, 2, 16, dtype=torch.int8)
    kernel.function(folder)(x, codes, torch.empty(3), torch.empty(3, 1, dtype=torch.int32))
    return x, codes


def use_kernel(folder):
    quantize(Kernel("quantize_rows", RowsShape.of(32, 0), target("host")), folder)


def test_a_real_kernel_survives_a_damaged_library(tmp_path):
    kernel = Kernel("quantize_rows", RowsShape.of(32, 0), target("host"))
    library = tmp_path / f"{kernel.key()}.so"
    library.write_bytes(b"not a library")
    x, codes = quantize(kernel, tmp_path)
    scale = x.abs().amax((1, 2, 3), keepdim=True) / 127
    assert torch.equal(codes, torch.round(x / scale).to(torch.int8))


def test_two_processes_compile_the_same_kernel(tmp_path):
    both = [process(use_kernel, tmp_path) for _ in range(2)]
    for one in both:
        one.join()
    assert [one.exitcode for one in both] == [0, 0]
    assert len(list(tmp_path.glob("quantize_rows-*.so"))) == 1


def test_keys_follow_the_shape_and_the_target():
    shape, machine = RowsShape.of(32, 0), target("host")
    keys = {
        Kernel("quantize_rows", shape, machine).key(),
        Kernel("quantize_rows", RowsShape.of(48, 0), machine).key(),
        Kernel("quantize_rows", shape, target("cortex-a76")).key(),
    }
    assert len(keys) == 3
