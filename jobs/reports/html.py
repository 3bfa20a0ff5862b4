"""The parts of an HTML page: text that is always escaped, tables, pictures with captions."""

import html
from collections.abc import Iterable, Sequence

STYLE = """
:root { color-scheme: light dark;
  --ink: #1d2125; --faint: #9aa2ab; --ground: #fff; --panel: #f6f7f8; --link: #1c62b9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e2e5e9; --faint: #737b84; --ground: #16191c; --panel: #1f2327; --link: #7db4f5; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1.25rem 4rem;
  background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; } h2 { font-size: 1.35rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1.05rem; margin: 1.8rem 0 .3rem; } p { margin: .4rem 0; max-width: 50rem; }
a { color: var(--link); } .quiet { color: color-mix(in srgb, var(--ink) 65%, transparent); }
.note { background: var(--panel); border-left: 4px solid #d9540f; padding: .5rem .8rem; margin: .8rem 0; }
.alarm { background: #c01c28; color: #fff; font-weight: 600; padding: .7rem .9rem; margin: .8rem 0; }
section.cell { border-top: 1px solid var(--faint); margin-top: 2.5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; font-size: .92em; }
th, td { padding: .22rem .7rem .22rem 0; text-align: left; vertical-align: top; }
th { font-weight: 600; border-bottom: 1px solid var(--faint); }
td.number, th.number { text-align: right; }
figure { margin: .6rem 0 1rem; }
figure svg { width: 100%; height: auto; display: block; font-family: inherit; }
figcaption { font-size: .9em; max-width: 50rem; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--link); }
pre { background: var(--panel); padding: .7rem; overflow-x: auto; font-size: .85em; }
@media print { details { display: block; } }
"""


def escaped(text: object) -> str:
    """Return text as HTML shows it."""
    return html.escape(str(text))


def page(title: str, body: Iterable[str]) -> str:
    """Return a whole page that asks for nothing from anywhere."""
    parts = "\n".join(body)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escaped(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{parts}\n</body>\n</html>\n"
    )


def heading(level: int, text: object) -> str:
    return f"<h{level}>{escaped(text)}</h{level}>"


def paragraph(text: object, kind: str = "") -> str:
    """Return a paragraph; `kind` is a class of the style sheet."""
    return f'<p class="{kind}">{escaped(text)}</p>' if kind else f"<p>{escaped(text)}</p>"


def figure(picture: str, caption: str) -> str:
    """Return a picture (inline SVG) with its caption."""
    return f'<figure>{picture}<figcaption class="quiet">{escaped(caption)}</figcaption></figure>'


def link(target: str, text: object) -> str:
    """Return a link to a place on the page, for use in a table's cell."""
    return Markup(f'<a href="#{escaped(target)}">{escaped(text)}</a>')


class Markup(str):
    """A string that is HTML already."""


def table(head: Sequence[str], rows: Iterable[Sequence[object]], numbers: Sequence[int] = ()) -> str:
    """Return a table; the columns in `numbers` are set flush right."""

    def cell(tag: str, column: int, content: object) -> str:
        kind = ' class="number"' if column in numbers else ""
        return f"<{tag}{kind}>{content if isinstance(content, Markup) else escaped(content)}</{tag}>"

    lines = ["".join(cell("th", i, name) for i, name in enumerate(head))] if any(head) else []
    lines += ["".join(cell("td", i, value) for i, value in enumerate(row)) for row in rows]
    inside = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table>\n{inside}\n</table></div>'


def details(summary: str, content: str) -> str:
    """Return content that opens with a click."""
    return f"<details><summary>{escaped(summary)}</summary>{content}</details>"


def code(text: str) -> str:
    return f"<pre>{escaped(text)}</pre>"
