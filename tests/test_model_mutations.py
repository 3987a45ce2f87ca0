"""A few of `model_mutations.py`, and settings that ask for more memory than there is."""

from __future__ import annotations

import json
from pathlib import Path

import model_mutations
import pytest

from clipguide.clip.loading import load_scorer


def test_a_damaged_model_is_refused_or_says_that_it_is_another(tmp_path: Path) -> None:
    told = model_mutations.run(40, tmp_path, seed=7)
    assert {result for _, _, result in told} <= {*model_mutations.GOOD}
    assert {kind for kind, _, _ in told} == {*model_mutations.KINDS}


HUGE = {
    "transformers": ("config.json", "text_config", "vocab_size"),
    "dual": ("dual_encoder.json", "encoder", "embed_dim"),
    "open_clip": ("open_clip_config.json", "model_cfg", "embed_dim"),
}


@pytest.mark.parametrize("kind", HUGE)
def test_a_model_that_its_weights_cannot_fill_is_refused(tmp_path: Path, kind: str) -> None:
    """Before: 45 s and 12.9 GB for a vocabulary of 10^8 tokens, then an error of the library."""
    model_mutations.KINDS[kind](tmp_path)
    name, table, key = HUGE[kind]
    settings = json.loads((tmp_path / name).read_text())
    settings[table][key] = 10**8
    (tmp_path / name).write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"got settings of a model of .* numbers, expected about"):
        load_scorer(tmp_path)
