"""The page in a real browser and by its API: clicks, a cancel, errors, two visitors at once."""

from __future__ import annotations

import io
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from clipguide.generation.settings import settings_for
from clipguide.report.metadata import read_metadata
from clipguide.retrieval import ImageFolder, update_index
from clipguide.web.site import Limits, Site, Sources

pytest.importorskip("gradio", reason="Gradio is not installed: pip install 'clipguide[web]'")
WIDE, PHONE = 1440, 390
SECONDS = 60_000  # milliseconds: what the slowest machine may take for one thing
HOSTILE = (
    "<script>document.title='owned'</script>", "<img src=x onerror=\"document.title='owned'\">",
    "</textarea><svg onload=document.title='owned'>", "javascript:document.title='owned'",
    "${7*7} {{7*7}}", "\u202eright to left", "a\x1b[31mred", "'; DROP TABLE pictures; --",
    "../../../../etc/passwd", "file:///etc/passwd",
)  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for colour in ("red", "green", "blue", "yellow"):
        image = Image.new("RGB", (64, 64), "white")
        ImageDraw.Draw(image).ellipse((16, 16, 48, 48), fill=colour)
        image.save(folder / f"a {colour} circle.png")
    (folder / "no picture.png").write_bytes(b"nothing of the kind")
    return folder


@pytest.fixture(scope="module")
def address(
    starter_assets: Any, pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A page of the starter at four steps."""
    from clipguide.web.page import serve

    index = tmp_path_factory.mktemp("index") / "index"
    settings = settings_for("starter", {"steps": 4, "budget": 1})
    site = Site(settings, Sources(index, (pictures,)), Limits(upload=200_000))
    update_index(index, ImageFolder(pictures), site.models.picture_scorer)
    page = serve(site)
    yield page.local_url
    page.close()
    site.close()


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
    visitor.open("Choose")
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


# ------------------------------------------------------------------------------------- its API


def client_of(address: str) -> Any:
    return pytest.importorskip("gradio_client").Client(address, verbose=False)


def test_the_api_has_the_names_of_the_functions(address: str) -> None:
    found = client_of(address).view_api(return_format="dict", print_info=False)
    names = {*found["named_endpoints"]}
    assert names == {
        "/generate", "/rerank", "/search", "/look", "/reproduce", "/similarity_map",
    }  # fmt: skip


def test_a_picture_by_the_api(address: str) -> None:
    result = client_of(address).predict(
        "a red star left of a blue ring", "", "gradients", 32, 5, api_name="/generate"
    )
    assert "starter:judge" in str(result)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../../etc/passwd", "{pictures}/a red circle.png", "pyproject.toml"]
)
def test_no_file_of_this_machine_is_served(address: str, pictures: Path, path: str) -> None:
    import httpx

    asked = path.format(pictures=pictures)
    for route in ("gradio_api/file=", "file=", "gradio_api/file/"):
        answer = httpx.get(f"{address}{route}{asked}")
        assert answer.status_code in (403, 404), (route, answer.status_code)
        assert b"root:" not in answer.content


@pytest.mark.parametrize("path", ["/etc/passwd", "{pictures}/a red circle.png"])
def test_no_file_of_this_machine_is_taken_for_an_upload(
    address: str, pictures: Path, path: str
) -> None:
    """What an API call names as its file has to be one that it sent."""
    import httpx

    file = {"path": path.format(pictures=pictures), "meta": {"_type": "gradio.FileData"}}
    asked = httpx.post(f"{address}gradio_api/call/look", json={"data": [file]})
    assert asked.status_code != 200 or "error" in _events(address, asked.json()["event_id"])


def _events(address: str, event: str) -> str:
    import httpx

    with httpx.stream("GET", f"{address}gradio_api/call/look/{event}", timeout=60) as stream:
        return "".join(stream.iter_text())


def test_uploads_are_capped(address: str) -> None:
    import httpx

    big = io.BytesIO(b"\0" * 300_000)
    answer = httpx.post(f"{address}gradio_api/upload", files={"files": ("big.png", big)})
    assert answer.status_code == 413


def test_many_requests_at_once_cross_nothing(address: str, pictures: Path) -> None:
    """Two visitors, hostile ones between: each gets what it asked for, or an error of its own."""
    from gradio_client import handle_file

    wrong: list[str] = []

    def visit(colours: tuple[str, str]) -> None:
        client = client_of(address)
        for turn in range(10):
            colour = colours[turn % 2]
            files = [handle_file(str(file)) for file in sorted(pictures.glob("a *.png"))]
            _, table = client.predict(
                files, "", f"a {colour} circle", ["guide"], 0, api_name="/rerank"
            )
            if f'<td>1</td><td class="words">a {colour} circle.png' not in table:
                wrong.append(table)
            try:
                client.predict(files[:1], "..", HOSTILE[turn], ["guide"], 0, api_name="/rerank")
                wrong.append("a folder that was not given was read")
            except Exception as error:
                if "not in the list of choices" not in str(error):
                    wrong.append(str(error))

    threads = [
        threading.Thread(target=visit, args=(colours,))
        for colours in (("red", "green"), ("blue", "yellow"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
