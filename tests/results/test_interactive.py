import json
import math
import re
import time
from dataclasses import replace

import browser
import pytest
import synthetic

from benchlib import interactive, resultset, roofs

H200 = roofs.Roofs("H200", synthetic.H200, 4800e9, {"bf16": 800e12}, 4300e9)


def rows(op="q_nope * w_kc"):
    start = {"phase": "decode", "S": 1, "L": 1, "compute_dtype": "fp8", "category": "bmm"}
    return [
        resultset.Row("bmm_fp8", op, B=1, latency_ms=0.01, flops=2e9, bytes=10e6, flags=("suspect",), **start),
        resultset.Row("bmm_fp8", op, B=8, latency_ms=None, flops=2e9, bytes=10e6, **start),
        resultset.Row(
            "concat_mla_k", "concat", "prefill", 1, 128, 128, flops=0, bytes=1e6, latency_ms=0.01, category="moe"
        ),
        resultset.Row("gemm", "fp4", "decode", 1, 1, 1, flops=1e9, bytes=1e6, compute_dtype="fp4"),
    ]


def test_every_row_is_on_the_page_with_its_numbers():
    data = interactive.page_data(rows(), H200, "Roofline")
    first, second, third, fourth = data["rows"]
    assert (fourth["kernel"], fourth["panel"], fourth["x"]) == ("gemm", None, None)
    assert (first["tflops"], first["gbs"]) == (pytest.approx(200), pytest.approx(1000))
    assert first["share"] == pytest.approx(100 * 10e6 / 4800e9 / 0.01e-3)
    assert (second["latency_us"], second["share"], second["y"]) == (None, None, pytest.approx(200 * 4800e9))
    assert (third["panel"], third["x"], third["y"]) == ("x2", 1e6, pytest.approx(1e11))
    assert data["batches"] == [1, 8]
    assert "1 point without a roof here" in data["subtitle"]
    assert [roof["name"] for roof in data["roofs"]] == [
        "FP8, datasheet",
        "memory, datasheet",
        "memory, measured",
        "memory, datasheet",
        "memory, measured",
    ]


def test_text_of_a_result_cannot_leave_the_data_block(tmp_path):
    pytest.importorskip("plotly")
    path = interactive.write_page(rows("</script><script>alert(1)</script>"), H200, tmp_path / "page.html", "Roofline")
    text = path.read_text()
    assert "<script>alert" not in text
    block = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1]
    assert json.loads(block)["rows"][0]["op"] == "</script><script>alert(1)</script>"


ROWS = "[...document.querySelectorAll('#rows tr')]"
SHOWN = f"{ROWS}.filter(line => !line.hidden).map(line => line.id)"
DRAWN = (
    "document.getElementById('chart').data.filter(t => t.customdata).flatMap(t => t.customdata).map(n => 'row-' + n)"
)
# Where on the screen a row's point is drawn, by the axes of the picture itself.
PLACE = """(() => {
  const chart = document.getElementById("chart");
  const row = JSON.parse(document.getElementById("data").textContent).rows[%d];
  chart.scrollIntoView({block: "center"});
  const axes = ["xaxis", "yaxis"].map(name => chart._fullLayout[row.panel.replace("x", name)]);
  const box = chart.getBoundingClientRect();
  return [box.x + axes[0]._offset + axes[0].d2p(row.x), box.y + axes[1]._offset + axes[1].d2p(row.y)];
})()"""


def chip(box, text):
    return f"[...document.querySelectorAll('#{box} label')].find(l => l.textContent === {text!r})"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """(address, what it shows) of a page of a whole run: 16 kernels measured, 7 unavailable."""
    pytest.importorskip("plotly")
    folder = tmp_path_factory.mktemp("page")
    points = resultset.points_from_list(synthetic.points())
    synthetic.write_results(folder)
    found = resultset.annotate(resultset.load(folder).rows, points)
    found += resultset.unlisted(points, found)
    found = [replace(row, flags=("throttled",)) if row.op == "q_nope * w_kc" else row for row in found]
    path = interactive.write_page(found, H200, folder / "page.html", "Roofline")
    return path.as_uri(), interactive.page_data(found, H200, "Roofline")


@pytest.fixture(scope="module")
def tab(page, tmp_path_factory):
    if browser.BINARY is None:
        pytest.skip("no chromium: apt-get install chromium")
    with browser.Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def lonely(rows, panel):
    """The measured (on the left: throttled) point of a panel that is farthest from the others of its kernel."""
    found = [n for n, row in enumerate(rows) if row["panel"] == panel and row["latency_us"]]

    def room(n):
        place = math.log10(rows[n]["x"]), math.log10(rows[n]["y"])
        others = [o for o in found if o != n and rows[o]["kernel"] == rows[n]["kernel"]]
        return min(math.dist(place, (math.log10(rows[o]["x"]), math.log10(rows[o]["y"]))) for o in others)

    return max((n for n in found if panel == "x2" or rows[n]["flags"]), key=room)


def expect(tab, data, **chosen):
    """The rows in the table, and the points drawn, are those that the filters leave."""
    rows = [f"row-{n}" for n, row in enumerate(data["rows"]) if all(row[name] in to for name, to in chosen.items())]
    drawn = [name for name in rows if data["rows"][int(name[4:])]["panel"]]
    assert rows and sorted(tab.ask(SHOWN)) == sorted(rows)
    tab.wait(f"{DRAWN}.length === {len(drawn)}")
    assert sorted(tab.ask(DRAWN)) == sorted(drawn)
    assert tab.ask("document.getElementById('count').textContent").startswith(f"{len(rows)} of {len(data['rows'])} ")


