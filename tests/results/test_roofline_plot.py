import itertools
import json
import random
import sys
from pathlib import Path

import pytest
import synthetic

from benchlib import labels, resultset, roofline_plot, roofs, text

GB200 = roofs.Roofs("GB200", synthetic.GB200, 8000e9)


def row(**fields):
    start = {"kernel": "k", "op": "o", "phase": "decode", "B": 1, "S": 1, "L": 1, "compute_dtype": "bf16"}
    return resultset.Row(**start | fields)


def test_a_measured_point_lies_where_its_latency_puts_it():
    (mark,), bandwidth = roofline_plot.marks([row(flops=4e9, bytes=2e9, latency_ms=2.0)], GB200)
    assert (mark.x, mark.y, mark.hollow, bandwidth) == (2.0, 2e12, False, [])


def test_an_unmeasured_point_lies_on_the_roof():
    points = [row(flops=8e9, bytes=8e9), row(flops=1e15, bytes=1e9, compute_dtype="fp8")]
    found, _ = roofline_plot.marks(points, GB200)
    assert [mark.y for mark in found] == [pytest.approx(8000e9), pytest.approx(4500e12)]
    assert all(mark.hollow for mark in found)


def test_kernels_without_flops_go_to_the_bandwidth_panel():
    found, bandwidth = roofline_plot.marks([row(flops=0, bytes=8e6, latency_ms=0.002), row(flops=0, bytes=8e6)], GB200)
    assert found == []
    assert [(mark.x, mark.y) for mark in bandwidth] == [(8e6, pytest.approx(4e12)), (8e6, pytest.approx(8e12))]


def test_points_of_unknown_cost_or_roof_are_left_out():
    assert roofline_plot.marks([row(), row(flops=1, bytes=1, compute_dtype="fp4")], roofs.Roofs("x", {}, 1e12)) == (
        [],
        [],
    )


def test_every_point_of_the_model_has_a_place():
    points = resultset.points_from_list(synthetic.points())
    found, bandwidth = roofline_plot.marks(points, GB200)
    assert (len(found), len(bandwidth)) == (906, 104)
    for mark in found:
        peak = min(mark.x * GB200.bandwidth, GB200.compute[mark.row.compute_dtype])
        assert mark.y == pytest.approx(peak)


def test_roof_lines_start_at_the_ridge():
    measured = roofs.Roofs("x", {"bf16": 1e15, "fp8": 2e15}, 4e12, {"bf16": 0.5e15}, 2e12)
    lines = roofline_plot.roof_lines(measured, ["bf16", "fp8"], 0.1, 1e4)
    assert lines == [
        (False, "bf16", [(250.0, 1e15), (1e4, 1e15)]),
        (False, "fp8", [(500.0, 2e15), (1e4, 2e15)]),
        (False, None, [(0.1, 0.4e12), (500.0, 2e15)]),
        (True, "bf16", [(250.0, 0.5e15), (1e4, 0.5e15)]),
        (True, None, [(0.1, 0.2e12), (250.0, 0.5e15)]),
    ]


def test_labels_do_not_overlap_and_stay_inside():
    draw = random.Random(1)
    area = labels.Box(0, 0, 800, 700)
    wanted = [(draw.randint(60, 230), 14, [(draw.uniform(50, 500), draw.uniform(50, 650))]) for _ in range(20)]
    placed = labels.place(wanted, area, obstacles=[labels.Box(600, 600, 800, 700)])
    assert all(item.clean and item.box.inside(area) for item in placed)
    assert not any(a.box.overlaps(b.box) for a, b in itertools.combinations(placed, 2))


def test_labels_at_one_spot_spread_out():
    placed = labels.place([(120, 14, [(400, 300)])] * 12, labels.Box(0, 0, 800, 600))
    assert not any(a.box.overlaps(b.box) for a, b in itertools.combinations(placed, 2))


def test_a_line_crosses_a_box():
    box = labels.Box(10, 10, 20, 20)
    assert labels.crosses_box(((0, 0), (30, 30)), box)
    assert labels.crosses_box(((15, 0), (15, 30)), box)
    assert not labels.crosses_box(((0, 0), (30, 5)), box)
    assert not labels.crosses_box(((0, 0), (5, 5)), box)


@pytest.mark.parametrize("lacks", [synthetic.HOPPER_LACKS, set(synthetic.KERNELS)], ids=["hopper", "nothing"])
def test_the_picture_names_every_kernel_that_has_a_place(tmp_path, lacks):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    points = resultset.points_from_list(synthetic.points())
    synthetic.write_results(tmp_path, lacks=lacks)
    rows = resultset.annotate(resultset.load(tmp_path).rows, points)
    figure = roofline_plot.draw(pyplot, rows + resultset.unlisted(points, rows), GB200)
    names = {artist.get_text() for axis in figure.axes for artist in axis.texts}
    pyplot.close(figure)
    assert set(synthetic.KERNELS) <= names


@pytest.mark.parametrize(
    ("value", "written"),
    [(8e12, "8 TB/s"), (4.31e12, "4.31 TB/s"), (989e12, "989 TB/s"), (999.9e9, "1 TB/s"), (5, "5 B/s")],
)
def test_rates_are_readable(value, written):
    assert text.rate(value, "B/s") == written


def test_the_command_draws_points_alone_and_says_what_is_missing(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    sys.path.insert(0, str(Path(roofline_plot.__file__).parents[2]))
    import plot_roofline

    listed = tmp_path / "points.json"
    listed.write_text(json.dumps(synthetic.points()[:40]))
    arguments = ["--results", str(tmp_path / "none"), "--output", str(tmp_path / "out")]
    assert plot_roofline.main([*arguments, "--points", str(listed)]) == 0
    assert (tmp_path / "out" / "roofline.svg").exists()
    assert plot_roofline.main([*arguments, "--scripts", str(tmp_path)]) == 2
    assert "nothing to plot" in capsys.readouterr().err
