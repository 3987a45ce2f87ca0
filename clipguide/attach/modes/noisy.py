"""Mode noisy: the gradient of a reward that reads the noisy latent; nothing is in its graph but the
reward's own tower.

delta = s · (sigma²/alpha) · g, with g = ∂reward(x_t, sigma)/∂x_t: classifier guidance (Dhariwal &
Nichol 2021, Algorithm 2, https://arxiv.org/abs/2105.05233) by a CLIP that was trained on noise, as
GLIDE's (Nichol et al. 2022, section 2.4, https://arxiv.org/abs/2112.10741). The reward is shown
x_t/√(alpha²+sigma²) and sigma_bar, in which the states of every sampler are alike. No decode and no
denoiser is in the graph, so it works under `torch.no_grad` and inference mode, in Modular
Diffusers, and with offloaded, compiled and quantised denoisers. Cost: one pass of the latent tower
and its backward pass.

Terms of the reward that read images are climbed as in mode x0. Their gradient h at x0 is carried to
x_t by C_t over the factor of g (alpha/(alpha²+sigma²), the slope of x0 in x_t for unit-variance
data), so that together

    delta = s · ((sigma²/alpha) · g + C_t · h).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clipguide.attach.modes.base import StepContext
from clipguide.attach.modes.plug_in import PlugIn
from clipguide.guidance.gradient import Evaluation, added, evaluate
from clipguide.guidance.parameterization import NoiseLevel, at_least_float
from clipguide.guidance.step_rule import of_noisy_reward
from clipguide.rewards.base import Reward, terms_that_read


class NoisyGradient(PlugIn):
    """A reward of noisy latents, climbed at x_t."""

    reads = "latents"

    def defined_at(self, level: NoiseLevel) -> bool:
        """sigma²/alpha is infinite at pure noise."""
        return level.alpha > 0 and super().defined_at(level)

    def posterior(self, level: NoiseLevel) -> float:
        """sigma²/alpha where there is signal: classifier guidance."""
        return of_noisy_reward(level)

    def image_reward(self) -> Reward:
        """The terms that read images."""
        return _terms(self.objective.reward, "images")

    def evaluated(
        self, out: Tensor, x: Tensor, step: StepContext
    ) -> tuple[Tensor, Evaluation, Tensor | None]:
        """x0, the reward with its gradient at x_t, and no refinement."""
        with self.graph_allowed(), torch.set_grad_enabled(self.config.strength > 0):
            found = self._of_latents(x, step)
            x0 = self.estimate(out, x, step)
        if "images" not in self.objective.reward.reads:
            return x0, found, None
        _, seen, _ = super().evaluated(out, x, step)
        level = step.levels.now
        return x0, added(found, seen, level.variance / self.posterior(level)), None

    def _of_latents(self, x: Tensor, step: StepContext) -> Evaluation:
        reward, level = _terms(self.objective.reward, "latents"), step.levels.now

        def scored(latents: Tensor, *, generators: Sequence[torch.Generator]) -> Tensor:
            return reward.of_latents(latents, level.sigma_bar, generators=generators)

        return evaluate(
            at_least_float(x.detach()),
            lambda latents: self.objective.reading.grid(latents) / level.radius,
            scored,
            step.random("views", x.shape[0]),
            differentiate=self.config.strength > 0,
        )


def _terms(reward: Reward, what: str) -> Reward:
    terms = terms_that_read(reward, what)
    if terms is None:
        raise ValueError(f"got a reward without terms that read {what}, expected some")
    return terms
