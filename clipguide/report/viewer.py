"""A folder of runs, shown to this machine's own browser: reports, and the files beside them."""

from __future__ import annotations

import html
import mimetypes
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast
from urllib.parse import quote, unquote, urlsplit

from clipguide.texts import printable

HOST = "127.0.0.1"
REPORT = "report.html"
SHOWN = frozenset({".html", ".png", ".jpg", ".jpeg", ".webp", ".json", ".jsonl", ".csv"})
"""Suffixes of files that are served; others are as if they were not there."""
_POLICY = "default-src 'none'; style-src 'none'; base-uri 'none'; form-action 'none'"
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>clipguide runs</title></head>
<body><h1>Runs</h1><ul>{rows}</ul></body></html>
"""


def make_server(folder: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server of `folder` on 127.0.0.1, not yet running.

    It answers GET and HEAD of files below the folder with a suffix of `SHOWN`, links out of it
    excepted, and asks that it be called by its own name, so that no page of elsewhere can read it.

    Args:
        folder: with one run or several in it.
        port: 0 for a free one.

    Raises:
        ValueError: no run in the folder.
        OSError: the port is taken.

    Example:
        with make_server(Path("runs")) as server: server.serve_forever()
    """
    if not reports_in(folder):
        raise ValueError(f"{folder}: got no {REPORT} in it, expected a run of `clipguide eval run`")
    return ThreadingHTTPServer((HOST, port), partial(_Handler, folder.resolve()))


def reports_in(folder: Path) -> list[Path]:
    """The reports of a folder and of the folders in it, by name."""
    return sorted(file for file in (folder / REPORT, *folder.glob(f"*/{REPORT}")) if file.is_file())


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server_version = "clipguide"

    def __init__(self, folder: Path, *given: object) -> None:
        self._folder = folder
        super().__init__(*given)  # pyright: ignore[reportArgumentType]

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: stderr is for the command."""

    def _answer(self, *, body: bool) -> None:
        address = f":{cast(ThreadingHTTPServer, self.server).server_port}"
        if self.headers.get("Host") not in (f"{HOST}{address}", f"localhost{address}"):
            return self.send_error(HTTPStatus.FORBIDDEN)
        path = unquote(urlsplit(self.path).path)
        if path == "/":
            return self._send(self._index(), "text/html; charset=utf-8", body, _POLICY)
        file = self._file(path)
        if file is None:
            return self.send_error(HTTPStatus.NOT_FOUND)
        kind = mimetypes.guess_type(file.name)[0] or "text/plain"
        if kind.startswith("text/"):
            kind += "; charset=utf-8"
        return self._send(file.read_bytes(), kind, body)

    def _file(self, path: str) -> Path | None:
        if "\0" in path:
            return None
        file = (self._folder / path.lstrip("/")).resolve()
        inside = file.is_relative_to(self._folder)
        return file if inside and file.is_file() and file.suffix.lower() in SHOWN else None

    def _index(self) -> bytes:
        rows: list[str] = []
        for report in reports_in(self._folder):
            place = report.relative_to(self._folder).as_posix()
            name = printable(report.parent.name)
            rows.append(f'<li><a href="./{quote(place)}">{html.escape(name)}</a></li>')
        return _PAGE.format(rows="".join(rows)).encode()

    def _send(self, data: bytes, kind: str, body: bool, policy: str | None = None) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        if policy is not None:
            self.send_header("Content-Security-Policy", policy)
        self.end_headers()
        if body:
            self.wfile.write(data)
