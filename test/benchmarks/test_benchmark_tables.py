"""Tables and pictures of the documents show what benchmarks/results holds, and say where from."""

import re

import pytest
from support.ros_sources import PROJECT

from benchmarks import BENCHMARKS, documents
from benchmarks.record import RESULTS, Record, provenance
from benchmarks.shown import columns, markdown, shown_of, text, yes_or_no

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
    assert documents.main(["--check"]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("content", ["{", "[]", '{"benchmark": "end_to_end"}'])
def test_a_damaged_results_file_is_one_line(content, results, monkeypatch, capsys):
    monkeypatch.setattr(documents, "RESULTS", results)
    (results / "end_to_end.json").write_text(content)
    assert documents.main(["--check"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {results / 'end_to_end.json'}: ")


def test_pictures_are_small_enough_to_load():
    for file in documents.declared()["picture"]:
        assert (documents.DOCS / file).stat().st_size < 150_000


def test_a_picture_of_other_results_is_out_of_date(tmp_path, monkeypatch, capsys, results):
    monkeypatch.setattr(documents, "RESULTS", results)
    monkeypatch.setattr(documents, "DOCS", tmp_path)
    assert list(documents.pictures(is_check=True)) != []
    assert list(documents.pictures(is_check=False)) == []
    assert list(documents.pictures(is_check=True)) == []
    Record("end_to_end", {}).save([end_to_end_row(ratio=2.0)], results / "end_to_end.json")
    (line,) = documents.pictures(is_check=True)
    assert line.startswith("docs/end_to_end.png is out of date")


def test_no_table_of_performance_is_written_by_hand():
    text = (PROJECT / "docs" / "performance.md").read_text()
    assert text.count("<!-- table:") > 10
    assert "|" not in documents.MARKED.sub("", text)


def test_every_table_is_followed_by_command_machine_and_date():
    text = (PROJECT / "docs" / "performance.md").read_text()
    for kind, name, body in documents.MARKED.findall(text):
        if kind == "table" and "Never run" not in body:
            last = body.strip().splitlines()[-1]
            assert re.search(r"^\*`(python|make) .*`, 20\d\d-\d\d-\d\d.*; commit \w+\.\*$", last), (
                name
            )
            assert "onnxruntime " in last and "cores" in last


def test_old_figures_are_found_and_replaced(results):
    before = "Before.\n<!-- table: end_to_end -->\n| 9.99 |\n<!-- end -->\nBehind.\n"
    text, stale = documents.updated(before, results)
    assert stale == ["table end_to_end"]
    assert text.startswith("Before.\n<!-- table: end_to_end -->\n\n| Model |")
    assert text.endswith("<!-- end -->\nBehind.\n") and "9.99" not in text
    about = "| `my_model` | 11 | 640x360 | class map | this node, ONNX Runtime |"
    assert f"{about} 15.0 | 1.50 | 180 (200) | 150 ms |" in text
    assert "`python -m benchmarks.end_to_end --models my_model`" in text
    assert documents.updated(text, results) == (text, [])


def test_a_machine_names_the_folder_of_its_results(results, tmp_path):
    row, path = end_to_end_row(ratio=2.5), results / "epyc" / "end_to_end.json"
    path.parent.mkdir()
    Record("end_to_end", {}).save([row], path)
    text, _ = documents.updated("<!-- table: epyc/end_to_end -->\n<!-- end -->\n", results)
    assert "| 2.50 |" in text and "| 1.50 |" not in text
    with pytest.raises(documents.MarkerError, match="epyc/end_to_end.png"):
        documents.content("picture", "epyc/end_to_end.png", results, tmp_path)


def test_what_was_never_run_says_so(results):
    for kind in ("table", "line"):
        text, _ = documents.updated(f"<!-- {kind}: training_loop -->\n<!-- end -->\n", results)
        assert "*Never run: `python -m benchmarks training_loop` measures it.*" in text


def test_a_picture_is_shown_from_where_the_document_is(results):
    marked = "<!-- picture: end_to_end.png -->\n<!-- end -->\n"
    for folder, link in ((PROJECT, "docs/end_to_end.png"), (PROJECT / "docs", "end_to_end.png")):
        text, _ = documents.updated(marked, results, folder)
        assert f"![Frames per second of this node and the usual one]({link})" in text
    text, _ = documents.updated(marked.replace("end_to_end", "latency"), results)
    assert "*Never run: `python -m benchmarks network_latency` measures it.*" in text


@pytest.mark.parametrize(
    "text, reason",
    [
        ("<!-- table: nothing -->\n<!-- end -->", "no table nothing; there are roofline, net"),
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
    with pytest.raises(documents.MarkerError, match=re.escape(reason)) as caught:
        documents.updated(text, results)
    assert "\n" not in str(caught.value)


def test_a_cell_is_a_template_or_a_function():
    rows = [
        {"network": "enet", "median_ms": 12.3456, "share": {"conv": 0.5}, "is_new": True},
        {"network": "segnet", "median_ms": None, "share": None, "is_new": False},
        {"network": "unet", "error": "no memory", "is_new": False},
    ]
    cells = {"Network": "`{network}`", "ms": "{median_ms:.1f}", "Conv": "{share[conv]:.0%}"}
    table = columns({**cells, "New": yes_or_no("is_new")})
    assert markdown(table({"results": rows})).splitlines() == [
        "| Network | ms | Conv | New |",
        "| --- | --- | --- | --- |",
        "| `enet` | 12.3 | 50 % | yes |",
        "| `segnet` | - | - | no |",
        "| `unet` | - | - | no |",
    ]
    with pytest.raises(KeyError, match="median_ms"):
        table({"results": [{"network": "vnet", "is_new": False}]})
    assert markdown(table({"results": []})) == "*Not measured in this run.*"


def test_the_terminal_shows_the_tables_and_sentence_of_the_documents():
    failed = {"network": "segnet", "image": "640x360", "run_time": "torch", "error": "no memory"}
    shown = text(shown_of("network_latency"), {"results": [*LATENCIES, failed]})
    assert "elu_squeezenet  ONNX Runtime" in shown and "network_latency.ratios:" in shown
    assert "not measured: segnet 640x360 torch: no memory" in shown
    assert "network_latency.short" not in shown and "`" not in shown
    assert shown.splitlines()[-1].endswith("were timed in this run.")


def test_provenance_names_only_what_was_there():
    content = {**Record("transport", {}, []).content, "took_s": 300.0}
    content["machine"]["versions"] = {"onnxruntime": "1.31.1", "openvino": "not installed"}
    content["machine"].update(usable_cores=2, logical_cores=8)
    line = provenance(content)
    assert line.startswith("*`python -m benchmarks.transport`, 20") and ", 5 min; " in line
    assert "onnxruntime 1.31.1" in line and "openvino" not in line and "pinned to 2 of 8" in line


def latency_row(network, median_ms, **more):
    times = {
        "median_ms": median_ms,
        "p95_ms": 2 * median_ms,
        "peak_share": 0.1,
        "parameters": 10**6,
    }
    about = {"network": network, "image": "640x360", "run_time": "onnxruntime"}
    return {**about, **times, **more}


LATENCIES = [
    {"peak": {"gflops": 100.0, "convolution": "3x3", "layout": "any", "copy_gb_per_s": 9.0}},
    latency_row("enet", 43.0),
    latency_row("elu_squeezenet", 86.0, peak_share=0.25),
    latency_row("enet", 20.0, run_time="openvino"),
]


@pytest.mark.parametrize(
    "name, lines",
    [
        ("ratios", ["| `elu_squeezenet` | ONNX Runtime | 2.00 | 1.00 |",
                    "| `enet` | OpenVINO | 1.00 | 0.23 |"]),
        ("peak_share", ["| `elu_squeezenet` | ONNX Runtime | 25 % |",
                        "The peak is 100 GFLOP/s (3x3, any); a copy moves 9 GB/s."]),
        ("short", ["| `elu_squeezenet` | on a Jetson TX1 (Treml et al. 2016) | 86 ms |"]),
    ],
)  # fmt: skip
def test_latencies_stand_beside_enets_and_the_papers(name, lines):
    table = shown_of("network_latency").tables[f"network_latency.{name}"]
    assert set(lines) <= set(markdown(table({"results": LATENCIES})).splitlines())


def line_of(benchmark, rows, **content):
    return shown_of(benchmark).line({"results": rows, **content})


def test_a_line_about_what_was_not_measured_says_so():
    rows = [latency_row("enet", 1.0)]
    assert line_of("network_latency", rows).endswith("were timed in this run.")


def test_every_results_file_is_of_a_benchmark_that_shows_it():
    assert {path.stem for path in RESULTS.rglob("*.json")} <= set(BENCHMARKS)
    assert all(shown_of(name).tables for name in BENCHMARKS)
