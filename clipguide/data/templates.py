"""Prompt templates for zero-shot classification, by name: OpenAI's, one set per dataset.

From the prompts that OpenAI published with CLIP (its repository, data/prompts.md and notebooks,
MIT licence), spelled as there ("a embroidered"). {} is where the label goes.
"""

from __future__ import annotations

_PICTURES = (
    "a bad photo of,a sculpture of,a low resolution photo of,a rendering of,graffiti of,"
    "a cropped photo of,a tattoo of,a bright photo of,a dark photo of,a drawing of,"
    "a close-up photo of,a black and white photo of,a painting of,a pixelated photo of,"
    "a jpeg corrupted photo of,a blurry photo of,a photo of,a good photo of,a doodle of,"
    "a sketch of,a rendition of,art of,itap of"
)
_STATES = "hard to see,clean,dirty,cool,large,nice,weird,small"
_MATERIALS = "embroidered,plastic,origami,toy,cartoon,plushie"


def _both(phrases: list[str]) -> list[str]:
    """# as "a", then all again as "the"."""
    return [phrase.replace("#", article) for article in ("a", "the") for phrase in phrases]


def _imagenet() -> tuple[str, ...]:
    """The 80 templates for ImageNet."""
    phrases = [f"{picture} # {{}}." for picture in _PICTURES.split(",")]
    phrases += [f"a photo of # {state} {{}}." for state in _STATES.split(",")]
    phrases += [f"# {material} {{}}." for material in _MATERIALS.split(",")]
    phrases += ["# {} in a video game."]
    counted = [f"a photo of {which} {{}}." for which in ("many", "my", "one")]
    return (*_both(phrases), *counted, "itap of my {}.")


def _cifar() -> tuple[str, ...]:
    kinds = ("", "blurry ", "black and white ", "low contrast ", "high contrast ", "bad ", "good ")
    phrases = [f"a {kind}photo of # {{}}." for kind in kinds]
    return tuple(_both([*phrases, "a photo of # small {}.", "a photo of # big {}."]))


def _caltech() -> tuple[str, ...]:
    arts = "photo,painting,sculpture,sketch,tattoo,rendition,drawing,doodle"
    phrases = [f"a {art} of # {{}}." for art in arts.split(",")]
    phrases += [f"# {material} {{}}." for material in _MATERIALS.split(",")]
    return tuple(_both([*phrases, "# {} in a video game.", "art of # {}.", "graffiti of # {}."]))


def _actions(persons: tuple[str, ...], without: tuple[str, ...]) -> tuple[str, ...]:
    verbs = ("", "using ", "doing ", "during ", "performing ", "practicing ")
    media = ("photo", "video", "example", "demonstration")
    return tuple(
        f"a {medium} of {subject}{{}}."
        for medium in media
        for subject in (*without, *(f"{person} {verb}" for person in persons for verb in verbs))
    )


def _aerial() -> tuple[str, ...]:
    views = [f"{how} {what}" for what in ("imagery", "photo", "view") for how in _ABOVE]
    return tuple(f"{view} of {article}{{}}." for article in ("", "a ", "the ") for view in views)


_ABOVE = ("satellite", "aerial")
_SIGN = 'photo of a "{}" traffic sign.'
_PLAIN = ("a photo of a {}.", "a photo of the {}.")
_OWNED = ("", "dirty ", "clean ", "new ", "old ")

TEMPLATES: dict[str, tuple[str, ...]] = {
    "plain": ("a photo of a {}.",),
    "label": ("{}",),
    "openai": _imagenet(),
    "birdsnap": ("a photo of a {}, a type of bird.",),
    "caltech101": _caltech(),
    "cifar10": _cifar(),
    "cifar100": _cifar(),
    "clevr_counts": ("a photo of {} objects.",),
    "country211": (
        "a photo i took in {}.",
        "a photo i took while visiting {}.",
        "a photo from my home country of {}.",
        "a photo from my visit to {}.",
        "a photo showing the country of {}.",
    ),
    "dtd": tuple(
        _both([f"a photo of # {{}} {w}." for w in ["texture", "pattern", "thing", "object"]])
    ),
    "eurosat": tuple(
        f"a centered satellite photo of {article}{{}}." for article in ("", "a ", "the ")
    ),
    "fer2013": (
        "a photo of a {} looking face.",
        "a photo of a face showing the emotion: {}.",
        "a photo of a face looking {}.",
        "a face that looks {}.",
        "they look {}.",
        "look at how {} they are.",
    ),
    "fgvc_aircraft": tuple(_both(["a photo of # {}, a type of aircraft."])),
    "flowers102": ("a photo of a {}, a type of flower.",),
    "food101": ("a photo of {}, a type of food.",),
    "gtsrb": tuple(f"a {how} {_SIGN}" for how in ("zoomed in", "centered", "close up")),
    "kinetics700": _actions(("a person",), ("",)),
    "mnist": ('a photo of the number: "{}".',),
    "oxford_pets": ("a photo of a {}, a type of pet.",),
    "patch_camelyon": ("this is a photo of {}",),
    "resisc45": _aerial(),
    "sst2": ("a {} review of a movie.",),
    "stanford_cars": (
        *_PLAIN,
        "i love my {}!",
        *(f"a photo of my {state}{{}}." for state in _OWNED),
    ),
    "stl10": _PLAIN,
    "sun397": _PLAIN,
    "ucf101": _actions(("a person", "the person"), ()),
    "voc2007": ("a photo of a {}.",),
}
"""Sets of templates by name; "openai" is the ensemble for ImageNet, good for most labels."""
