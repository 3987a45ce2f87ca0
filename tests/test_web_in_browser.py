"""The page in a real browser: clicks, a cancel, errors, two visitors at once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from web_pages import HOSTILE, draw_pictures, running, starter_page

from clipguide.generation.settings import settings_for
from clipguide.report.metadata import read_metadata
from clipguide.web.site import Site

pytest.importorskip("gradio", reason="Gradio is not installed: pip install 'clipguide[web]'")
WIDE, PHONE = 1440, 390
SECONDS = 60_000  # milliseconds: what the slowest machine may take for one thing


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def address(
    starter_assets: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    with starter_page(pictures, tmp_path_factory.mktemp("index") / "index") as found:
        yield found


# ------------------------------------------------------------------------------------- a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


class Visitor:
    """A browser window, with what it complained of and asked for elsewhere."""

    def __init__(self, browser: Any, address: str, width: int, scheme: str = "light") -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(SECONDS)
        self.errors: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._request)
        self.page.goto(address)
        self.page.wait_for_selector("#go")

    def _console(self, message: Any) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def _request(self, request: Any) -> None:
        if not request.url.startswith(("http://127.0.0.1", "data:", "blob:")):
            self.elsewhere.append(request.url)

    def open(self, tab: str) -> None:
        self.page.get_by_role("tab", name=tab).click()

    def write(self, box: str, text: str) -> None:
        self.page.fill(f"#{box} textarea, #{box} input", text)

    def close(self) -> None:
        assert self.errors == []
        assert self.elsewhere == []
        self.context.close()


@pytest.fixture
def visitor(browser: Any, address: str) -> Iterator[Visitor]:
    made = Visitor(browser, address, WIDE)
    yield made
    made.close()


def test_generate_and_download(visitor: Visitor, tmp_path: Path) -> None:
    page = visitor.page
    page.get_by_role("radio", name="gradients", exact=True).check()
    page.click("#go")
    page.wait_for_selector("#preview img")
    page.wait_for_selector("#scores table")
    assert "starter:judge" in page.inner_text("#scores")
    assert page.locator("#curve polyline").count() == 2
    assert page.locator("#pair img").count() == 2
    with page.expect_download() as download:
        page.click("#save")
    file = tmp_path / "made.png"
    download.value.save_as(file)
    before = page.inner_text("#scores")
    page.click("#again")  # the next seed
    page.wait_for_function(
        "text => document.querySelector('#scores').innerText != text", arg=before
    )
    page.wait_for_selector("#scores table")
    assert page.input_value("#seed input") == "1"
    # what was downloaded says how it was made, and is made again, in the tab for that
    visitor.open("Look")
    page.set_input_files("#look-file input[type=file]", file)
    page.wait_for_selector("#look-table table")
    assert "a red star left of a blue ring" in page.inner_text("#look-table")
    page.click("#look-again")
    page.wait_for_selector("#look-state >> text=to the last bit")
    visitor.write("look-phrase", "a red star")
    page.click("#look-where")
    page.wait_for_selector("#look-state >> text=cosine")


def test_a_cancel_leaves_the_page_ready(browser: Any, visitor: Visitor) -> None:
    page = visitor.page
    page.get_by_role("radio", name="search", exact=True).check()
    page.click("#go")
    page.click("#cancel")
    page.wait_for_selector(".toast-body >> text=Cancelled")
    page.wait_for_selector("#cancel:disabled")
    page.get_by_role("radio", name="gradients", exact=True).check()
    page.click("#go")
    page.wait_for_selector("#scores table")


@pytest.mark.parametrize("text", HOSTILE[:4])
def test_prompts_are_inert(visitor: Visitor, text: str) -> None:
    page = visitor.page
    visitor.write("prompt", text)
    page.get_by_role("radio", name="gradients", exact=True).check()
    page.click("#go")
    page.wait_for_selector(".toast-body >> text=cannot read")
    page.wait_for_selector("#scores table")
    assert page.title() == "clipguide"
    assert page.locator("#scores script, #scores img, #scores svg").count() == 0


def test_an_empty_prompt_is_a_sentence(visitor: Visitor) -> None:
    visitor.write("prompt", "  ")
    visitor.page.click("#go")
    visitor.page.wait_for_selector(".toast-body >> text=Got an empty prompt: write some words")


@pytest.mark.parametrize(("width", "scheme"), [(WIDE, "dark"), (PHONE, "light"), (PHONE, "dark")])
def test_choose_and_search_at_every_width(
    browser: Any, address: str, pictures: Path, width: int, scheme: str
) -> None:
    visitor = Visitor(browser, address, width, scheme)
    page = visitor.page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.locator("#tabs").bounding_box()["width"]
    assert wide > 0.75 * width
    visitor.open("Choose")
    assert page.locator("#tabs").bounding_box()["width"] == wide  # with little in it and with much
    page.set_input_files("#choose-files input[type=file]", sorted(pictures.iterdir()))
    page.wait_for_selector("#choose-files .file-preview")
    visitor.write("choose-prompt", "a red circle")
    page.click("#choose-go")
    page.wait_for_selector("#choose-table table")
    first = page.inner_text("#choose-table tbody tr:first-child")
    assert "a red circle.png" in first
    assert "no picture.png" in page.inner_text("#choose-table")
    visitor.open("Search")
    visitor.write("search-query", "a blue circle")
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-gallery img")
    assert "4 of 4 pictures" in page.inner_text("#search-state")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    visitor.close()


def test_what_is_no_picture_is_said(visitor: Visitor, pictures: Path) -> None:
    page, file = visitor.page, pictures / "no picture.png"
    visitor.open("Look")
    page.set_input_files("#look-file input[type=file]", file)
    page.wait_for_selector(".toast-body >> text=This picture cannot be read")
    visitor.open("Choose")
    page.set_input_files("#choose-files input[type=file]", file)
    page.wait_for_selector("#choose-files .file-preview")
    visitor.write("choose-prompt", "a red circle")
    page.click("#choose-go")
    page.wait_for_selector(".toast-body >> text=None of these files is a picture")


def test_models_that_cannot_be_loaded_are_said_at_the_top(browser: Any, tmp_path: Path) -> None:
    site = Site(settings_for(str(tmp_path / "gone"), {"scorer": "starter"}))
    with running(site) as address:
        visitor = Visitor(browser, address, PHONE)
        visitor.page.wait_for_selector("#state >> text=The models cannot be loaded")
        assert "gone" in visitor.page.inner_text("#state")
        visitor.close()


def test_the_keyboard_is_enough(visitor: Visitor) -> None:
    """From the prompt to the way and the button, and on to the next tab."""
    page = visitor.page
    page.focus("#prompt textarea")
    seen: list[str] = []
    for _ in range(20):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("(document.activeElement.closest('[id]') || {}).id || ''"))
        if seen[-1] == "go":
            break
    assert seen[-1] == "go"
    page.keyboard.press("Enter")
    page.wait_for_selector("#preview img, #scores table")
    page.wait_for_selector("#scores table")


def test_two_visitors_see_their_own(browser: Any, address: str, tmp_path: Path) -> None:
    asked = {"first": "a green cross", "second": "a yellow circle"}
    visitors = {name: Visitor(browser, address, WIDE) for name in asked}
    for name, visitor in visitors.items():
        visitor.write("prompt", asked[name])
        visitor.page.get_by_role("radio", name="gradients", exact=True).check()
        visitor.page.click("#go")
    for name, visitor in visitors.items():
        visitor.page.wait_for_selector("#scores table")
        with visitor.page.expect_download() as download:
            visitor.page.click("#save")
        download.value.save_as(tmp_path / f"{name}.png")
        record = read_metadata(tmp_path / f"{name}.png").record
        assert record is not None
        assert record["prompt"] == asked[name]
        visitor.close()
