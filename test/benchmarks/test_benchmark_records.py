"""Results files are as their benchmarks declare them, and say the truth about the machine."""

import json
import os
import subprocess

import pytest

from benchmarks import BENCHMARKS, machine
from benchmarks.record import RESULTS, Record, problems, read_record
from benchmarks.timing import FrameMetrics, frame_metrics
from segmentation_node.backends import cpu
from segmentation_node.evaluation.run import provenance

ROW = {
    "data": "memory",
    "clock": "wall",
    "loop_s_per_image": 0.2,
    "bare_s_per_image": 0.1,
    "ratio": 0.5,
}


@pytest.fixture
def record(tmp_path):
    """A file as a benchmark writes it, read again."""
    path = tmp_path / "training_loop.json"
    Record("training_loop", {"threads": 2}, ["--root", "/home/me/camvid", "--rounds", "2"]).save(
        [dict(ROW)], path
    )
    return read_record(path)


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_results_file_is_as_declared(path):
    content = read_record(path)
    assert problems(content) == []
    assert content["benchmark"] == path.stem and content["results"]
    quick = " ".join(BENCHMARKS[path.stem].quick)
    assert "--quick" not in content["command"]
    assert not quick or quick not in content["command"], "a quick run is not to be quoted"


def test_what_a_benchmark_writes_is_as_declared(record):
    assert problems(record) == []
    assert record["command"] == "python -m benchmarks.training_loop --root ROOT --rounds 2"
    assert "/home/me" not in json.dumps(record)
    assert record["took_s"] >= 0


@pytest.mark.parametrize(
    "change, line",
    [
        (lambda r: r.pop("commit", r["machine"].pop("commit")), "machine lacks 'commit'"),
        (lambda r: r.update(started_utc=None), "file: 'started_utc' is None, declared as str"),
        (lambda r: r["results"][0].update(ratio="0.5"), "results[0]: 'ratio' is '0.5'"),
        (lambda r: r["results"][0].update(ratio=True), "results[0]: 'ratio' is True"),
        (
            lambda r: r["machine"].update(cpu_flags=[1]),
            "machine: 'cpu_flags' is [1], declared as list[str]",
        ),
        (
            lambda r: r["machine"].update(governor=1),
            "machine: 'governor' is 1, declared as str | None",
        ),
        (lambda r: r["results"][0].update(more=1), "results[0] has the undeclared key 'more'"),
        (lambda r: r["results"].append({}), "results[1] lacks 'data'"),
        (lambda r: r.update(benchmark="new"), "there is no benchmark 'new'; there are roof"),
    ],
)
def test_what_is_not_as_declared_is_named(record, change, line):
    change(record)
    assert problems(record)[0].startswith(line)


def test_rows_of_another_kind_are_held_to_their_own_keys(record):
    record.update(benchmark="network_latency", results=[{"peak": {"gflops": 300.0}}])
    assert problems(record) == []
    record["results"][0]["peak"] = "high"
    (line,) = problems(record)
    assert line.startswith("results[0]: 'peak' is 'high', declared as dict")


def test_metrics_of_a_stream():
    """Sent at 0, 1, 2 and 3 s; the second is lost."""
    found = frame_metrics([(0.0, 0.5), (2.0, 2.25), (3.0, 3.75)], sent=4)
    assert found == {
        "num_frames_sent": 4,
        "num_missed_frames": 1,
        "received_duration_ms": 3250.0,
        "mean_frame_rate_fps": pytest.approx(2 / 3.25),
        "mean_latency_ms": 500.0,
        "min_latency_ms": 250.0,
        "max_latency_ms": 750.0,
        "std_dev_latency_ms": pytest.approx(204.124, abs=1e-3),
        "median_latency_ms": 500.0,
        "p95_latency_ms": pytest.approx(725.0),
        # Receipts are 1750 and 1500 ms apart.
        "mean_jitter_ms": 250.0,
        "min_jitter_ms": 250.0,
        "max_jitter_ms": 250.0,
        "std_dev_jitter_ms": 0.0,
    }
    assert set(found) == set(FrameMetrics.__annotations__)


def test_metrics_that_too_few_frames_do_not_give_are_null():
    assert {key for key, value in frame_metrics([], 5).items() if value is not None} == {
        "num_frames_sent",
        "num_missed_frames",
        "received_duration_ms",
    }
    one = frame_metrics([(0.0, 0.5)], 5)
    assert one["mean_latency_ms"] == 500.0 and one["mean_frame_rate_fps"] is None
    assert frame_metrics([(0.0, 0.5), (1.0, 1.5)], 5)["mean_jitter_ms"] is None


def test_cores_are_those_that_the_system_counts():
    facts = machine.facts()
    shown = subprocess.run(["getconf", "_NPROCESSORS_ONLN"], capture_output=True, text=True)
    assert facts["logical_cores"] == int(shown.stdout)
    assert facts["physical_cores"] * facts["threads_per_core"] == facts["logical_cores"]


def test_a_pinned_process_knows_it():
    before = os.sched_getaffinity(0)
    assert machine.facts()["usable_cores"] == len(before)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert machine.facts()["usable_cores"] == 1
    finally:
        os.sched_setaffinity(0, before)


def test_a_jetson_is_named_by_its_board(tmp_path, monkeypatch):
    """/proc/cpuinfo of Arm has no name, and says nothing of a hypervisor."""
    cpuinfo, model = tmp_path / "cpuinfo", tmp_path / "model"
    cpuinfo.write_text("processor\t: 0\nFeatures\t: fp asimd crc32\n\nprocessor\t: 1\n")
    model.write_bytes(b"NVIDIA Jetson TX1\0")
    monkeypatch.setattr(cpu, "CPU_INFO", str(cpuinfo))
    monkeypatch.setattr(provenance, "BOARD", str(model))
    facts = machine.facts()
    assert facts["processor"] == "NVIDIA Jetson TX1" and facts["cpu_flags"] == ["asimd"]
    assert facts["is_virtual"] is None
