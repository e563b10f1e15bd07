"""What is made of a fleet's reports: merged, compared with another fleet's, held against a mark."""

import json
import os
import shutil

import pytest
from support.fleets import (
    NAMES,
    OPTIONS,
    assert_is_the_sum,
    fleet,
    mean_iou_of,
    merged,
    one_by_one,
    stored,
)
from support.linear_model import write_model
from support.small_bags import SIZE

from segmentation_node.evaluation.__main__ import main


def test_two_fleets_are_compared(fleet_data, scored, tmp_path, capsys):
    write_model(tmp_path / "other", SIZE, channels=2, name="other")
    words = [str(fleet_data / "drive[012]"), "--model", str(tmp_path / "other"), "--jobs", "1"]
    assert main(["fleet"] + words + OPTIONS + ["--output", str(tmp_path / "two")]) == 0
    there = merged(tmp_path, tmp_path / "two")
    here = merged(tmp_path, scored, "--against", tmp_path / "two")
    found = here["against"]
    assert found["model"] == "other" and found["only_here"] == [str(fleet_data / "drive3")]
    in_both = [mean_iou_of(out, NAMES[:3]) for out in (scored, tmp_path / "two")]
    assert found["all"]["drives"] == 3
    assert found["all"]["mean_iou"] == pytest.approx(in_both[0] - in_both[1], abs=1e-12)
    assert mean_iou_of(scored, NAMES) != pytest.approx(in_both[0], abs=1e-4)
    shown = capsys.readouterr().out
    assert "3 drives in both  " in shown and "1 drives only here, 0 only there" in shown
    rows = [{row["drive"]: row for row in result["drives"]} for result in (here, there)]
    for row in found["drives"]:
        one, other = (by_name[row["drive"]] for by_name in rows)
        for name, difference in row["class_iou"].items():
            assert difference == one["class_iou"][name] - other["class_iou"][name]


def test_fleets_without_a_drive_in_common_have_no_difference(fleet_data, tmp_path, capsys):
    for out, name in (("one", "drive0"), ("two", "drive1")):
        assert fleet(fleet_data, tmp_path / out, "--jobs", 1, drive=name) == 0
    found = merged(tmp_path, tmp_path / "one", "--against", tmp_path / "two")["against"]
    assert found["all"] == {"mean_iou": None, "class_iou": {}, "drives": 0}
    assert "1 drives only here, 1 only there" in capsys.readouterr().out


