"""Processes that one of ours starts, and that are not to outlive it."""

from __future__ import annotations

import ctypes
import signal
from contextlib import suppress


def ends_with_its_parent() -> None:
    """Called in a child before it becomes another program; Linux: SIGTERM when whoever started it is gone, also by kill -9."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
