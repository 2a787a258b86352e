"""How does a report become one self-contained HTML page?  Its frame, tables, and pictures as inline SVG."""

from __future__ import annotations

import html
import io
from collections.abc import Iterable, Sequence

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --ink: #2f6fde; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
tr.best { background: var(--soft); }
td small { display: block; color: #888; white-space: nowrap; } details { margin: 1rem 0; }
.warning { border-left: 4px solid #d9822b; background: #d9822b22; padding: .6rem 1rem; border-radius: 4px; }
figure { margin: 1rem 0; background: #fff; border-radius: 8px; padding: .5rem; overflow-x: auto; }
figure svg { max-width: 100%; height: auto; } figcaption { color: #555; font-size: .85rem; }
code, .signature { font: .8rem ui-monospace, monospace; } .signature { color: #888; }
"""


def page(title: str, sections: Iterable[str]) -> str:
    """The whole page, without any reference to another file."""
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{text(title)}</title>"
        f"<meta name='viewport' content='width=device-width'><style>{STYLE}</style></head>"
        f"<body>{''.join(sections)}</body></html>"
    )


def section(title: str, body: str) -> str:
    """A heading and what belongs under it."""
    return f"<section><h2>{text(title)}</h2>{body}</section>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], words: bool = False) -> str:
    """A table of numbers, or of words where all columns are read from the left."""
    kind = " class='text'" if words else ""
    top = "".join(f"<th{kind}>{text(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td{kind}>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def picture(figure: Figure, caption: str = "") -> str:
    """A figure as inline SVG; it is closed."""
    buffer = io.StringIO()
    # A fixed salt and no date: the same numbers give the same page.
    with plt.rc_context({"svg.hashsalt": "shiftadd", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    svg = buffer.getvalue()
    below = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    return f"<figure>{svg[svg.index('<svg') :]}{below}</figure>"


def text(value: object) -> str:
    """Any value, safe inside HTML."""
    return html.escape(str(value))
