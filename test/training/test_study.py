"""A study: every recipe of a folder trained, scored and set beside the first."""

import json

import pytest
import yaml
from support.training_runs import recipe, rows, write_camvid

from training import study


@pytest.fixture
def recipes(tmp_path):
    folder = tmp_path / "recipes"
    folder.mkdir()
    for name, changes in {"b_flat": {"light_jitter": 0.0}, "a_first": {}}.items():
        values = recipe(epochs=1, network="fast_elu_squeezenet", **changes)
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return folder


def run(recipes, tmp_path, *more):
    arguments = [
        str(recipes),
        "--root",
        str(tmp_path / "camvid"),
        "--output",
        str(tmp_path / "runs"),
    ]
    return study.main([*arguments, *more])


def test_every_recipe_is_trained_and_scored_on_val_and_on_what_was_held_out(
    recipes, tmp_path, capsys
):
    write_camvid(tmp_path / "camvid", (("train", 8), ("val", 4), ("test", 4)))
    assert run(recipes, tmp_path, "--held-out", "test") == 0
    found = json.loads((tmp_path / "runs" / "study.json").read_text())["results"]
    assert [row["recipe"].rsplit("/", 1)[1] for row in found] == ["a_first.yaml", "b_flat.yaml"]
    for row, name in zip(found, ("a_first", "b_flat"), strict=True):
        logged = float(rows(tmp_path / "runs" / name)[-1]["val_mean_iou"])
        assert row["scores"]["val"]["mean_iou"] == pytest.approx(logged, abs=1e-4)
        assert 0 <= row["scores"]["test"]["mean_iou"] <= 1
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if line.split()[:1] == ["a_first"]).count("+0.0") == 2


def test_recipes_with_different_val_splits_are_in_one_table(recipes, tmp_path, capsys):
    write_camvid(tmp_path / "camvid", (("train", 8), ("val", 4), ("test", 4)))
    values = yaml.safe_load((recipes / "b_flat.yaml").read_text())
    (recipes / "b_flat.yaml").write_text(yaml.safe_dump({**values, "val_split": ""}))
    assert run(recipes, tmp_path, "--held-out", "test", "--limit", "4") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    first, second = (next(line for line in lines if line[:1] == [n]) for n in ("a_first", "b_flat"))
    assert len(first) == len(second) == 5 and "-" not in first
    assert second[1:3] == ["-", "-"] and float(second[3]) >= 0


def test_two_recipes_of_one_name_are_refused(recipes, tmp_path, capsys):
    other = tmp_path / "others" / "a_first.yaml"
    other.parent.mkdir()
    other.write_text((recipes / "b_flat.yaml").read_text())
    arguments = [str(recipes), str(other), "--output", str(tmp_path / "runs")]
    assert study.main(arguments) == 1
    said = capsys.readouterr()
    assert f"{recipes / 'a_first.yaml'} and {other} would both be the run" in said.err
    assert "recipe 1" not in said.out


def test_a_limit_is_one_of_what_is_scored_too(recipes, tmp_path):
    write_camvid(tmp_path / "camvid", (("train", 8), ("val", 6)))
    assert run(recipes, tmp_path, "--limit", "4") == 0
    for row in json.loads((tmp_path / "runs" / "study.json").read_text())["results"]:
        logged = rows(tmp_path / "runs" / row["recipe"].split("/")[-1][:-5])[-1]
        for key, name in (("mean_iou", "val_mean_iou"), ("global_accuracy", "val_global_accuracy")):
            assert row["scores"]["val"][key] == pytest.approx(float(logged[name]), abs=6e-5)


def test_broken_pictures_are_skipped_where_that_is_asked_for(recipes, tmp_path, capsys):
    root = write_camvid(tmp_path / "camvid", (("train", 8), ("val", 4)))
    for labels in ("trainannot", "valannot"):
        (root / labels / "3.png").unlink()
    assert run(recipes, tmp_path) == 1
    assert "--skip-broken leaves such pictures out" in capsys.readouterr().err
    assert run(recipes, tmp_path, "--skip-broken") == 0


def test_the_same_command_goes_on_and_trains_nothing_twice(recipes, tmp_path):
    write_camvid(tmp_path / "camvid", (("train", 8), ("val", 4)))
    assert run(recipes, tmp_path) == 0
    weights = tmp_path / "runs" / "a_first" / "weights.safetensors"
    log = weights.with_name("log.csv").read_text()
    before = (tmp_path / "runs" / "study.json").read_text()
    assert run(recipes, tmp_path) == 0
    assert weights.with_name("log.csv").read_text() == log
    assert (tmp_path / "runs" / "study.json").read_text() == before


def test_a_folder_without_recipes_and_a_recipe_that_fails_are_one_line(recipes, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty", tmp_path) == 1
    assert capsys.readouterr().err.startswith("error: no recipe (*.yaml) in ")
    assert run(recipes, tmp_path) == 1
    assert "a_first.yaml ended with code 1" in capsys.readouterr().err
