"""A damaged index gives the right answer or an error that names what is damaged."""

from __future__ import annotations

from pathlib import Path

import index_mutations
import pytest
from tiny_index import update

from clipguide.clip.loading import load_scorer
from clipguide.clip.scorer import Scorer
from clipguide.retrieval import ImageFolder, IndexDamaged, WrongModel, open_index, update_index


def test_no_mutation_changes_an_answer(tmp_path: Path, tiny_scorer: Scorer) -> None:
    told = index_mutations.run(66, tiny_scorer, tmp_path, seed=7)
    assert {result for _, result in told} <= {"right", "refused"}
    assert sum(told[kind, "refused"] for kind, _ in {*told}) > 50


def test_a_catalogue_without_its_end_is_refused(
    place: Path, photos: Path, tiny_scorer: Scorer
) -> None:
    update(place, photos, tiny_scorer)
    file = place / "catalog.sqlite"
    file.write_bytes(file.read_bytes()[:-600])
    with pytest.raises(IndexDamaged, match=r"catalog\.sqlite: the checksum is wrong"):
        open_index(place)
    with pytest.raises(IndexDamaged, match=r"catalog\.sqlite: the checksum is wrong"):
        update(place, photos, tiny_scorer)


@pytest.mark.parametrize("name", ["root", "kind", "scorer", "model_hash", "id", "embed_dim"])
def test_a_changed_manifest_is_not_believed(
    place: Path, photos: Path, tiny_scorer: Scorer, name: str
) -> None:
    import json

    update(place, photos, tiny_scorer)
    file = place / "manifest.json"
    value = json.loads(file.read_text())
    value[name] = {"root": "/", "kind": "captions", "embed_dim": 7}.get(name, "other")
    file.write_text(json.dumps(value))
    with pytest.raises(IndexDamaged, match=r"manifest\.json"):
        open_index(place)


def test_without_its_manifest_an_index_still_knows_its_model(
    place: Path, photos: Path, tiny_scorer: Scorer, tiny_models: Path
) -> None:
    update(place, photos, tiny_scorer)
    (place / "manifest.json").unlink()
    with pytest.raises(WrongModel, match="weights"):
        update_index(place, ImageFolder(photos), load_scorer(tiny_models / "judge"))
    with pytest.raises(ValueError, match="no index there"):
        open_index(place)
    assert update(place, photos, tiny_scorer).embedded == 0
    assert len(open_index(place)) == 24


def test_a_lost_catalogue_is_not_made_anew(place: Path, photos: Path, tiny_scorer: Scorer) -> None:
    update(place, photos, tiny_scorer)
    (place / "catalog.sqlite").unlink()
    for _ in range(2):
        with pytest.raises(IndexDamaged, match="without its catalogue"):
            update(place, photos, tiny_scorer)
