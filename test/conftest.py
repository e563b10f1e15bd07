"""Fixtures of several test files. ROS and torch are imported only where they are used."""

import fcntl
import functools
import gc
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # for tests that import ONNX Runtime themselves
if "PYTEST_XDIST_WORKER" in os.environ:  # make test: a process for each core
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Files that import this run in one process, so that what was learned is kept.
KEPT_TOGETHER = "small_training"
# Files that import one of these take longest, so they come first.
LONG = (KEPT_TOGETHER, "small_exports", "live", "training_runs")
BUILD_TIMEOUT_S = 1200.0
# Above 101 a domain's ports reach into the range that Linux gives out.
DOMAINS = range(1, 102)


def pytest_configure(config):
    """A home of the session's own: ``auto`` keeps there what it measured beside other tests."""
    home = tempfile.TemporaryDirectory(prefix="segmentation_node_home_")
    config.add_cleanup(home.cleanup)
    os.environ["HOME"] = home.name


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Files are shared out whole. (xdist 3.8's own groups have no effect on pytest 9.2.)"""
    from xdist.scheduler import LoadScopeScheduling

    class FileScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            path = str(config.rootpath / nodeid.partition("::")[0])
            return KEPT_TOGETHER if KEPT_TOGETHER in _imported(path) else path

    config.option.loadscopereorder = False  # keep the order that the processes report
    return FileScheduling(config, log)


def pytest_collection_modifyitems(items):
    """Long files first, where several processes share the tests, so that they end together."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: [name not in _imported(str(item.path)) for name in LONG])


@pytest.fixture(scope="module", autouse=True)
def little_garbage():
    """A test's ``gc.collect()`` walks through what its module made, not through all of pytest's."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def one_thread():
    """Torch on one thread, faster for small networks; what commands set process-wide is undone."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def ros_environment(tmp_path_factory):
    """A graph of this session's own, on this machine only; child processes inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        domain, lock = _free_domain()
        patch.setenv("ROS_DOMAIN_ID", str(domain))
        patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        if os.environ.get("ROS_DISTRO") == "humble":
            patch.setenv("ROS_LOCALHOST_ONLY", "1")
        patch.setenv("ROS_LOG_DIR", str(tmp_path_factory.mktemp("ros_log")))
        yield
        lock.close()


@pytest.fixture(scope="session")
def ros(ros_environment):
    """rclpy, initialised on the session's own graph."""
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    yield rclpy
    rclpy.shutdown()


@pytest.fixture(scope="module")
def peer(ros):
    """The test's own side of the graph."""
    from support.live import Peer

    with Peer() as found:
        yield found


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A tiny model of 48x64 pixels."""
    from support.linear_model import write_model

    return write_model(tmp_path_factory.mktemp("models") / "linear", (48, 64))


@pytest.fixture(scope="session")
def vision_msgs(tmp_path_factory):
    """What goes before a command that needs vision_msgs; built from source where it is missing."""
    from support.ros_sources import sources_root

    if importlib.util.find_spec("vision_msgs") is not None:
        return []
    source = next(
        iter(sorted(sources_root().glob("*/vision_msgs/vision_msgs/CMakeLists.txt"))), None
    )
    if source is None:
        pytest.skip("VISION_MSGS NOT RUN: neither vision_msgs nor its whole sources are at hand")
    folder = tmp_path_factory.mktemp("vision_msgs")
    command = [sys.executable, "-m", "colcon", "build", "--base-paths", str(source.parent)]
    command += ["--packages-select", "vision_msgs", "--cmake-args", "-DBUILD_TESTING=OFF"]
    command += ["-DPython3_EXECUTABLE=" + sys.executable]
    built = subprocess.run(command, cwd=folder, capture_output=True, timeout=BUILD_TIMEOUT_S)
    assert built.returncode == 0, built.stderr.decode()
    return ["bash", "-c", '. "$0" && exec "$@"', str(folder / "install/local_setup.bash")]


@functools.lru_cache(maxsize=None)
def _imported(path):
    """What a test file imports at its top."""
    return re.findall(
        r"^(?:from|import) (?:support(?:\.| import ))?(\w+)", Path(path).read_text(), re.MULTILINE
    )


def _free_domain():
    """A domain and the open file whose lock keeps other sessions on this machine out of it."""
    for offset in range(len(DOMAINS)):
        domain = DOMAINS[(os.getpid() + offset) % len(DOMAINS)]
        path = os.path.join(tempfile.gettempdir(), "segmentation_node_domain_%d" % domain)
        try:
            lock = open(path, "a")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # taken, or another user's
            continue
        return domain, lock
    raise RuntimeError("every ROS domain from 1 to 101 is in use by another test session")
