"""The command that makes the GPU table: a small part of it on the CPU, and its verdicts."""

import json

import numpy as np
import pytest
import torch
from support.fake_cuda import FakeCuda, FakeGpuBackend

from benchmarks import gpu, machine
from benchmarks.gpu import Case, Speed
from benchmarks.shown import text
from segmentation_node.backends import BACKENDS
from segmentation_node.networks import NETWORKS

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = ["--device", "cpu", "--networks", "enet", "--sizes", "48x32", "--images", "2"]
SMALL += ["--frames", "3", "--warm-up", "1"]


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results.json"


def run(results, *more):
    code = gpu.main([*SMALL, "--output", str(results), *more])
    return code, json.loads(results.read_text())


def test_a_small_part_on_the_cpu(results, capsys):
    code, content = run(results, "--batches", "1", "3", "--precisions", "fp32", "fp16")
    assert code == 0
    assert (
        content["machine"]["gpu"] is None
        and content["machine"]["versions"]["torch"] == torch.__version__
    )
    assert "--batches 1 3" in content["command"]
    rows = {(row["batch"], row["precision"]): row for row in content["results"]}
    assert set(rows) == {(1, "fp32"), (3, "fp32"), (1, "fp16"), (3, "fp16")}
    for batch in (1, 3):
        row = rows[batch, "fp32"]
        assert row["weights"] == "random" and row["size"] == "48x32" and row["frames"] == 3
        assert row["agreement"] >= 0.99
        stages_ms = row["stages_ms"]
        assert list(stages_ms) == ["preprocess", "run", "end_to_end"]
        for span in stages_ms.values():
            assert 0 < span["p50"] <= span["p95"] <= span["p99"]
        longest = stages_ms["end_to_end"]
        assert stages_ms["run"]["p50"] <= longest["p50"]
        assert row["images_per_s"] == pytest.approx(batch * 1e3 / longest["p50"], rel=0.01, abs=0.1)
        assert "needs CUDA" in rows[batch, "fp16"]["error"]
    shown = capsys.readouterr().out
    assert "random weights" in shown
    assert "not measured: enet 48x32 1 fp16 eager random: backend torch:" in shown


def test_a_small_part_on_a_fake_gpu(results, monkeypatch):
    """The columns that only a GPU has, and executions that only it offers."""
    FakeCuda(monkeypatch)
    monkeypatch.setitem(BACKENDS, "torch", FakeGpuBackend)
    monkeypatch.setattr(gpu, "gpu_facts", lambda device: {"name": "Fake GPU", "cuda": "13.0"})
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 3 << 20)
    more = ["--device", "cuda", "--batches", "2", "--precisions", "tf32"]
    code, content = run(results, *more, "--executions", "eager", "graph")
    assert code == 0 and content["machine"]["gpu"]["name"] == "Fake GPU"
    assert [row["execution"] for row in content["results"]] == ["eager", "graph"]
    for row in content["results"]:
        assert list(row["stages_ms"]) == [
            "preprocess", "staging", "upload", "network", "download", "run", "end_to_end"
        ]  # fmt: skip
        assert row["stages_ms"]["network"] == {"p50": 1.0, "p95": 1.0, "p99": 1.0}
        assert row["agreement"] >= 0.99 and row["peak_gpu_memory_mib"] == 3.0
        assert row["warnings"] == []


@pytest.fixture
def measured(monkeypatch):
    """Cases that would have been measured; their rows are made up, the first of bf16 fails."""
    cases, failures = [], []

    def measure(self, case, frames, warm_up):
        cases.append(case)
        if case.precision == "bf16" and not failures:
            failures.append(case)
            return {**case._asdict(), "weights": "trained", "error": "out of memory"}
        return {**row(), **case._asdict(), "number": len(cases)}

    monkeypatch.setattr(Speed, "measure", measure)
    monkeypatch.setattr(gpu, "street_images", lambda *_, **__: [])
    return cases


def test_resuming_measures_only_what_is_missing_or_failed(results, measured):
    _, content = run(results)
    assert [case.precision for case in measured] == ["fp32", "bf16"]
    assert "error" in content["results"][1]
    measured.clear()
    _, content = run(results, "--resume", "--batches", "1", "2", "--precisions", "fp32", "bf16")
    assert [(case.batch, case.precision) for case in measured] == [
        (2, "fp32"),
        (1, "bf16"),
        (2, "bf16"),
    ]
    assert [row["number"] for row in content["results"]] == [1, 1, 2, 3]


