"""`clipguide view`: what is served to whom, over real sockets."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipguide.report.viewer import make_server

Answer = tuple[int, bytes, http.client.HTTPMessage]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    for name in ("one", '<img src="x">'):
        (folder / name).mkdir(parents=True)
        (folder / name / "report.html").write_text("<p>ü</p>", encoding="utf-8")
    (folder / "one" / "a b.png").write_bytes(b"png")
    (folder / "one" / "weights.safetensors").write_bytes(b"w")
    (tmp_path / "secret.html").write_text("secret")
    (folder / "one" / "link.html").symlink_to(tmp_path / "secret.html")
    return folder


@pytest.fixture
def port(runs: Path) -> Iterator[int]:
    with make_server(runs) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def ask(port: int, path: str, method: str = "GET", host: str | None = None) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{port}")
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, answer.read(), answer.headers
    connection.close()
    return found


def test_index_and_files(port: int) -> None:
    status, page, headers = ask(port, "/")
    assert status == 200
    assert b'<a href="./one/report.html">one</a>' in page
    assert b"<img" not in page
    assert b"&lt;img" in page
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    status, page, headers = ask(port, "/one/report.html")
    assert (status, page.decode()) == (200, "<p>ü</p>")
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert ask(port, "/one/a%20b.png")[:2] == (200, b"png")
    assert ask(port, "/one/a%20b.png", "HEAD")[:2] == (200, b"")


@pytest.mark.parametrize(
    "path",
    ["/../secret.html", "/one/../../secret.html", "/%2e%2e/secret.html", "/one/link.html",
     "/one/weights.safetensors", "/one", "/none.html", "/one/%00.html", "//etc/passwd.html"],
)  # fmt: skip
def test_nothing_else_is_served(port: int, path: str) -> None:
    assert ask(port, path)[0] == 404


def test_only_by_its_own_name_and_only_read(port: int) -> None:
    assert ask(port, "/", host=f"evil.example:{port}")[0] == 403
    assert ask(port, "/", host=f"localhost:{port}")[0] == 200
    assert ask(port, "/", "POST")[0] == 501


def test_a_folder_without_runs_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got no report.html in it, expected a run"):
        make_server(tmp_path)
