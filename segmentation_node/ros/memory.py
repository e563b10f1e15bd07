"""What the process gives back to the system."""

import ctypes
import gc


def give_memory_back() -> None:
    """Return what nothing refers to any more, as Python and glibc of themselves do rarely.

    A closed session or subscription is a ring of references that holds buffers as large as the
    largest images; glibc keeps what is free below something in use.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # other C libraries have none
        trim(0)
