"""The page of a run: the JSON's figures, nothing from outside, and what Chromium makes of it."""

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from segmentation_node.evaluation.frame import Lost, Problem, ScoredFrame
from segmentation_node.evaluation.report.gallery import UNLABELLED_RGB, WRONG_RGB
from segmentation_node.evaluation.report.page import run_page
from segmentation_node.evaluation.report.text import percent, write_json
from segmentation_node.evaluation.run.detection_scores import DetectionScores
from segmentation_node.evaluation.run.run import Run
from segmentation_node.evaluation.run.true_boxes import true_boxes
from segmentation_node.labels import CAMVID_11, CITYSCAPES_19

HOSTILE = '<script>alert("frame")</script>&amp;.png'
FRAMES = 12
SIZE = (90, 120)
VOID_TAGS = {"meta", "img"}


def filled_run(truth=CITYSCAPES_19, frames=FRAMES, name="frame %d"):
    """Frames of a drive whose later ones are worse; the first holds all classes."""
    random = np.random.RandomState(3)
    run = Run(CITYSCAPES_19, truth, {"model": "a model", "dataset": "a set", "command": "<cmd>"})
    for index in range(frames):
        labels = np.repeat(np.arange(18), 5)[:, None] + np.zeros(SIZE, int)
        seen = labels.copy()
        wrong = random.rand(*SIZE) < index / (2.0 * frames)
        seen[wrong] = random.randint(0, 19, wrong.sum())
        labels[:, :4] = 255
        run.add(
            ScoredFrame(
                HOSTILE if index == 3 else name % index,
                seen.astype(np.uint8),
                stamp_ns=index * 10**8,
                image_hwc=random.randint(0, 256, (*SIZE, 3)).astype(np.uint8),
                truth_hw=None
                if truth is None
                else labels.astype(np.uint8) % 11
                if truth is CAMVID_11
                else labels.astype(np.uint8),
                stages_ms={"inference": 5.0 + index, "processing": 6.0 + index},
                position=("", index),
                done_s=index * 0.1,
                confidence_hw=np.where(wrong, 120, 240).astype(np.uint8),
            )
        )
    return run


