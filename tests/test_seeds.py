"""One generator per image."""

from __future__ import annotations

import pytest
import torch

from clipguide.seeds import derive_generator, image_seeds, make_generators


def test_image_i_depends_on_its_own_seed_alone() -> None:
    batch = [torch.rand(4, generator=g) for g in make_generators(image_seeds(7, 3))]
    for index in range(3):
        (alone,) = make_generators(image_seeds(7 + index, 1))
        assert torch.equal(batch[index], torch.rand(4, generator=alone))


@pytest.mark.parametrize(("seed", "count"), [(-1, 1), (0, -1), (2**63, 1), (2**63 - 1, 2)])
def test_seeds_out_of_range_are_refused(seed: int, count: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        image_seeds(seed, count)


def test_seeds_at_the_edges() -> None:
    assert image_seeds(2**63 - 2, 2) == [2**63 - 2, 2**63 - 1]
    assert image_seeds(5, 0) == []
    with pytest.raises(ValueError, match="got seed -3"):
        make_generators([1, -3])


def test_a_derived_generator_leaves_its_source_alone() -> None:
    source = torch.Generator().manual_seed(7)
    torch.rand(5, generator=source)
    state = source.get_state()
    views = torch.rand(4, generator=derive_generator(source, "views"))
    assert torch.equal(source.get_state(), state)
    fresh = torch.Generator().manual_seed(7)  # the same whatever was drawn before
    assert torch.equal(views, torch.rand(4, generator=derive_generator(fresh, "views")))
    assert not torch.equal(views, torch.rand(4, generator=derive_generator(fresh, "noise")))
    assert not torch.equal(views, torch.rand(4, generator=fresh))
