"""What ``auto`` takes and why, what it measures and remembers, and what is said where it cannot."""

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from support.core import tiny
from support.core.tiny import assert_one_line

from segmentation_node.backends import BACKENDS, BackendOptions, Prediction, choice, cpu, torch
from segmentation_node.backends import open_backend as open_named
from segmentation_node.backends.base import Backend
from segmentation_node.errors import BackendError, CardError
from segmentation_node.files import alone_in
from segmentation_node.model_card import AccuracyInfo
from segmentation_node.pipeline import open_batch

IMPORTED = {name: name for name in ("onnxruntime", "openvino", "tensorrt", "torch")}
CPUS = "model name\t: %s\nflags\t\t: %s\n\nmodel name\t: another\n"
FP32 = AccuracyInfo("camvid", "val", 101, 0.684, 0.93)
INT8 = replace(FP32, mean_iou=0.6795, artifact="onnx_int8")
BF16 = replace(FP32, precision="bf16", agreement=0.999)


class Clock:
    """Stands in for the module ``time``: it goes on only while a stand-in computes."""

    now_s = 0.0

    def perf_counter(self):
        return self.now_s

    def strftime(self, _):
        return "2026-11-29"


class Machine:
    """The run times of a machine, as stand-ins; ``loaded`` and ``ran`` is what happened to them."""

    def __init__(self, monkeypatch, tmp_path):
        self._patch = monkeypatch
        self._cpu_info = tmp_path / "cpuinfo"
        self.clock = Clock()
        self.loaded, self.ran = [], []
        self.options = BackendOptions(engine_dir=str(tmp_path / "engines"))
        self.path = tmp_path / "engines" / choice.CHOICES_FILE
        monkeypatch.setattr(choice, "time", self.clock)
        monkeypatch.setattr(cpu, "CPU_INFO", str(self._cpu_info))
        monkeypatch.setattr(cpu.platform, "machine", lambda: "x86_64")
        self.processor("Old", "avx2 avx512_vnni")
        for name in IMPORTED:
            self.has(name, "not installed")

    def processor(self, name, flags="avx2 avx512_vnni"):
        self._cpu_info.write_text(CPUS % (name, flags))

    def has(self, backend_name, why_not="", accelerated=False, fails=(), version="1", **times_ms):
        """A run time that takes so long in each precision, and fails to load in some."""
        machine = self

        class StandIn(Backend):
            name = backend_name
            artifact_kind = "weights" if backend_name == "torch" else "onnx"
            other_kinds = {"int8": "onnx_int8"}
            precisions = tuple(times_ms) or ("fp32",)

            @classmethod
            def unavailable(cls):
                return why_not

            @classmethod
            def accelerated(cls):
                return accelerated

            def _load(self, artifact_path):
                machine.loaded.append((backend_name, self.options.precision))
                if self.options.precision in fails:
                    raise BackendError("backend %s: it is broken" % backend_name)

            def _run(self, image_nhwc, with_confidence):
                machine.ran.append(backend_name)
                machine.clock.now_s += times_ms[self.options.precision] * 1e-3
                return Prediction(np.zeros(self.input_shape[:3], np.uint8), None)

            def _close(self):
                pass

        self._patch.setitem(BACKENDS, backend_name, StandIn)
        module = type(sys)(backend_name)
        module.__version__ = version
        self._patch.setitem(sys.modules, backend_name, module)

    def choose(self, backend="auto", card=None, **changes):
        self.loaded, self.ran = [], []
        return choice.choose(card or tiny.card(), backend, replace(self.options, **changes))


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine without any run time."""
    return Machine(monkeypatch, tmp_path)


def scored(*accuracy):
    """The tiny card with this accuracy; its artifacts are onnx, weights and onnx_int8."""
    return replace(tiny.card(), accuracy=list(accuracy))


# Accelerators


def test_auto_takes_the_first_backend_with_an_accelerator(machine):
    machine.has("torch", accelerated=True, fp32=5.0)
    machine.has("onnxruntime", fp32=1.0)
    found = machine.choose()
    assert found.name == "torch" and machine.loaded == []
    assert found.summary == "auto: on the GPU; not tensorrt"
    assert found.details == "it can use this machine's accelerator; tensorrt: not installed"
    machine.has("tensorrt", accelerated=True, fp32=5.0)
    found = machine.choose()
    assert (found.name, found.summary, found.measured) == ("tensorrt", "auto: on the GPU", "")


def test_auto_leaves_out_what_is_not_ready_for_the_card(machine, monkeypatch):
    machine.has("tensorrt", accelerated=True, fp32=1.0)
    machine.has("torch", accelerated=True, fp32=1.0)
    monkeypatch.setattr(BACKENDS["tensorrt"], "unready", classmethod(lambda *_: "none for tiny"))
    found = machine.choose()
    assert found.name == "torch" and "tensorrt: none for tiny" in found.details


def test_auto_leaves_accelerators_alone_where_the_cpu_is_asked_for(machine):
    machine.has("torch", accelerated=True, fp32=1.0)
    machine.has("onnxruntime", fp32=1.0)
    assert machine.choose(device="cpu").name == "onnxruntime"
    assert machine.choose(device="cuda").name == "torch"


# Measured


@pytest.mark.parametrize("slow, fast", [("openvino", "onnxruntime"), ("onnxruntime", "openvino")])
def test_auto_takes_the_faster_one_on_a_cpu_and_says_so(machine, slow, fast):
    machine.has(slow, fp32=31.0)
    machine.has(fast, fp32=22.2)
    found = machine.choose()
    assert (found.name, found.precision, found.warnings) == (fast, "fp32", ())
    assert found.summary == "auto: fastest of 2, 22.2 ms; not tensorrt, torch"
    assert found.measured == "%s fp32 22.2 ms, %s fp32 31.0 ms" % (fast, slow)
    assert "torch: not installed" in found.details
    turns = [name for name, before in zip(machine.ran, [""] + machine.ran) if name != before]
    assert len(turns) > 6, "one after the other, a busy moment would hit one alone"


def test_what_counts_is_the_least_of_several_runs(machine, monkeypatch):
    """Whoever is disturbed once is not slower for it."""
    machine.has("openvino", fp32=10.0)
    machine.has("onnxruntime", fp32=20.0)
    run, disturbed = BACKENDS["openvino"]._run, []

    def disturbed_run(self, *arguments):
        if len(machine.ran) % 3:
            disturbed.append(1)
            machine.clock.now_s += 0.1
        return run(self, *arguments)

    monkeypatch.setattr(BACKENDS["openvino"], "_run", disturbed_run)
    assert machine.choose().name == "openvino" and disturbed


def test_timing_ends_after_two_seconds_and_nothing_is_without_a_time(machine):
    machine.has("openvino", fp32=1500.0)
    machine.has("onnxruntime", fp32=1400.0)
    found = machine.choose()
    assert found.name == "onnxruntime" and len(found.times_ms) == 2
    first_runs_s = 2.9
    assert machine.clock.now_s <= first_runs_s + 2.0 + 1e-6


def test_torch_is_taken_on_a_cpu_where_nothing_else_is(machine):
    machine.has("torch", fp32=1.0)
    machine.has("onnxruntime", fp32=50.0)
    found = machine.choose()
    assert found.name == "onnxruntime" and machine.loaded == []
    assert "torch could too, but is not timed" in found.details
    machine.has("onnxruntime", "gone too")
    found = machine.choose()
    assert found.name == "torch"
    assert found.summary == "auto: alone here; not tensorrt, openvino, onnxruntime"
    for refusal in ("tensorrt: not installed", "onnxruntime: gone too"):
        assert refusal in found.details


def test_what_is_named_is_obeyed(machine):
    machine.has("openvino", fp32=10.0, bf16=5.0, int8=4.0)
    machine.has("onnxruntime", fp32=1.0, int8=2.0)
    card = scored(FP32, INT8, BF16)
    found = machine.choose("openvino", card)
    assert found[:3] == ("openvino", "fp32", "as asked") and machine.loaded == []
    found = machine.choose("openvino", card, precision="auto")
    assert found[:2] == ("openvino", "int8")
    found = machine.choose("auto", card, precision="bf16")
    assert found[:2] == ("openvino", "bf16")
    with pytest.raises(BackendError) as caught:
        machine.choose("abacus", precision="auto")
    assert_one_line(caught, "'abacus'", "auto", *sorted(BACKENDS))


def test_auto_leaves_out_what_cannot_do_what_is_asked(machine):
    machine.has("openvino", fp32=1.0)
    machine.has("torch", fp32=1.0)
    machine.has("onnxruntime", fp32=9.0, int8=9.0)
    found = machine.choose(precision="int8")
    assert found.name == "onnxruntime"
    assert "openvino: it offers no precision 'int8'" in found.details
    only_onnx = replace(tiny.card(), artifacts=tiny.card().artifacts[:1])
    assert "torch: the card has no weights artifact" in machine.choose(card=only_onnx).details
    with pytest.raises(BackendError) as caught:
        machine.choose(execution="compiled_graph")
    assert_one_line(caught, "onnxruntime: it offers no execution 'compiled_graph'")


# Precisions that keep the classes


@pytest.mark.parametrize(
    "accuracy, precision",
    [
        ([FP32, INT8], "int8"),
        ([FP32, replace(INT8, mean_iou=0.6789)], "fp32"),  # loses 0.51 points
        ([FP32, replace(INT8, mean_iou=0.70)], "int8"),
        ([INT8], "fp32"),
        ([FP32, replace(INT8, frames=50)], "fp32"),
        ([FP32, replace(INT8, split="train")], "fp32"),
        (
            [FP32, INT8, replace(FP32, split="test"), replace(INT8, split="test", mean_iou=0.6)],
            "fp32",
        ),
        ([FP32, BF16], "bf16"),
        ([FP32, replace(BF16, artifact="weights")], "fp32"),  # that is PyTorch's
        ([FP32, INT8, BF16], "int8"),  # the faster one
        ([], "fp32"),
    ],
)
def test_auto_takes_a_low_precision_that_the_card_says_keeps_the_classes(
    machine, accuracy, precision
):
    machine.has("openvino", fp32=10.0, bf16=5.0, int8=4.0)
    found = machine.choose(card=scored(*accuracy), precision="auto")
    assert found.precision == precision
    assert found.summary.startswith("auto: %s, " % precision)
    for other in {"bf16", "int8"} - {item.computed_in for item in accuracy}:
        assert "openvino %s: the card does not compare" % other in found.details


def test_auto_says_what_a_low_precision_keeps_and_what_another_loses(machine):
    machine.has("openvino", fp32=10.0, bf16=5.0, int8=4.0)
    card = scored(FP32, BF16, replace(INT8, mean_iou=0.65))
    details = machine.choose(card=card, precision="auto").details
    assert "bf16 keeps the classes: mean IoU 68.4 %, in fp32 68.4 %, on camvid val" in details
    assert "openvino int8: mean IoU 65.0 %, in fp32 68.4 %, on camvid val" in details


@pytest.mark.parametrize("is_own_size_first", [True, False])
def test_auto_tells_what_is_kept_at_the_cards_own_size(machine, is_own_size_first):
    machine.has("openvino", fp32=10.0, bf16=5.0)
    own = [FP32, BF16]
    small = [replace(item, height=24, width=32, mean_iou=0.5) for item in own]
    card = scored(*(own + small if is_own_size_first else small + own))
    details = machine.choose(card=card, precision="auto").details
    assert "bf16 keeps the classes: mean IoU 68.4 %, in fp32 68.4 %, on camvid val" in details


def test_a_slower_low_precision_is_not_taken(machine):
    machine.has("onnxruntime", fp32=10.0, int8=11.0)
    assert machine.choose(card=scored(FP32, INT8), precision="auto").precision == "fp32"


def test_int8_is_not_taken_unasked_where_its_sums_may_saturate(machine):
    machine.processor("Old", "avx2")
    machine.has("onnxruntime", fp32=10.0, int8=1.0)
    found = machine.choose(card=scored(FP32, INT8), precision="auto")
    assert found.precision == "fp32" and "onnxruntime int8: this CPU has no VNNI" in found.details
    assert machine.choose(card=scored(FP32, INT8), precision="int8").precision == "int8"


def test_auto_says_how_a_card_gets_int8(machine):
    machine.has("onnxruntime", fp32=1.0, int8=1.0)
    card = replace(tiny.card(), artifacts=tiny.card().artifacts[:2])
    with pytest.raises(BackendError) as caught:
        machine.choose(card=card, precision="int8")
    expected = "onnxruntime: the card has no onnx_int8 artifact; add it with: python3 -m training"
    assert_one_line(caught, expected, "--variant int8")
    assert (
        "onnxruntime int8: the card has no" in machine.choose(card=card, precision="auto").details
    )


# Remembered


@pytest.fixture
def two(machine):
    """Two run times, of which OpenVINO's was measured to be the faster."""
    machine.has("openvino", fp32=10.0)
    machine.has("onnxruntime", fp32=20.0)
    assert machine.choose().name == "openvino" and machine.loaded
    # From now on another one would win, if it were measured.
    machine.has("onnxruntime", fp32=5.0)
    return machine


