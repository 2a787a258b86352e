"""How are kernels run on a machine that has no PyTorch, such as a small board?

Over TVM's RPC. The board runs ``python -m tvm.exec.rpc_server``, which registers under a key with a tracker; kernels
are compiled here, uploaded, and timed there, in TVM's own runtime with its own threads.
"""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import host
from .kernels import Kernel
from .tracing import Launch

_FLUSH = "cache_flush_cpu_non_first_arg"
"""TVM's name for: all operands but the first leave the caches before each measurement."""

_PATIENCE = 10
"""Seconds for a machine to come back to the tracker from its last user."""


class RemoteError(RuntimeError):
    """No machine could be reached; the message says which and why."""


@dataclass(frozen=True)
class Tracker:
    """Where machines register.

    Args:
        host: name or address.
        port: port.
        key: what the wanted machine registers under.
    """

    host: str
    port: int
    key: str

    @classmethod
    def of(cls, address: str, key: str) -> Tracker:
        """From ``HOST:PORT``.

        Raises:
            ValueError: that is no address.

        >>> Tracker.of("board.local:9190", "pi")
        Tracker(host='board.local', port=9190, key='pi')
        """
        name, _, port = address.rpartition(":")
        if not name or not port.isdecimal():
            raise ValueError(f"{address!r} is no address of a tracker: write HOST:PORT, e.g. 127.0.0.1:9190")
        return cls(name, int(port), key)

    def check(self) -> None:
        """Make sure that a machine waits under the key, for a request would wait for one without end.

        Raises:
            RemoteError: there is no tracker, no such machine, or it is busy.
        """
        try:
            self._check()
        except OSError as error:
            raise RemoteError(
                f"no tracker answers at {self.host}:{self.port} ({error}); start one: python -m tvm.exec.rpc_tracker "
                f"--host 0.0.0.0 --port {self.port}"
            ) from error

    def _check(self) -> None:
        from tvm import rpc

        socket.create_connection((self.host, self.port), timeout=5).close()  # TVM itself would try for a minute
        tracker = rpc.connect_tracker(self.host, self.port)
        keys = sorted({server["key"].partition(":")[2] for server in tracker.summary()["server_info"]})
        if self.key not in keys:
            raise RemoteError(
                f"no machine is registered as {self.key!r} at {self.host}:{self.port}; registered: "
                f"{', '.join(keys) or 'none'}. On the machine: python -m tvm.exec.rpc_server "
                f"--tracker {self.host}:{self.port} --key {self.key}"
            )
        until = time.monotonic() + _PATIENCE
        while not tracker.summary()["queue_info"].get(self.key, {}).get("free"):
            if time.monotonic() > until:
                raise RemoteError(f"every machine registered as {self.key!r} is busy; try again when its user is done")
            time.sleep(0.1)

    def session(self, threads: int, timeout: int = 600) -> Any:
        """A session on the machine, with so many threads; ends after ``timeout`` seconds."""
        from tvm import rpc

        from .measuring import use_threads_there

        self.check()
        session = rpc.connect_tracker(self.host, self.port).request(self.key, session_timeout=timeout)
        use_threads_there(session, threads)
        return session


class RemoteMachine:
    """A machine that runs kernels for us.

    Args:
        tracker: where it is registered.
        threads: threads of a kernel there.
    """

    def __init__(self, tracker: Tracker, threads: int) -> None:
        self._session = tracker.session(threads)
        self._device = self._session.cpu(0)
        self._modules: dict[Kernel, Any] = {}

    def timer(self, launch: Launch, cold: bool) -> Callable[[], float]:
        """Measures one call in microseconds.

        Args:
            launch: the kernel and its operands, which are copied there once.
            cold: all operands but the first come from memory.
        """
        import tvm

        flush = _FLUSH if cold else ""
        timed = self._module(launch.kernel).time_evaluator("main", self._device, number=1, f_preproc=flush)
        operands = [tvm.runtime.tensor(operand, device=self._device) for operand in launch.arrays()]
        return lambda: 1e6 * timed(*operands).mean

    def close(self) -> None:
        """Let others have the machine, which serves one at a time; timers are of no use any more."""
        self._modules.clear()
        self._session.get_function("CloseRPCConnection")()

    def _module(self, kernel: Kernel) -> Any:
        """The kernel over there; uploaded once, for a library that is in use must not be overwritten."""
        if kernel not in self._modules:
            name = f"{kernel.key()}.so"
            with tempfile.TemporaryDirectory(prefix="shiftadd-") as scratch:
                library = Path(scratch) / name
                host.link(kernel.build(), library, kernel.target.triple)
                self._session.upload(bytearray(library.read_bytes()), name)
            self._modules[kernel] = self._session.load_module(name)
        return self._modules[kernel]
