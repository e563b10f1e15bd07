"""Curves of training logs."""

from pathlib import Path

from training import curves

LOG = Path(__file__).resolve().parents[2] / "training" / "logs" / "elu_squeezenet_camvid.csv"


def test_a_figure_shows_the_logs_values(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("epoch,loss,val_mean_iou,elapsed_s\n1,2.5,,3\n2,1.5,0.25,6\n")
    figure = curves.draw({"mine": curves.read_log(path), "shipped": curves.read_log(LOG)})
    loss, score = figure.axes
    assert loss.lines[0].get_xydata().tolist() == [[1, 2.5], [2, 1.5]]
    assert score.lines[0].get_xydata().tolist() == [[2, 0.25]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["mine", "shipped"]


def test_a_run_without_val_takes_no_colour_from_another(tmp_path):
    path = tmp_path / "blind.csv"
    path.write_text("epoch,loss,val_mean_iou,elapsed_s\n1,2.5,,3\n")
    figure = curves.draw({"blind": curves.read_log(path), "shipped": curves.read_log(LOG)})
    loss, score = figure.axes
    assert score.lines[0].get_color() == loss.lines[1].get_color() != loss.lines[0].get_color()


def test_many_logs_are_told_apart_in_a_legend_that_fits():
    logs = {f"run_{number}": curves.read_log(LOG) for number in range(24)}
    figure = curves.draw(logs)
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert figure.bbox.y0 <= legend.y0 and legend.y1 <= figure.bbox.y1
    lines = figure.axes[0].get_lines()
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(logs)


def test_two_runs_of_one_name_are_two_lines(tmp_path, monkeypatch):
    folders = [tmp_path / place / "mine" for place in ("a", "b")]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "log.csv").write_bytes(LOG.read_bytes())
    drawn = {}
    draw = curves.draw
    monkeypatch.setattr(curves, "draw", lambda logs: drawn.update(logs) or draw(logs))

    logs = [str(folder / "log.csv") for folder in folders]
    assert curves.main([*logs, "--output", str(tmp_path / "curves.svg")]) == 0

    assert list(drawn) == logs