def test_rows_are_written_as_they_come(results, measured, monkeypatch):
    measure = Speed.measure

    def interrupted(self, case, frames, warm_up):
        if measured:
            raise KeyboardInterrupt
        return measure(self, case, frames, warm_up)

    monkeypatch.setattr(Speed, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(results)
    assert len(json.loads(results.read_text())["results"]) == 1


def test_rows_of_another_gpu_are_not_mixed_in(results, measured):
    _, content = run(results, "--precisions", "fp32")
    content["machine"]["gpu"] = {"name": "Another GPU", "cuda": "13.0"}
    results.write_text(json.dumps(content))
    with pytest.raises(SystemExit, match="was measured on name 'Another GPU', this is None"):
        run(results, "--resume")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(results, capsys):
    assert gpu.main(["--output", str(results)]) == 1
    assert not results.exists()
    error = capsys.readouterr().err
    assert error.startswith("NOT RUN: backend torch: device 'cuda'") and "--device cpu" in error


@pytest.mark.parametrize("wrong", [["--sizes", "48"], ["--frames", "0"], ["--device", "tpu"]])
def test_a_wrong_argument_is_one_line(wrong, capsys):
    with pytest.raises(SystemExit) as caught:
        gpu.main(wrong)
    assert caught.value.code == 2
    assert wrong[0].lstrip("-").rstrip("s") in capsys.readouterr().err.splitlines()[-1]


def test_the_whole_table_is_what_the_issue_asks_for():
    cases = set(gpu.all_cases(gpu.parse([])))
    for network in NETWORKS:
        for size in ("480x320", "640x360", "1280x720"):
            for batch in (1, 4):
                for precision in ("fp32", "tf32", "fp16"):
                    for execution in ("eager", "compiled", "graph"):
                        assert Case(network, size, batch, precision, execution) in cases


def row(precision="fp16", execution="graph", agreement=0.9995, run_ms=0.8, weights="trained"):
    """A row as a GPU would give it."""
    span = {"p50": run_ms, "p95": run_ms + 0.1, "p99": run_ms + 0.2}
    return {
        **Case("elu_squeezenet", "640x360", 1, precision, execution)._asdict(),
        "weights": weights,
        "agreement": agreement,
        "images_per_s": 1000.0,
        "stages_ms": {"preprocess": span, "upload": span, "network": span, "run": span},
    }


def line_of(*rows):
    return gpu.SHOWN.line({"results": rows})


@pytest.mark.parametrize(
    "agreement, weights, verdict",
    [(0.998, "trained", "99.800% or more, expected 99.90%: TOO LITTLE"),
     (0.5, "random", "99.950% or more, expected 99.90%: ok")],
)  # fmt: skip
def test_classes_of_trained_weights_that_agree_too_little_are_named(agreement, weights, verdict):
    line = line_of(row(), row(agreement=agreement, weights=weights, execution="eager"))
    assert line.splitlines()[0] == f"classes agree with the CPU in fp16: {verdict}"


@pytest.mark.parametrize("agreement, code", [(0.5, 1), (1.0, 0)])
def test_classes_that_agree_too_little_fail(agreement, code, results, monkeypatch):
    found = {**row("fp32", agreement=agreement), "warnings": []}
    monkeypatch.setattr(Speed, "measure", lambda *_: found)
    monkeypatch.setattr(gpu, "street_images", lambda *_, **__: [])
    assert run(results, "--precisions", "fp32")[0] == code


def test_the_table_shows_three_percentiles_a_stage():
    shown = text(gpu.SHOWN, {"results": [row()], "machine": {"gpu": {"name": "Fake GPU"}}})
    assert "upload, ms" in shown and "0.80 (0.90, 1.00)" in shown


def test_every_place_of_a_batch_is_compared():
    """A backend that is wrong in one place only."""

    class LastPlaceWrong:
        input_shape = (3, 8, 8, 3)

        def run(self, image_nhwc):
            maps = image_nhwc[..., 0].copy()
            maps[2] = 255 - maps[2]
            return type("Prediction", (), {"class_map_nhw": maps})

    frames = [np.full((720, 1280, 3), value, np.uint8) for value in (10, 20, 30, 40)]
    found = gpu.class_maps(LastPlaceWrong(), frames)
    assert [int(item[0, 0]) for item in found] == [10, 20, 225, 40]


def test_gpu_facts_come_from_torch_and_nvidia_smi(monkeypatch, tmp_path):
    properties = {
        "name": "Fake GPU",
        "major": 9,
        "minor": 0,
        "total_memory": 80 << 30,
        "multi_processor_count": 132,
        "uuid": "abc",
    }
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: type("Properties", (), properties)
    )
    smi = tmp_path / "nvidia-smi"
    smi.write_text(
        "#!/bin/sh\n"
        "echo 'GPU-other, 1, Off, 1 W, 1, 1, 1, 1, 1'\n"
        "echo 'GPU-abc, 580.1, Enabled, 700.00 W, 1980 MHz, 1980 MHz, 2619 MHz, 30, 0 %'\n"
    )
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    facts = machine.gpu_facts("cuda:0")
    assert (facts["name"], facts["compute_capability"]) == ("Fake GPU", "9.0")
    assert (facts["memory_gib"], facts["multiprocessors"]) == (80.0, 132)
    assert facts["smi"]["driver_version"] == "580.1" and facts["smi"]["clocks.sm"] == "1980 MHz"
    smi.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.gpu_facts("cuda:0")["smi"] == {}
