"""Ctrl-C while a command's modules are imported ends it with one word."""

import signal
import subprocess
import sys

import pytest
from support.core.real_data import PROJECT

# Runs a module, and sends itself a Ctrl-C as soon as that imports another.
RUN = """
import os, runpy, signal, sys
module, imported = sys.argv[1:]
del sys.argv[1:]
class CtrlC:
    def find_spec(self, name, path=None, target=None):
        if name == imported:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, CtrlC())
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def run(module, imported):
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, module, imported],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    out, error = process.communicate()
    return process.returncode, out, error


def test_the_evaluation_says_it_was_interrupted():
    assert run("segmentation_node.evaluation", "numpy") == (130, "", "interrupted\n")


@pytest.mark.ros
def test_the_node_ends_as_it_always_does():
    pytest.importorskip("rclpy", reason="NOT RUN: rclpy is not here")
    assert run("segmentation_node.ros.main", "rclpy") == (0, "", "interrupted\n")
    assert run("segmentation_node.ros.main", "numpy") == (0, "", "interrupted\n")


def test_afterwards_ctrl_c_is_what_it_was():
    from segmentation_node.interrupts import ending_at_once

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ImportError), ending_at_once(1):
        assert signal.getsignal(signal.SIGINT) is not before
        raise ImportError("no such package")
    assert signal.getsignal(signal.SIGINT) is before
