"""A sampling loop reduced to what a step costs: one model of a shape, its decoders, a CLIP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from clipguide.clip.preprocess import Preprocess
from clipguide.evaluation.cost.shapes import (
    Shape,
    autoencoder,
    latent_towers,
    tiny_autoencoder,
    vision_tower,
)

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
STEPS = 2
"""Steps of one call; the first of the schedule, pure noise, is left out."""

Edit = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(latents, timestep, model output) -> model output."""


class Rig:
    """Random weights, real architecture, real scheduler; `guide` takes it for a pipeline.

    Args:
        shape: the model.
        width: divides channels; 1 is the real size.
        pixels: side of the images; text tokens shrink as the latents do.
        device, dtype: "meta" counts without weights.
    """

    def __init__(
        self,
        shape: Shape,
        width: int = 1,
        pixels: int | None = None,
        device: str = "meta",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.shape, self._width, self._device, self._dtype = shape, width, device, dtype
        self.pixels = pixels or shape.pixels
        ratio = shape.pixels // self.pixels
        self.tokens = max(1, shape.tokens // ratio**2) if ratio > 1 else shape.tokens
        clip = max(64, 224 // ratio // 32 * 32)
        self._preprocess = Preprocess((clip, clip), (clip, clip), MEAN, STD)
        self.unet = self._made(lambda: shape.denoiser(width))
        self.vae = self._made(lambda: autoencoder(shape.latent_channels, width))
        self.tiny = self._made(lambda: tiny_autoencoder(shape.latent_channels, width))
        self.clip = self._made(lambda: vision_tower(width, clip))
        side, channels = self.pixels // 8, shape.latent_channels
        builders = latent_towers(width, clip, channels, side)
        self.latent = {name: self._made(build) for name, build in builders.items()}
        self.scheduler = _scheduler(shape.flow)

    def _made(self, build: Callable[[], nn.Module]) -> Any:
        """A module without its initialisation, filled with small random weights."""
        with torch.device("meta"):
            module = build()
        if self._dtype != torch.float32:
            module = module.to(self._dtype)
        if self._device != "meta":
            module = module.to_empty(device=self._device)
            generator = torch.Generator(self._device).manual_seed(0)
            for tensor in [*module.parameters(), *module.buffers()]:
                if tensor.is_floating_point():
                    tensor.data.normal_(std=0.02, generator=generator)
        for name, buffer in module.named_buffers():
            if name.endswith("position_ids"):
                positions = torch.arange(buffer.shape[-1], device=self._device)
                buffer.data = positions.expand(buffer.shape)
        return module.eval().requires_grad_(False)

    # -------------------------------------------------------------------------------- the pipeline

    @property
    def components(self) -> dict[str, Any]:
        """What `guide` freezes."""
        return {"unet": self.unet, "vae": self.vae, "scheduler": self.scheduler}

    def prepare_latents(self, generator: torch.Generator | None = None) -> Tensor:
        """Noise, (1, C, h, w)."""
        side = self.pixels // 8
        size = (1, self.shape.latent_channels, side, side)
        if self._device == "meta":
            return torch.empty(size, device="meta", dtype=self._dtype)
        return torch.randn(size, generator=generator).to(self._device, self._dtype)

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """The model output after classifier-free guidance, (1, C, h, w)."""
        branches = self.shape.branches
        times = t.to(x.device, x.dtype).expand(branches)
        given = self.shape.inputs(torch.cat([x] * branches), times, self.tokens, self._width)
        out: Tensor = self.unet(**given, return_dict=False)[0]
        if out.ndim == 3:  # packed: (b, h·w/4, 4·C)
            side = x.shape[-1] // 2
            out = nn.functional.pixel_shuffle(out.mT.unflatten(2, (side, side)), 2)
        if branches == 1:
            return out
        plain, prompted = out.chunk(2)
        return plain + 4.0 * (prompted - plain)

    def denoise_prompted(self, x: Tensor, t: Tensor) -> Tensor:
        """The model output of the prompt alone: one branch."""
        times = t.to(x.device, x.dtype).expand(1)
        out: Tensor = self.unet(
            **self.shape.inputs(x, times, self.tokens, self._width), return_dict=False
        )[0]
        return out

    @torch.no_grad()
    def __call__(
        self, generator: torch.Generator | None = None, edit: Edit | None = None
    ) -> Tensor:
        """STEPS steps; `edit` stands between model and scheduler."""
        self.scheduler.set_timesteps(STEPS + 2)
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(1)
        x = self.prepare_latents(generator)
        for t in self.scheduler.timesteps[1 : 1 + STEPS]:
            out = self.denoise(x, t)
            if edit is not None:
                out = edit(x, t, out)
            x = cast(Tensor, self.scheduler.step(out, t, x, return_dict=False)[0])
        return x

    # ------------------------------------------------------------------------------------ the CLIP

    def score(self, images: Tensor) -> Tensor:
        """One view of each image against a fixed text, (B, 3, H, W) in [0, 1] -> (B,)."""
        return self.embed(self._preprocess(images, match="smooth")).float().sum(1)

    def embed(self, pixels: Tensor) -> Tensor:
        """(B, 3, h, w) -> unit vectors (B, D)."""
        features: Tensor = self.clip(pixel_values=pixels.to(self._dtype)).image_embeds
        return nn.functional.normalize(features, dim=-1)

    def score_latents(self, x: Tensor, tower: str) -> Tensor:
        """One of `latent` on noisy latents, against a fixed text, (1, C, h, w) -> (1,)."""
        features: Tensor = self.latent[tower](x.to(self._dtype), x.new_full((len(x),), 0.5))
        return nn.functional.normalize(features.float(), dim=-1).sum(1)

    @property
    def clip_side(self) -> int:
        """Side of the images that CLIP sees."""
        return self._preprocess.size[0]


def _scheduler(flow: bool) -> Any:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
        FlowMatchEulerDiscreteScheduler,
    )

    euler: Any = FlowMatchEulerDiscreteScheduler
    ddim: Any = DDIMScheduler
    if flow:
        return euler(shift=3.0)
    return ddim(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
    )
