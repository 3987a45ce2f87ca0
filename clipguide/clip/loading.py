"""From a name to a scorer: `load_scorer`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from clipguide.clip.cross_encoder import CrossEncoder, CrossEncoderModel
from clipguide.clip.cross_encoder_itm import load_itm
from clipguide.clip.cross_encoder_vqa import load_vqa
from clipguide.clip.dual_encoder import load_encoder
from clipguide.clip.dual_encoder_files import CONFIG
from clipguide.clip.finite import check_weights_finite
from clipguide.clip.inference_mode import ordinary_tensors
from clipguide.clip.language_files import CONFIG as LANGUAGE_CONFIG
from clipguide.clip.language_files import load_language_clip
from clipguide.clip.latent_clip import LatentClip, LatentClipConfig
from clipguide.clip.latent_files import CONFIG as LATENT_CONFIG
from clipguide.clip.latent_files import load_latent_clip, read_config
from clipguide.clip.latent_scorer import LatentScorer
from clipguide.clip.open_clip_model import load_open_clip, load_open_clip_folder
from clipguide.clip.probe import try_towers
from clipguide.clip.protocol import ClipModel
from clipguide.clip.refusals import refusing
from clipguide.clip.scorer import Scorer
from clipguide.clip.transformers_clip import (
    TransformersClip,
    load_transformers,
    read_preprocess,
)

Loader = Callable[[str, str, torch.dtype], ClipModel]  # (name, what follows the scheme, dtype)

LoadCrossEncoder = Callable[[str, str, torch.dtype], CrossEncoderModel]

ASSETS = Path(__file__).parent.parent / "assets" / "starter"

BUNDLED = {
    "starter": ASSETS / "clip",
    "starter:judge": ASSETS / "judge",
    "starter:latent": ASSETS / "latent",
}
"""Name -> folder of the models that come with the package."""

OPENAI = (
    "RN50",
    "RN101",
    "RN50x4",
    "RN50x16",
    "RN50x64",
    "ViT-B-32",
    "ViT-B-16",
    "ViT-L-14",
    "ViT-L-14-336",
)
"""The architectures whose weights OpenAI released, as "openai:ARCH"."""


def _load_openai(name: str, architecture: str, dtype: torch.dtype) -> ClipModel:
    if architecture not in OPENAI:
        raise ValueError(f"{name}: got architecture {architecture!r}, expected one of {[*OPENAI]}")
    return load_open_clip(name, f"{architecture}/openai", dtype)


def _load_folder(name: str, folder: str, dtype: torch.dtype) -> ClipModel:
    for marker, loader in FOLDERS.items():
        if Path(folder, marker).is_file():
            with refusing(name):
                return loader(name, folder, dtype)
    raise ValueError(f"{name}: got a folder with none of {[*FOLDERS]}, expected a saved model")


def _load_latent(name: str, folder: str, dtype: torch.dtype) -> ClipModel:
    return load_latent_clip(name, folder, dtype, load_scorer)


def _load_language(name: str, folder: str, dtype: torch.dtype) -> ClipModel:
    return load_language_clip(name, folder, dtype, load_scorer)


SCHEMES: dict[str, Loader] = {
    "open_clip": load_open_clip,
    "openai": _load_openai,
    "hf": load_transformers,
}
"""What stands before the colon of a name -> how it is loaded."""

CROSS_ENCODERS: dict[str, LoadCrossEncoder | str] = {
    "vqa": load_vqa,
    "itm": load_itm,
    "caption-back": "clipguide.language.judges:load_caption_back",
    "log-prob": "clipguide.language.judges:load_log_probability",
}
"""The same for models that are no CLIP: they score, and guide nothing. Captioners are named, not
imported: their layer is above this one."""

FOLDERS: dict[str, Loader] = {
    CONFIG: load_encoder,
    LATENT_CONFIG: _load_latent,
    LANGUAGE_CONFIG: _load_language,
    "config.json": load_transformers,
    "open_clip_config.json": load_open_clip_folder,
}
"""The file that marks a kind of saved model -> how its folder is loaded."""

CHOICES = (
    *BUNDLED,
    "open_clip:ARCH/TAG",
    "openai:ARCH",
    "hf:REPOSITORY_OR_FOLDER",
    "a folder with a saved model",
    "vqa:REPOSITORY_OR_FOLDER",
    "itm:REPOSITORY_OR_FOLDER",
    "caption-back:CAPTIONER[@TEXT_ENCODER]",
    "log-prob:CAPTIONER[@ALPHA]",
)
"""What `load_scorer` takes, for messages and help."""


@ordinary_tensors()
def load_scorer(
    name: str | Path | Scorer,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Scorer:
    """Load a CLIP by name, ready to score. Weights come from safetensors only.

    Args:
        name: "starter", "starter:judge" or "starter:latent" (in the package; the last reads noisy
            latents: a `LatentScorer`, as of any folder of such a model); "open_clip:ARCH/TAG",
            where TAG is one of open_clip's tags, a .safetensors file or "random"; "openai:ARCH" for
            OpenAI's nine; "hf:" and a Hub repository or a folder with any transformers model that
            has an image and a text tower; a folder. "vqa:" and "itm:" before a repository or a
            folder make a `CrossEncoder` of an image-text-to-text model or of BLIP's matching head,
            which scores and guides nothing; "caption-back:" and "log-prob:" before a captioner do
            too (`clipguide.language.judges`). A `Scorer` is moved to `device` and returned.
        device: where the model shall be.
        dtype: type of the weights; unit vectors are float32 whatever it is.

    Raises:
        ValueError: unknown name (the choices are listed), or a model that cannot be loaded, or of
            which a weight is NaN or infinite (named); a tokenizer or a preprocessing that its
            towers cannot take, tried on the prompt "a" and a black image.

    Example:
        >>> load_scorer("hf:openai/clip-vit-base-patch32", dtype=torch.bfloat16).device
        device(type='cpu')
    """
    if isinstance(name, Scorer):
        return name.to(device)
    if (cross_encoder := _load_cross_encoder(str(name), dtype)) is not None:
        return cross_encoder.to(device)
    model = _load(str(name), dtype)
    check_weights_finite(str(name), model.module)
    if isinstance(model, LatentClip):
        return LatentScorer(model).to(device)
    with refusing(str(name)):
        try_towers(model)
    return Scorer(model).to(device)


def latent_config(name: str) -> LatentClipConfig | None:
    """Teacher, guidance and autoencoder of a scorer of latents, without loading it; None where
    `name` stands for another kind of scorer, or for one that `load_scorer` will refuse."""
    return read_config(BUNDLED.get(name, Path(name).expanduser()))


def scorer_of(model: Any, processor: Any) -> Scorer:
    """A CLIP of transformers that is in memory already, as a scorer; it is frozen from then on.

    Args:
        model: a transformers dual encoder, such as `CLIPModel`, where and as precise as it is.
        processor: its `CLIPProcessor`, the tokenizer and the image processor.

    Raises:
        ValueError: image preprocessing that is not known.
    """
    name: str = model.config.name_or_path or "clip_model"
    preprocess = read_preprocess(processor.image_processor.to_dict(), name)
    return Scorer(TransformersClip(name, model, processor.tokenizer, preprocess))


def is_cross_encoder(name: str) -> bool:
    """Whether `load_scorer` makes a `CrossEncoder` of it."""
    return name.partition(":")[0] in CROSS_ENCODERS and ":" in name


def _load_cross_encoder(name: str, dtype: torch.dtype) -> CrossEncoder | None:
    if not is_cross_encoder(name):
        return None
    scheme, _, rest = name.partition(":")
    with refusing(name):
        model = _cross_encoder_loader(scheme)(name, rest, dtype)
    check_weights_finite(name, model.module)
    return CrossEncoder(model)


def _cross_encoder_loader(scheme: str) -> LoadCrossEncoder:
    found = CROSS_ENCODERS[scheme]
    if not isinstance(found, str):
        return found
    module, _, name = found.partition(":")
    load: LoadCrossEncoder = getattr(importlib.import_module(module), name)
    return load


def _load(name: str, dtype: torch.dtype) -> ClipModel:
    if name in BUNDLED:
        if not BUNDLED[name].is_dir():
            raise ValueError(f"{name}: its weights are not installed (expected {BUNDLED[name]})")
        return _load_folder(name, str(BUNDLED[name]), dtype)
    scheme, colon, rest = name.partition(":")
    if colon and scheme in SCHEMES:
        with refusing(name):
            return SCHEMES[scheme](name, rest, dtype)
    if Path(name).expanduser().is_dir():
        return _load_folder(name, str(Path(name).expanduser()), dtype)
    raise ValueError(f"got scorer {name!r}, expected one of: {', '.join(CHOICES)}")
