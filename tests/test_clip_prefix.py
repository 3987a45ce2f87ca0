"""The prefix of a language model: what it is made of, and how much of a text fits behind it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from clipguide.language.clip_prefix import MAPPINGS, ClipPrefix, PrefixShape, small_language_model
from clipguide.language.vocabulary import END, PAD

VOCABULARY, WIDTH, PLACES = 7, 6, 4
TARGETS = torch.tensor([[[4, 5, END], [6, END, PAD]]] * 3)  # (B, K, T)


@pytest.fixture
def seen() -> Tensor:
    return torch.randn(3, PLACES, WIDTH, generator=torch.Generator().manual_seed(2))


def test_a_text_beyond_the_language_model_is_refused(seen: Tensor) -> None:
    decoder = ClipPrefix(
        WIDTH, small_language_model(VOCABULARY, 16, 1, 0.0), PrefixShape(2, "mlp", 1)
    )
    with pytest.raises(ValueError, match="expected at most 125"):
        decoder.losses(seen, torch.full((3, 1, 127), 4), torch.Generator())
    assert decoder.losses(seen, torch.full((3, 1, 126), 4), torch.Generator())["loss"].isfinite()
    state = (torch.zeros(1, 128, 16),)
    with pytest.raises(ValueError, match="expected at most 125"):
        decoder.step(state, torch.tensor([4]))


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_a_frozen_language_model_keeps_its_weights(mapping: str, seen: Tensor) -> None:
    language = small_language_model(VOCABULARY, 16, 1, 0.0)
    length = PLACES if mapping == "places" else 2
    decoder = ClipPrefix(WIDTH, language, PrefixShape(length, mapping, 1, frozen=True))
    decoder.losses(seen, TARGETS, torch.Generator())["loss"].backward()
    assert all(value.grad is None for value in language.parameters())
    assert all(value.grad is not None for value in decoder.mapping.parameters())


def test_each_place_is_a_vector_of_a_prefix_of_places(seen: Tensor) -> None:
    language = small_language_model(VOCABULARY, 16, 1, 0.0)
    decoder = ClipPrefix(WIDTH, language, PrefixShape(PLACES, "places", 1))
    (prefix,) = decoder.begin(seen)
    other = seen.clone()
    other[:, 1] += 1.0
    changed = (decoder.begin(other)[0] - prefix).abs().amax(dim=-1) > 0
    assert prefix.shape == (3, PLACES, 16)
    assert changed.tolist() == [[place == 1 for place in range(PLACES)]] * 3
    # two places that look alike differ by where they are
    alike = decoder.begin(seen[:, :1].expand(-1, PLACES, -1))[0]
    assert float((alike[:, 0] - alike[:, 1]).abs().max()) > 0
    with pytest.raises(ValueError, match="got 3 places of a picture, expected 4"):
        decoder.begin(seen[:, :3])
