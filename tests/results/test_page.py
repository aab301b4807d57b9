import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "scripts" / "page.py"


@pytest.fixture(scope="module")
def command():
    spec = importlib.util.spec_from_file_location("page_command", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_and_headings_become_html(command):
    text = command.page(
        "# Model time\n\n## Decode\n\n| point | time |\n| --- | ---: |\n| B=1 | ≥ 1 ms |\n\n`a` **b**\n"
    )
    assert "<title>Model time</title>" in text and "<h2>Decode</h2>" in text
    assert '<td style="text-align:right">≥ 1 ms</td>' in text
    assert "<code>a</code> <strong>b</strong>" in text
    assert "http" not in text.replace("</html>", "")


def test_html_of_a_result_is_shown_and_not_obeyed(command):
    text = command.page("# a <b>\n\n| op |\n| --- |\n| <script>alert(1)</script> |\n")
    assert "<script>" not in text and "&lt;script&gt;" in text and "<title>a &lt;b&gt;</title>" in text


def test_a_file_that_is_not_there_is_a_message(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "sys.argv", ["page.py", "--input", str(tmp_path / "no.md"), "--output", str(tmp_path / "o.html")]
    )
    assert command.main() == 1
    assert "no.md: No such file or directory" in capsys.readouterr().err
