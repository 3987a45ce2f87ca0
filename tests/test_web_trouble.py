"""What the page does in bad weather: models that are not there yet or do not fit, an index that is
being written, files that are gone, a port that is taken."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_asym_kl import AsymmetricAutoencoderKL
from PIL import Image
from tiny_pipelines import tiny_pipeline

from clipguide.attach.loading import load_pipeline
from clipguide.clip.scorer import Scorer
from clipguide.generation.settings import settings_for
from clipguide.retrieval import ImageFolder, update_index
from clipguide.retrieval.published import FILE as CATALOG
from clipguide.retrieval.published import WORK
from clipguide.web import site as site_module
from clipguide.web.finding import find
from clipguide.web.live import CalledOff, wait_for
from clipguide.web.making import Wish, generate
from clipguide.web.page import serve
from clipguide.web.shelf import KEPT, Shelf
from clipguide.web.site import Site, Sources

TAKEN = "a fox in the snow"


def made(site: Site, prompt: str = TAKEN) -> Any:
    return generate(site, Wish(prompt, way="gradients"), lambda preview: None)


@pytest.fixture
def tiny_site(tiny_models: Path) -> Iterator[Callable[..., Site]]:
    """Makes a page of tiny models."""
    sites: list[Site] = []

    def make(pipe: Path | str = tiny_models / "pipe", **settings: Any) -> Site:
        index = settings.pop("index", None)
        given = {"scorer": str(tiny_models / "clip"), "steps": 2, **settings}
        sites.append(Site(settings_for(str(pipe), given), Sources(index)))
        return sites[-1]

    yield make
    for site in sites:
        site.close()


# ----------------------------------------------------------------------------- models not there yet


def test_who_asks_while_the_models_are_loaded_waits_and_they_are_loaded_once(
    tiny_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real loading behind a gate that this test opens."""
    gate, loads = threading.Event(), []
    really = site_module.load_models

    def gated(settings: Any) -> Any:
        loads.append(settings)
        gate.wait()
        return really(settings)

    monkeypatch.setattr(site_module, "load_models", gated)
    site = tiny_site()
    site.load()
    assert not site.ready
    found: list[Any] = []
    asking = [threading.Thread(target=lambda: found.append(site.models)) for _ in range(3)]
    for thread in asking:
        thread.start()
    stop = threading.Event()  # a visitor who cancels does not wait for them
    stop.set()
    with pytest.raises(CalledOff):
        wait_for(site.load(), stop)
    assert (found, site.ready) == ([], False)
    gate.set()
    wait_for(site.load(), threading.Event())
    for thread in asking:
        thread.join()
    assert site.ready
    assert len(loads) == 1
    assert all(one is site.models for one in found)


def test_models_that_cannot_be_loaded_are_told_to_everybody_and_tried_again(
    tiny_site: Callable[..., Site], tiny_models: Path, tmp_path: Path
) -> None:
    site = tiny_site(scorer=str(tmp_path / "clip"))
    for _ in range(2):
        with pytest.raises(ValueError, match="clip"):
            made(site)
        assert not site.ready
    (tmp_path / "clip").symlink_to(tiny_models / "clip")
    assert made(site).guided.file.exists()


def test_a_cancel_while_models_are_loaded_is_no_error_of_theirs() -> None:
    from concurrent.futures import Future

    waited: Future[None] = Future()
    waited.set_exception(TimeoutError("the hub is slow"))
    with pytest.raises(TimeoutError, match="the hub is slow"):
        wait_for(waited, threading.Event())


# ------------------------------------------------------------------------- models that do not fit


def test_a_scorer_of_latents_of_another_vae_is_refused_and_taken_with_force(
    starter_assets: Path, tmp_path: Path, tiny_site: Callable[..., Site]
) -> None:
    pipe: Any = load_pipeline("starter")
    with torch.no_grad():
        next(pipe.vae.decoder.parameters()).mul_(1.001)
    pipe.save_pretrained(tmp_path / "pipe")
    given = {"scorer": "starter:latent", "steps": 2}
    with pytest.raises(ValueError, match="got latents of another autoencoder"):
        made(tiny_site(tmp_path / "pipe", **given), "a red star")
    forced = tiny_site(tmp_path / "pipe", **given, any_autoencoder=True)
    assert made(forced, "a red star").guided.file.exists()