def test_what_was_measured_is_remembered(two):
    found = two.choose()
    assert found.name == "openvino" and two.loaded == [] and found.warnings == ()
    assert found.measured == "openvino fp32 10.0 ms, onnxruntime fp32 20.0 ms (on 2026-11-29)"
    assert found.summary.startswith("auto: fastest of 2, 10.0 ms")


@pytest.mark.parametrize(
    "change",
    [
        lambda machine: machine.has("onnxruntime", fp32=5.0, version="2"),
        lambda machine: machine.processor("New"),
        lambda machine: setattr(machine, "options", replace(machine.options, num_threads=1)),
    ],
    ids=["version", "machine", "threads"],
)
def test_it_is_measured_anew_where_something_else_is_asked(two, change):
    change(two)
    assert two.choose().name == "onnxruntime"


def test_another_model_is_measured_on_its_own(two, monkeypatch):
    card = tiny.card()
    changed = replace(card.artifacts[0], sha256="0" * 64)
    card = replace(card, artifacts=[changed] + card.artifacts[1:])
    with pytest.raises(CardError) as caught:
        two.choose(card=card)
    assert_one_line(caught, "sha256")
    assert two.choose().name == "openvino", "what is known of the others stays"


def test_old_times_make_room(two, monkeypatch):
    monkeypatch.setattr(choice, "MOST_REMEMBERED", 2)
    for threads in (1, 2, 3):
        two.choose(num_threads=threads)
    entries = json.loads(two.path.read_text())["measured"]
    assert [entry["of"]["threads"] for entry in entries] == [2, 3]


