"""The site (make docs): Sphinx over the repository's own pages, whose links work in both."""

import re
from pathlib import Path

from matplotlib.image import imread
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

import transformer_jax

project = "transformer_jax"
author = "the authors of transformer_jax"
copyright = "the authors of transformer_jax, Apache-2.0"
version = release = transformer_jax.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md", "*/RESULTS.md", "experiments/notebooks/*.ipynb"]
templates_path = ["templates"]

html_theme = "furo"
html_title = f"transformer_jax {version}"
html_show_sourcelink = False
# The site begins at docs/index.html, and its root leads there.
html_additional_pages = {"index": "redirect.html"}

myst_heading_anchors = 3
default_role = "literal"  # `name` in a docstring
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
autodoc_member_order = "bysource"
napoleon_use_ivar = True

# A notebook is executed again when its code changes; make clean forgets all of them.
nb_execution_mode = "cache"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_render_markdown_format = "myst"  # with tables
# Name -> pictures that it shows.
NOTEBOOKS = {
    "transformer_in_ten_minutes": 2,
    "reproduce_the_paper": 5,
    "your_own_text": 2,
    "why_attention": 2,
}


def check_pictures(app: Sphinx, error: Exception | None) -> None:
    """Refuse a site in which a notebook lacks a picture or shows an empty one."""
    if error:
        return
    site, found = Path(app.outdir), {}
    for path in (site / "experiments" / "notebooks").glob("*.html"):
        names = re.findall(r'src="../../(_images/[0-9a-f]{64}\.png)"', path.read_text("utf-8"))
        found[path.stem] = sum(imread(site / name).std() > 0.03 for name in names)
    if found != NOTEBOOKS:
        raise ExtensionError(f"the notebooks show {found} pictures, not {NOTEBOOKS}")


def keep_colons(app, what, name, value, options, lines: list[str]) -> None:
    """Keep napoleon from reading "auto: jit ..." as a field of type "auto"."""
    if what == "attribute":
        lines[:0] = ["..", ""]  # a comment in front of it


def shorten_arrays(app, what, name, value, options, signature, returns):
    """Write jax.Array as jaxtyping's users do."""
    return tuple(
        part and part.replace("jaxlib._jax.Array", "Array") for part in (signature, returns)
    )


def setup(app: Sphinx) -> None:
    """Register the functions above."""
    app.connect("build-finished", check_pictures)
    app.connect("autodoc-process-docstring", keep_colons, priority=400)  # napoleon has 500
    app.connect("autodoc-process-signature", shorten_arrays)
