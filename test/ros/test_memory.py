"""The memory of the process: one heap for all threads, and what is free goes back."""

import subprocess
import sys

import pytest

HEAPS = """
import ctypes, sys, threading
from segmentation_node.ros.memory import keep_one_heap
if sys.argv[1] == "kept":
    keep_one_heap()
threads = [threading.Thread(target=lambda: (bytearray(100_000), barrier.wait())) for _ in range(4)]
barrier = threading.Barrier(len(threads))
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
libc.malloc_info(0, ctypes.c_void_p(libc.fdopen(1, b"w")))
libc.fflush(None)
"""
GIVEN_BACK = """
import gc, os
from segmentation_node.evaluation.live.target import resident_mb
from segmentation_node.ros.memory import give_memory_back
class Ring:
    def __init__(self):
        self.ring, self.image = self, bytearray(100_000)
gc.disable()
# Images small enough for the heap, each below something that stays.
stays = [(Ring(), bytearray(2000))[1] for _ in range(2000)]
before_mb = resident_mb(os.getpid())
give_memory_back()
print(before_mb - resident_mb(os.getpid()))
"""


def output_of(program, *arguments):
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.skipif(sys.platform != "linux", reason="NOT RUN: the C library is not glibc")
@pytest.mark.parametrize(("told", "is_one"), [("kept", True), ("left", False)])
def test_threads_share_one_heap(told, is_one):
    assert (output_of(HEAPS, told).count("<heap nr=") == 1) is is_one


def test_what_only_rings_refer_to_goes_back():
    assert float(output_of(GIVEN_BACK)) > 100