@pytest.mark.slow
def test_the_page_shows_everything_and_asks_for_nothing(page, tab):
    address, data = page
    tab.open(address)
    expect(tab, data)
    assert tab.errors == []
    assert [url for url in tab.requests if not url.startswith(("file:", "data:", "blob:", "about:"))] == []
    assert address in tab.requests


@pytest.mark.slow
def test_a_request_would_be_noticed(page, tab, tmp_path):
    """What the test above rests on."""
    text = "<body data-ready='yes'><script src='http://127.0.0.1:9/plotly.js'></script><script>nothing()</script>"
    path = tmp_path / "other.html"
    path.write_text(text)
    tab.open(path.as_uri())
    deadline = time.monotonic() + 20
    while not any("nothing is not defined" in error for error in tab.errors) and time.monotonic() < deadline:
        tab.ask("1")
    assert any("nothing is not defined" in error for error in tab.errors)
    assert "http://127.0.0.1:9/plotly.js" in tab.requests


@pytest.mark.slow
def test_every_chip_takes_its_points_away_and_back(page, tab):
    address, data = page
    tab.open(address)
    names = {"phases": ("phase", data["phases"]), "batches": ("B", data["batches"])}
    names["kernels"] = ("kernel", [kernel["name"] for kernel in data["kernels"]][::5])
    for box, (column, values) in names.items():
        every = {row[column] for row in data["rows"]}
        for value in values:
            tab.click_on(chip(box, str(value)))
            expect(tab, data, **{column: every - {value}})
            tab.click_on(chip(box, str(value)))
        expect(tab, data)


@pytest.mark.slow
def test_filters_work_together_and_all_and_none(page, tab):
    address, data = page
    tab.open(address)
    tab.click_on("document.querySelectorAll('#kernels button')[1]")
    assert tab.ask(SHOWN) == [] and tab.ask(DRAWN) == []
    tab.click_on(chip("kernels", "bmm_fp8"))
    tab.click_on(chip("kernels", "rmsnorm"))
    tab.click_on(chip("phases", "prefill"))
    tab.click_on(chip("batches", "8"))
    chosen = {"kernel": {"bmm_fp8", "rmsnorm"}, "phase": {"decode"}, "B": set(data["batches"]) - {8}}
    expect(tab, data, **chosen)
    tab.click_on("document.querySelectorAll('#kernels button')[0]")
    expect(tab, data, phase=chosen["phase"], B=chosen["B"])


@pytest.mark.slow
@pytest.mark.parametrize("panel", ["x", "x2"])
def test_the_mouse_over_a_point_and_a_click_on_it(page, tab, panel):
    address, data = page
    number = lonely(data["rows"], panel)
    row = data["rows"][number]
    tab.open(address)
    tab.click_on("document.querySelectorAll('#kernels button')[1]")
    tab.click_on(chip("kernels", row["kernel"]))
    place = tab.ask(PLACE % number)
    tab.move(place[0] - 60, place[1] + 60)
    tab.move(*place)
    words = tab.wait(
        "[...document.querySelectorAll('.hoverlayer .hovertext .line')].map(l => l.textContent).join(' | ')"
    )
    for part in (row["kernel"], row["op"], row["phase"], row["where"], row["flags"]):
        assert part in words
    number_of = re.compile(r"([\d.]+) µs · ([\d.]+) % of roof")
    latency, share = map(float, number_of.search(words).groups())
    assert (latency, share) == (pytest.approx(row["latency_us"], rel=1e-3), pytest.approx(row["share"], rel=1e-3))
    tab.click(*place)
    assert tab.wait("(document.querySelector('tr.hit') || {}).id") == f"row-{number}"
    assert tab.ask("location.hash") == f"#row-{number}"
    cells = tab.ask("[...document.querySelector('tr.hit').cells].map(cell => cell.textContent)")
    assert cells[:4] == [row["kernel"], row["op"], row["phase"], row["where"]]
    tab.wait("(b => b.top > 0 && b.bottom < innerHeight)(document.querySelector('tr.hit').getBoundingClientRect())")


@pytest.mark.slow
def test_points_on_one_another_name_each_other(page, tab):
    address, data = page
    tab.open(address)
    texts = tab.ask("document.getElementById('chart').data.filter(t => t.customdata).map(t => [t.name, t.text])")
    words = [
        line
        for name, lines in texts
        if name == "topk_sigmoid"
        for line in lines
        if "B=4 S=512" in line.split("<br>")[1]
    ]
    same = ", ".join(f"B={B} S={S}" for B, S in ((1, 2048), (2, 1024), (8, 256)))
    assert [line.split("<br>")[-1] for line in words] == [f"here, too: {same}"]


@pytest.mark.slow
def test_an_address_with_a_row_and_a_click_on_a_heading(page, tab):
    address, data = page
    tab.open(f"{address}#row-300")
    assert tab.wait("(document.querySelector('tr.hit') || {}).id") == "row-300"
    heading = "[...document.querySelectorAll('#head th')].find(h => h.textContent.startsWith('latency'))"
    tab.click_on(heading)
    times = [data["rows"][int(name[4:])]["latency_us"] for name in tab.ask(f"{ROWS}.map(line => line.id)")]
    known = [time for time in times if time is not None]
    assert known == sorted(known) and times[len(known) :] == [None] * (len(times) - len(known))
    tab.click_on(heading)
    first = tab.ask(f"{ROWS}[0].id")
    assert data["rows"][int(first[4:])]["latency_us"] == max(known)
