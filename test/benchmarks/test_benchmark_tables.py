"""Tables and pictures of the documents show what benchmarks/results holds, and say where from."""

import re

import pytest
from support.ros_sources import PROJECT

from benchmarks import documents as tables
from benchmarks import plots
from benchmarks.line_makers import LINES
from benchmarks.markdown import any_table, provenance
from benchmarks.record import RESULTS, Record
from benchmarks.registry import BENCHMARKS
from benchmarks.table_makers import TABLES

STREAM = {"mean_frame_rate_fps": 10.0, "median_latency_ms": 180.0, "p95_latency_ms": 200.0}
STREAM["cpu_ms_per_frame"] = 150.0


def end_to_end_row(
    asked_for="class map", ratio=1.5, image="640x360", node="node_onnxruntime", rate=15.0
):
    about = {"model": "my_model", "classes": 11, "image": image, "asked_for": asked_for}
    return {**about, "node": node, "ratio": ratio, **STREAM, "mean_frame_rate_fps": rate}


@pytest.fixture
def results(tmp_path):
    """A folder with one results file."""
    record = Record("end_to_end", {}, ["--models", "my_model"])
    rows = [end_to_end_row(node="baseline_onnxruntime", ratio=1.0, rate=10.0)]
    rows += [end_to_end_row(), end_to_end_row("class map, overlay", 1.25)]
    record.save(rows, tmp_path / "end_to_end.json")
    return tmp_path


def test_the_documents_show_the_results(capsys):
    assert tables.main(["--check"]) == 0, capsys.readouterr().out


def test_the_pictures_show_the_results(capsys):
    assert plots.main(["--check"]) == 0, capsys.readouterr().out
    for file in plots.PLOTS:
        path = plots.DOCS / file
        assert not path.exists() or path.stat().st_size < 150_000


def test_a_picture_of_other_results_is_out_of_date(tmp_path, monkeypatch, capsys, results):
    monkeypatch.setattr(plots, "RESULTS", results)
    monkeypatch.setattr(plots, "DOCS", tmp_path)
    assert plots.main(["--check"]) == 1
    assert plots.main([]) == 0 and plots.main(["--check"]) == 0
    Record("end_to_end", {}).save([end_to_end_row(ratio=2.0)], results / "end_to_end.json")
    capsys.readouterr()
    assert plots.main(["--check"]) == 1
    assert "docs/end_to_end.png is out of date" in capsys.readouterr().out


def test_no_table_of_performance_is_written_by_hand():
    text = (PROJECT / "docs" / "performance.md").read_text()
    assert text.count("<!-- table:") > 10
    assert "|" not in tables.MARKED.sub("", text)


def test_every_table_is_followed_by_command_machine_and_date():
    text = (PROJECT / "docs" / "performance.md").read_text()
    for kind, name, body in tables.MARKED.findall(text):
        if kind == "table" and "Never run" not in body:
            last = body.strip().splitlines()[-1]
            assert re.search(r"^\*`(python|make) .*`, 20\d\d-\d\d-\d\d.*; commit \w+\.\*$", last), (
                name
            )
            assert "onnxruntime " in last and "cores" in last


def test_old_figures_are_found_and_replaced(results):
    before = "Before.\n<!-- table: end_to_end.short -->\n| 9.99 |\n<!-- end -->\nBehind.\n"
    text, stale = tables.updated(before, results)
    assert stale == ["table end_to_end.short"]
    assert text.startswith("Before.\n<!-- table: end_to_end.short -->\n\n| Model |")
    assert text.endswith("<!-- end -->\nBehind.\n") and "9.99" not in text
    assert "| `my_model` | 11 | 640x360 | 10.0 | 15.0 (**1.50**) |" in text
    assert "`python -m benchmarks.end_to_end --models my_model`" in text
    assert tables.updated(text, results) == (text, [])


def test_what_was_never_run_says_so(results):
    for kind in ("table", "line"):
        text, _ = tables.updated(f"<!-- {kind}: gpu -->\n<!-- end -->\n", results)
        assert "*Never run: `python -m benchmarks gpu` measures it.*" in text


def test_a_picture_is_shown_from_where_the_document_is(results):
    marked = "<!-- picture: end_to_end.png -->\n<!-- end -->\n"
    for folder, link in ((PROJECT, "docs/end_to_end.png"), (PROJECT / "docs", "end_to_end.png")):
        text, _ = tables.updated(marked, results, folder)
        assert f"![Frames per second of this node and the usual one]({link})" in text
    text, _ = tables.updated(marked.replace("end_to_end", "latency"), results)
    assert "*Never run: `python -m benchmarks network_latency` measures it.*" in text


@pytest.mark.parametrize(
    "text, reason",
    [
        ("<!-- table: nothing -->\n<!-- end -->", "no table nothing; there are network_latency"),
        ("<!-- picture: nothing.png -->\n<!-- end -->", "no picture nothing.png; there are lat"),
        ("<!-- table: end_to_end.nothing -->\n<!-- end -->", "no table end_to_end.nothing"),
        ("<!-- line: host_cost -->\n<!-- end -->", "no line host_cost; there are network_latency"),
        ("<!-- table: end_to_end -->\n", "a marker has no line <!-- end -->"),
        (
            "<!-- table: end_to_end -->\n<!-- line: end_to_end -->\n<!-- end -->",
            "table end_to_end has no end before end_to_end",
        ),
    ],
)
def test_a_marker_that_leads_nowhere_is_one_line(text, reason, results):
    with pytest.raises(tables.MarkerError, match=re.escape(reason)) as caught:
        tables.updated(text, results)
    assert "\n" not in str(caught.value)


