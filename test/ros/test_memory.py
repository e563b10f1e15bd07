"""The memory of the process: what nothing uses goes back to the system."""

import subprocess
import sys

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


def test_what_only_rings_refer_to_goes_back():
    command = [sys.executable, "-c", GIVEN_BACK]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert float(told) > 100
