"""Fixtures of several test files. ROS and torch are imported only where they are used."""

import fcntl
import os
import tempfile

import pytest

# Above 101 a domain's ports reach into the range that Linux gives out.
DOMAINS = range(1, 102)


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
    from live import Peer

    with Peer() as found:
        yield found


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A tiny model of 48x64 pixels."""
    from linear_model import write_model

    return write_model(tmp_path_factory.mktemp("models") / "linear", (48, 64))


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
