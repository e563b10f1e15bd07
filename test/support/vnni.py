"""Whether int8 means on this CPU what it means where the shipped models were measured."""

import pytest

from segmentation_node.backends.cpu import adds_int8_exactly


def need_vnni():
    """Skip the test that calls it where the CPU has none."""
    if not adds_int8_exactly():
        pytest.skip("NOT RUN: this CPU has no VNNI, and saturates in int8")
