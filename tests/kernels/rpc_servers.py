"""A tracker and a server of TVM's RPC on this machine, which are gone when the test is."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

from tvm_kernels.remote import RemoteError, Tracker

KEY = "board"
_PATIENCE = 120


@contextmanager
def tracker_and_server(folder):
    """The tracker, with one machine registered as KEY."""
    port = _free_port()
    started = []
    try:
        for command in (
            ["tvm.exec.rpc_tracker", "--host=127.0.0.1", f"--port={port}", f"--port-end={port + 1}"],
            ["tvm.exec.rpc_server", "--host=127.0.0.1", f"--tracker=127.0.0.1:{port}", f"--key={KEY}"],
        ):
            started.append(_start(command, folder))
        tracker = Tracker("127.0.0.1", port, KEY)
        _wait_for(tracker, started)
        yield tracker
    finally:
        for process in reversed(started):
            _stop(process)


def _start(command, folder):
    # Servers start processes of their own; a session of theirs makes it possible to end all of them.
    with open(folder / f"{command[0]}.log", "wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *command], cwd=folder, stdout=log, stderr=log, start_new_session=True
        )


def _stop(process):
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait_for(tracker, processes):
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            return tracker.check()
        except RemoteError as error:
            if time.monotonic() > until or any(process.poll() is not None for process in processes):
                raise RuntimeError(f"the RPC server did not start: {error}") from error
        time.sleep(0.2)


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
