"""The tables of the article on SegNet: a small part on the CPU, and what stands beside it."""

import json
import subprocess

import pytest
import torch

from benchmarks import paper_tables
from benchmarks.paper_tables import CASES, PARALLEL_CASES, Case, Stopwatch, recipe_of
from segmentation_node.errors import SegmentationError
from training.distributed import Group

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = ["--networks", "fast_elu_squeezenet", "--cases", "2x64x32", "--seconds", "0"]
# Without batch norm, so that the parts of a batch give the whole batch's loss.
SMALL += ["--parallel-network", "elu_squeezenet", "--parallel-case", "2x64x32", "--steps", "2"]
SMALL += ["--threads", "1", "--processes", "2"]


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_a_small_part_of_both_tables(tmp_path, capsys):
    output = tmp_path / "tables.json"
    assert paper_tables.main([*SMALL, "--output", str(output)]) == 0
    content = json.loads(output.read_text())
    assert content["benchmark"] == "paper_tables" and content["settings"]["device"] == "cpu"
    step, two = content["results"]
    assert (step["table"], step["image"], step["batch"]) == ("article_1", "64x32", 2)
    assert step["steps"] >= paper_tables.LEAST_STEPS
    assert 0 < step["forward_ms"] < step["total_ms"] and 0 < step["backward_ms"] < step["total_ms"]
    assert step["published_total_ms"] is None
    assert (two["table"], two["processes"], two["steps"]) == ("article_2", 2, 2)
    recipe = recipe_of("elu_squeezenet", Case(2, (32, 64)), "fp32")
    alone = paper_tables.part_of(recipe, 1, Group(), torch.device("cpu"))
    assert two["loss"] == pytest.approx(alone["loss"], rel=1e-4)
    assert two["ms_per_image"] > 0 and two["speed_up"] == 1.0
    shown = capsys.readouterr().out
    assert "article_1:" in shown and "article_2:" in shown


def test_published_times_stand_beside_segnet_in_the_article_s_cases():
    assert set(paper_tables.PUBLISHED) == {("segnet", case) for case in CASES}
    (forward_ms, backward_ms, total_ms), _ = paper_tables.PUBLISHED["segnet", CASES[0]]
    assert total_ms == forward_ms + backward_ms
    assert paper_tables.PUBLISHED["segnet", CASES[1]][0] == (97, None, None)


def test_a_row_for_each_precision(tmp_path):
    output = tmp_path / "tables.json"
    more = ["--tables", "1", "--precision", "fp32", "bf16", "--output", str(output)]
    assert paper_tables.main([*SMALL, *more]) == 0
    rows = json.loads(output.read_text())["results"]
    assert [row["precision"] for row in rows] == ["fp32", "bf16"]


@pytest.mark.parametrize("device, efficiency", [("cpu", 0.8), ("GPU", 0.4)])
def test_efficiency_is_by_what_more_is_used(device, efficiency, monkeypatch):
    monkeypatch.setattr(paper_tables, "THREADS", 2)
    rows = [
        {"device": device, "processes": 1, "threads_per_process": 2, "ms_per_image": 80.0},
        {"device": device, "processes": 2, "threads_per_process": 1, "ms_per_image": 100.0},
    ]
    paper_tables.add_speed_up(rows)
    assert [row["speed_up"] for row in rows] == [1.0, 0.8]
    assert rows[1]["efficiency"] == pytest.approx(efficiency)


def test_a_gpu_s_times_come_from_its_events(monkeypatch):
    """On a stand-in: laps are read only once the device is done with them."""
    log = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at_ms = 3.0 * len(log) ** 2
            log.append("recorded")

        def elapsed_time(self, end):
            assert log[-1] == "synchronised"
            return end.at_ms - self.at_ms

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: log.append("synchronised"))
    stopwatch = Stopwatch(torch.device("cuda"))
    for _ in range(3):
        stopwatch.mark()
    assert stopwatch.laps_ms() == [3.0, 9.0]
    assert log == ["recorded"] * 3 + ["synchronised"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path, capsys):
    output = tmp_path / "tables.json"
    assert paper_tables.main(["--device", "cuda", "--output", str(output)]) == 1
    assert capsys.readouterr().err.startswith("NOT RUN") and not output.exists()


def test_a_failing_process_is_one_line(tmp_path, monkeypatch):
    def fail(command, **kwargs):
        return subprocess.CompletedProcess(command, 1, "Traceback\nValueError: too small\n")

    monkeypatch.setattr(paper_tables.subprocess, "run", fail)
    arguments = [*SMALL, "--tables", "2", "--output", str(tmp_path / "tables.json")]
    with pytest.raises(SegmentationError) as caught:
        paper_tables.main(arguments)
    assert str(caught.value) == (
        "2 processes: torchrun ended with 1: Traceback | ValueError: too small"
    )


@pytest.mark.parametrize("device", PARALLEL_CASES)
def test_a_batch_that_does_not_divide_is_refused(device, capsys):
    with pytest.raises(SystemExit):
        paper_tables.parse(["--device", device, "--processes", "1", "3"])
    assert "does not divide by 3" in capsys.readouterr().err
