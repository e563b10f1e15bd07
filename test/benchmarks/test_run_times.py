"""The comparison of run times: the same class maps, the figures, and what is said of what lacks."""

import json
import sys

import numpy as np
import pytest

from benchmarks import network_latency, timing
from benchmarks.cpu_limits import (
    Convolution,
    Operator,
    breakdown,
    measure_peak,
    peak_share,
    profile,
)
from benchmarks.measured_models import (
    LOGITS_FILE,
    RUN_TIMES,
    network_on,
    random_model,
    resized,
    shipped_options,
)
from benchmarks.options import installed
from segmentation_node.backends import BACKENDS, BackendOptions, open_backend
from segmentation_node.backends.choice import keeps_classes
from segmentation_node.errors import BackendError
from segmentation_node.model_card import open_model
from training.summary import count_macs, meta_network

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORK = "fast_elu_squeezenet"
SHAPE = shipped_options(NETWORK)
SIZE = (32, 48)
HAS_OPENVINO = not BACKENDS["openvino"].unavailable()
PEAK = {"gflops": 100.0, "copy_gb_per_s": 10.0}


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    folder = tmp_path_factory.mktemp("m")
    return resized(random_model(NETWORK, "camvid11", folder / "n"), SIZE, folder)


@pytest.fixture(scope="module")
def for_nodes(card, tmp_path_factory):
    """The card at another size, and the folder that it was put into."""
    folder = tmp_path_factory.mktemp("for_nodes")
    return resized(card, (64, 32), folder, for_nodes=True), folder


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(1).integers(0, 256, (1, *SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def expected(card, image):
    """Of plain ONNX Runtime on the file, none of the benchmark's code."""
    import onnxruntime

    session = onnxruntime.InferenceSession(card.artifact_path("onnx"))
    return session.run(["class_map"], {"image": image})[0]


@pytest.mark.parametrize(
    "name",
    ["onnxruntime", "torch", pytest.param("torch_compile", marks=pytest.mark.slow), "openvino"],
)
def test_run_times_give_the_same_classes(name, card, image, expected):
    if name == "openvino" and not HAS_OPENVINO:
        pytest.skip("OpenVINO is not installed: its class map was NOT compared")
    assert len(np.unique(expected)) > 1
    with network_on(name, card, 1) as run:
        found = run(image)
        assert found.shape == expected.shape and found.dtype == np.uint8
        assert (found == expected).mean() >= 0.999


def test_a_model_of_another_size_keeps_its_weights(card, for_nodes):
    found, folder = for_nodes
    assert found.input_size == (64, 32) and found.labels == card.labels
    weights = [
        item.sha256 for item in (*card.artifacts, *found.artifacts) if item.kind == "weights"
    ]
    assert weights[0] == weights[1]
    image = np.zeros((1, 64, 32, 3), np.uint8)
    for name in ("onnxruntime", "torch"):
        with network_on(name, found, 1) as run:
            assert run(image).shape == (1, 64, 32)
    assert (folder / f"{card.name}_32x64" / LOGITS_FILE).exists()


def test_a_model_of_another_size_may_let_auto_take_low_precisions(for_nodes):
    found, _ = for_nodes
    for kind, precision in (("onnx", "bf16"), ("onnx_int8", "int8")):
        assert keeps_classes(found, kind, precision)[0]
    with open_backend("onnxruntime", found, BackendOptions(precision="int8")) as backend:
        assert backend.run(np.zeros((1, 64, 32, 3), np.uint8)).class_map_nhw.shape == (1, 64, 32)


def test_every_run_time_is_tested():
    marked = test_run_times_give_the_same_classes.pytestmark[0].args[1]
    assert {getattr(item, "values", (item,))[0] for item in marked} == set(RUN_TIMES)


def test_what_is_not_installed_is_left_out_in_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert installed({"onnxruntime": "onnxruntime", "openvino": "openvino"}) == ["onnxruntime"]
    line = capsys.readouterr().out.splitlines()
    assert len(line) == 1 and line[0].startswith("openvino is left out: OpenVINO is missing")
    assert "pip install openvino" in line[0]


def without_compiler(run_time, card, threads):
    if run_time == "torch_compile":
        raise BackendError("backend torch: no compiler")
    return network_on(run_time, card, threads)


def test_rows_of_a_small_run(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(network_latency, "network_on", without_compiler)
    monkeypatch.setattr(network_latency, "PROFILED_SIZE", SIZE)
    monkeypatch.setattr(network_latency, "PROFILED_RUNS", 2)
    monkeypatch.setattr(network_latency, "BLOCK_S", 0.01)
    monkeypatch.setattr(network_latency, "measure_peak", small_peak)
    output = tmp_path / "latency.json"
    arguments = ["--networks", NETWORK, "--sizes", "48x32", "--threads", "1", "--rounds", "2"]
    arguments += ["--run-times", "onnxruntime", "torch", "torch_compile", "--output", str(output)]
    network_latency.main(arguments)
    content = json.loads(output.read_text())
    assert content["settings"]["run_times"] == ["onnxruntime", "torch", "torch_compile"]
    peak, reference, operators, torch_row, failed = sorted(
        content["results"], key=lambda row: ("network" in row, row.get("run_time", ""))
    )
    if "operators" in reference:
        reference, operators = operators, reference
    gmac = count_macs(meta_network(NETWORK, 11, SHAPE), SIZE) / 1e9
    for row in (reference, torch_row):
        assert (row["network"], row["image"], row["gmac"]) == (NETWORK, "48x32", gmac)
        assert (
            row["parameters"] == open_model(NETWORK + "_camvid").network.parameters
            and row["runs"] >= 2
        )
        assert 0 < row["least_ms"] <= row["median_ms"] <= row["p95_ms"]
        gflops = 2 * gmac / (row["median_ms"] / 1e3)
        assert row["peak_share"] == pytest.approx(gflops / peak["peak"]["gflops"])
        assert row["agreement"] >= 0.999
    assert reference["agreement"] == 1
    assert (failed["run_time"], failed["error"]) == ("torch_compile", "backend torch: no compiler")
    assert "median_ms" not in failed
    assert operators["total_ms"] > 0 and "Conv" in operators["operators"]
    shown = capsys.readouterr().out
    (line,) = [line for line in shown.splitlines() if line.startswith("not measured")]
    assert NETWORK in line and line.endswith("torch_compile: backend torch: no compiler")
    assert "network_latency.operators:" in shown and "GFLOP/s" in shown


def small_peak(threads, rounds):
    return measure_peak(threads, 1, (Convolution(16, 3, 8), Convolution(32, 1, 8)))


def test_the_peak_is_the_best_of_what_was_tried():
    peak = small_peak(1, 1)
    assert peak["gflops"] > 0 and peak["copy_gb_per_s"] > 0
    assert len(peak["tried"]) == 4
    best = max(peak["tried"], key=lambda item: item["gflops"])
    assert (peak["gflops"], peak["convolution"]) == (best["gflops"], best["convolution"])
    # 16 x 16 channels x 3 x 3 x 8 x 8 places, two operations each.
    first = next(item for item in peak["tried"] if item["convolution"].startswith("3x3, 16"))
    assert first["gflops"] == pytest.approx(2 * 147456 / first["least_ms"] / 1e6)


def test_a_share_of_the_peak_counts_two_operations_a_multiply_add():
    assert peak_share(gmac=1.0, time_ms=40.0, peak=PEAK) == pytest.approx(0.5)


def test_a_profile_has_the_networks_operators(card, image):
    found = breakdown(profile(card.artifact_path("onnx"), image, 1, 2))["operators"]
    assert sum(item["share"] for item in found.values()) == pytest.approx(1)
    times_ms = [item["median_ms"] for item in found.values()]
    assert times_ms == sorted(times_ms, reverse=True)
    network = meta_network(NETWORK, 11, SHAPE)
    convolutions = [module for module in network.modules() if type(module).__name__ == "Conv2d"]
    assert found["Conv"]["nodes"] == len(convolutions)


def test_a_breakdown_of_known_operators():
    operators = [Operator("Concat", 1.0, 5_000_000)]
    operators += [Operator("Conv", 2.0, 8_000_000), Operator("Conv", 1.0, 1_000_000)]
    found = breakdown(operators)
    assert found["total_ms"] == 4 and list(found["operators"]) == ["Conv", "Concat"]
    assert found["operators"]["Conv"] == {
        "nodes": 2, "median_ms": 3, "share": 0.75, "gb_per_s": pytest.approx(3)
    }  # fmt: skip
    assert found["operators"]["Concat"]["gb_per_s"] == pytest.approx(5)


def test_slow_runs_take_few_turns(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    calls = []

    def takes(name, seconds):
        def run():
            calls.append(name)
            clock[0] += seconds

        return run

    found = timing.take_timed_turns(
        {"slow": takes("slow", 2.0), "fast": takes("fast", 0.1)}, rounds=5, block_s=0.35
    )
    assert found["slow"] == pytest.approx([2000.0] * 3) and calls.count("slow") == 4
    assert found["fast"] == pytest.approx([100.0] * 20)
    assert calls.count("fast") == 1 + 5 * (timing.UNCOUNTED_RUNS + 4)
    # In turns: the slow one is not over before the fast one's first round.
    assert calls.index("fast", 2) < len(calls) - calls[::-1].index("slow") - 1
