"""clipguide in a browser: one page, four tabs, on this machine.

    site = Site(settings_for("starter", {}))
    build_page(site).launch()

`serve` is what `clipguide web` runs. Needs the extra `web` (Gradio 6).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipguide.web.page import build_page, serve
    from clipguide.web.site import Limits, Site, Sources

__all__ = ["Limits", "Site", "Sources", "build_page", "serve"]


def __getattr__(name: str) -> object:
    if name in ("build_page", "serve"):
        from clipguide.web import page

        return getattr(page, name)
    if name in __all__:
        from clipguide.web import site

        return getattr(site, name)
    raise AttributeError(f"module 'clipguide.web' has no attribute {name!r}")
