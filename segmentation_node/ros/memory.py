"""What the process takes from the system and gives back."""

import ctypes
import gc

M_ARENA_MAX = -8
"""Of glibc's <malloc.h>."""


def keep_one_heap() -> None:
    """Have all threads share one heap; to be called before there are others.

    Of itself glibc makes eight a core, and each keeps room for the largest images that ever met in
    it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries have none
        mallopt(M_ARENA_MAX, 1)


def give_memory_back() -> None:
    """Return what nothing refers to any more, as Python and glibc of themselves do rarely.

    A closed session or subscription is a ring of references that holds buffers as large as the
    largest images; glibc keeps what is free below something in use.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
