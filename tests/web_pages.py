"""A running page of the starter, with an index and a folder of drawn pictures."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageDraw

from clipguide.generation.settings import settings_for
from clipguide.retrieval import ImageFolder, update_index
from clipguide.web.site import Limits, Site, Sources

COLOURS = ("red", "green", "blue", "yellow")
HOSTILE = (
    "<script>document.title='owned'</script>", "<img src=x onerror=\"document.title='owned'\">",
    "</textarea><svg onload=document.title='owned'>", "javascript:document.title='owned'",
    "${7*7} {{7*7}}", "\u202eright to left", "a\x1b[31mred", "'; DROP TABLE pictures; --",
    "../../../../etc/passwd", "file:///etc/passwd",
)  # fmt: skip


def draw_pictures(folder: Path) -> Path:
    """A circle of each colour, and a file that is no picture."""
    for colour in COLOURS:
        image = Image.new("RGB", (64, 64), "white")
        ImageDraw.Draw(image).ellipse((16, 16, 48, 48), fill=colour)
        image.save(folder / f"a {colour} circle.png")
    (folder / "no picture.png").write_bytes(b"nothing of the kind")
    return folder


@contextmanager
def starter_page(pictures: Path, index: Path) -> Generator[str]:
    """Its address: four steps, uploads of 200 kB."""
    settings = settings_for("starter", {"steps": 4, "budget": 1})
    site = Site(settings, Sources(index, (pictures,)), Limits(upload=200_000))
    update_index(index, ImageFolder(pictures), site.models.picture_scorer)
    with running(site) as address:
        yield address


@contextmanager
def running(site: Site) -> Generator[str]:
    """Its address."""
    from clipguide.web.page import serve

    page = serve(site)
    yield page.local_url
    page.close()
    site.close()
