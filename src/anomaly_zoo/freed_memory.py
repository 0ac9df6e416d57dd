"""Freed memory stays with the process. Without this, a third of a run's time goes into the system's page faults."""

import ctypes
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # as in malloc.h


def keep_freed_memory() -> None:
    """Lets the C library hand out freed blocks again instead of returning them; does nothing where it is not glibc.

    The feature maps of every batch are as large as those of the last one. By default, glibc returns such blocks to the
    system as soon as they are free and asks for new ones, whose every page the system has to clear. The price is a
    higher peak, by 100 to 300 MiB in our runs: a hole has to be a little larger than an aligned block to hold it.
    """
    with suppress(OSError, AttributeError, TypeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.malloc_trim  # noqa: B018 - only glibc has it
        libc.mallopt(_MMAP_MAX, 0)  # large blocks come from the heap, too
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory() -> None:
    """Returns what is kept, so that the next run's peak is its own; does nothing where the C library is not glibc."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
