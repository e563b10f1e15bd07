"""Whether int8 means on this CPU what it means where the shipped models were measured."""

import platform

import pytest


def has_vnni():
    """Whether this CPU adds products of 8 bits in 32 bits; other x86-64 CPUs saturate at 16."""
    if platform.machine() != "x86_64":
        return True
    with open("/proc/cpuinfo") as lines:
        return any("vnni" in line for line in lines if line.startswith("flags"))


def need_vnni():
    """Skip the test that calls it where the CPU has none."""
    if not has_vnni():
        pytest.skip("NOT RUN: this CPU has no VNNI, and saturates in int8")
