"""What the process takes of the machine's memory, and giving back what it does not use of it."""

from __future__ import annotations

import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["Memory"]

_PAGES = Path("/proc/self/statm")

_OF_ITS_OWN_BYTES = 4 << 20
"""What is larger than an ordinary body is given back as soon as it is free."""

_KEPT_BYTES = 8 << 20
"""Free memory at the end of the heap that is kept for the next allocation."""

_WORTH_BYTES = 8 << 20
"""So much must have been taken since the last time that something was given back."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


class Memory:
    """The memory of this process, against what it took at first; it changes how that is managed.

    Where messages of many sizes come and go, the allocator is left with gaps. glibc's also learns
    from each large block that it should keep as much, and twice that at the end of each heap: it
    is told not to.
    """

    def __init__(self) -> None:
        self._first_bytes = _resident_bytes()
        self._left_bytes = 0  # What was still taken when something was given back.
        self._trim: Callable[[int], int] | None = None
        library = _c_library()
        if library is not None and hasattr(library, "malloc_trim"):  # It is glibc.
            library.mallopt(_M_MMAP_THRESHOLD, _OF_ITS_OWN_BYTES)
            library.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
            self._trim = library.malloc_trim

    def __repr__(self) -> str:
        return f"<Memory {self.taken_bytes()} bytes more than at first>"

    def taken_bytes(self) -> int:
        """What is resident beyond what was at first; 0 where the system does not tell."""
        return _resident_bytes() - self._first_bytes

    def keep_within(self, limit_bytes: int) -> None:
        """Give back what is free, also between what is used, where more is taken than allowed."""
        if self._trim is None:
            return
        taken_bytes = self.taken_bytes()
        self._left_bytes = min(self._left_bytes, taken_bytes)
        if taken_bytes > max(limit_bytes, self._left_bytes + _WORTH_BYTES):
            self._trim(0)
            self._left_bytes = self.taken_bytes()


def _resident_bytes() -> int:
    with suppress(OSError):
        return int(_PAGES.read_bytes().split()[1]) * resource.getpagesize()
    return 0


def _c_library() -> Any:
    """None where it cannot be asked: some interpreters are built without `ctypes`."""
    try:
        import ctypes  # noqa: PLC0415
    except ImportError:
        return None
    return ctypes.CDLL(None)
