"""Why a model cannot be fetched, by cause: a Hub of our own on this machine, no network."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from clipguide.clip.hub import fetch
from clipguide.clip.refusals import cause_of

MESSAGES = {
    "token": "Invalid credentials in Authorization header",
    "disabled": "Access to this resource is disabled.",
}
ANSWERS = {
    "gated": (403, "GatedRepo", "terms must be accepted .* `hf auth login`"),
    "gated-401": (401, "GatedRepo", "terms must be accepted .* `hf auth login`"),
    "disabled": (403, "", "has closed this repository"),
    "none": (404, "RepoNotFound", "no such repository: check the name"),
    "private": (401, "RepoNotFound", "a private one needs `hf auth login`"),
    "revision": (404, "RevisionNotFound", "no such revision"),
    "token": (401, "", "does not accept the token: `hf auth login`, or unset HF_TOKEN"),
    "forbidden": (403, "", "does not let this token read it: `hf auth login`"),
    "many": (429, "", "too many requests from here: run it again later"),
    "broken": (500, "", r"answers with an error \(500\): run it again later"),
    "busy": (503, "", r"answers with an error \(503\): run it again later"),
}
"""Repository -> status and code of the Hub's answer, and what a user shall read."""
FILES = ["config.json"]
COMMIT = "0" * 40


class Hub(BaseHTTPRequestHandler):
    """Answers as the Hub does: by the name of the repository, OWNER aside."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        name = self.path.removeprefix("/api/models").split("/")[2]
        status, code, _ = ANSWERS.get(name, (404, "EntryNotFound", ""))
        body = json.dumps({"error": MESSAGES.get(name, "")}).encode()
        if name == "lacking" and "/resolve/" not in self.path:
            status, code = 200, ""
            siblings = [{"rfilename": file} for file in FILES]
            tree = [{"type": "file", "path": file, "size": 2, "oid": COMMIT} for file in FILES]
            listed = tree if "/tree/" in self.path else {"sha": COMMIT, "siblings": siblings}
            body = json.dumps(
                listed if isinstance(listed, list) else {"id": "x", **listed}
            ).encode()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        if name in MESSAGES:
            self.send_header("X-Error-Message", MESSAGES[name])
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def closed() -> str:
    """An address where nobody listens."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.server_close()
    return f"http://127.0.0.1:{server.server_port}"


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def refused(name: str) -> str:
    with pytest.raises(ValueError, match=f"hf:owner/{name}: cannot be loaded") as caught:
        fetch(f"hf:owner/{name}", f"owner/{name}", ["*.json"])
    text = str(caught.value)
    assert "\n" not in text
    assert "http" not in text
    return text


@pytest.mark.parametrize("name", ANSWERS)
def test_the_hub_s_answer_is_named(hub: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", hub)
    found = refused(name)
    with pytest.raises(ValueError, match=ANSWERS[name][2]):
        raise ValueError(found)


def test_no_network_and_offline_are_told_apart(
    closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", closed)
    assert "cannot be reached: check the network, or pass the folder" in refused("any")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "unset HF_HUB_OFFLINE, or pass the folder of a copy" in refused("any")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_however_it_is_wrapped(number: int) -> None:
    full = OSError(number, os.strerror(number))
    wrapped = RuntimeError("could not be downloaded\nsome more")
    wrapped.__cause__ = full
    for error in (full, wrapped):
        assert "set HF_HOME to a folder on another" in cause_of(error)
    assert cause_of(RuntimeError("one\ntwo")) == "one"


COMMANDS = """
import json, sys
from clipguide.attach.loading import load_pipeline
from clipguide.clip.loading import load_scorer
told = {}
for kind, load in (("hf:", load_scorer), ("", load_pipeline)):
    for name in sys.argv[1:]:
        try:
            load(f"{kind}owner/{name}")
        except ValueError as error:
            told[f"{kind}{name}"] = str(error)
print(json.dumps(told))
"""


def test_models_and_pipelines_say_it_too(hub: str, tmp_path: Path) -> None:
    """In a process of their own: diffusers asks the address that was set when it was imported."""
    names = ["gated", "none", "token", "broken", "lacking"]
    hub_alone = {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, *names],
        capture_output=True, text=True, env=os.environ | hub_alone, check=True,
    )  # fmt: skip
    told = json.loads(done.stdout.splitlines()[-1])
    assert len(told) == 2 * len(names)
    for key, text in told.items():
        name = key.removeprefix("hf:")
        assert text.startswith(f"{key.replace(name, f'owner/{name}')}: cannot be loaded (")
        assert "\n" not in text
        if name in ANSWERS:
            with pytest.raises(ValueError, match=ANSWERS[name][2]):
                raise ValueError(text)
    assert "lacks a file that this model needs" in told["hf:lacking"]
    assert "lacks a file that this model needs" in told["lacking"]
