"""For the API page: the examples of docstrings as code.

griffe knows the section "Examples:" alone; of "Example:", as the docstrings here have it, it makes
running text, in which `>>>` is a quotation and `[0][0]` a link.
"""

from __future__ import annotations

import re
from typing import Any

import griffe


class ExampleSections(griffe.Extension):
    """Reads "Example:" as "Examples:"."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Called once for every module, class, function and attribute."""
        if obj.docstring is not None:
            text = obj.docstring.value
            obj.docstring.value = re.sub(r"^(\s*)Example:$", r"\1Examples:", text, flags=re.M)
