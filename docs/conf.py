"""How the documentation is built: `sphinx-build -W docs OUTPUT`."""

from __future__ import annotations

import importlib.metadata

from pygments.lexer import RegexLexer
from pygments.token import Comment, Keyword, Name, Number, Text
from sphinx.application import Sphinx

project = "lastwriter"
copyright = "the authors of lastwriter"  # noqa: A001 (the name that Sphinx asks for)
release = importlib.metadata.version("lastwriter")
extensions = ["myst_parser", "sphinx.ext.doctest"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
nitpicky = True
html_theme = "furo"
html_title = f"lastwriter {release}"


class ProgramLexer(RegexLexer):
    """Programs in their text form."""

    name = "lastwriter"
    tokens = {  # noqa: RUF012 (Pygments' own form)
        "root": [
            (r"#.*", Comment),
            (r"^\w+", Keyword),
            (r"\b(0x[0-9a-f]+|\d+)\b", Number),
            (r"\w+(?==)", Name.Attribute),
            (r"\w+|\s+|.", Text),
        ]
    }


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_lexer("lastwriter", ProgramLexer)
