"""How the site is built: `make docs`. Warnings are errors; the story is executed."""

from __future__ import annotations

import sys
from pathlib import Path

import circuitbench

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import generate  # noqa: E402

generate.write(HERE / generate.FOLDER)

project = "circuitbench"
author = "the circuitbench authors"
release = version = circuitbench.__version__
html_title = f"circuitbench {release}"
html_theme = "furo"
exclude_patterns = ["_build"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "force"
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "exclude-members": "sheet"}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
