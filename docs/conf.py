"""How Sphinx builds the site; `tools/site` does it, with warnings as errors.

Pages are Markdown (MyST). Those of `PAGES` hold a title and a few words; what they list is made
from the code when they are read, so that it can not differ from it.
"""

import sys
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "tools")]

from _site_commands import list_commands, list_tools  # noqa: E402
from _site_options import (  # noqa: E402
    list_camera_keys,
    list_options,
    list_simulator_options,
    list_site_keys,
)
from _site_science import list_measurements, list_metrics, list_stages, list_tables  # noqa: E402

import mpipipe  # noqa: E402

PAGES = {
    "checks": list_tools,
    "reference/commands": list_commands,
    "reference/options": list_options,
    "reference/stages": list_stages,
    "reference/measurements": list_measurements,
    "reference/tables": list_tables,
    "reference/metrics": list_metrics,
    "reference/camera-files": list_camera_keys,
    "reference/site-files": list_site_keys,
    "reference/simulator": list_simulator_options,
}
"""What stands below the words of a page."""

project = "mpipipe"
author = "mpipipe developers"
copyright = author
version = release = mpipipe.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

myst_heading_anchors = 3
myst_enable_extensions = ["attrs_inline"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
highlight_language = "none"
# Docstrings have names in single backticks.
default_role = "py:obj"
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_maximum_signature_line_length = 80
add_module_names = False

html_theme = "furo"
html_title = f"mpipipe {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#274690", "color-brand-content": "#274690"},
    "dark_css_variables": {"color-brand-primary": "#9db4f0", "color-brand-content": "#9db4f0"},
}


def add_made_part(app: Any, name: str, source: list[str]) -> None:
    """Put what is made from the code below the words of a page."""
    if name in PAGES:
        source[0] += f"\n{PAGES[name]()}"


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", add_made_part)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
