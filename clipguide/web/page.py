"""The page: its tabs put together, its look, and the server."""

from __future__ import annotations

import html
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from clipguide.extras import need
from clipguide.texts import printable
from clipguide.web.choose_tab import choose_tab
from clipguide.web.generate_tab import generate_tab
from clipguide.web.look_tab import look_tab
from clipguide.web.messages import LOADING, reason
from clipguide.web.search_tab import search_tab
from clipguide.web.site import Site

HOST = "127.0.0.1"
STYLE = Path(__file__).with_name("page.css")
TITLE = "clipguide"
_FONT = ("ui-sans-serif", "system-ui", "sans-serif")  # the machine's own: no request leaves it
_MONO = ("ui-monospace", "Consolas", "monospace")


def build_page(site: Site) -> Any:
    """A `gradio.Blocks` with the tabs Generate, Choose, Search and Look.

    Its functions are endpoints with the names of those of Python, and of their arguments:
    `/generate`, `/rerank`, `/search`, `/read_metadata`, `/reproduce`, `/similarity_map`.

    Raises:
        ValueError: Gradio is not installed.
    """
    gradio = need("gradio", "web")
    with gradio.Blocks(
        title=TITLE, analytics_enabled=False, fill_width=False, delete_cache=(600, 3600)
    ) as page:
        gradio.HTML(
            _HEADER.format(model=html.escape(printable(site.settings.model))), elem_id="header"
        )
        state = gradio.HTML(visible=False, elem_id="state")
        with gradio.Tabs(elem_id="tabs"):
            for name, build in _TABS.items():
                with gradio.Tab(name, id=name.lower()):
                    build(gradio, site)
        page.load(
            partial(_state, site), None, state, api_visibility="private", show_progress="hidden",
            concurrency_id="state", concurrency_limit=None,
        )  # fmt: skip
    page.queue(max_size=site.limits.waiting, default_concurrency_limit=1)
    return page


def serve(site: Site, port: int = 0, host: str = HOST) -> Any:
    """The running page, a `gradio.Blocks` whose `close()` ends it; models are loaded meanwhile.

    Args:
        site: what it shows.
        port: 0 for a free one.
        host: another address than this machine's own lets others in.

    Raises:
        ValueError: the port is taken, or Gradio is not installed.

    Example:
        page = serve(Site(settings_for("starter", {}))); print(page.local_url)
    """
    port = _checked_port(host, port)
    page = build_page(site)
    page.launch(
        server_name=host, server_port=port, prevent_thread_lock=True, **launch_options(site)
    )
    site.load()  # not before: Gradio gives up where its server does not answer at once
    return page


def launch_options(site: Site) -> dict[str, Any]:
    """How Gradio is to show a page: nothing shared, nothing reported, no file but those made."""
    return {
        "share": False, "quiet": True, "inbrowser": False, "ssr_mode": False, "pwa": False,
        "mcp_server": False, "enable_monitoring": False, "show_error": False, "run_history": False,
        "strict_cors": True, "max_file_size": site.limits.upload,
        "allowed_paths": [str(site.shelf.folder)], "theme": _theme(),
        # not as `css`: Gradio rewrites selectors there, those of media queries wrongly
        "head": f"<style>{STYLE.read_text(encoding='utf-8')}</style>",
        "footer_links": ["api"],
    }  # fmt: skip


def _state(site: Site) -> Iterator[dict[str, Any]]:
    """A line under the title while the models are loaded, or where they cannot be."""
    gradio = need("gradio", "web")
    loading = site.load()
    if not site.ready:
        yield gradio.update(value=f'<p class="hint">{LOADING}</p>', visible=True)
    failure = loading.exception()  # waits
    if failure is None:
        yield gradio.update(visible=False)
    else:
        line = f"The models cannot be loaded: {html.escape(reason(failure))}"
        yield gradio.update(value=f'<p class="bad">{line}</p>', visible=True)


def _checked_port(host: str, port: int) -> int:
    """The port, or a free one for 0. ValueError: it is taken."""
    with socket.socket() as listening:
        # as servers do: the connections of a page that was closed a moment ago take no port
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ValueError(f"got port {port} of {host}: {reason}; expected another") from error
        return int(listening.getsockname()[1])


def _theme() -> Any:
    gradio = need("gradio", "web")
    return gradio.themes.Base(
        primary_hue="indigo", neutral_hue="slate", radius_size="md", font=_FONT, font_mono=_MONO
    )


_TABS = {
    "Generate": generate_tab,
    "Choose": choose_tab,
    "Search": search_tab,
    "Look": look_tab,
}
_HEADER = """<h1>clipguide</h1><p>Pictures that follow their prompt, by CLIP. Model: {model}</p>"""