class Page(HTMLParser):
    """What stands in a page: elements, tables as text, the text of everything."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.html = html
        self.elements = []
        self.tables = []
        self.text = ""
        self._open = []
        self.feed(html)
        self.close()
        assert not self._open, "these are not closed: %s" % self._open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID_TAGS:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self._open and self._open[-1] == tag, "</%s> closes %s" % (tag, self._open)
        self._open.pop()

    def handle_data(self, data):
        self.text += data
        if "td" in self._open or "th" in self._open:
            self.tables[-1][-1][-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def rows(self, first_header):
        """The table whose first head cell is this: row head -> {column head: text}."""
        (found,) = [rows for rows in self.tables if rows[0][0] == first_header]
        return {row[0]: dict(zip(found[0][1:], row[1:], strict=True)) for row in found[1:]}


def page_of(run):
    run.finish()
    return Page(run_page(run, run.as_json()))


@pytest.fixture(scope="module")
def run():
    run = filled_run()
    run.leave_out(Problem("broken.png", "broken.png: not a readable image"))
    run.leave_out(Lost("frame 99", "no class map came back"))
    run.finish(partial=True)
    return run


@pytest.fixture(scope="module")
def result(run):
    return run.as_json()


@pytest.fixture(scope="module")
def page(run, result):
    return Page(run_page(run, result))


def test_figures_by_class_are_the_jsons(page, result):
    rows = page.rows("class")
    assert list(rows) == list(result["class_iou"])
    for name, iou in result["class_iou"].items():
        assert rows[name]["IoU %"] == percent(iou)
        assert rows[name]["accuracy %"] == percent(result["class_accuracy"][name])
    rows = page.rows("category")
    assert {name: row["IoU %"] for name, row in rows.items()} == {
        name: percent(iou) for name, iou in result["category_iou"].items()
    }


def test_the_means_and_the_pace_are_the_jsons(page, result):
    for key in ("mean_iou", "mean_category_iou", "global_accuracy", "frequency_weighted_iou"):
        assert percent(result[key]) in page.text, key
    rows = page.rows("stage, ms")
    for stage, values in result["stages_ms"].items():
        assert rows[stage] == {rank: "%.2f" % value for rank, value in values.items()}
    assert "%.2f frames per second" % result["rate_hz"] in page.text


def test_the_calibration_is_the_jsons(page, result):
    found = result["calibration"]
    assert page.text.count("calibration error %s %%" % percent(found["expected_error"])) == 1
    rows = page.rows("confidence from")
    assert len(rows) == len(found["thresholds"]) and rows["0.80"] == {
        "pixels kept %": percent(found["thresholds"][4]["kept_share"]),
        "right of these %": "100.00",
    }
    drawn = page.text[page.text.index("Right by confidence") :]
    filled = [item for item in found["bins"] if item["right_share"] is not None]
    assert len(filled) == 2
    for item in filled:
        assert "confidence %.2f: %.2f %% right, %.2f %% of the pixels" % (
            item["mean_confidence"], 100 * item["right_share"], 100 * item["pixels_share"]
        ) in drawn  # fmt: skip


def test_every_cell_of_the_confusion_matrix_is_the_jsons(page, result):
    matrix = result["confusion_matrix"]
    titles = [cell["title"] for cell in page.all("td") if "predicted as" in cell.get("title", "")]
    found = [int(re.search(r": (\d+) pixels", title).group(1)) for title in titles]
    assert found == [pixels for row in matrix["pixels"] for pixels in row]
    assert titles[1].startswith("road predicted as sidewalk: ")


def test_every_frame_stands_in_a_table_and_in_the_timelines(page, result):
    rows = page.rows("frame")
    for row in result["per_frame"]:
        assert rows[row["name"]]["mean IoU %"] == percent(row["mean_iou"])
    assert page.text.count("frame 7: %.2f %%" % (100 * result["per_frame"][7]["mean_iou"])) == 1


def test_what_is_missing_is_said_first(page):
    header = page.text[: page.text.index("Accuracy by class")]
    assert "PARTIAL: the run was stopped" in header
    assert "1 of 14 frames could not be read" in header
    assert "1 frames were lost" in header
    assert "broken.png: not a readable image" in page.text
    assert "no class map came back" in page.text


def test_names_are_text_whatever_they_hold(page):
    assert not page.all("script")
    assert HOSTILE in page.text
    assert "<cmd>" in page.text


def test_nothing_comes_from_outside(page):
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "data", "action"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)
    assert tag and not re.search(r"url\(|@import", page.html)
    (policy,) = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    assert policy.startswith("default-src 'none'")


def test_pictures_and_charts_say_what_they_show(page):
    images = page.all("img")
    assert len(images) == 4 * (4 + 4 + 4)  # worst, best, and those that change most
    assert all(image["alt"] for image in images)
    charts = [a for a in page.all("svg") if a.get("role") == "img"]
    assert len(charts) == 5
    assert "Histogram of processing time" in page.text


def decoded(uri):
    content = uri.split("base64,", 1)[1]
    import base64

    bgr = cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_COLOR)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def test_the_worst_frames_errors_are_painted(page, run):
    (worst,) = run.examples.lowest()[:1]
    (uri,) = [i["src"] for i in page.all("img") if i["alt"] == "errors of %s" % worst.name][:1]
    errors = decoded(uri)
    unlabelled = worst.truth_hw == 255
    wrong = (worst.truth_hw != worst.class_map_hw) & ~unlabelled
    np.testing.assert_array_equal((errors == WRONG_RGB).all(axis=2), wrong)
    np.testing.assert_array_equal((errors == UNLABELLED_RGB).all(axis=2), unlabelled)
    (uri,) = [i["src"] for i in page.all("img") if i["alt"] == "truth of %s" % worst.name][:1]
    np.testing.assert_array_equal(decoded(uri), CITYSCAPES_19.palette()[worst.truth_hw])


def test_label_sets_that_differ_are_said_to_and_shown_on_their_level():
    page = page_of(filled_run(CAMVID_11))
    assert "compared on Cityscapes' 7 categories" in page.text
    assert list(page.rows("category")) == [
        "flat", "construction", "object", "nature", "sky", "human", "vehicle",
    ]  # fmt: skip


def test_a_drive_without_labels_shows_how_it_flickers():
    run = filled_run(truth=None)
    page = page_of(run)
    assert "no ground truth" in page.text and "IoU" not in page.text
    assert "Confusion" not in page.text
    found = run.as_json()["temporal_consistency"]
    assert "%d of %d" % (found["changed_pixels"], found["pixels"]) in page.text
    rows = page.rows("class before")
    assert rows["road"]["changed %"] == percent(found["class_changed_share"]["road"])


def test_a_run_of_nothing_still_gives_a_page():
    page = page_of(Run(CAMVID_11, CAMVID_11, {}))
    assert "0 frames" in page.text


@pytest.mark.parametrize(
    "source, title",
    [
        ({"model": "m", "dataset": "camvid", "split": "val"}, "m on camvid val"),
        ({"model": "m", "bag": "/data/drives/one/"}, "m on one"),
        ({"bag": "drive.mcap"}, "class maps on drive.mcap"),
    ],
)
def test_the_title_says_what_was_scored(source, title):
    page = page_of(Run(CAMVID_11, CAMVID_11, source))
    assert "<title>%s</title>" % title in page.html and "<h1>%s</h1>" % title in page.html


def test_a_long_drive_keeps_the_page_small():
    run = Run(CAMVID_11, CAMVID_11, {"model": "m"})
    labels = np.zeros((2, 2), np.uint8)
    for index in range(5000):
        run.add(ScoredFrame("f%d" % index, labels, truth_hw=labels, stages_ms={"processing": 1.0}))
    page = page_of(run)
    assert len(page.html) < 500_000
    assert "The first 500 of 5000 frames" in page.text


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
browser = pytest.mark.skipif(
    CHROMIUM is None, reason="NOT RUN: no Chromium on this machine (apt install chromium)"
)


def in_chromium(path, folder, *options):
    """Open a page in a headless Chromium; gives what it prints and fails on what it logs."""
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--user-data-dir=%s" % (folder / "profile"), "--enable-logging=stderr", *options,
            path.as_uri(),
        ],
        check=True, capture_output=True, text=True,
        env=dict(os.environ, HOME=str(folder)),
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def page_file(run, result, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(run_page(run, result), encoding="utf-8")
    return path


@browser
@pytest.mark.parametrize("scheme, paper", [(1, (255, 255, 255)), (0, (20, 23, 27))])
def test_chromium_shows_the_pictures_light_and_dark(page_file, tmp_path, scheme, paper):
    shot = tmp_path / "shot.png"
    in_chromium(
        page_file,
        tmp_path,
        "--blink-settings=preferredColorScheme=%d" % scheme,
        "--window-size=1100,12000",
        "--screenshot=%s" % shot,
    )
    rgb = cv2.cvtColor(cv2.imread(str(shot)), cv2.COLOR_BGR2RGB)
    assert tuple(rgb[5, 5]) == paper
    for color in (WRONG_RGB, UNLABELLED_RGB, CITYSCAPES_19.classes[0].color_rgb):
        assert (rgb == color).all(axis=2).sum() > 1000, color


@browser
def test_chromium_parses_the_page_as_we_do(page, page_file, tmp_path):
    seen = Page(in_chromium(page_file, tmp_path, "--dump-dom"))
    assert seen.tables == page.tables
    assert len(seen.all("img")) == len(page.all("img"))


def test_the_json_beside_it_is_valid(result, tmp_path):
    write_json(str(tmp_path / "result.json"), result)
    assert json.loads((tmp_path / "result.json").read_text())["partial"] is True


def test_boxes_have_a_table_where_there_are_true_ones():
    scores = DetectionScores(CITYSCAPES_19, CITYSCAPES_19, ("car", "truck"))
    run = Run(CITYSCAPES_19, None, {"model": "m"}, boxes=scores)
    labels = np.zeros(SIZE, np.uint8)
    labels[10:60, 10:60] = 13
    true = true_boxes([[10, 10, 60, 60], [80, 0, 90, 9]], [13, 13])
    run.add(ScoredFrame("f", labels, true_boxes=true))
    page = page_of(run)
    (table,) = [found for found in page.tables if "COCO AP %" in found[0]]
    rows = {row[0]: row for row in table[1:]}
    assert rows["car"][2] == "50.50" and rows["car"][-1] == "2"  # one of two found: 51 of 101
    assert rows["truck"][2] == "n/a" and rows["truck"][-1] == "0"
    assert "50.00 % at IoU 0.7" in page.text
    assert "COCO" not in page_of(Run(CITYSCAPES_19, None, {"model": "m"})).text