@pytest.mark.parametrize("content", ["", '{"measured": [', "[" * 100, '{"measured": 3}', "null"])
def test_a_broken_file_is_said_once_and_written_again(two, content):
    two.path.write_text(content and choice.MARK.join(['{"about": "', '", ']) + content)
    found = two.choose()
    assert found.name == "onnxruntime"
    (line,) = found.warnings
    assert line.startswith("auto: %s: " % two.path) and line.endswith("; measured anew")
    assert "\n" not in line
    assert two.choose().warnings == () and two.loaded == []


@pytest.mark.parametrize(
    "times", [[1.0], [1.0, 0], [1.0, "2"], [1.0, float("nan")], None, [1.0, -1.0], [1, 10**400]]
)
def test_times_that_are_none_are_not_believed(two, times):
    content = json.loads(two.path.read_text())
    content["measured"][0]["times_ms"] = times
    two.path.write_text(json.dumps(content))
    assert two.choose().name == "onnxruntime"


def test_what_is_not_ours_is_left_alone(two):
    two.path.write_text("my shopping list")
    found = two.choose()
    assert found.name == "onnxruntime"
    (line,) = found.warnings
    assert "measured anew" in line and "left alone" in line and "\n" not in line
    assert two.path.read_text() == "my shopping list"


def test_a_folder_that_takes_no_file_is_said(machine, tmp_path):
    machine.has("openvino", fp32=10.0)
    machine.has("onnxruntime", fp32=20.0)
    (tmp_path / "engines").write_text("a file")
    found = machine.choose()
    assert found.name == "openvino"
    (line,) = found.warnings
    assert str(machine.path) in line and "cannot be written" in line


