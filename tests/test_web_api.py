"""The page by its API: names, what it gives, what it refuses, many requests at once."""

from __future__ import annotations

import inspect
import io
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops
from web_pages import HOSTILE, draw_pictures, starter_page

import clipguide
from clipguide.clip.similarity_map import shade as shaded
from clipguide.clip.similarity_map import similarity_map
from clipguide.generation.repeat import reproduce
from clipguide.generation.settings import settings_for
from clipguide.images import load_image
from clipguide.report.metadata import read_metadata
from clipguide.retrieval.index import Index
from clipguide.web.making import Wish
from clipguide.web.page import build_page
from clipguide.web.site import Site

pytest.importorskip("gradio", reason="Gradio is not installed: pip install 'clipguide[web]'")
from gradio_client import handle_file
from gradio_client.exceptions import AppError


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def address(
    starter_assets: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    with starter_page(pictures, tmp_path_factory.mktemp("index") / "index") as found:
        yield found


def client_of(address: str) -> Any:
    return pytest.importorskip("gradio_client").Client(address, verbose=False)


GUIDE = Path(__file__).resolve().parent.parent / "docs" / "guides" / "web.md"
PYTHON: dict[str, Callable[..., Any]] = {
    "generate": Wish, "rerank": clipguide.rerank, "search": Index.search,
    "read_metadata": read_metadata, "reproduce": reproduce, "similarity_map": similarity_map,
}  # fmt: skip
OWN = {"rerank": {"folder"}, "search": {"query", "image"}}
"""What the page needs beside the function's own: a name of a folder, what a query is made of."""


def endpoints(address: str) -> dict[str, list[str]]:
    """Name -> its arguments in order."""
    found = client_of(address).view_api(return_format="dict", print_info=False)
    return {
        name.removeprefix("/"): [one["parameter_name"] for one in endpoint["parameters"]]
        for name, endpoint in found["named_endpoints"].items()
    }


def test_the_api_has_the_names_of_the_functions_and_of_their_arguments(address: str) -> None:
    found = endpoints(address)
    assert set(found) == set(PYTHON)
    for name, arguments in found.items():
        known = inspect.signature(PYTHON[name]).parameters
        assert set(arguments) - OWN.get(name, set()) <= set(known), name


def test_the_guide_has_the_signatures_of_the_api(address: str) -> None:
    written = re.findall(r"^\| `/(\w+)\((.*?)\)`", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    assert {name: arguments.split(", ") for name, arguments in written} == endpoints(address)


def test_one_request_is_computed_at_a_time(starter_assets: Path) -> None:
    """Whatever it is: the models are shared, and a machine has memory for one."""
    site = Site(settings_for("starter", {}))
    events = build_page(site).fns.values()
    computing = [event for event in events if event.api_name in PYTHON]
    limits = {
        event.api_name: (event.concurrency_id, event.concurrency_limit) for event in computing
    }
    assert limits.pop("read_metadata") == ("read", 4)
    assert set(limits.values()) == {("computed", 1)}
    again = [event for event in events if event.name == "run"]  # with the next seed: no endpoint
    assert {event.concurrency_id for event in again} == {"computed"}
    site.close()


def test_a_picture_by_the_api(address: str) -> None:
    result = client_of(address).predict(
        "a red star left of a blue ring", "", "gradients", 32, 5, api_name="/generate"
    )
    assert "starter:judge" in str(result)


def test_what_is_made_by_the_api_is_what_python_makes(address: str, pictures: Path) -> None:
    client, file = client_of(address), pictures / "a red circle.png"
    cards, _ = client.predict([], "a red circle", ["guide"], 0, pictures.name, api_name="/rerank")
    rows = clipguide.rerank(sorted(pictures.glob("a *.png")), "a red circle", "starter")
    expected = [
        f"{i + 1}.  {row.score:.3f}  {Path(str(row.image)).name}" for i, row in enumerate(rows)
    ]
    assert [card["caption"] for card in cards] == expected
    cards, line = client.predict("", handle_file(str(file)), 2, 0, api_name="/search")
    assert (len(cards), "2 of 4 pictures;" in line) == (2, True)
    assert file.name in cards[0]["caption"]
    shade, _ = client.predict(handle_file(str(file)), "a red circle", api_name="/similarity_map")
    values = similarity_map(clipguide.load_scorer("starter"), file, "a red circle")
    with Image.open(shade) as found:
        assert (
            ImageChops.difference(found.convert("RGB"), shaded(load_image(file), values)).getbbox()
            is None
        )
    made = client.predict("a red circle", "", "gradients", 32, 5, api_name="/generate")[1]["value"]
    again, said = client.predict(handle_file(made[1]), api_name="/reproduce")
    assert "to the last bit" in said
    with Image.open(again) as found, Image.open(made[1]) as file:
        assert found.convert("RGB").tobytes() == file.convert("RGB").tobytes()


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("search", ("",), (2, 0)),
        ("read_metadata", (), ()),
        ("similarity_map", (), ("a fox",)),
        ("reproduce", (), ()),
    ],
)
def test_what_is_no_picture_is_said(
    address: str, pictures: Path, name: str, before: tuple[Any, ...], after: tuple[Any, ...]
) -> None:
    file = handle_file(str(pictures / "no picture.png"))
    with pytest.raises(AppError, match="This picture cannot be read: not an image") as found:
        client_of(address).predict(*before, file, *after, api_name=f"/{name}")
    assert "no picture" not in str(found.value)  # nor where it lies


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
    asked = httpx.post(f"{address}gradio_api/call/read_metadata", json={"data": [file]})
    assert asked.status_code != 200 or "error" in _events(address, asked.json()["event_id"])


def _events(address: str, event: str) -> str:
    import httpx

    with httpx.stream(
        "GET", f"{address}gradio_api/call/read_metadata/{event}", timeout=60
    ) as stream:
        return "".join(stream.iter_text())


def test_uploads_are_capped(address: str) -> None:
    import httpx

    big = io.BytesIO(b"\0" * 300_000)
    answer = httpx.post(f"{address}gradio_api/upload", files={"files": ("big.png", big)})
    assert answer.status_code == 413


def test_many_requests_at_once_cross_nothing(address: str, pictures: Path) -> None:
    """Two visitors, hostile ones between: each gets what it asked for, or an error of its own."""
    wrong: list[str] = []

    def visit(colours: tuple[str, str]) -> None:
        client = client_of(address)
        for turn in range(10):
            colour = colours[turn % 2]
            files = [handle_file(str(file)) for file in sorted(pictures.glob("a *.png"))]
            _, table = client.predict(
                files, f"a {colour} circle", ["guide"], 0, "", api_name="/rerank"
            )
            if f'<td>1</td><td class="words">a {colour} circle.png' not in table:
                wrong.append(table)
            try:
                client.predict(files[:1], HOSTILE[turn], ["guide"], 0, "..", api_name="/rerank")
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


def test_the_command_ends_where_the_page_cannot_be(cli: Callable[..., Any], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = cli("web", "--port", taken.getsockname()[1])
        assert (done.code, done.out) == (2, "")
        assert "address already in use; expected another" in done.err
    done = cli("web", "--port", 0, "--scorer", tmp_path / "gone")
    assert done.code == 2
    assert "gone" in done.err.splitlines()[-1]
