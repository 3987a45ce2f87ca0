"""What the bundled starter is for, and what is said where something else is given to it.

It knows drawn scenes of coloured shapes and nothing else, but has a score for every picture and
every text. So it is the default for the pictures that it made itself, and never for others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import note
from clipguide.cli.quiet import quiet_libraries

if TYPE_CHECKING:
    from clipguide.clip.scorer import Scorer

STARTER = "starter"
FOR_PHOTOGRAPHS = (
    "for photographs --scorer open_clip:ViT-B-32/openai or hf:openai/clip-vit-base-patch32 "
    "(fetched once) or a model's directory; for scenes that it can draw, --scorer starter"
)
MOST = 8  # words named in one line


def scorer_for(given: str | None, pictures: Iterable[str | Path]) -> str:
    """The scorer that was given, or the starter where it made all of the pictures.

    A picture says in its metadata by which model it was made. It is read of every picture up to
    the first that is not the starter's, and of none where a scorer is given.

    Raises: Mistake names that picture, and what to pass.
    """
    if given is not None:
        return given
    from clipguide.report.generated import model_of

    for picture in pictures:
        if model_of(Path(picture)) != STARTER:
            raise Mistake(
                f"give --scorer: {picture} was not made by the bundled starter, and the starter "
                f"knows only what it draws: {FOR_PHOTOGRAPHS}"
            )
    return STARTER


def load_scorer_for(
    given: str | None, pictures: Iterable[str | Path], texts: Iterable[str], device: str
) -> Scorer:
    """The scorer of `scorer_for`, loaded; what it cannot read of the texts is said before."""
    name = scorer_for(given, pictures)
    heed_grammar(name, texts)
    from clipguide.clip.loading import load_scorer

    quiet_libraries(diffusers=False)
    return load_scorer(name, device=device)


def need_scorer(given: str | None, what: str) -> str:
    """The scorer that was given. Raises: Mistake where there is none, for `what`."""
    if given is None:
        raise Mistake(f"give --scorer: {what}: {FOR_PHOTOGRAPHS}")
    return given


def need_scorer_beside(model: str, given: str | None) -> None:
    """Mistake where another model than the starter is to be scored by none that was given."""
    if model != STARTER:
        need_scorer(given, f"{model} is scored by a CLIP that knows its pictures")


def scorer_of_new_index(given: str | None, source: Path) -> str:
    """As `scorer_for` for a folder, pictures made of others aside; a captions file has none."""
    if not source.is_dir():
        return need_scorer(given, "captions have none by default")
    from clipguide.images import list_images
    from clipguide.report.metadata import is_composite

    return scorer_for(given, (file for file in list_images([source]) if not is_composite(file)))


def is_starter(name: str) -> bool:
    """Whether a model or scorer of this name is one of the bundled ones."""
    return name.partition(":")[0] == STARTER


def heed_grammar(names: str | Sequence[str], texts: Iterable[str]) -> None:
    """A line on stderr where the starter is asked about texts that it cannot read.

    Args:
        names: the models that read them; nothing is said where none of them is bundled.
        texts: prompts, captions or queries.
    """
    if not any(map(is_starter, [names] if isinstance(names, str) else names)):
        return
    from clipguide.data.scene_captions import is_caption, unknown_words

    asked = [*dict.fromkeys(texts)]
    outside = [text for text in asked if not is_caption(text)]
    if not outside:
        return
    words = [*dict.fromkeys(word for text in outside for word in unknown_words(text))]
    shown = ", ".join(words[:MOST]) + (f" and {len(words) - MOST} more" if words[MOST:] else "")
    told = f"it does not know: {shown}" if words else "the words are known, the form is not"
    which = repr(outside[0]) if len(outside) == 1 else f"{len(outside)} of {len(asked)} texts"
    note(
        f"clipguide: warning: the starter cannot read {which} ({told}); it knows texts such as "
        "'a small striped red star left of a blue ring', and its scores of others mean nothing"
    )


def heed_labels(name: str, labels: Iterable[str]) -> None:
    """The same for labels, which are a part of a text: only unknown words are outside."""
    if is_starter(name):
        from clipguide.data.scene_captions import unknown_words

        heed_grammar(name, [label for label in labels if unknown_words(label)])
