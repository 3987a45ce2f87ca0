"""`clipguide bench`: counts against `guide` itself and by hand, and the shape of what it prints."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_pipelines import tiny_unet
from torch import Tensor, nn

from clipguide.evaluation.cost.community import CUTOUTS, cutouts, spherical_distance
from clipguide.evaluation.cost.counting import count_flops, step_flops
from clipguide.evaluation.cost.measuring import LiveBytes
from clipguide.evaluation.cost.rig import MEAN, STD, STEPS, Rig
from clipguide.evaluation.cost.shapes import SHAPES, Shape, vision_tower
from clipguide.evaluation.cost.table import added
from clipguide.evaluation.cost.variants import (
    LATENT,
    VARIANTS,
    community_of,
    entered,
    latent_edit,
    run,
)


def inputs(x: Tensor, t: Tensor, tokens: int, width: int) -> dict[str, Any]:
    text = x.new_zeros(len(x), tokens, 16)
    return {"sample": x, "timestep": t, "encoder_hidden_states": text}


TINY = Shape(
    "tiny", 256, 4, 5, 2, False, (1.5, 1.5), (8, 64), lambda width: tiny_unet(), inputs, True
)


def tiny_rig(device: str = "cpu") -> Rig:
    return Rig(TINY, 8, 64, device)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_counted_parts_are_what_a_guided_call_runs(name: str) -> None:
    """The same count around the real hook, scheduler and all."""
    rig = tiny_rig()
    with entered(rig, VARIANTS[name]):
        counted = count_flops(lambda: run(rig, VARIANTS[name]))
    assert counted == STEPS * step_flops(rig)[name]


def test_counts_by_hand() -> None:
    """2 operations per multiply-add; a backward pass to the input costs as much as the forward."""
    x = torch.zeros(1, 3, 8, 8, requires_grad=True)
    convolution = nn.Conv2d(3, 5, 3, padding=1).requires_grad_(False)
    once = 2 * 8 * 8 * 5 * 3 * 3 * 3
    assert count_flops(lambda: convolution(x.detach())) == once
    assert count_flops(lambda: convolution(x * 1).sum().backward()) == 2 * once
    # ViT-B/32: 50 tokens of 768, 12 layers
    patches, n, d = 49, 50, 768
    layer = 4 * n * d * d + 2 * n * n * d + 2 * n * d * 4 * d
    by_hand = 2 * (patches * d * 3 * 32 * 32 + 12 * layer + d * 512)
    pixels = torch.empty(1, 3, 224, 224, device="meta")
    assert count_flops(lambda: vision_tower(1, 224)(pixel_values=pixels)) == by_hand


def test_the_count_of_a_teachers_tower_by_hand() -> None:
    """ViT-B/32 behind its stem at 64 x 64 latents, forward and back to them."""
    rig = Rig(SHAPES["sd15"])
    places, width, n, d = 64 * 64, 64, 50, 768
    stem = places * width * 9 * (4 + 12 * width)  # the first convolution, and two in each block
    stem += 49 * d * width * 9 * 9  # to 7 x 7 places, of 9 x 9 cells each
    products = 12 * 2 * n * n * d  # of attention: both factors have a gradient
    straight = stem + 12 * (4 * n * d * d + 2 * n * d * 4 * d) + d * 512 + products
    levels = 64 * 128 + 128 * 128 + 128 * 2 * (12 * width + 12 * d)  # of noise: no gradient
    by_hand = 2 * (2 * straight + products + levels)
    x, t = rig.prepare_latents(), torch.tensor(500.0)
    added = count_flops(lambda: latent_edit(rig, "teacher's")(x, t, x))
    assert added == by_hand
    assert 1 + added / count_flops(lambda: rig.denoise(x, t)) <= rig.shape.targets[1] == 1.03


def test_the_community_step_equals_one_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cutouts the size of the image are the image, so that nothing is random."""
    rig = tiny_rig()
    assert rig.clip_side == rig.pixels
    rig.scheduler.set_timesteps(4)
    t = rig.scheduler.timesteps[1]
    x, out = rig.prepare_latents(torch.Generator().manual_seed(1)), torch.zeros(1, 4, 8, 8)
    beta = 1 - rig.scheduler.alphas_cumprod[int(t)]
    latents = x.clone().requires_grad_()
    eps = rig.unet(latents * 1, t, torch.zeros(1, rig.tokens, 16)).sample
    x0 = (latents - beta.sqrt() * eps) / (1 - beta).sqrt()
    vae: Any = rig.vae
    image = vae.decode((x0 * beta.sqrt() + latents * (1 - beta.sqrt())) / 0.18215).sample
    image = (image / 2 + 0.5).clamp(0, 1)
    pixels = (image - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    embedding = nn.functional.normalize(rig.clip(pixel_values=pixels).image_embeds, dim=-1)
    target = torch.full((64,), 0.125)
    loss = 100 * 2 * torch.asin((embedding - target).norm() / 2) ** 2
    expected = beta.sqrt() * torch.autograd.grad(loss, latents)[0]
    assert float(expected.abs().max()) > 0
    found = community_of(rig)(x, t, out)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_cutouts_and_distance() -> None:
    torch.manual_seed(0)
    crops = cutouts(torch.arange(2.0).view(2, 1, 1, 1).expand(2, 3, 40, 30), 8, CUTOUTS)
    assert crops.shape == (2 * CUTOUTS, 3, 8, 8)
    assert crops.mean((1, 2, 3)).tolist() == pytest.approx([0, 1] * CUTOUTS, abs=1e-6)
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.6, 0.8])
    angle = math.acos(0.6)
    assert float(spherical_distance(a, b)) == pytest.approx(angle**2 / 2)


