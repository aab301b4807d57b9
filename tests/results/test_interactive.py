import html
import json
import re
import shutil
import subprocess

import pytest
import synthetic

from benchlib import interactive, resultset, roofs

H200 = roofs.Roofs("H200", synthetic.H200, 4800e9, {"bf16": 800e12}, 4300e9)
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


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
    first, second, third = data["rows"]
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


DRIVER = """<script>
{
const found = {};
const visible = () => [...document.querySelectorAll("#rows tr")].filter(line => !line.hidden).length;
const drawn = () => document.getElementById("chart").data.filter(t => t.customdata).reduce((n, t) => n + t.x.length, 0);
const click = (box, text) =>
  [...document.querySelectorAll(`#${box} label`)].find(l => l.textContent === text).querySelector("input").click();
const wait = () => new Promise(done => setTimeout(done, 300));
async function drive() {
  while (!document.body.dataset.ready) await wait();
  found.all = [visible(), drawn()];
  click("phases", "prefill"); await wait();
  found.decode = [visible(), drawn()];
  click("batches", "8"); await wait();
  found.one = [visible(), drawn()];
  click("phases", "prefill"); click("kernels", "bmm_fp8"); await wait();
  found.concat = [visible(), drawn()];
  const hover = document.getElementById("chart").data.find(t => t.name === "concat_mla_k").text[0];
  found.hover = hover;
  location.hash = "row-2"; await wait();
  found.hit = document.querySelector("tr.hit").id;
  found.requests = performance.getEntriesByType("resource").map(e => e.name).filter(n => n.startsWith("http"));
  document.body.dataset.found = JSON.stringify(found);
}
drive().catch(error => { document.body.dataset.found = JSON.stringify({error: String(error)}); });
}
</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium")
def test_filters_hover_and_links_in_a_browser(tmp_path):
    pytest.importorskip("plotly")
    path = interactive.write_page(rows(), H200, tmp_path / "page.html", "Roofline")
    text = path.read_text()
    end = text.rindex("</body>")
    path.write_text(text[:end] + DRIVER + text[end + len("</body>") :])
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom"]
    answer = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(html.unescape(re.search(r'data-found="([^"]*)"', answer.stdout)[1]))
    assert "error" not in found, found
    assert (found["all"], found["decode"], found["one"], found["concat"]) == ([3, 3], [2, 2], [1, 1], [1, 1])
    assert "concat_mla_k" in found["hover"]
    assert "10 µs" in found["hover"]
    assert found["hit"] == "row-2"
    assert found["requests"] == []