def test_those_that_start_together_measure_once(machine, monkeypatch):
    machine.has("openvino", fp32=10.0)
    machine.has("onnxruntime", fp32=20.0)
    measured, measure = [], choice.measure

    def slowly(*arguments):
        measured.append(arguments)
        time.sleep(0.3)
        return measure(*arguments)

    monkeypatch.setattr(choice, "measure", slowly)
    with ThreadPoolExecutor(3) as nodes:
        asked = [tiny.card(), "auto", machine.options]
        found = [item.result() for item in [nodes.submit(choice.choose, *asked) for _ in "abc"]]
    assert len(measured) == 1
    assert [item.name for item in found] == ["openvino"] * 3
    assert sorted(item.remembered for item in found) == ["", "2026-11-29", "2026-11-29"]
    assert all(item.warnings == () for item in found)
    assert os.listdir(os.path.dirname(str(machine.path))) == [choice.CHOICES_FILE]


def test_nobody_is_waited_for_longer_than_the_bound(machine, monkeypatch):
    machine.has("openvino", fp32=10.0)
    machine.has("onnxruntime", fp32=20.0)
    monkeypatch.setattr(choice, "MOST_WAIT_S", 0.1)
    with alone_in(os.path.dirname(str(machine.path)), 0.0) as is_alone:
        assert is_alone
        found = machine.choose()
    assert found.name == "openvino" and machine.loaded
    (line,) = found.warnings
    assert line.startswith("auto: others measured for over 0 s") and "\n" not in line
    assert machine.choose().warnings == () and machine.loaded == []


# What fails