def test_live_bytes_by_hand() -> None:
    """Weights and views are free; the peak is what was alive at once."""
    weight = torch.ones(1000)
    with LiveBytes() as live:
        doubled = weight * 2
        seen = doubled.view(10, 100)
        del doubled, seen
        several = [weight + 1, weight + 2]
        several[0].add_(1)
        del several
    assert live.peak == 2 * 4000


def test_every_shape_has_a_denoiser_of_its_size() -> None:
    """Parameters of the published models, in billions."""
    sizes = {"sd15": 0.86, "sdxl": 2.57, "sd3": 2.03, "flux": 11.9}
    assert SHAPES.keys() == sizes.keys()
    with torch.device("meta"):
        for name, billions in sizes.items():
            count = sum(p.numel() for p in SHAPES[name].denoiser(1).parameters())
            assert count / 1e9 == pytest.approx(billions, rel=0.01)


def test_added_cost_against_the_community() -> None:
    rows = [
        {"shape": "a", "variant": "x0 + tiny AE", "flop_ratio": 1.2},
        {"shape": "a", "variant": "community", "flop_ratio": 5.0},
        {"shape": "b", "variant": "x0 + tiny AE", "flop_ratio": 9.0},
    ]
    assert added(rows, "flop_ratio") == pytest.approx(20)
    assert added(rows[2:], "flop_ratio") is None


def test_the_command(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipguide.evaluation.cost.shapes.SHAPES", {"tiny": TINY})
    done = cli("bench", "--shapes", "tiny", "--repeats", "1", "--json")
    assert done.code == 0
    rows = done.data["steps"]
    assert [row["variant"] for row in rows] == [*VARIANTS]
    assert rows[0]["flop_ratio"] == rows[0]["seconds_ratio"] == rows[0]["peak_ratio"] == 1
    ours = {row["variant"]: row for row in rows}
    assert 1 < ours["x0 + tiny AE"]["flop_ratio"] < ours["x0 + VAE"]["flop_ratio"]
    assert 1 < ours["x0 + tiny AE"]["peak_ratio"] < ours["xt + VAE"]["peak_ratio"]
    assert [row["variant"] for row in rows if row["target"]] == [LATENT, "x0 + tiny AE"]
    assert done.data["community_over_ours"]["flop_ratio"] > 1
    counted = cli("bench", "--shapes", "tiny", "--repeats", "0")
    assert counted.code == 0
    assert "community algorithm's are" in counted.out
    assert len(counted.out.splitlines()) == 2 + len(VARIANTS) + 1
    refused = cli("bench", "--shapes", "sd9")
    assert refused.code == 2
    assert "expected some of tiny" in refused.err