def test_a_vae_that_nobody_can_decode_is_named(
    tmp_path: Path, tiny_site: Callable[..., Site]
) -> None:
    pipe = tiny_pipeline()
    kinds: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",),
        "up_block_types": ("UpDecoderBlock2D",),
    }
    pipe.vae = AsymmetricAutoencoderKL(
        **kinds, down_block_out_channels=(8,), up_block_out_channels=(8,), norm_num_groups=4
    )
    pipe.save_pretrained(tmp_path)
    with pytest.raises(NotImplementedError, match="AsymmetricAutoencoderKL has no decoder"):
        made(tiny_site(tmp_path))


# ------------------------------------------------------------------ an index that is being written


def squares(folder: Path, count: int, first: int = 0) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(first, first + count):
        Image.new("RGB", (16, 16), (9 * number % 256, 99, 50)).save(folder / f"{number:03}.png")


def test_a_page_searches_while_the_index_is_updated(
    tiny_site: Callable[..., Site], tiny_scorer: Scorer, tmp_path: Path
) -> None:
    """Every answer is of the index before an update or after it, whole."""
    pictures, index = tmp_path / "pictures", tmp_path / "index"
    squares(pictures, 4)
    update_index(index, ImageFolder(pictures), tiny_scorer)
    site = tiny_site(index=index)
    sizes: list[int] = []

    def update() -> None:
        for turn in range(1, 7):
            squares(pictures, 2, first=4 * turn)
            (pictures / f"{4 * turn:03}.png").unlink()  # one more, and one that changes
            Image.new("RGB", (16, 16), (turn, turn, 0)).save(pictures / "000.png")
            update_index(index, ImageFolder(pictures), tiny_scorer)

    updating = threading.Thread(target=update)
    updating.start()
    while not sizes or updating.is_alive():
        found, hits = find(site, "a fox", None, 20)
        sizes.append(len(found))
        assert len(hits) == len(found)
        assert [hit.cosine for hit in hits] == sorted((h.cosine for h in hits), reverse=True)
    updating.join()
    assert len(find(site, "a fox", None, 20)[1]) == 10
    assert sizes == sorted(sizes)
    assert set(sizes) <= set(range(4, 11))


def test_an_index_that_was_never_finished_says_how_to_go_on(
    tiny_site: Callable[..., Site], tiny_scorer: Scorer, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    squares(tmp_path / "pictures", 2)
    update_index(index, ImageFolder(tmp_path / "pictures"), tiny_scorer)
    (index / CATALOG).rename(index / WORK)  # as the first update leaves it when it is killed
    with pytest.raises(ValueError, match="not finished: `clipguide index` again") as found:
        find(tiny_site(index=index), "a fox", None, 4)
    assert str(tmp_path) not in str(found.value)


def test_a_scorer_of_an_index_of_other_models_is_loaded_once(
    tiny_site: Callable[..., Site], tiny_models: Path, tmp_path: Path
) -> None:
    from clipguide.clip.loading import load_scorer

    squares(tmp_path / "pictures", 3)
    judge = load_scorer(str(tiny_models / "judge"))
    update_index(tmp_path / "index", ImageFolder(tmp_path / "pictures"), judge)
    site = tiny_site(index=tmp_path / "index")
    assert judge.name not in site.scorers
    index, _ = find(site, "a fox", None, 2)
    assert site.scorer_of(index) is site.scorer_of(index)


# ---------------------------------------------------------------------------- files, and the port


def test_no_two_visitors_share_a_file_and_old_ones_go() -> None:
    """A file that a visitor reads is never written again, though the pictures are the same."""
    shelf = Shelf()
    image = Image.new("RGB", (8, 8), "red")
    first, second = shelf.put(image), shelf.put(image)
    assert first != second
    os.utime(first, (0, time.time() - KEPT - 60))
    third = shelf.put(image, ".webp")
    assert {str(file) for file in shelf.folder.iterdir()} == {second, third}
    shelf.close()
    assert not shelf.folder.exists()


def test_a_port_in_use_is_named(tiny_site: Callable[..., Site]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"got port {port} of 127.0.0.1: address already in"):
            serve(tiny_site(), port)
