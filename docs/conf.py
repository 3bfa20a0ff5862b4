"""The site: ``pip install '.[all,docs]'`` and ``sphinx-build -W docs site``. It needs no network."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import neurofleet

project = "neurofleet"
author = copyright = "the neurofleet authors"
version = release = neurofleet.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "from_the_code",
    "notebooks",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
copybutton_prompt_text = "$ "

templates_path = ["_templates"]
autosummary_generate = True
autodoc_typehints = "none"  # the docstrings say types in words
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_rtype = False

PROJECT_FILES = {"changelog": "CHANGELOG.md", "contributing": "CONTRIBUTING.md", "security": "SECURITY.md"}
LINKS = {"README.md#start": "getting-started/installation.md", "docs/decisions)": "decisions/package.md)", "docs/": ""}
LINKS |= {name: f"{page}.md" for page, name in PROJECT_FILES.items()}


def put_project_files(app: object, page: str, source: list[str]) -> None:
    """Put files that lie at the top of the repository in place of their pages, with links that lead to pages."""
    if page in PROJECT_FILES:
        source[0] = (Path(__file__).parents[1] / PROJECT_FILES[page]).read_text()
        for link, instead in LINKS.items():
            source[0] = source[0].replace(f"]({link}", f"]({instead}")


def setup(app: Any) -> None:
    """Add it to Sphinx."""
    app.connect("source-read", put_project_files)


html_theme = "furo"
html_title = f"neurofleet {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = html_show_sourcelink = False
pygments_style = "friendly"
highlight_language = "none"  # commands with remarks, not Python
