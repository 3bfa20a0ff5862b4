"""The parts of an HTML page: text that is always escaped, tables, pictures with captions."""

import re
from collections.abc import Iterable, Mapping, Sequence

from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape

from neurofleet.wording import agreeing

_CODE = re.compile(r"`([^`]+)`")
_PAGE = Environment(autoescape=True, keep_trailing_newline=True, loader=PackageLoader("neurofleet.jobs", "reports"))


WORDS = 30
"""What has more characters in a table is words, and keeps a width that they can be read in."""


def escaped(text: object) -> str:
    """Return text as HTML shows it."""
    return str(escape(agreeing(text) if type(text) is str else text))


def page(title: str, body: Iterable[str]) -> str:
    """Return a whole page that asks for nothing from anywhere."""
    return _PAGE.get_template("page.html.j2").render(title=title, body=Markup("\n".join(body)))


def heading(level: int, text: object) -> str:
    return f"<h{level}>{escaped(text)}</h{level}>"


def paragraph(text: object, kind: str = "") -> str:
    """Return a paragraph; `kind` is a class of the style sheet. What stands between backticks is set as code."""
    content = _CODE.sub(r"<code>\1</code>", escaped(text))
    return f'<p class="{kind}">{content}</p>' if kind else f"<p>{content}</p>"


def alarms(lines: Iterable[object]) -> list[str]:
    """Return paragraphs that nobody can pass over."""
    return [paragraph(line, "alarm") for line in lines]


def figure(picture: str, caption: str) -> str:
    """Return a picture (inline SVG) with its caption; on a narrow screen the picture is scrolled, not shrunk."""
    shown = f'<div class="wide">{picture}</div><figcaption class="quiet">{escaped(caption)}</figcaption>'
    return f"<figure>{shown}</figure>"


def link(target: str, text: object) -> str:
    """Return a link to a place on the page, for use in a table's cell."""
    return Markup('<a href="#{}">{}</a>').format(target, text)


def table(head: Sequence[str], rows: Iterable[Sequence[object]], numbers: Sequence[int] = ()) -> str:
    """Return a table; the columns in `numbers` are set flush right."""

    def cell(tag: str, column: int, content: object) -> str:
        is_long = column > 0 and len(str(content)) > WORDS
        kind = ' class="number"' if column in numbers else ' class="words"' if is_long else ""
        return f"<{tag}{kind}>{escape(content)}</{tag}>"

    lines = ["".join(cell("th", i, name) for i, name in enumerate(head))] if any(head) else []
    lines += ["".join(cell("td", i, value) for i, value in enumerate(row)) for row in rows]
    inside = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table>\n{inside}\n</table></div>'


def details(summary: str, content: str) -> str:
    """Return content that opens with a click."""
    return f"<details><summary>{escaped(summary)}</summary>{content}</details>"


def versions(packages: Mapping[str, object]) -> str:
    """Return the versions of packages, folded."""
    return details("Versions", table(("package", "version"), packages.items()))


def code(text: str) -> str:
    return f"<pre>{escaped(text)}</pre>"
