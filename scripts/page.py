"""A Markdown file as an HTML page of its own, for `snakemake --report`, which shows pages and not Markdown.

Reads   benchmark_summary.md, model_time.md
Writes  the same as .html: no network, no scripts

    python scripts/page.py --input model_time.md --output model_time.html
"""

import argparse
import html
import sys
from pathlib import Path

from markdown_it import MarkdownIt

STYLE = """
body { font: 14px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #1f2937; max-width: 1240px; margin: 0 auto;
  padding: 16px 24px; }
h1 { font-size: 22px; } h2 { font-size: 17px; margin-top: 28px; } h3 { font-size: 15px; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; display: block;
  overflow-x: auto; }
th, td { padding: 3px 10px; border-bottom: 1px solid #e5e7eb; text-align: left; }
th { border-bottom: 2px solid #d1d5db; }
tbody tr:hover { background: #f3f4f6; }
code { font-size: 12.5px; background: #f3f4f6; padding: 0 3px; border-radius: 3px; }
"""


def page(text):
    """The HTML page of a Markdown text; its title is the first heading. HTML in the text is shown, not obeyed."""
    title = next((line.lstrip("# ") for line in text.splitlines() if line.startswith("# ")), "Results")
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    head = f'<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n<style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}</body>\n</html>\n'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    try:
        options.output.write_text(page(options.input.read_text(encoding="utf-8")), encoding="utf-8")
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
