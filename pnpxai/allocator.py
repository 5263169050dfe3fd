"""What the C library does with memory that is freed: to keep it makes passes on the CPU quicker."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of parameters in ``malloc.h``."""
KEPT_BYTES = 2**30
"""Blocks of up to so many bytes come from memory that is kept; twice as many may lie free."""


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, and use it again instead of asking the system for more.

    Activations of convolutional networks are larger than what the GNU C library keeps by default: each pass has its
    memory mapped anew, page by page, which may take as long as the arithmetic. The same is reached from outside by the
    environment variables ``MALLOC_MMAP_THRESHOLD_=1073741824`` and ``MALLOC_TRIM_THRESHOLD_=2147483647``, or by another
    allocator such as jemalloc. It holds for the whole process, which will stay as large as it ever was; so nothing in
    the package does this on its own but the command line, in its own process.

    Returns:
        Whether the C library took it; only GNU's on Linux does.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)) and bool(mallopt(M_TRIM_THRESHOLD, 2 * KEPT_BYTES - 1))
