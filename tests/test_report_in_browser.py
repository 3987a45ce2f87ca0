"""The report of `eval run` in a real browser: sorted, filtered, slid, linked to, and inert."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clipguide.data.scenes import render, sample_scene
from clipguide.report.experiment_page import experiment_page

api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no Chromium is installed", allow_module_level=True)

HOSTILE = (
    "<script>document.title='owned'</script>", "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">", "javascript:document.title='owned'",
    "\" onload=\"document.title='owned'", "<svg onload=document.title='owned'>", "${7*7} {{7*7}}",
    "<!-- ", "]]>", "\u202eright to left", "שלום עולם", "a,b;c\td\ne", "&lt;b&gt;", "\u2028\u2029",
    "<base href=//evil.example>", "<iframe src=//evil.example></iframe>", "%3Cscript%3E", "'); x('",
    "<style>body{display:none}</style>", "<link rel=stylesheet href=//evil.example>",
)  # fmt: skip
PAIRS = 50


def write_run(folder: Path, pairs: int = PAIRS) -> Path:
    """A finished run of two arms with hostile prompts, file names and arm names."""
    arms = {"plain <b>x</b>": 0.0, '"guided" </script>': 0.1}
    samples: list[dict[str, Any]] = []
    for arm, lift in arms.items():
        place_of = folder / ("plain" if not lift else "guided")
        place_of.mkdir(parents=True)
        for place in range(pairs):
            file = place_of / f"{place}<img src=x onerror=alert(1)>.png"
            render(sample_scene(place + int(10 * lift))).resize((64, 64)).save(file)
            prompt = f"{HOSTILE[place % len(HOSTILE)]} {place}"
            scores = {"judge": round((place * 37 % 50) / 50 + lift, 3), "oracle": float(place % 2)}
            samples.append(
                {"arm": arm, "place": place, "seed": place, "prompt": prompt,
                 "category": "even" if place % 2 == 0 else "<i>odd</i>",
                 "file": file.relative_to(folder).as_posix(), "scores": scores,
                 "seconds": 1.0 + lift, "calls": 50}
            )  # fmt: skip
    baseline, guided = arms
    duel = {"a": guided, "b": baseline, "scorer": "judge", "prompts": pairs, "win_rate": 61.0,
            "win_interval": [50.0, 72.0], "difference": 0.1, "difference_interval": [0.05, 0.15],
            "p_value": 0.01, "p_holm": 0.02}  # fmt: skip
    gap = {"arm": guided, "baseline": baseline, "guiding": "clip", "judge": "judge",
           "win_guiding": 90.0, "win_judge": 61.0, "gap": 29.0,
           "interval": [20.0, 38.0]}  # fmt: skip
    means = {"judge": {"mean": 0.5, "interval": [0.4, 0.6], "prompts": pairs}}
    summary = {
        "prompts": pairs, "pictures": 2 * pairs, "headline": "judge", "baseline": baseline,
        "scorers": ["judge"], "conventions": {"judge": "cosine"}, "duels": [duel],
        "hacking": [gap], "categories": {"even": {baseline: 0.4, guided: 0.5}},
        "warnings": ["<b>careful</b>"],
        "arms": {
            name: {"guiding": None, "control": None, "error": None, "calls": 50.0,
                   "measured": {},
                   "means": {"judge": {**means["judge"], "mean": 0.5 + lift}}}
            for name, lift in arms.items()
        },
    }  # fmt: skip
    design = {"arms": [{"name": name, "settings": {"model": "<b>m</b>"}} for name in arms]}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "experiment.json").write_text(json.dumps(design))
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    return folder


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("report") / "run")
    (run / "report.html").write_text(experiment_page(run), encoding="utf-8")
    return run / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


class Seen:
    """A page, and everything it said and asked for."""

    def __init__(self, browser: Any, address: str) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page = browser.new_page(viewport={"width": 1200, "height": 900})
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(address)

    def check(self) -> None:
        """No error, no request but the page's own and its own pictures', no text that ran."""
        assert self.said == []
        assert [u for u in self.asked if not u.startswith("data:")] == [self.page.url.split("#")[0]]
        assert self.page.title() == "clipguide eval"
        self.page.close()


def cells(page: Any, table: str, column: int) -> list[str]:
    return page.eval_on_selector_all(
        f"#{table} tbody tr td:nth-child({column})", "some => some.map(one => one.textContent)"
    )


def prompts(page: Any) -> list[str]:
    return page.eval_on_selector_all(
        ".card > p:not(.scores)", "some => some.map(one => one.firstChild.textContent)"
    )


def test_tables_sort_and_texts_are_texts(browser: Any, report: Path) -> None:
    seen = Seen(browser, report.as_uri())
    page = seen.page
    assert cells(page, "arms", 1) == ["plain <b>x</b>", '"guided" </script>']
    page.click("#arms th:nth-child(2)")
    assert cells(page, "arms", 2)[0].startswith("0.600")
    page.click("#arms th:nth-child(2)")
    assert cells(page, "arms", 2)[0].startswith("0.500")
    page.press("#arms th:nth-child(2)", "Enter")
    assert cells(page, "arms", 2)[0].startswith("0.600")
    assert cells(page, "duels", 3) == ["61.0 [50.0, 72.0]"]
    assert cells(page, "hacking", 6) == ["29.0 [20.0, 38.0]"]
    assert page.text_content("#warnings") == "<b>careful</b>"
    assert page.locator("#gain svg circle").count() == 2
    assert page.locator("#categories rect").count() == 2
    assert page.locator("section img").count() == 2 * PAIRS
    assert page.locator("b, i, iframe, base").count() == 0
    folder = os.environ.get("CLIPGUIDE_SCREENSHOTS")
    if folder:
        page.screenshot(path=str(Path(folder) / "report.png"), full_page=True)
    seen.check()


def test_gallery_filters_sorts_and_slides(browser: Any, report: Path) -> None:
    seen = Seen(browser, report.as_uri())
    page = seen.page
    assert len(prompts(page)) == PAIRS
    page.select_option("#order", "worst")
    scores = page.eval_on_selector_all(
        ".card > .scores:nth-of-type(3)", "some => some.map(one => one.textContent)"
    )
    values = [float(text.split("judge ")[1].split(",")[0]) for text in scores]
    assert values == sorted(values)
    page.check("#worst")
    assert page.text_content("#count") == "5 pairs"
    page.uncheck("#worst")
    page.select_option("#category", "<i>odd</i>")
    assert page.text_content("#count") == "25 pairs"
    page.fill("#text", "שלום")
    assert page.text_content("#count") == "0 pairs"
    page.select_option("#category", "")
    assert page.text_content("#count") == "2 pairs"
    slider = page.locator(".card input[type=range]").first
    slider.fill("80")
    shape = page.eval_on_selector(".card .pair img:nth-child(2)", "one => one.style.clipPath")
    assert "80%" in shape
    page.locator("details").first.click()
    assert "<b>m</b>" in page.text_content("details pre")
    seen.check()


def test_a_deep_link_opens_the_same_view(browser: Any, report: Path) -> None:
    seen = Seen(browser, report.as_uri())
    seen.page.select_option("#order", "gain")
    seen.page.fill("#text", "right")
    seen.page.locator(".card a").nth(1).click()
    address, wanted = seen.page.url, prompts(seen.page)
    chosen = seen.page.eval_on_selector(".card.target", "one => one.id")
    seen.check()
    again = Seen(browser, address)
    assert prompts(again.page) == wanted
    assert again.page.eval_on_selector(".card.target", "one => one.id") == chosen
    assert again.page.input_value("#order") == "gain"
    again.page.fill("#text", "")
    assert len(prompts(again.page)) == PAIRS
    again.page.goto(address)  # in the page that is open: the address alone changes
    assert prompts(again.page) == wanted
    assert again.page.eval_on_selector(".card.target", "one => one.id") == chosen
    again.check()


@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_is_as_wide_as_the_window(browser: Any, report: Path, width: int) -> None:
    seen = Seen(browser, report.as_uri())
    seen.page.set_viewport_size({"width": width, "height": 900})
    assert seen.page.evaluate("document.documentElement.scrollWidth") == width
    seen.check()


def test_a_picture_that_is_gone_is_grey(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", pairs=3)
    next((run / "plain").iterdir()).unlink()
    assert experiment_page(run).count("data:image/jpeg;base64,") == 6
    Image.new("RGB", (1, 1)).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"got no summary.json, expected the folder of a finished"):
        experiment_page(tmp_path)
