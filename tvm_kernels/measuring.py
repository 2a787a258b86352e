"""What runs in the process that measures, which knows TVM and nothing of this project?

MetaSchedule's runners send functions to a process of their own. Functions of this file travel as code and not by
name, so that the process starts without PyTorch; therefore nothing is imported here from around.
"""

from __future__ import annotations

import sys
from typing import Any

import cloudpickle
import numpy as np
import tvm

cloudpickle.register_pickle_by_value(sys.modules[__name__])

_ANY_CORE = 1


def operands_here(path: str, device: Any, _types: Any, _copies: int) -> list[list[Any]]:
    """Operands from a file: the runner would fill them with random bits, some of which are slow to compute with."""
    with np.load(path) as arrays:
        return [[tvm.runtime.tensor(array, device=device) for array in arrays.values()]]


def operands_there(path: str, _session: Any, device: Any, types: Any, copies: int) -> list[list[Any]]:
    """The same on another machine."""
    return operands_here(path, device, types, copies)


def use_threads_here(threads: int) -> None:
    """Size the thread pool of this process's TVM runtime."""
    tvm.get_global_func("runtime.config_threadpool")(_ANY_CORE, threads)


def use_threads_there(session: Any, threads: int) -> None:
    """Size the thread pool at the other end of a session."""
    session.get_function("runtime.config_threadpool")(_ANY_CORE, threads)


def open_session(threads: int, config: Any) -> Any:
    """A session as a runner's configuration says."""
    session = config.connect_server()
    use_threads_there(session, threads)
    return session
