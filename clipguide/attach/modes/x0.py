"""Mode x0: the gradient at the predicted clean latent; the denoiser is in no graph.

delta = s · C_t · h, with h = ∂reward/∂x0 and C_t = sigma²/(alpha² + sigma²), the default. As MPGD
(He et al. 2024, Algorithm 1, https://arxiv.org/abs/2311.16424); C_t bounds the displacement, takes
it to 0 at the end and makes it the same for every parametrisation. Works under the pipelines'
`torch.no_grad`, with offloading and in Modular Diffusers. Cost: one decode and one score with their
backward passes.
"""

from __future__ import annotations

from clipguide.attach.modes.plug_in import PlugIn


class CleanGradient(PlugIn):
    """The plug-in reward climbed at x0 itself."""