def test_one_that_fails_to_load_is_named_and_tried_again(machine):
    machine.has("openvino", fp32=1.0, bf16=2.0, fails=["fp32"])
    machine.has("onnxruntime", fp32=9.0)
    for _ in range(2):
        found = machine.choose()
        assert found.name == "onnxruntime" and ("openvino", "fp32") in machine.loaded
        (line,) = found.warnings
        assert line == (
            "auto: left out openvino fp32, which failed: backend openvino: it is broken"
        )
        assert "openvino fp32: backend openvino: it is broken" in found.details
        assert found.summary.endswith("not tensorrt, torch, openvino fp32")
    assert not machine.path.exists()


def test_a_remembered_one_that_no_longer_opens_is_left_out_and_said(two):
    two.has("openvino", fp32=1.0, fails=["fp32"])
    tried = [("openvino", "fp32"), ("onnxruntime", "fp32")]
    for measured in (True, False):
        two.loaded = []
        batch = open_batch(tiny.card(), "auto", two.options)
        assert batch.backend.name == "onnxruntime" and "not tensorrt" in batch.choice.summary
        assert bool(batch.choice.remembered) != measured
        assert two.loaded == tried + tried[1:] * measured
        (line,) = batch.choice.warnings
        assert line == "auto: left out openvino fp32, which failed: backend openvino: it is broken"
    two.has("openvino", fp32=1.0)
    batch = open_batch(tiny.card(), "auto", two.options)
    assert batch.backend.name == "openvino" and batch.choice.warnings == ()


def test_where_nothing_else_opens_each_reason_is_given(two):
    two.has("openvino", fp32=1.0, fails=["fp32"])
    two.has("onnxruntime", fp32=1.0, fails=["fp32"])
    before = two.path.read_text()
    with pytest.raises(BackendError) as caught:
        open_batch(tiny.card(), "auto", two.options)
    assert_one_line(caught, "openvino fp32: backend openvino", "onnxruntime fp32: backend")
    assert two.path.read_text() == before


def test_where_all_fail_each_reason_is_given(machine):
    machine.has("openvino", fp32=1.0, fails=["fp32"])
    machine.has("onnxruntime", fp32=9.0, fails=["fp32"])
    with pytest.raises(BackendError) as caught:
        machine.choose()
    assert_one_line(caught, "tiny", "openvino fp32: backend openvino", "onnxruntime fp32: backend")


def test_auto_gives_every_reason_where_nothing_can_run(machine):
    machine.has("tensorrt", "reason A")
    machine.has("torch", "reason B")
    with pytest.raises(BackendError) as caught:
        machine.choose()
    assert_one_line(caught, "tiny", "tensorrt: reason A", "torch: reason B", "onnxruntime: not")


def test_int8_is_offered_where_onnx_files_run_on_a_cpu():
    offering = sorted(name for name in BACKENDS if "int8" in BACKENDS[name].precisions)
    assert offering == ["onnxruntime", "openvino"]


def test_an_unknown_backend_lists_the_known_ones():
    with pytest.raises(BackendError) as caught:
        open_named("abacus", tiny.card(), BackendOptions())
    assert_one_line(caught, "'abacus'", "auto", *sorted(BACKENDS))


@pytest.mark.parametrize("name", sorted(BACKENDS))
def test_a_missing_run_time_says_what_to_install(name, monkeypatch):
    monkeypatch.setitem(sys.modules, IMPORTED[name], None)
    with pytest.raises(BackendError) as caught:
        open_named(name, tiny.card(), BackendOptions())
    assert_one_line(caught, "backend " + name, "is missing", "install")


def test_a_run_time_whose_libraries_do_not_load_is_left_out(monkeypatch):
    """PyTorch opens CUDA's by itself, and lets OSError through."""
    imported = torch.importlib.import_module

    def without_cuda(name):
        if name == "torch":
            raise OSError("libcublas.so.12: undefined symbol: cublasLtGetStatus")
        return imported(name)

    monkeypatch.setattr(torch.importlib, "import_module", without_cuda)
    found = choice.choose(
        tiny.card(), options=BackendOptions(num_threads=1, engine_dir="/proc/none")
    )
    assert "torch: PyTorch does not load (libcublas.so.12: undefined symbol" in found.details


def test_fewer_cores_are_another_machine(two):
    before = os.sched_getaffinity(0)
    if len(before) < 2:
        pytest.skip("NOT RUN: there is one core")
    os.sched_setaffinity(0, {min(before)})
    try:
        assert two.choose().name == "onnxruntime"
    finally:
        os.sched_setaffinity(0, before)
