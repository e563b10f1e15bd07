"""How much of the processor is this process's: limits of time, which run times do not look at."""

import os

import pytest
from support.core import tiny

from segmentation_node.backends import BACKENDS, BackendOptions, cpu, open_backend

V1 = "9:name=systemd:/\n3:cpu,cpuacct:%s\n"


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Control groups of this process: what it is told that it is in, and their files."""

    def make(own, files):
        (tmp_path / "own").write_text(own)
        for name, content in files.items():
            path = tmp_path / "groups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content + "\n")

    monkeypatch.setattr(cpu, "OWN_GROUPS", str(tmp_path / "own"))
    monkeypatch.setattr(cpu, "GROUPS", str(tmp_path / "groups"))
    monkeypatch.setattr(cpu.os, "sched_getaffinity", lambda _: set(range(8)))
    return make


@pytest.mark.parametrize(
    "own, files, cores",
    [
        ("0::/\n", {"cpu.max": "max 100000"}, 8),
        ("0::/\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/\n", {"cpu.max": "375000 100000"}, 3),
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("0::/\n", {"cpu.max": "1600000 100000"}, 8),
        ("0::/system.slice/ros\n", {"system.slice/ros/cpu.max": "max 100000"}, 8),
        (
            "0::/system.slice/ros\n",
            {"system.slice/cpu.max": "300000 100000", "system.slice/ros/cpu.max": "500000 100000"},
            3,
        ),
        (V1 % "/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        (
            V1 % "/docker/5f",  # the host's path, which a container of version 1 does not see
            {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"},
            2,
        ),
        (
            V1 % "/docker/5f",
            {
                "cpu/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_period_us": "100000",
                "cpu/docker/5f/cpu.cfs_quota_us": "150000",
                "cpu/docker/5f/cpu.cfs_period_us": "50000",
            },
            3,
        ),
        ("0::/\n", {}, 8),
        ("", {"cpu.max": "200000 100000"}, 8),
    ],
)
def test_cores_are_those_that_a_limit_of_time_leaves(groups, own, files, cores):
    groups(own, files)
    assert cpu.usable_cores() == cores
    assert BackendOptions().threads == (cores if cores < 8 else 0)
    assert BackendOptions(num_threads=5).threads == 5


def test_the_limits_of_this_machine_can_be_read():
    assert 1 <= cpu.usable_cores() <= len(os.sched_getaffinity(0))


@pytest.fixture
def one_core(groups):
    if os.sysconf("SC_NPROCESSORS_ONLN") < 2:
        pytest.skip("NOT RUN: there is one core")
    groups("0::/\n", {"cpu.max": "100000 100000"})


def opened(name):
    if BACKENDS[name].unavailable():
        pytest.skip("NOT RUN: " + BACKENDS[name].unavailable())
    return open_backend(name, tiny.card(), BackendOptions())


def test_onnxruntime_takes_no_more_threads_than_that(one_core):
    with opened("onnxruntime") as backend:
        assert backend._session.get_session_options().intra_op_num_threads == 1


def test_openvino_takes_no_more_threads_than_that(one_core):
    with opened("openvino") as backend:
        compiled = backend._class_map_network._request.get_compiled_model()
        assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
        assert not backend.warnings


def test_torch_takes_no_more_threads_than_that(one_core, monkeypatch):
    torch = pytest.importorskip("torch", reason="NOT RUN: PyTorch is missing")
    from segmentation_node.networks import NETWORKS

    seen = []

    class Network(torch.nn.Conv2d):
        def forward(self, image):
            seen.append(torch.get_num_threads())
            return super().forward(image)

    monkeypatch.setitem(NETWORKS, "nearest_color", lambda classes: Network(3, classes, 1))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with opened("torch") as backend:
            backend.run(tiny.random_image(0)[None])
        assert seen and set(seen) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
