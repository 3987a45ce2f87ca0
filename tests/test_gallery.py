"""The page of pictures: links that hold where it is moved, and nothing that runs or loads."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from PIL import Image

from clipguide.report.gallery import Card, Section, gallery


class Page(HTMLParser):
    """What a browser would see of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.policy, self.style, self._in_style = "", "", False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append((tag, values))
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"] or ""
        self._in_style = tag == "style"

    def handle_data(self, data: str) -> None:
        self.style += data if self._in_style else ""

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def links(self) -> list[str]:
        return [values["href"] or "" for tag, values in self.tags if tag == "a"]


NAMES = [
    b"a.png",
    b"s/a b.png",
    b"javascript:alert(1).png",
    b"50%25#x?y.png",
    b"\xe9.png",
    b'"&.png',
]


def test_links_are_relative_and_move_with_the_page(tmp_path: Path) -> None:
    images = [tmp_path / "set" / "photos" / os.fsdecode(name) for name in NAMES]
    for image in images:
        image.parent.mkdir(parents=True, exist_ok=True)
        with image.open("wb") as file:
            Image.new("RGB", (8, 8)).save(file, format="PNG")
    where = tmp_path / "set" / "pages"
    text = gallery("x", [Section("y", tuple(Card(image, ("z",)) for image in images))], where)
    shutil.move(tmp_path / "set", tmp_path / "moved")
    links = Page(text).links()
    assert len(links) == len(NAMES)
    for link, name in zip(links, NAMES, strict=True):
        parts = urlsplit(link)
        assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("", "", "", "")
        target = tmp_path / "moved" / "pages" / os.fsdecode(unquote_to_bytes(parts.path))
        assert target.resolve() == tmp_path / "moved" / "photos" / os.fsdecode(name)
    text.encode("utf-8")
    assert str(tmp_path) not in text


def test_the_policy_lets_the_page_be_seen_and_nothing_else() -> None:
    evil = "<script>alert(1)</script>\x1b\u202e<img src=http://x>"
    page = Page(gallery(evil, [Section(evil, (Card(None, (evil,)),))], Path()))
    rules = dict(rule.strip().split(" ", 1) for rule in page.policy.split(";"))
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    tags = [tag for tag, _ in page.tags]
    assert "script" not in tags
    assert "img" not in tags
    assert tags.index("meta") < tags.index("title")
    assert all("style" not in values for _, values in page.tags)