def test_a_benchmark_without_a_table_of_its_own_shows_its_plain_columns():
    rows = [
        {"network": "enet", "median_ms": 12.3456, "stages_ms": {"a": 1.0}, "is_new": True},
        {"network": "segnet", "runs": 48, "median_ms": None, "is_new": False},
    ]
    assert any_table({"results": rows}).splitlines() == [
        "| network | median ms | is new | runs |",
        "| --- | --- | --- | --- |",
        "| enet | 12.35 | yes | - |",
        "| segnet | - | no | 48 |",
    ]


def test_provenance_names_only_what_was_there():
    content = {**Record("transport", {}, []).content, "took_s": 300.0}
    content["machine"]["versions"] = {"onnxruntime": "1.31.1", "openvino": "not installed"}
    content["machine"].update(usable_cores=2, logical_cores=8)
    line = provenance(content)
    assert line.startswith("*`python -m benchmarks.transport`, 20") and ", 5 min; " in line
    assert "onnxruntime 1.31.1" in line and "openvino" not in line and "pinned to 2 of 8" in line


def test_latencies_stand_beside_enets_and_the_papers():
    def row(network, image, median_ms, **more):
        times = {"median_ms": median_ms, "p95_ms": 2 * median_ms, "parameters": 10**6}
        return {"network": network, "image": image, **times, **more}

    rows = [
        {"peak": {"gflops": 100.0, "convolution": "3x3", "layout": "any", "copy_gb_per_s": 9.0}},
        row("enet", "640x360", 43.0, peak_share=0.1),
        row("elu_squeezenet", "640x360", 86.0, peak_share=0.25),
        row("enet", "640x360", 20.0, run_time="openvino"),
        {"network": "segnet", "image": "640x360", "run_time": "torch", "error": "no memory"},
    ]
    record = {"results": rows}
    ratios = TABLES["network_latency.ratios"](record).splitlines()
    assert "| `elu_squeezenet` | ONNX Runtime | 2.00 | 1.00 |" in ratios
    assert "| `enet` | OpenVINO | 1.00 | 0.23 |" in ratios
    assert "| `enet` | OpenVINO | 1.00 M | 20.0 (40.0) |" in TABLES["network_latency"](record)
    shares = TABLES["network_latency.peak_share"](record)
    assert "| `elu_squeezenet` | ONNX Runtime | 25 % |" in shares and "100 GFLOP/s" in shares
    assert "| on a Jetson TX1 (Treml et al. 2016) | 86 ms |" in TABLES["network_latency.short"](
        record
    )


def test_a_line_gives_the_spread_of_the_ratios():
    rows = [end_to_end_row(ratio=ratio) for ratio in (1.5, 2.25)]
    rows += [end_to_end_row(ratio=3.0, image="1280x720")]
    assert LINES["end_to_end"]({"results": rows}) == (
        "On ONNX Runtime, the node gives the usual one's frames per second 1.50 to 2.25 times at "
        "640x360 and 3.00 times at 1280x720."
    )


def test_a_line_about_what_was_not_measured_says_so():
    rows = [{"network": "enet", "image": "640x360", "median_ms": 1.0}]
    assert LINES["network_latency"]({"results": rows}).endswith("were timed in this run.")
    failed = {"network": "elu_squeezenet", "size": "640x360", "batch": 1, "error": "no memory"}
    assert LINES["gpu"]({"results": [failed]}).endswith("was not timed.")
    assert "not measured" in LINES["paper_tables"]({"results": [{"published_total_ms": None}]})
    assert LINES["int8"]({"results": [{"mean_iou": None}]}) == "No int8 form was scored."


def test_a_line_names_the_fastest_int8_form_and_what_it_loses():
    def row(variant, ratio, mean_iou):
        return {"model": "mine", "run_time": "openvino", "ratio": ratio, "mean_iou": mean_iou}

    rows = [row("fp32", 1.0, 0.67), row("a", 0.8, 0.66), row("b", 0.7, 0.645), row("b", 0.5, None)]
    assert LINES["int8"]({"results": rows}) == (
        "The fastest int8 form of `mine`: 0.70 of fp32's time on OpenVINO, mean IoU -2.5 points."
    )


def test_a_line_puts_the_published_step_beside_ours():
    parts = {"forward_ms": 1000.2, "backward_ms": 2000.0, "total_ms": 3000.2}
    published = {"published_forward_ms": 101, "published_backward_ms": 164}
    step = {**parts, "network": "segnet", "batch": 4, "image": "512x256"}
    rows = [
        {**step, "network": "enet", "published_total_ms": None},
        {**step, **published, "published_total_ms": 265, "published_on": "a Titan X"},
    ]
    assert LINES["paper_tables"]({"results": rows}) == (
        "A training step of `segnet` with 4 images of 512x256 takes 1000, 2000 and 3000 ms "
        "forward, backward and in total (101, 164 and 265 ms published, a Titan X)."
    )


def test_tables_are_of_benchmarks_that_exist():
    files = {name.partition(".")[0] for name in [*TABLES, *LINES]}
    assert {path.stem for path in RESULTS.glob("*.json")} <= set(BENCHMARKS)
    assert files >= set(BENCHMARKS)
