"""What the page does, without a browser: wishes, choices, hits, records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clipguide.generation.record import read_recipe
from clipguide.generation.sampling import Batch, ImageGenerator, ImageRequest
from clipguide.generation.settings import settings_for
from clipguide.report.metadata import read_metadata
from clipguide.rerank import rerank
from clipguide.retrieval import ImageFolder, embed_query, open_index, parse_query, update_index
from clipguide.web.choosing import choice_table, choose, pictures_of
from clipguide.web.curve import score_curve
from clipguide.web.finding import find
from clipguide.web.looking import made_again, metadata_of, metadata_table, shaded
from clipguide.web.making import Preview, Wish, curve, generate, notice, pair_table, settings_of
from clipguide.web.site import Limits, Site, Sources

HOSTILE = "<script>alert(1)</script>\u202e\x1b[31m&amp; \"'"
PROMPT = "a red star left of a blue ring"


class Tags(HTMLParser):
    """The tags and text of a piece of HTML, as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def site(starter_assets: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A page of the starter at four steps, with a folder of six pictures and an index of it."""
    folder = tmp_path_factory.mktemp("site") / "pictures"
    folder.mkdir()
    colours = ["red", "green", "blue", "yellow", "black", "white"]
    for number, colour in enumerate(colours):
        Image.new("RGB", (40, 30 + number), colour).save(folder / f"{number}{colour}.png")
    settings = settings_for("starter", {"steps": 4, "budget": 1})
    made = Site(settings, Sources(folder.parent / "index", (folder,)), Limits(pictures=10))
    update_index(folder.parent / "index", ImageFolder(folder), made.models.picture_scorer)
    yield made
    made.close()


# ---------------------------------------------------------------------------------------- generate


def test_a_pair_is_what_the_engine_makes(site: Site) -> None:
    seen: list[Preview] = []
    wish = Wish(f"  {PROMPT} ", way="gradients", seed=7)
    pair = generate(site, wish, seen.append)
    settings = settings_of(site, pair.wish)
    assert (settings.search, settings.final) == (None, None)
    batch = Batch((ImageRequest(PROMPT, 7),), "guided")
    (alone,) = ImageGenerator(site.models, settings).sample_batch(batch)
    (plain,) = ImageGenerator(site.models, settings).sample_batch(replace(batch, role="unguided"))
    for shown, sample in ((pair.guided, alone), (pair.unguided, plain)):
        with Image.open(shown.file) as image:
            assert image.tobytes() == sample.image.tobytes()
        record = read_metadata(shown.file).record
        assert record is not None
        assert read_recipe(record).batch.requests[0] == ImageRequest(PROMPT, 7)
    assert [p.guided for p in seen] == sorted((p.guided for p in seen), reverse=True)
    assert {p.guided for p in seen} == {True, False}
    assert seen[-1].image.size == (64, 64)
    words = Tags(pair_table(pair)).words
    assert f"{pair.guided.scores['starter:judge']:.3f}" in words
    assert Tags(curve(seen)).tags.count("polyline") == 2


@pytest.mark.parametrize("way", ["search", "gradients and search"])
def test_a_picture_of_the_page_is_made_again(site: Site, way: str) -> None:
    pair = generate(site, Wish(PROMPT, way=way, seed=1), lambda preview: None)
    assert made_again(site, pair.guided.file).largest_difference == 0


def test_alternatives_are_what_the_picture_is_told_from(site: Site) -> None:
    wish = Wish(PROMPT, ("a blue star", " ", "a red ring"), "gradients").checked(site)
    assert settings_of(site, wish).reward == 'contrast:"a blue star|a red ring"'
    pair = generate(site, wish, lambda preview: None)
    assert made_again(site, pair.guided.file).largest_difference == 0


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (Wish("  "), "got an empty prompt"),
        (Wish("a" * 1001), "got a prompt of 1001 letters"),
        (Wish("a", ('x" + tv',)), "got an alternative with"),
        (Wish("a", ("x|y",)), "got an alternative with"),
        (Wish("a", way="magic"), "got way 'magic', expected one of gradients and search"),
        (Wish("a", seed=-1), "got seed -1"),
        (Wish("a", strength=float("nan")), "got strength nan"),
        (Wish("a\ud800"), "prompt"),
    ],
)
def test_wishes_that_cannot_be(site: Site, wish: Wish, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(site, wish, lambda preview: None)


def test_words_that_the_starter_does_not_know_are_said(site: Site) -> None:
    assert notice(site, PROMPT) == ""
    assert "does not know: photo, dog" in notice(site, "a photo of a dog")


@pytest.mark.filterwarnings("ignore::clipguide.clip.tokens.PromptTruncated")
def test_a_hostile_prompt_is_inert(site: Site) -> None:
    pair = generate(site, Wish(HOSTILE, way="gradients"), lambda preview: None)
    record = read_metadata(pair.guided.file).record
    assert record is not None
    assert record["prompt"] == HOSTILE
    table = metadata_table(metadata_of(pair.guided.file))
    assert "script" not in Tags(table).tags
    assert "alert(1)" in Tags(table).words


# ------------------------------------------------------------------------------------------ choose


def test_a_choice_is_rerank(site: Site) -> None:
    files = pictures_of(site, "pictures")
    assert len(files) == 6
    choice = choose(site, PROMPT, files, ["starter", "starter:judge"])
    rows = rerank(files, PROMPT, site.models.picture_scorer)
    assert list(choice.files) == [files[row.index] for row in rows]
    assert choice.scores["starter"] == pytest.approx([row.score for row in rows], abs=1e-6)
    assert Tags(choice_table(choice)).tags.count("tr") == 7


def test_bad_files_are_named(site: Site, tmp_path: Path) -> None:
    bad = tmp_path / "<img src=x>.png"
    bad.write_bytes(b"no picture")
    good = pictures_of(site, "pictures")[:2]
    choice = choose(site, PROMPT, [*good, bad], ["starter"])
    assert len(choice.files) == 2
    assert "img" not in Tags(choice_table(choice)).tags
    with pytest.raises(ValueError, match="none of these files is a picture"):
        choose(site, PROMPT, [bad], ["starter"])


@pytest.mark.parametrize(
    ("files", "scorers", "message"),
    [
        ([], ["starter"], "no pictures"),
        (["x"] * 11, ["starter"], "got 11 pictures, expected 10 at most"),
        (["x"], [], "choose a scorer"),
        (["x"], ["open_clip:ViT-B-32/openai"], "expected starter, starter:judge"),
    ],
)
def test_choices_that_cannot_be(
    site: Site, files: list[str], scorers: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        choose(site, PROMPT, [Path(file) for file in files], scorers)


@pytest.mark.parametrize("name", ["..", "/etc", "pictures/..", ""])
def test_only_given_folders_are_read(site: Site, name: str) -> None:
    with pytest.raises(ValueError, match="expected one of pictures"):
        pictures_of(site, name)


# ------------------------------------------------------------------------------------------ search


def test_hits_are_the_index_s(site: Site) -> None:
    assert site.sources.index is not None
    index, hits = find(site, "red - blue", None, 4)
    query = embed_query(parse_query("red - blue"), site.models.picture_scorer)
    (expected,) = open_index(site.sources.index).search(query, 4)
    assert [hit.path for hit in hits] == [hit.path for hit in expected]
    assert len(index) == 6
    picture = pictures_of(site, "pictures")[2]
    assert find(site, "", picture, 1)[1][0].path == picture.name


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("/etc/passwd.png", "drop the picture beside them"),
        ("image:/etc/passwd", "drop the picture beside them"),
        ("  ", "write some words, or drop a picture"),
        ("a + + b", "got query"),
    ],
)
def test_words_read_no_file(site: Site, query: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find(site, query, None, 4)


def test_a_page_without_an_index_says_so(site: Site) -> None:
    with pytest.raises(ValueError, match="clipguide index DIR"):
        find(replace(site, sources=Sources()), "red", None, 4)


def test_a_damaged_index_is_told_without_its_place(site: Site, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="the index") as found:
        find(replace(site, sources=Sources(tmp_path)), "red", None, 4)
    assert str(tmp_path) not in str(found.value)


# -------------------------------------------------------------------------------------------- look


def test_a_stranger_s_record_reads_nothing_here(site: Site, tmp_path: Path) -> None:
    from clipguide.report.metadata import save_png

    pair = generate(site, Wish(PROMPT, way="gradients"), lambda preview: None)
    record: dict[str, Any] = dict(read_metadata(pair.guided.file).record or {})
    for name, value, message in (
        ("model", "/etc", "made with model '/etc'"),
        ("scorer", "hf:someone/else", "made with scorer"),
        ("reward", "style:/etc/passwd", "made with style:/etc/passwd"),
        ("preview", "scorer:log-prob:/etc@0", "made with scorer:log-prob:/etc@0"),
        ("final", "scorer:caption-back:starter@/etc", "made with scorer:caption-back:starter@/etc"),
        ("start", {"image": "/etc/passwd"}, "a picture to start from"),
        ("budget", 10_000, "made by a search of 10000"),
    ):
        file = tmp_path / f"{name}.png"
        changed = {**record, "settings": {**record["settings"], name: value}}
        with Image.open(pair.guided.file) as image:
            save_png(image, file, record=changed)
        with pytest.raises(ValueError, match=message):
            made_again(site, file)
    plain = tmp_path / "plain.png"
    Image.new("RGB", (8, 8)).save(plain)
    with pytest.raises(ValueError, match="no clipguide record"):
        made_again(site, plain)
    assert "nothing of how it was made" in metadata_table(metadata_of(plain))


def test_the_map_of_a_phrase_is_drawn(site: Site) -> None:
    file = pictures_of(site, "pictures")[0]
    image, line = shaded(site, file, "a <b>red</b> star")
    with Image.open(file) as original:
        assert image.size == original.size
    assert "changes by" in line


def test_a_curve_of_one_point_and_of_none() -> None:
    assert score_curve([], []) == ""
    assert Tags(score_curve([(1, 0.5)], [])).tags.count("circle") == 1
