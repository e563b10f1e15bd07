"""Results files are as their benchmarks declare them, and say the truth about the machine."""

import json
import os
import subprocess

import pytest

from benchmarks import BENCHMARKS, machine
from benchmarks.record import RESULTS, Record, problem, read_record
from benchmarks.timing import frame_metrics
from segmentation_node.backends import cpu
from segmentation_node.evaluation.run import provenance

ROW = {
    "clock": "wall",
    "loop_s_per_image": 0.2,
    "bare_s_per_image": 0.1,
    "ratio": 0.5,
}


@pytest.fixture
def record(tmp_path):
    """A file as a benchmark writes it, read again."""
    path = tmp_path / "training_loop.json"
    settings, words = {"dataset": "camvid"}, ["--root", "/home/me/camvid", "--rounds", "2"]
    rows = [{**ROW, "data": data} for data in ("memory", "stream")]
    Record("training_loop", settings, words).save(rows, path)
    return read_record(path)


@pytest.mark.parametrize(
    "path", sorted(RESULTS.rglob("*.json")), ids=lambda path: str(path.relative_to(RESULTS))
)
def test_a_results_file_can_be_shown(path):
    content = read_record(path)
    assert problem(content) == ""
    assert content["benchmark"] == path.stem and content["results"]
    quick = BENCHMARKS[path.stem].quick
    assert "--quick" not in content["command"]
    assert not quick or quick not in content["command"], "a quick run is not to be quoted"


def test_what_a_benchmark_writes_can_be_shown(record):
    assert problem(record) == ""
    assert record["command"] == "python -m benchmarks.training_loop --root ROOT --rounds 2"
    assert "/home/me" not in json.dumps(record)
    assert record["took_s"] >= 0


@pytest.mark.parametrize(
    "change, line",
    [
        (lambda r: r["machine"].pop("commit"), "it lacks 'commit', which is shown"),
        (lambda r: r.update(started_utc=None), "it cannot be shown: 'NoneType' object is not"),
        (lambda r: r["results"][0].update(ratio="0.5"), "it cannot be shown: Unknown format code"),
        (lambda r: r["results"][0].pop("ratio"), "it lacks 'ratio', which is shown"),
        (lambda r: r["results"].append({}), "it lacks 'data', which is shown"),
        (lambda r: r["results"].pop(), "it lacks 'stream', which is shown"),
        (lambda r: r.update(benchmark="new"), "there is no benchmark 'new'; there are roof"),
    ],
)
def test_what_cannot_be_shown_is_told(record, change, line):
    change(record)
    assert problem(record).startswith(line)


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
