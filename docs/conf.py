"""The site: ``make docs`` builds it into ``site``."""

import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import scorda

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent / "extensions"))
from memory_used import memory_used

project, author, copyright = "Scorda", "The Scorda developers", "The Scorda developers"
version = release = scorda.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.bibtex",
    "command_help",
    "benchmark_results",
    "own_names",
    "notebook_words",
]
# Formulas without a network: `make docs` installs it, and checks that no page loads from afar.
if find_spec("sphinx-mathjax-offline"):
    extensions.append("sphinx-mathjax-offline")
exclude_patterns = ["README.md", "tutorials/*.py", "tutorials/README.rst", "gallery"]
# Configuration with a function is not kept between builds, which costs nothing here.
suppress_warnings = ["config.cache"]
templates_path = ["_templates"]

# Names in single backquotes are code, and links where they are names of this page.
default_role = "py:obj"
# Settings and arguments are no pages; pages of other packages would need the network.
nitpick_ignore_regex = [
    ("py:obj", r"[a-z_][a-z0-9_]*"),
    ("py:.*", r"(concurrent|numpy|pandas|torch|xarray|matplotlib)\..*"),
]
myst_enable_extensions = ["colon_fence", "dollarmath", "deflist"]
myst_heading_anchors = 4

autosummary_generate = True
# Pages of packages leave out what `scorda` itself has.
autosummary_context = {"everyday": set(scorda.__all__)}
autosummary_ignore_module_all = False
autosummary_imported_members = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Arguments", "params_style")]

bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "plain"

# Files of the repository that are pages here.
PAGES = {
    "../benchmarks/NOTES.md": "/evidence/notes.md",
    "../SECURITY.md": "/howto/security.md",
}


def with_links_to_pages(app: Any, page: str, source: list[str]) -> None:
    """Link to pages where the repository links to files."""
    for file, there in PAGES.items():
        source[0] = source[0].replace(f"]({file}", f"]({there}")
    if REPOSITORY and page == "index":
        source[0] = source[0].replace("cd scorda ", f"git clone {REPOSITORY}\ncd scorda ", 1)
    # Files of results are no pages.
    source[0] = re.sub(r"\[([^\]]*)\]\((\.\./benchmarks/)?results[^)]*\)", r"\1", source[0])


def setup(app: Any) -> None:
    """Register what this site needs beyond its extensions."""
    app.connect("source-read", with_links_to_pages)


# In a notebook, what shows the figures that pyplot does not know of, as `drawn` does on the site.
SHOWS_FIGURES = """\
# What a cell names `figure` is shown below it.
from IPython import get_ipython
from IPython.display import display

shown = []


def show(_):
    figure = get_ipython().user_ns.get("figure")
    if figure is not None and not any(figure is one for one in shown):
        shown.append(figure)
        if not hasattr(figure, "number"):  # pyplot shows its own
            display(figure)


get_ipython().events.register("post_run_cell", show)"""

sphinx_gallery_conf = {
    "examples_dirs": ["tutorials", "gallery"],
    "gallery_dirs": ["learn", "examples"],
    "filename_pattern": r"/\d\d_",
    "abort_on_example_error": True,
    "remove_config_comments": True,
    "show_memory": memory_used,
    "nested_sections": False,
    # Its page loads scripts from elsewhere.
    "write_computation_times": False,
    "within_subsection_order": "FileNameSortKey",
    "image_scrapers": ("drawn",),
    "first_notebook_cell": SHOWS_FIGURES,
    # What a command returns.
    "ignore_repr_types": r"int",
    "backreferences_dir": "reference/used",
    "doc_module": ("scorda",),
    "reference_url": {"scorda": None},
}

html_theme = "pydata_sphinx_theme"
html_title = "Scorda"
# Where a workflow of GitHub publishes it.
_owner, _, _name = os.environ.get("GITHUB_REPOSITORY", "").partition("/")
html_baseurl = f"https://{_owner.lower()}.github.io/{_name}/" if _name else ""
REPOSITORY = f"{os.environ.get('GITHUB_SERVER_URL', '')}/{_owner}/{_name}" if _name else ""
html_static_path = ["_static"]
html_css_files = ["scorda.css"]
html_js_files = [("names.js", {"defer": "defer"})]
html_extra_path = ["llms.txt"]
html_theme_options = {
    "show_prev_next": True,
    "navbar_align": "left",
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_toc_level": 2,
    **({"github_url": REPOSITORY} if REPOSITORY else {}),
}
html_show_sourcelink = False
