"""Latent scorers made from a teacher on a few pictures: data, losses, runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from torch import Tensor
from torch.nn import functional

from clipguide.attach.decoders import DECODERS
from clipguide.clip.latent_scorer import LatentScorer
from clipguide.clip.loading import load_scorer
from clipguide.clip.preprocess import Preprocess
from clipguide.data.pairs import from_captions
from clipguide.images import load_image
from clipguide.training.autoencoders import encode_images, load_autoencoder
from clipguide.training.distillation import caption_loss, feature_loss, noise_levels
from clipguide.training.distillation_config import read_distill_config
from clipguide.training.distillation_rows import latent_preprocess
from clipguide.training.distillation_run import DistillationRun
from tests.tiny_backbones import toy_captions
from tests.tiny_clip import tiny_clip_dir


def tiny_autoencoder(folder: Path, channels: int = 4) -> Path:
    """TAESD's class: 8 pixels a latent cell."""
    torch.manual_seed(0)
    widths = (8, 8, 8, 8)
    AutoencoderTiny(
        encoder_block_out_channels=widths, decoder_block_out_channels=widths,
        num_encoder_blocks=(1, 1, 1, 1), num_decoder_blocks=(1, 1, 1, 1),
        latent_channels=channels,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, a teacher, an autoencoder, and a configuration."""
    folder = tmp_path_factory.mktemp("toys")
    toy_captions(folder)
    tiny_clip_dir(folder / "clip")
    tiny_autoencoder(folder / "vae")
    split = ['captions = "captions.tsv"', 'images = "images"']
    lines = [
        'output = ""', "[data.train]", *split, "[data.dev]", *split,
        "[latent]", 'teacher = "./clip"', 'autoencoder = "./vae"', "image_size = 64",
        "stem_width = 16", "stem_blocks = 1", "[train]", "stem_epochs = 1", "stem_batch = 6",
        "epochs = 2", "batch = 5", "views = 2", "others = 6", "warmup = 1", "save_every = 1",
        "levels = [0, 0.7]",
    ]  # fmt: skip
    (folder / "toy.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def recall(images: Tensor, texts: Tensor, owners: Tensor) -> float:
    """Of every caption's own picture among the first ten, counted one by one."""
    order = (texts @ images.T).argsort(dim=1, descending=True)[:, :10]
    return 100 * sum(int(o in row) for o, row in zip(owners, order, strict=True)) / len(owners)


def run_of(toys: Path, output: Path, *changes: str) -> DistillationRun:
    places = [f"output={output}", f"cache={toys / 'cache'}"]
    config = read_distill_config(toys / "toy.toml", [*places, *changes])
    return DistillationRun(config, recall, lambda line: None)


def test_a_run_makes_a_latent_scorer(toys: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    results = run_of(toys, tmp_path / "run").train(on_epoch=lambda epoch, _: seen.append(epoch))
    assert seen == [1, 2]
    assert {"R@10 sigma_bar 0", "cosine sigma_bar 0.7"} < {*results["dev"]}
    scorer = load_scorer(tmp_path / "run")
    assert isinstance(scorer, LatentScorer)
    autoencoder = load_autoencoder(str(toys / "vae"))
    scorer.check_autoencoder(autoencoder)
    latents, level = torch.randn(2, 4, 8, 12), torch.tensor([0.0, 0.7])
    again = run_of(toys, tmp_path / "again")
    again.train()
    other = load_scorer(tmp_path / "again")
    assert isinstance(other, LatentScorer)  # the same seed gives the same bits
    assert torch.equal(scorer.encode_latents(latents, level), other.encode_latents(latents, level))
    with pytest.raises(ValueError, match="already there"):
        run_of(toys, tmp_path / "run").train()


@pytest.mark.parametrize("killed_at", [1, 3])
def test_resumes_to_the_bit(toys: Path, tmp_path: Path, killed_at: int) -> None:
    """Killed in the first phase, and in the second."""
    whole = run_of(toys, tmp_path / "whole")
    whole.train()

    def kill(step: int, _steps: int, _loss: float) -> None:
        if step == killed_at + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_of(toys, tmp_path / "killed").train(on_step=kill)
    resumed = run_of(toys, tmp_path / "killed")
    resumed.train(resume=True)
    expected = whole.tower.state_dict()
    for name, value in resumed.tower.state_dict().items():
        assert torch.equal(value, expected[name]), name
    history = [json.loads((tmp_path / n / "history.json").read_text()) for n in ("whole", "killed")]
    assert history[0] == history[1]


def test_the_first_phase_trains_the_stem_alone(toys: Path, tmp_path: Path) -> None:
    run = run_of(toys, tmp_path / "run", "train.stem_epochs=30", "train.stem_rate=0.01")
    before = {name: value.clone() for name, value in run.tower.named_parameters()}
    losses: list[float] = []

    def stop(step: int, _steps: int, loss: float) -> None:
        losses.append(loss)
        if step == 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.train(on_step=stop)
    changed = {n.split(".")[0] for n, v in run.tower.named_parameters() if not v.equal(before[n])}
    assert changed == {"stem", "level"}
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_the_rows_are_what_teacher_and_autoencoder_make(toys: Path, tmp_path: Path) -> None:
    run = run_of(toys, tmp_path / "run")
    photos, teacher = run.splits["train"], load_scorer(toys / "clip")
    assert photos.latents.shape == (2, 12, 4, 8, 8)
    assert photos.features is not None
    picture = load_image(photos.pairs.pictures[3].name)
    with torch.no_grad():
        expected = teacher.encode_image([picture])[0]
        pixels = teacher.preprocess.from_pil(picture)[None].float() / 255
        patches = teacher.model.module.get_submodule("vision_model.embeddings.patch_embedding")
        entry = patches(teacher.preprocess.normalize(pixels))[0]
        shown = picture.resize((round(40 * 64 / 36), 64), 3)
        left = (shown.width - 64) // 2
        values = torch.tensor([*shown.crop((left, 0, left + 64, 64)).tobytes()])
        image = values.view(64, 64, 3).permute(2, 0, 1)[None].float() / 255
        latents = run.autoencoder.get_submodule("encoder")(image)[0]
    assert torch.allclose(photos.vectors[0, 3], expected, atol=1e-5)
    assert torch.allclose(photos.features[0, 3].float(), entry, atol=1e-2)
    assert torch.allclose(photos.latents[0, 3].float(), latents, atol=1e-2)
    assert not torch.allclose(photos.vectors[1, 3], expected, atol=1e-3)  # another view
    texts = teacher.encode_text([*photos.pairs.captions])
    assert torch.allclose(photos.texts, texts, atol=1e-5)


@pytest.mark.parametrize("kind", ["factor", "shift", "channels", "tiny"])
def test_encoding_is_the_inverse_of_what_decoders_undo(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae: Any = load_autoencoder(str(tiny_autoencoder(tmp_path / "vae")))
    if kind != "tiny":
        statistics = {"latents_mean": [0.3] * 4, "latents_std": [1.7] * 4}
        made: Any = AutoencoderKL
        vae = made(
            block_out_channels=(8,), norm_num_groups=4, latent_channels=4,
            scaling_factor=0.3, shift_factor=0.2 if kind == "shift" else None,
            **(statistics if kind == "channels" else {}),
        ).eval()  # fmt: skip
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        encoded = vae.encode(images * 2 - 1)
        raw = encoded.latents if kind == "tiny" else encoded.latent_dist.mean
        row: Any = DECODERS[type(vae).__name__]
        assert torch.allclose(row.unscale(vae, encode_images(vae, images)), raw, atol=1e-5)


def test_the_same_part_of_a_picture_is_encoded() -> None:
    teacher = Preprocess((256, 256), (224, 224), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), fill=7)
    shown = latent_preprocess(teacher, 448)
    assert (shown.size, shown.crop) == ((512, 512), (448, 448))
    for source in ((600, 800), (333, 500)):
        for small, large in zip(teacher.axes(source), shown.axes(source), strict=True):
            for a, b in zip(small.kept, large.kept, strict=True):
                assert abs(2 * a - b) <= 2


def test_losses_by_hand() -> None:
    torch.manual_seed(0)
    predicted, target = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    level = torch.tensor([0.0, 0.6, 1.0])
    weights = [1.05, 0.69, 0.05]
    errors = [float((predicted[i] - target[i]).pow(2).mean()) for i in range(3)]
    expected = sum(w * e for w, e in zip(weights, errors, strict=True)) / sum(weights)
    assert float(feature_loss(predicted, target, level)) == pytest.approx(expected, rel=1e-5)
    vectors, texts, others = (functional.normalize(torch.randn(n, 8), dim=1) for n in (3, 3, 5))
    scale = torch.tensor([3.0, 5.0, 7.0])
    total = 0.0
    for i in range(3):
        to_text = [scale[i] * vectors[i] @ t for t in [*texts, *others]]
        to_image = [scale[j] * vectors[j] @ texts[i] for j in range(3)]
        for scores in (to_text, to_image):
            total -= float(scores[i] - torch.logsumexp(torch.stack(scores), dim=0)) / 6
    found = caption_loss(vectors, texts, others, scale)
    assert float(found) == pytest.approx(total, rel=1e-5)


def test_noise_levels() -> None:
    levels = noise_levels(20_000, torch.Generator().manual_seed(0))
    assert float(levels.min()) >= 0
    assert float(levels.max()) <= 1
    even, middle = levels[::2], levels[1::2]
    shares = torch.histc(even, 5, 0, 1) / len(even)
    assert torch.allclose(shares, torch.full((5,), 0.2), atol=0.02)
    assert float(middle.median()) == pytest.approx(0.75, abs=0.01)
    assert torch.equal(levels, noise_levels(20_000, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("latent.teacher=", "latent.teacher"),
        ("train.batch=1", "train.batch 1, expected 2 or more"),
        ("train.levels=[1.5]", "numbers from 0 to 1"),
        ("train.precision=int8", "train.precision 'int8'"),
        ("train.rate=1", "got key train.rate, expected one of"),
        ("latent.autoencoder=./clip", "clip"),
        ("latent.teacher=starter:nothing", "got scorer 'starter:nothing'"),
    ],
)
def test_mistakes_are_named(toys: Path, tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace(".", r"\.").replace("[", r"\[")):
        run_of(toys, tmp_path / "run", change)


def test_a_picture_that_cannot_be_read_is_left_out(toys: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    file = toy_captions(folder)
    (folder / "images" / "red_ball.png").write_bytes(b"no picture")
    notes: list[str] = []
    config = read_distill_config(
        toys / "toy.toml",
        [f"output={tmp_path / 'run'}", f"cache={tmp_path / 'cache'}", f"root={folder}",
         f'data.train.captions="{file}"'],
    )  # fmt: skip
    run = DistillationRun(config, recall, notes.append)
    assert any("red_ball.png" in line for line in notes)
    kept = from_captions(toys / "captions.tsv", toys / "images")
    assert len(run.splits["train"].pairs.pictures) == len(kept.pictures) - 1


def test_the_command(toys: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    output = tmp_path / "run"
    done = cli("train", str(toys / "toy.toml"), "--set", f"output={output}", "--json")
    assert done.code == 0
    assert done.data["output"] == str(output)
    assert (output / "latent_clip.json").is_file()
    shown = cli("train", str(toys / "toy.toml"), "--set", f"output={output}", "--resume")
    assert shown.code == 0
    assert "sigma_bar 0.7" in shown.out
    refused = cli("train", str(toys / "toy.toml"), "--set", "output=")
    assert refused.code == 2
    assert "output=DIR" in refused.err


RECIPES = Path(__file__).parents[1] / "training" / "latent"


@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd3", "flux"])
def test_recipes_of_flickr8k(
    name: str, toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each recipe for two steps of a phase, on toys in the place of photos, teacher and TAESD."""
    monkeypatch.setenv("CLIPGUIDE_DATA", "/shared")
    changes, channels = (
        ["output=run", "latent.teacher=teacher"],
        16 if name in ("sd3", "flux") else 4,
    )
    config = read_distill_config(RECIPES / f"{name}.toml", changes)
    assert config.root == "/shared/flickr8k"
    assert config.latent.autoencoder.startswith("/shared/taesd/")
    assert {*config.data} == {"train", "dev", "test"}
    vae = tiny_autoencoder(tmp_path / "vae", channels)
    _two_steps(name, toys, tmp_path, f"latent.teacher={toys / 'clip'}", f"latent.autoencoder={vae}")
    scorer = load_scorer(tmp_path / "run")
    assert isinstance(scorer, LatentScorer)
    assert scorer.channels == channels


def test_the_recipe_of_vit_b32(toys: Path, tmp_path: Path, tiny_open_clip: str) -> None:
    """On a tiny open_clip model of random weights."""
    teacher, vae = f"latent.teacher=open_clip:{tiny_open_clip}/random", toys / "vae"
    _two_steps("vit_b32", toys, tmp_path, teacher, f"latent.autoencoder={vae}", "device=cpu")
    assert load_scorer(tmp_path / "run").embed_dim == 16


def _two_steps(name: str, toys: Path, folder: Path, *changes: str) -> None:
    split = '{captions="captions.tsv", images="images"}'
    few = ("latent.image_size=64", "train.stem_epochs=1", "train.epochs=1", "train.batch=6",
           "train.stem_batch=6", "latent.stem_width=8", "latent.stem_blocks=1")  # fmt: skip
    config = read_distill_config(
        RECIPES / f"{name}.toml",
        [f"root={toys}", f"data={{train={split}, dev={split}}}", *few, *changes,
         f"output={folder / 'run'}"],
    )  # fmt: skip
    steps: list[int] = []
    run = DistillationRun(config, recall, lambda line: None)
    run.train(on_step=lambda step, steps_in_all, _: steps.append(steps_in_all))
    assert steps == [4] * 4