def test_groups_are_not_compared_with_classes(fleet_data, tmp_path, capsys):
    (tmp_path / "groups.yaml").write_text("name: g\ngroups: {ground: [road], rest: '*'}\n")
    assert fleet(fleet_data, tmp_path / "one", "--jobs", 1, drive="drive0") == 0
    grouping = ["--grouping", tmp_path / "groups.yaml"]
    assert fleet(fleet_data, tmp_path / "two", "--jobs", 1, *grouping, drive="drive0") == 0
    for pair in (["one", "two"], ["two", "one"]):
        here, there = (str(tmp_path / name) for name in pair)
        assert main(["merge", here, "--against", there]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: --against: IoU is by ") and "'ground', 'rest'" in error


def test_figures_of_a_drive_that_now_fails_are_left_out(fleet_data, tmp_path, capsys):
    for name in NAMES[:2]:
        shutil.copytree(fleet_data / name, tmp_path / name)
    out, model = tmp_path / "out", ["--model", fleet_data / "model", "--jobs", 1]
    assert fleet(tmp_path, out, *model, drive="drive[01]") == 0
    (bag,) = (tmp_path / "drive1").glob("*.mcap")
    content, times = bag.read_bytes(), (bag.stat().st_atime_ns, bag.stat().st_mtime_ns)
    bag.write_bytes(b"junk")
    assert fleet(tmp_path, out, *model, drive="drive[01]") == 1
    result = merged(tmp_path, out, "--html", tmp_path / "page.html", code=1)
    (expected,) = one_by_one(fleet_data, tmp_path, NAMES[:1]).values()
    assert_is_the_sum(result, {str(tmp_path / "drive0"): expected})
    (failed,) = result["failed"]
    assert failed["drive"] == str(tmp_path / "drive1") and len(failed["left_out"]) == 1
    assert "its earlier report is left out" in capsys.readouterr().err
    assert "its earlier report is left out" in (tmp_path / "page.html").read_text()
    # Once it is what it was, its report counts again.
    bag.write_bytes(content)
    os.utime(bag, ns=times)
    assert fleet(tmp_path, out, *model, drive="drive[01]") == 0
    assert len(merged(tmp_path, out)["drives"]) == 2


def test_a_merge_wants_two_files_for_two_reports(tmp_path, capsys):
    both = ["--json", str(tmp_path / "one"), "--html", str(tmp_path / "." / "one")]
    assert main(["merge", str(tmp_path), *both]) == 1
    assert "--json and --html name the same file" in capsys.readouterr().err


def test_reports_of_two_models_are_not_summed(fleet_data, scored, tmp_path, capsys):
    write_model(tmp_path / "other", SIZE, name="other")
    words = [str(fleet_data / "drive1"), "--model", str(tmp_path / "other"), "--jobs", "1"]
    assert main(["fleet"] + words + OPTIONS + ["--output", str(scored)]) == 0
    assert main(["merge", str(scored)]) == 1
    assert "another model, other options" in capsys.readouterr().err


def test_what_auto_took_on_machines_that_differ_is_named(fleet_data, tmp_path, capsys):
    out = tmp_path / "out"
    assert fleet(fleet_data, out, "--jobs", 1, "--precision", "auto", drive="drive[01]") == 0
    taken = [content["report"]["source"]["precision"] for content in stored(out).values()]
    assert merged(tmp_path, out)["computed_by"] == {"onnxruntime " + taken[0]: 2}
    assert "computed by several" not in capsys.readouterr().out
    name, content = next(iter(stored(out).items()))
    content["report"]["source"].update(backend="openvino", precision="bf16")
    (out / name).write_text(json.dumps(content))
    found = merged(tmp_path, out, "--html", tmp_path / "page.html")
    assert found["computed_by"] == {"onnxruntime " + taken[0]: 1, "openvino bf16": 1}
    for text in (capsys.readouterr().out, (tmp_path / "page.html").read_text()):
        assert "onnxruntime %s on 1, openvino bf16 on 1" % taken[0] in text


def test_fail_below(fleet_data, scored):
    assert fleet(fleet_data, scored, "--jobs", 1, "--fail-below", 0.001) == 0
    assert fleet(fleet_data, scored, "--jobs", 1, "--fail-below", 0.9) == 1


def test_fail_below_judges_the_drives_that_are_named(fleet_data, scored, capsys):
    out = scored
    both, one = mean_iou_of(out, NAMES), mean_iou_of(out, NAMES[:1])
    between = (both + one) / 2
    assert fleet(fleet_data, out, "--fail-below", between) == int(both < between)
    assert "not judged" not in capsys.readouterr().out
    assert fleet(fleet_data, out, "--fail-below", between, drive="drive0") == int(one < between)
    shown = capsys.readouterr().out
    assert "mean IoU %.4f over 1 drives" % one in shown
    assert "not judged: 3 other reports in %s" % out in shown
    assert fleet(fleet_data, out, "--fail-below", 0.9, "--shard", "2/2", drive="drive0") == 0
    assert "nothing to judge" in capsys.readouterr().out


@pytest.mark.parametrize("mark", ["nan", "-0.1", "60"])
def test_fail_below_is_a_share(mark, fleet_data, tmp_path, capsys):
    with pytest.raises(SystemExit):
        fleet(fleet_data, tmp_path / "out", "--fail-below", mark)
    assert "%s is not from 0 to 1" % mark in capsys.readouterr().err
