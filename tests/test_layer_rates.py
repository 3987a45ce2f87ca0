"""Layer-wise learning rates: each block before the last learns `layer_decay` times less."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_backbones import tiny_backbones

from clipguide.clip.dual_encoder import DualEncoder
from clipguide.training.config import TrainSettings
from clipguide.training.unfreeze import unfreeze

# of the tiny text backbone, from its input to its output
TEXT = ("text.model.embeddings.", "text.model.encoder.layer.0.", "text.model.encoder.layer.1.")


@pytest.mark.parametrize("decay", [0.5, 0.8, 1.0])
@pytest.mark.parametrize("live", [1, 2, 3])
def test_rates_fall_from_the_last_block_to_the_first(
    live: int, decay: float, tmp_path: Path
) -> None:
    text, image = tiny_backbones(tmp_path)
    model = DualEncoder.from_backbones(str(text), str(image))
    settings = TrainSettings(
        unfreeze_text=live, unfreeze_image=2, backbone_rate=0.1, layer_decay=decay
    )
    rates = unfreeze(model, settings)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    for depth, block in enumerate(reversed(TEXT)):  # 0.1, 0.1·decay, 0.1·decay·decay
        names = {name for name in rates if name.startswith(block)}
        assert names
        assert (names <= trained) == (depth < live)
        for name in names & trained:
            assert rates[name] == pytest.approx(0.1 * [1.0, decay, decay * decay][depth], rel=1e-12)
    stages = [
        [rates[n] for n in trained if f"image.model.encoder.stages.{i}." in n] for i in (2, 3)
    ]
    assert stages[0]
    assert stages[0] == pytest.approx([0.1 * decay] * len(stages[0]), rel=1e-12)
    assert set(stages[1]) == {0.1}
    heads = {name for name in trained if "head" in name}
    assert heads
    assert all(rates[name] == 1.0 for name in heads)
