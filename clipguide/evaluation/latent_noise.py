"""What a latent scorer is worth at each noise level, beside ways that need a clean picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from clipguide.evaluation.recall import retrieval

LEVELS = (0.0, 0.25, 0.5, 0.7, 0.85, 0.95)
"""sigma_bar of the columns."""
BATCH = 32
"""Pictures encoded at once."""

Encode = Callable[[Tensor, float], Tensor]
"""(noisy latents (B, C, h, w) in the normal form, sigma_bar) -> unit vectors (B, D)."""


@dataclass(frozen=True)
class Held:
    """Test pictures and their captions.

    Attributes:
        latents: (N, C, h, w) clean, scaled.
        texts: (M, D) unit vectors of the captions.
        owners: (M,) the picture of each.
        seed: of the noise, which picture i has alike at every level.
    """

    latents: Tensor
    texts: Tensor
    owners: Tensor
    seed: int = 0

    def noisy(self, sigma_bar: float) -> Iterator[Tensor]:
        """Parts of `BATCH` at a noise level, in the normal form."""
        source = torch.Generator().manual_seed(self.seed)
        for part in self.latents.split(BATCH):
            noise = torch.randn(part.shape, generator=source).to(part)
            yield (1 - sigma_bar**2) ** 0.5 * part + sigma_bar * noise

    def recall(self, vectors: Tensor) -> float:
        """R@10 of text to image, in percent."""
        return retrieval(vectors, self.texts, self.owners)["text_to_image"].at[10]


@torch.no_grad()
def recall_by_noise(held: Held, encode: Encode, levels: Sequence[float]) -> dict[float, float]:
    """R@10 of text to image, in percent, of noisy latents.

    **Cost**: one call of `encode` per `BATCH` latents and level.

    Example:
        >>> latents = torch.randn(20, 4, 8, 8)
        >>> unit = lambda x, sigma_bar: functional.normalize(x.flatten(1), dim=1)
        >>> held = Held(latents, unit(latents, 0), torch.arange(20))
        >>> recall_by_noise(held, unit, (0.0,))
        {0.0: 100.0}
    """
    return {
        level: held.recall(torch.cat([encode(part, level) for part in held.noisy(level)]))
        for level in levels
    }


def decoded(decode: Callable[[Tensor], Tensor], score: Callable[[Tensor], Tensor]) -> Encode:
    """What a scorer of images makes of a noisy latent that is decoded as if it were clean.

    Args:
        decode: scaled latents to images in [0, 1].
        score: images to unit vectors.
    """
    return lambda noisy, level: score(decode(noisy / max(1 - level**2, 1e-12) ** 0.5))


def blurred(images: Tensor, share: float) -> Tensor:
    """Images (B, 3, H, W) under the Gaussian blur that takes `share` of the variance of each.

    Where the signal is a share 1 - sigma_bar² and the noise sigma_bar², the best linear estimate of
    a signal of equal power everywhere is wrong by sigma_bar² of its variance: at that share a
    blurred picture is known as well as a noisy one. The blur's width is found by bisection on the
    spectrum, of which it keeps exp(-2π²w²f²) at frequency f (borders meet).

    Raises:
        ValueError: a share outside [0, 1).
    """
    if not 0 <= share < 1:
        raise ValueError(f"got share {share}, expected a number in [0, 1)")
    height, width = images.shape[-2:]
    spectrum = torch.fft.rfft2(images.double())  # (B, 3, H, W/2 + 1)
    squared = torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.rfftfreq(width)[None] ** 2
    squared = squared.to(spectrum.device, torch.float64)
    twice = torch.full((width // 2 + 1,), 2.0, dtype=torch.float64, device=spectrum.device)
    twice[0] = 1.0  # the other half of the spectrum is not stored
    if width % 2 == 0:
        twice[-1] = 1.0
    power = spectrum.abs().square() * twice
    power[..., 0, 0] = 0.0  # the mean is not part of the variance
    low = torch.zeros(len(images), 1, 1, 1, dtype=torch.float64, device=spectrum.device)
    high = torch.full_like(low, 4.0 * max(height, width))
    for _ in range(60):
        middle = (low + high) / 2
        lost = (power * (1 - _kept(middle, squared)).square()).sum((1, 2, 3), keepdim=True)
        enough = lost < share * power.sum((1, 2, 3), keepdim=True)
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    found = torch.fft.irfft2(spectrum * _kept(low, squared), s=(height, width))
    return found.to(images.dtype).clamp(0, 1)


def _kept(width: Tensor, squared: Tensor) -> Tensor:
    return torch.exp(-2 * torch.pi**2 * width.square() * squared)


def gradient_by_noise(
    held: Held, encode: Encode, clean: Callable[[Tensor], Tensor], levels: Sequence[float],
    count: int,
) -> dict[float, float]:  # fmt: skip
    """How much of each picture's gradient survives the noise: the mean cosine of the gradient of
    the score at the noisy latent with that of `clean` at the clean latent.

    The score is the cosine with each picture's first caption.

    Args:
        held: of which the first pictures are taken.
        encode: noisy latents to unit vectors.
        clean: clean latents to unit vectors, such as the teacher's of decoded images.
        levels: sigma_bar.
        count: of pictures.

    **Cost**: for every picture one forward and backward pass of `clean`, and one of `encode` for
    every level.
    """
    chosen = torch.tensor([int((held.owners == i).nonzero()[0]) for i in range(count)])
    first = Held(held.latents[:count], held.texts[chosen], torch.arange(count), held.seed)
    texts = first.texts.split(BATCH)
    truth = [
        score_gradient(clean, part, own)
        for part, own in zip(first.latents.split(BATCH), texts, strict=True)
    ]

    def mean_at(level: float) -> float:
        cosines: list[Tensor] = []
        for noisy, own, true in zip(first.noisy(level), texts, truth, strict=True):
            found = score_gradient(lambda x: encode(x, level), noisy, own)
            cosines.append(functional.cosine_similarity(found.flatten(1), true.flatten(1), dim=1))
        return float(torch.cat(cosines).mean())

    return {level: mean_at(level) for level in levels}


def score_gradient(encode: Callable[[Tensor], Tensor], latents: Tensor, texts: Tensor) -> Tensor:
    """Gradient at latents (B, C, h, w) of their cosines with texts (B, D), each with its own."""
    with torch.enable_grad():
        at = latents.detach().requires_grad_()
        (gradient,) = torch.autograd.grad((encode(at) * texts).sum(), at)
    return gradient
