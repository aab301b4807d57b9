"""Markdown to headings and tables with line numbers. Nothing here knows what the tables mean."""

import re
from dataclasses import dataclass, field

from markdown_it import MarkdownIt


@dataclass(frozen=True)
class Cell:
    """Text of a table cell or heading in pieces: (text, whether it stood in backticks)."""

    pieces: tuple = ()

    @property
    def text(self):
        return " ".join("".join(text for text, _ in self.pieces).split())


@dataclass(frozen=True)
class Heading:
    level: int
    text: str
    line: int


@dataclass(frozen=True)
class Row:
    cells: tuple
    line: int
    width: int
    """Cells that the line really has; `cells` is padded or cut to the header."""


@dataclass(frozen=True)
class Table:
    """A table with the headings above it, outermost first. Lines are 1-based."""

    headings: tuple
    header: Row
    rows: tuple
    line: int


@dataclass(frozen=True)
class Broken:
    """Lines that look like a table but are not one in Markdown."""

    headings: tuple
    line: int
    reason: str


@dataclass
class Blocks:
    """`hidden` are headings inside comments, HTML and code: (Heading, what hides it, the line where that begins)."""

    headings: list = field(default_factory=list)
    tables: list = field(default_factory=list)
    broken: list = field(default_factory=list)
    hidden: list = field(default_factory=list)


def read_blocks(text):
    """Headings, tables and broken tables of a Markdown text, in order. Code, comments and prose are left out."""
    # Emphasis and links are off: in `[B*S, H], [B*S, I]` the stars multiply and the brackets hold shapes.
    parser = MarkdownIt("commonmark").enable("table").disable(["emphasis", "link", "image", "autolink", "reference"])
    tokens = parser.parse(text)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    blocks, path = Blocks(), []
    for index, token in enumerate(tokens):
        if token.type == "heading_open" and token.level == 0:
            heading = Heading(int(token.tag[1:]), _cell(tokens[index + 1]).text.strip("*_ "), token.map[0] + 1)
            path = [h for h in path if h.level < heading.level] + [heading]
            blocks.headings.append(heading)
        elif token.type == "table_open":
            if token.level == 0:
                blocks.tables.append(_table(tokens, index, tuple(path), lines))
            else:
                blocks.broken.append(Broken(tuple(path), token.map[0] + 1, "it stands inside a quotation or a list"))
        elif token.type in ("fence", "html_block"):
            _look_inside(token, tuple(path), blocks)
        elif token.type == "inline" and token.map and tokens[index - 1].type == "paragraph_open":
            first = _looks_like_table(lines, *token.map)
            if first is not None:
                blocks.broken.append(Broken(tuple(path), first + 1, _why_broken(lines, first, token.map[1])))
    return blocks


def _look_inside(token, path, blocks):
    """Note what a comment, HTML or code takes away: headings, and rows where HTML stands in the midst of a table."""
    comment = token.content.lstrip().startswith("<!--")
    what = "code block" if token.type == "fence" else "comment" if comment else "HTML"
    start = token.map[0] + 1
    for number, line in enumerate(token.content.splitlines(), start + (token.type == "fence")):
        found = re.match(r" {0,3}(#{1,6})\s+(.*)", line)
        if found:
            blocks.hidden.append((Heading(len(found[1]), found[2].strip("#*_ \t"), number), what, start))
        elif what == "HTML" and line.lstrip().startswith("|"):
            reason = f"the HTML that begins in line {start} goes on to the next blank line"
            blocks.broken.append(Broken(path, number, reason))
            break


def _cell(inline):
    pieces = []
    for child in inline.children or ():
        if child.type == "code_inline":
            pieces.append((child.content, True))
        elif child.type in ("softbreak", "hardbreak"):
            pieces.append((" ", False))
        elif child.type == "html_inline" and child.content.startswith("<!--"):
            continue
        elif child.type == "html_inline" and child.content.lower().replace(" ", "") in ("<br>", "<br/>"):
            pieces.append((" ", False))
        elif child.content:
            pieces.append((child.content, False))
    return Cell(tuple(pieces))


def _table(tokens, start, headings, lines):
    rows, cells, row_line = [], [], 0
    for token, following in zip(tokens[start:], tokens[start + 1 :], strict=False):
        if token.type == "table_close":
            break
        if token.type == "tr_open":
            cells, row_line = [], token.map[0]
        elif token.type in ("th_open", "td_open"):
            cells.append(_cell(following))
        elif token.type == "tr_close":
            source = lines[row_line] if row_line < len(lines) else ""
            rows.append(Row(tuple(cells), row_line + 1, len(split_row(source))))
    return Table(headings, rows[0], tuple(rows[1:]), tokens[start].map[0] + 1)


def split_row(line):
    """Cells of a table line as text; `\\|` does not separate."""
    cells, current, escaped = [], [], False
    for char in line.strip():
        if char == "|" and not escaped:
            cells.append("".join(current).strip())
            current = []
        else:
            current.append(char)
        escaped = char == "\\" and not escaped
    cells.append("".join(current).strip())
    if cells and not cells[0]:
        cells = cells[1:]
    if cells and not cells[-1]:
        cells = cells[:-1]
    return cells


def _is_delimiter(line):
    return "|" in line and "-" in line and not line.strip().strip("|-: \t")


def _looks_like_table(lines, start, end):
    """First line of a paragraph that is meant as a table's, or None."""
    for number in range(start, min(end, len(lines))):
        line = lines[number].lstrip()
        if line.startswith("|") or _is_delimiter(line):
            before = lines[number - 1].strip() if number > start else ""
            return number - 1 if _is_delimiter(line) and "|" in before else number
    return None


def _why_broken(lines, first, end):
    below = lines[first + 1] if first + 1 < end else ""
    if not _is_delimiter(below):
        return "the line |---|---| under its header is missing, or it was cut off from its table"
    header, delimiter = len(split_row(lines[first])), len(split_row(below))
    if header != delimiter:
        return f"its header has {header} cells and the line under it {delimiter}"
    return "the line under its header is not of the form |---|---|"
