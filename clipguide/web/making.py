"""A prompt to a picture with and without CLIP, watched while it is made."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from clipguide.attach.observe import Step
from clipguide.clip.scorer import Scorer
from clipguide.data.scene_captions import is_caption, unknown_words
from clipguide.generation.oracle import oracle_agrees
from clipguide.generation.record import parameters_of, record_of
from clipguide.generation.sampling import GeneratedImage, ImageGenerator, ImageRequest
from clipguide.generation.settings import Settings
from clipguide.images import to_pil
from clipguide.report.metadata import save_png
from clipguide.rewards.named import load_reward
from clipguide.web.curve import score_curve
from clipguide.web.site import Site

WAYS = ("gradients and search", "gradients", "search")
PREVIEWS = 8
"""Previews of one picture, at most: each costs a decode and a pass of the scorer."""
MOST_SEED = 2**32 - 1
EXAMPLE = "a red star left of a blue ring"
STRENGTH = 0.1
"""Of gradients where the settings have none: a tenth of x0's own size."""


@dataclass(frozen=True)
class Wish:
    """What is asked for.

    Attributes:
        prompt: the text.
        alternatives: texts that the picture must be told from; none: those of the reward's rules.
        way: one of `WAYS`.
        strength: of gradients; None: the settings'.
        seed: of the first sample.
    """

    prompt: str
    alternatives: tuple[str, ...] = ()
    way: str = WAYS[0]
    strength: float | None = None
    seed: int = 0

    def checked(self, site: Site) -> Wish:
        """The wish with its texts in order. ValueError: what is wrong with it."""
        prompt = site.limits.checked_text(self.prompt, "prompt")
        given = [text for text in self.alternatives if text.strip()]
        others = tuple(site.limits.checked_text(text, "alternative") for text in given)
        if any("|" in text or '"' in text for text in others):
            raise ValueError('got an alternative with | or ", expected words')
        if self.way not in WAYS:
            raise ValueError(f"got way {self.way!r}, expected one of {', '.join(WAYS)}")
        if not 0 <= self.seed <= MOST_SEED:
            raise ValueError(f"got seed {self.seed}, expected 0 to {MOST_SEED}")
        if self.strength is not None and not 0 < self.strength <= 1000:
            raise ValueError(f"got strength {self.strength}, expected a number above 0")
        return replace(self, prompt=prompt, alternatives=others)


@dataclass(frozen=True)
class Preview:
    """What a sample looks like so far.

    Attributes:
        image: decoded from the clean latent that the step stands for.
        call: how many steps of this picture were made, of all its samples.
        cosine: with the prompt, by the scorer that guides (of pictures).
        guided: whether CLIP has a say in it.
    """

    image: Image.Image
    call: int
    cosine: float
    guided: bool


@dataclass(frozen=True)
class Shown:
    """A finished picture as the page shows it.

    Attributes:
        file: a PNG with its record.
        seed: its own.
        scores: name of a scorer -> cosine.
        verdict: of the oracle; None where it cannot say.
        seconds: that it took.
    """

    file: Path
    seed: int
    scores: dict[str, float]
    verdict: bool | None
    seconds: float


@dataclass(frozen=True)
class Pair:
    """The same seed with CLIP and without."""

    wish: Wish
    guided: Shown
    unguided: Shown


def settings_of(site: Site, wish: Wish) -> Settings:
    """The site's settings with the wish's way, strength and alternatives."""
    base = site.run_settings
    searched = "search" in wish.way
    given = base.guidance.strength if wish.strength is None else wish.strength
    strength = (given or STRENGTH) if "gradients" in wish.way else 0.0
    changed: dict[str, Any] = {"guidance": replace(base.guidance, strength=strength)}
    changed["budget"] = min(base.budget, site.limits.budget)
    if searched:
        changed["search"] = base.search or "best_of"
    else:
        base = base.without_search()
    if wish.alternatives:
        told = f'contrast:"{"|".join(wish.alternatives)}"'
        changed |= {"reward": told, "preview": None, "final": None}
    return replace(base, **changed)


