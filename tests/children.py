"""Calls in a forked process, for tests of what a child of a fork has."""

from __future__ import annotations

import os
import select
import signal
import traceback
import warnings
from collections.abc import Callable

import pytest

__all__ = ["in_child"]


def in_child(what: Callable[[], object], patience: float = 5.0) -> None:
    """Call *what* in a forked process; whatever goes wrong there is an error here.

    To hang is wrong as well, for longer than *patience* real seconds.
    """
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads beside a fork
        pid = os.fork()
    if pid == 0:
        said = b"ok"
        try:
            what()
        except BaseException:
            said = traceback.format_exc().encode()
        finally:
            os.write(write, said)
            os._exit(0)
    os.close(write)
    try:
        if not select.select([read], [], [], patience)[0]:
            os.kill(pid, signal.SIGKILL)
            pytest.fail("the child hangs")
        said = os.read(read, 1 << 16)
        assert said == b"ok", said.decode()
    finally:
        os.close(read)
        os.waitpid(pid, 0)
