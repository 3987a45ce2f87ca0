"""Search of the index through the library: captions, near duplicates, what makes no sense."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_index import update
from torch import Tensor

from clipguide.clip.scorer import Scorer
from clipguide.retrieval import CaptionFile, ImageFolder, open_index, update_index
from clipguide.retrieval.duplicates import find_duplicates


def test_an_image_finds_its_captions(
    place: Path, photos: Path, tmp_path: Path, tiny_scorer: Scorer
) -> None:
    file = tmp_path / "captions.tsv"
    texts = [f"picture number {i}" for i in range(12)]
    rows = [f"{i // 2:02}.png\t{text}" for i, text in enumerate(texts)]
    file.write_text("\n".join(["image\tcaption", *rows]))
    assert update_index(place, CaptionFile(file), tiny_scorer).embedded == 12
    query = tiny_scorer.encode_image([photos / "00.png"])
    hits = open_index(place).search(query, 3)[0]
    cosines = (tiny_scorer.encode_text(texts) @ query[0]).tolist()
    order = sorted(range(12), key=lambda i: -cosines[i])[:3]
    assert [hit.details["text"] for hit in hits] == [texts[i] for i in order]
    assert [hit.path for hit in hits] == [f"{i // 2:02}.png#{i % 2}" for i in order]
    file.write_text("\n".join(["image\tcaption", *rows[:11], "05.png\tanother text"]))
    report = update_index(place, CaptionFile(file), tiny_scorer)
    assert (report.changed, report.embedded, report.unchanged) == (1, 1, 11)
    with pytest.raises(ValueError, match="an index of captions, got images"):
        update_index(place, ImageFolder(photos), tiny_scorer)


def test_near_duplicates_are_the_pairs_above_the_threshold(
    place: Path, photos: Path, tiny_scorer: Scorer
) -> None:
    Image.open(photos / "00.png").resize((80, 64)).save(photos / "large.png")
    (photos / "same.png").write_bytes((photos / "a/01.png").read_bytes())
    update(place, photos, tiny_scorer)
    files = sorted(photos.rglob("*.png"))
    cosines = (vectors := tiny_scorer.encode_image(files)) @ vectors.T
    for threshold in (0.999, 0.9):
        groups = find_duplicates(open_index(place), threshold)
        names = [file.relative_to(photos).as_posix() for file in files]
        linked = {frozenset({name}) for name in names}
        for i, j in (cosines.triu(1) >= threshold).nonzero().tolist():  # slow union
            one = next(s for s in linked if names[i] in s)
            other = next(s for s in linked if names[j] in s)
            linked = linked - {one, other} | {one | other}
        assert {frozenset(group.paths) for group in groups} == {s for s in linked if len(s) > 1}
    exact = [group for group in groups if set(group.paths) == {"a/01.png", "same.png"}]
    assert not exact or exact[0].cosine == 1.0
    with pytest.raises(ValueError, match="threshold"):
        find_duplicates(open_index(place), 0)


@pytest.mark.parametrize(
    ("query", "options", "word"),
    [
        (torch.ones(3), {}, "expected"),
        (torch.full((16,), torch.nan), {}, "NaN"),
        (torch.ones(16), {"top_k": 0}, "top_k 0"),
        (torch.ones(16), {"min_p": 1.5}, "min_p 1.5"),
    ],
)
def test_searches_that_make_no_sense(
    place: Path,
    photos: Path,
    tiny_scorer: Scorer,
    query: Tensor,
    options: dict[str, float],
    word: str,
) -> None:
    update(place, photos, tiny_scorer)
    with pytest.raises(ValueError, match=word):
        open_index(place).search(query, **options)  # type: ignore[arg-type]
