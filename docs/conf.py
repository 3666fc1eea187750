"""Configuration of Sphinx; `scripts/docs` runs it.

Nothing is fetched while pages are built or read: no intersphinx, no fonts, no scripts from elsewhere.
LIT_OD_DOCS_GALLERY=0 leaves the examples of the gallery unexecuted.
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "extensions"))

from lit_od.versions import __version__

project = "lit_od"
author = "the lit_od authors"
copyright = f"2026 {author}"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "generated_pages",
]
default_role = "code"
nitpicky = False
exclude_patterns = ["build", "gallery/*", "sg_execution_times.rst"]
templates_path = ["templates"]
smartquotes = False

myst_enable_extensions = ["colon_fence", "deflist", "attrs_block"]
myst_heading_anchors = 3
suppress_warnings = ["config.cache"]

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "examples",
    "filename_pattern": r"\.py$",
    "plot_gallery": os.environ.get("LIT_OD_DOCS_GALLERY", "1") == "1",
    "abort_on_example_error": True,
    "image_scrapers": ("matplotlib", "example_figures.scrape"),
    "download_all_examples": False,
    "show_signature": False,
    "show_memory": False,
    "min_reported_time": 1e9,
    "write_computation_times": False,
    "within_subsection_order": "FileNameSortKey",
    "copyfile_regex": r"^$",
    "remove_config_comments": True,
}

html_theme = "furo"
html_title = f"lit_od {__version__}"
html_static_path = ["static"]
html_css_files = ["lit_od.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b57a4", "color-brand-content": "#0b57a4"},
    "dark_css_variables": {"color-brand-primary": "#7fb8f5", "color-brand-content": "#7fb8f5"},
    "footer_icons": [],
}
