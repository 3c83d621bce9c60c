"""Configuration of the site: ``python3 -W error -m sphinx -n -W docs docs/_build``."""

import os
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for the modules beside this one

# Before NumPy is loaded: threads that share the tutorials' small matrices only disturb each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from links import inventory, links_of_types

project = "adamoffload"
author = "the adamoffload authors"
copyright = "2026, the adamoffload authors"  # noqa: A001  (Sphinx's name)
version = release = installed_version("adamoffload")

extensions = [
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "directives",
    "figures",
    "gallery",
    "links",
    "notebooks",
    "public",
    "systems",
    "slides",
]
exclude_patterns = ["_build"]
default_role = "name"  # of `links`

html_theme = "furo"
html_title = "adamoffload"
pygments_dark_style = "github-dark"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_favicon = "_static/icon.svg"
mathjax_path = "mathjax.js"  # MathJax 3.2.2, tex-svg: the site asks for nothing from elsewhere

sphinx_gallery_conf = {
    "examples_dirs": "../tutorials",
    "gallery_dirs": "tutorials",
    "filename_pattern": r"[\\/]\d\d_",  # all of them are run
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "reference_url": {"adamoffload": None},  # names in the code link to these pages
    "download_all_examples": False,
    "default_thumb_file": str(Path(__file__).parent / "_static" / "thumbnail.png"),
    "show_memory": False,
    "show_signature": False,
    "reset_modules": ("matplotlib",),
    "matplotlib_animations": False,
    "write_computation_times": False,
}

autodoc_mock_imports = ["torch"]  # not installed where the site is built
autodoc_typehints = "none"  # the docstrings give types, with shapes and units
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
numpydoc_xref_param_type = True
numpydoc_xref_ignore = "all"  # but these:
numpydoc_xref_aliases = links_of_types()

intersphinx_mapping = {
    "python": ("https://docs.python.org/3/", inventory("python")),
    "numpy": ("https://numpy.org/doc/stable/", inventory("numpy")),
    "matplotlib": ("https://matplotlib.org/stable/", inventory("matplotlib")),
}
