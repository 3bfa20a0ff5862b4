"""The tutorials as notebooks: a page of Markdown, and beside it the same as ``.ipynb``, for whoever downloads it."""

import json
import re
from pathlib import Path
from typing import Any

BLOCK = re.compile(r"^```(python|sh|yaml|text)\n(.*?)^```\n", re.M | re.S)
NOT_EXECUTED = ("laptop-to-slurm",)
FILE = re.compile(r"^[#:] (\S+\.\w+)\n")  # the first line of a block that is to be written into a file
LINK = '<a class="reference" href="{name}.ipynb" download>Download this page as a notebook.</a>'


def cells(page: str) -> list[tuple[str, str]]:
    """Return (kind, text) of what a tutorial has, in its order.

    The kinds are ``python`` and ``sh``, the name of a file (a block whose first line is a comment with this name),
    and ``markdown`` for everything else.
    """
    found: list[tuple[str, str]] = []
    end = 0
    for block in BLOCK.finditer(page):
        kind, text = block[1], block[2]
        named = FILE.match(text)
        if kind in ("yaml", "text"):
            if named is None:
                continue
            kind = named[1]
        found += [("markdown", page[end : block.start()].strip()), (kind, text)]
        end = block.end()
    return [cell for cell in [*found, ("markdown", page[end:].strip())] if cell[1]]


def tutorials(docs: Path) -> list[Path]:
    """Return the pages that are notebooks."""
    return [page for page in sorted(docs.glob("tutorials/*.md")) if page.stem not in NOT_EXECUTED]


def notebook(page: str) -> dict[str, Any]:
    """Return a tutorial as a notebook; pictures and links that lead to other files are left out."""
    written = []
    for kind, text in cells(page):
        if kind == "markdown":
            text = re.sub(r"!\[[^]]*\]\((?!https?:)[^)]*\)\n*", "", text)
            text = re.sub(r"\[([^]]*)\]\((?!https?:)[^)]*\)", r"\1", text)
            written.append({"cell_type": "markdown", "metadata": {}, "source": text})
            continue
        magic = {"python": "", "sh": "%%sh\n"}.get(kind, f"%%writefile {kind}\n")
        source = magic + text.removesuffix("\n")
        written.append({"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": [], "source": source})
    for number, cell in enumerate(written):
        cell["id"] = f"cell-{number}"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"cells": written, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def setup(app: Any) -> dict[str, Any]:
    """Add to Sphinx: a link below the title of each tutorial, and the notebooks when the site is written."""

    def link(app: Any, page: str, source: list[str]) -> None:
        if Path(app.srcdir, f"{page}.md") in tutorials(Path(app.srcdir)):
            title, rest = source[0].split("\n", 1)
            source[0] = f"{title}\n\n{LINK.format(name=Path(page).name)}\n{rest}"

    def write(app: Any, error: Exception | None) -> None:
        if error is None and app.builder.format == "html":
            for page in tutorials(Path(app.srcdir)):
                place = Path(app.outdir, "tutorials", f"{page.stem}.ipynb")
                place.write_text(json.dumps(notebook(page.read_text()), indent=1, ensure_ascii=False))

    app.connect("source-read", link)
    app.connect("build-finished", write)
    return {"parallel_read_safe": True}