def generate(site: Site, wish: Wish, tell: Callable[[Preview], None]) -> Pair:
    """Makes the picture of a wish, and the plain one of the same seed.

    Args:
        site: the models.
        wish: what is asked for.
        tell: is told every preview; what it raises ends the work.

    Cost: those of `clipguide generate --compare`, and `PREVIEWS` decodes of each.
    Raises: ValueError for a wish that cannot be.
    """
    wish = wish.checked(site)
    settings, models = settings_of(site, wish), site.models
    if wish.alternatives:
        loaded = load_reward(settings.reward, models.scorer)
        models = replace(models, reward=loaded, preview=None, final=None)
    watch = _Watch(wish.prompt, models.picture_scorer, settings.steps or PREVIEWS, tell)
    generator = ImageGenerator(models, settings, watch)
    (guided,) = next(generator.generate([ImageRequest(wish.prompt, wish.seed)]))
    watch.begin(guided=False)
    plain = settings.unguided()
    baseline = ImageGenerator(models, plain, watch)
    (unguided,) = next(baseline.generate([ImageRequest(wish.prompt, wish.seed)]))
    found = [_shown(site, one, made) for one, made in ((generator, guided), (baseline, unguided))]
    return Pair(wish, *found)


def notice(site: Site, prompt: str) -> str:
    """What is to be said of a prompt before it is followed; "" where nothing is.

    The starter knows its own drawn scenes: other words mean nothing to it.
    """
    if site.settings.model != "starter" or is_caption(prompt):
        return ""
    words = ", ".join(unknown_words(prompt)[:5])
    told = f"It does not know: {words}" if words else "The words are known, the form is not"
    return f"The starter cannot read this. {told}. It knows texts such as: {EXAMPLE}."


class _Watch:
    """Makes previews of the steps of a run."""

    def __init__(
        self, prompt: str, scorer: Scorer, steps: int, tell: Callable[[Preview], None]
    ) -> None:
        self._prompt, self._scorer, self._tell = prompt, scorer, tell
        self._every = max(1, round(steps / PREVIEWS))
        self.begin(guided=True)

    def begin(self, *, guided: bool) -> None:
        """Another picture."""
        self._calls, self._guided = 0, guided

    def __call__(self, step: Step) -> None:
        self._calls += 1
        if step.index % self._every != self._every - 1:
            return
        first = replace(step, sample=step.sample[:1], output=step.output[:1])
        (image,) = to_pil(first.images().clamp(0, 1))
        cosine = float(self._scorer.score([image], self._prompt)[0])
        self._tell(Preview(image, self._calls, cosine, self._guided))


def _shown(site: Site, generator: ImageGenerator, made: GeneratedImage) -> Shown:
    models, settings = generator.models, generator.settings
    verdict = oracle_agrees(settings, made.image, made.prompt)
    record = record_of(models, settings, made)
    file = site.shelf.new_file(".png")
    save_png(made.image, file, record=record, parameters=parameters_of(models, settings, made))
    scores = {score.scorer: score.value for score in made.scores}
    return Shown(file, made.seed, scores, verdict, made.seconds)


def pair_table(pair: Pair) -> str:
    """HTML: the scores of both pictures, and what they say together."""
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{pair.unguided.scores[name]:.3f}</td>"
        f"<td>{value:.3f}</td><td>{value - pair.unguided.scores[name]:+.3f}</td></tr>"
        for name, value in pair.guided.scores.items()
    )
    verdicts = [_verdict(one.verdict) for one in (pair.unguided, pair.guided)]
    if any(verdicts):
        rows += f"<tr><td>oracle</td><td>{verdicts[0]}</td><td>{verdicts[1]}</td><td></td></tr>"
    seconds = [f"{one.seconds:.1f} s" for one in (pair.unguided, pair.guided)]
    rows += f"<tr><td>time</td><td>{seconds[0]}</td><td>{seconds[1]}</td><td></td></tr>"
    head = "<tr><th></th><th>without CLIP</th><th>with CLIP</th><th></th></tr>"
    return f'<table class="scores"><thead>{head}</thead><tbody>{rows}</tbody></table>'


def _verdict(right: bool | None) -> str:
    return "" if right is None else "right" if right else "wrong"


def curve(previews: Sequence[Preview]) -> str:
    """HTML: the scores of both pictures while they were made."""
    guided, unguided = (
        [(preview.call, preview.cosine) for preview in previews if preview.guided is kind]
        for kind in (True, False)
    )
    return score_curve(guided, unguided)
