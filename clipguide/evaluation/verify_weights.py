"""Checks against published figures of models whose weights are not in the package.

They run where the weights are in the Hub's cache and the data is there; nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from clipguide.evaluation.verification import Check, Figure, Skipped
from clipguide.evaluation.verify_data import RATINGS, data_file

OPENAI_CIFAR10 = {  # top-1 %, open_clip's results (docs/openclip_results.csv), 18 templates
    "RN50": 71.57,
    "RN101": 80.78,
    "RN50x4": 79.43,
    "RN50x16": 81.34,
    "RN50x64": 85.10,
    "ViT-B-32": 89.83,
    "ViT-B-16": 90.77,
    "ViT-L-14": 95.59,
    "ViT-L-14-336": 94.93,
}
OPENAI_FLICKR8K = {  # R@5 %, text to image and image to text, open_clip's results
    "ViT-B-32": (80.5, 91.4),
    "ViT-B-16": (82.9, 91.4),
    "ViT-L-14": (86.3, 94.1),
    "ViT-L-14-336": (88.0, 93.9),
}
EXPERT = {"clipscore": 51.2, "refclipscore": 53.0}  # tau-c %, Hessel et al. 2021, table 1
EXAMPLE = {  # the output that clipscore's own README shows
    "good": {"CLIPScore": 0.8585, "RefCLIPScore": 0.8450},
    "bad": {"CLIPScore": 0.7153, "RefCLIPScore": 0.7253},
}
SOURCE = "open_clip's published results"


def need_weights(architecture: str) -> str:
    """The scorer's name. Skipped where its weights are not in the Hub's cache."""
    import open_clip
    from huggingface_hub import try_to_load_from_cache

    config = open_clip.get_pretrained_cfg(architecture, "openai")
    repository = str(config.get("hf_hub", "")).rstrip("/")
    file = "open_clip_model.safetensors"
    if not isinstance(try_to_load_from_cache(repository, file), str):
        command = f"hf download {repository} {file}"
        raise Skipped(f"its weights are not in the cache: `{command}` gets them")
    return f"openai:{architecture}"


def zero_shot(architecture: str, data: Path | None) -> Sequence[Figure]:
    """Top-1 on CIFAR-10's test set, a folder for each class, with OpenAI's 18 templates."""
    name = need_weights(architecture)
    folder = data_file(data, "cifar10/test")
    from clipguide.clip.loading import load_scorer
    from clipguide.data.templates import TEMPLATES
    from clipguide.images import list_images

    scorer = load_scorer(name)
    labels = sorted(place.name for place in folder.iterdir() if place.is_dir())
    means = [
        scorer.encode_text([template.format(label) for template in TEMPLATES["cifar10"]]).mean(0)
        for label in labels
    ]
    classes = torch.stack([mean / mean.norm() for mean in means])  # (K, D)
    files = list_images([folder])
    best = (scorer.encode_image(files) @ classes.T).argmax(dim=1).tolist()
    right = sum(labels[i] == file.parent.name for i, file in zip(best, files, strict=True))
    return [Figure("top-1 %", 100 * right / len(files), OPENAI_CIFAR10[architecture], 0.3)]


def retrieval(architecture: str, data: Path | None) -> Sequence[Figure]:
    """R@5 both ways among the 1,000 test images of Flickr8k and their captions."""
    name = need_weights(architecture)
    folder = data_file(data, "flickr8k/test.txt").parent
    from clipguide.clip.loading import load_scorer
    from clipguide.data.pairs import from_captions
    from clipguide.evaluation.recall import recall_report

    pairs = from_captions(folder / "captions.tsv", folder / "images", folder / "test.txt")
    scorer = load_scorer(name)
    images = scorer.encode_image([picture.load() for picture in pairs.pictures])
    texts = scorer.encode_text(pairs.captions)
    report = recall_report(images, texts, torch.tensor(pairs.owners))
    directions = ("text_to_image", "image_to_text")
    return [
        Figure(f"R@5 {direction.replace('_', ' ')} %", report[direction]["R@5"], expected, 1.0)
        for direction, expected in zip(directions, OPENAI_FLICKR8K[architecture], strict=True)
    ]


def expert_agreement(data: Path | None) -> Sequence[Figure]:
    """tau-c of CLIPScore and RefCLIPScore with Flickr8k-Expert's 16,992 ratings."""
    name = need_weights("ViT-B-32")
    folder = data_file(data, "flickr8k/expert.tsv").parent
    from clipguide.clip.loading import load_scorer
    from clipguide.data.captions import read_captions
    from clipguide.data.ratings import read_ratings
    from clipguide.evaluation.agreement import agreement
    from clipguide.evaluation.reference_scores import clip_scores, ref_clip_scores

    rated, _ = read_ratings(folder / "expert.tsv", folder / "captions.tsv")
    own: dict[str, list[str]] = {}
    for caption in read_captions(folder / "captions.tsv"):
        own.setdefault(caption.image, []).append(caption.text)
    scorer = load_scorer(name)
    files = [folder / "images" / pair.image for pair in rated]
    texts = [pair.text for pair in rated]
    references = [own[pair.image] for pair in rated]
    scores = {
        "clipscore": clip_scores(scorer, files, texts),
        "refclipscore": ref_clip_scores(scorer, files, texts, references),
    }
    people, groups = [pair.ratings for pair in rated], [pair.image for pair in rated]
    found = {k: agreement(v.tolist(), people, groups, samples=1) for k, v in scores.items()}
    figures = [
        Figure(f"{k} tau-c %", found[k].tau_c, expected, 0.5) for k, expected in EXPERT.items()
    ]
    return [*figures, Figure("ratings", found["clipscore"].ratings, RATINGS, 0.0)]


def clipscore_example(data: Path | None) -> Sequence[Figure]:
    """The example of clipscore's own repository: its folder `example`, as data/clipscore."""
    name = need_weights("ViT-B-32")
    folder = data_file(data, "clipscore/good_captions.json").parent
    import json

    from clipguide.clip.loading import load_scorer
    from clipguide.evaluation.reference_scores import clip_scores, ref_clip_scores
    from clipguide.texts import read_text

    scorer = load_scorer(name)
    references = json.loads(read_text(folder / "refs.json"))
    figures: list[Figure] = []
    for kind, expected in EXAMPLE.items():
        captions = json.loads(read_text(folder / f"{kind}_captions.json"))
        stems = [*captions]
        files = [next((folder / "images").glob(f"{stem}.*")) for stem in stems]
        texts = [captions[stem] for stem in stems]
        got = {
            "CLIPScore": clip_scores(scorer, files, texts),
            "RefCLIPScore": ref_clip_scores(scorer, files, texts, [references[s] for s in stems]),
        }
        figures += [
            Figure(f"{kind} {measure}", float(got[measure].mean()), value, 0.002)
            for measure, value in expected.items()
        ]
    return figures


def _of(
    check: Callable[[str, Path | None], Sequence[Figure]], architecture: str
) -> Callable[[Path | None], Sequence[Figure]]:
    return lambda data: check(architecture, data)


WITH_WEIGHTS = (
    *(Check(f"openai:{a}, CIFAR-10", SOURCE, _of(zero_shot, a)) for a in OPENAI_CIFAR10),
    *(Check(f"openai:{a}, Flickr8k", SOURCE, _of(retrieval, a)) for a in OPENAI_FLICKR8K),
    Check("openai:ViT-B-32, Flickr8k-Expert", "Hessel et al. 2021, table 1", expert_agreement),
    Check("openai:ViT-B-32, clipscore's example", "README of clipscore", clipscore_example),
)
