import itertools
import json
import math
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import synthetic

from benchlib import interactive, labels, resultset, roofline_plot, roofs, text

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


def test_a_label_at_the_edge_is_moved_inside_and_leaves_its_point_free():
    area = labels.Box(0, 0, 800, 600)
    for anchor in ((5, 300), (795, 300), (400, 2), (400, 598), (2, 2)):
        (placed,) = labels.place([(120, 14, [anchor])], area)
        assert placed.box.inside(area) and not placed.box.contains(*anchor)
    assert labels.Box(-30, 590, 90, 604).moved_into(area) == labels.Box(0, 586, 120, 600)


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
    assert "none: there is no such file or directory" in capsys.readouterr().err
    (tmp_path / "none").mkdir()
    assert plot_roofline.main([*arguments, "--scripts", str(tmp_path)]) == 2
    assert "nothing to plot" in capsys.readouterr().err


# Linear RGB as red- and green-blind eyes see it (Machado, Oliveira and Fernandes 2009, severity 1).
SIGHT = {
    "normal": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protan": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deutan": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
}
XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))


def times(matrix, vector):
    return [sum(a * b for a, b in zip(line, vector, strict=True)) for line in matrix]


def lab(colour, sight):
    """CIE L*a*b* of a colour as somebody sees it."""
    rgb = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    seen = [min(1.0, max(0.0, value)) for value in times(SIGHT[sight], linear)]
    white = (0.95047, 1.0, 1.08883)
    found = [value / full for value, full in zip(times(XYZ, seen), white, strict=True)]
    x, y, z = [v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in found]
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@pytest.mark.parametrize("sight", SIGHT)
def test_categories_can_be_told_apart_by_everybody(sight):
    """Differences of more than 10 are seen at a glance; points are small, so twice that is asked for."""
    colours = {name: colour for name, colour in roofline_plot.COLOURS.items() if name}
    for one, two in itertools.combinations(colours, 2):
        assert math.dist(lab(colours[one], sight), lab(colours[two], sight)) > 25, (one, two)


def test_letters_can_be_read():
    for colour in roofline_plot.COLOURS.values():
        dark = roofline_plot._luminance(roofline_plot._darker(colour))
        assert 1.05 / (dark + 0.05) >= 4.5
        ink = sorted([roofline_plot._luminance(colour), roofline_plot._luminance(roofline_plot.ink_on(colour))])
        assert (ink[1] + 0.05) / (ink[0] + 0.05) >= 3


def test_the_launch_floor_ends_at_the_roof():
    found = roofs.Roofs("x", {}, 4e12, launch_floor_ms=0.001)
    assert roofline_plot.floor_line(found, 1e3, 1e9) == [(1e3, 1e9), (4e6, 4e12)]
    assert roofline_plot.floor_line(found, 1e3, 2e6) == [(1e3, 1e9), (2e6, 2e12)]
    assert roofline_plot.floor_line(found, 1e7, 1e9) == roofline_plot.floor_line(GB200, 1e3, 1e9) == []


def test_points_that_have_no_roof_here_are_named():
    hopper = roofs.Roofs("H200", synthetic.H200, 4800e9)
    rows = [row(kernel="g", flops=1, bytes=1, compute_dtype="fp4"), row(kernel="n", flops=1, bytes=1)]
    assert roofline_plot.homeless(rows, hopper) == "Not measured and without a roof on H200: FP4: g (1)"
    assert roofline_plot.homeless(rows[1:], hopper) == ""


def drawn(rows, chosen):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    figure = roofline_plot.draw(pyplot, rows, chosen)
    names = {entry.get_text() for legend in figure.legends for entry in legend.get_texts()}
    crosses = [c for axis in figure.axes for c in axis.collections if len(c.get_facecolor()) and c.get_zorder() == 6]
    words = [artist.get_text() for artist in figure.texts]
    pyplot.close(figure)
    return names, crosses, words


def test_flags_are_marked_and_in_the_legend():
    plain = row(flops=4e9, bytes=2e9, latency_ms=2.0)
    hot = replace(plain, B=2, flags=("throttled",))
    names, crosses, _ = drawn(
        [plain, hot, replace(plain, B=4, flags=("suspect",))], replace(GB200, launch_floor_ms=1e-3)
    )
    assert {"throttled", roofline_plot.DOUBTFUL, "launch floor, 1.00 µs"} <= names
    assert [len(found.get_offsets()) for found in crosses] == [1]
    names, _, _ = drawn([plain, replace(plain, flags=("not_finite",))], GB200)
    assert roofline_plot.DOUBTFUL in names
    names, crosses, _ = drawn([plain], GB200)
    assert not crosses and "throttled" not in names and not any("launch" in name for name in names)


def test_without_any_peak_the_points_are_still_drawn(tmp_path):
    unknown = roofs.Roofs("X9000", {}, None)
    rows = [row(flops=4e9, bytes=2e9, latency_ms=2.0), row(kernel="c", flops=0, bytes=2e9, latency_ms=2.0)]
    _, _, words = drawn(rows, unknown)
    assert any("the peaks of X9000 are unknown" in line for line in words)
    assert interactive.page_data(rows, unknown, "Roofline")["roofs"] == []


def test_the_same_figure_gives_the_same_files(tmp_path):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    written = []
    for name in "ab":
        figure, axes = pyplot.subplots()
        axes.plot([1, 2], [3, 4], marker="o")
        paths = roofline_plot.save(pyplot, figure, [tmp_path / f"{name}.png", tmp_path / f"{name}.svg"])
        written.append([path.read_bytes() for path in paths])
    assert written[0] == written[1]
