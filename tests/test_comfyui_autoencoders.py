"""Whose latents a scorer of latents is given in ComfyUI: its VAEs are known by diffusers' hash."""

from __future__ import annotations

import pytest
import torch
from comfy_models import TinyVae, need_comfyui, pack, run
from test_latent_scorer import latent_clip
from tiny_pipelines import tiny_scorer, tiny_taesd

from clipguide import ClipReward, load_scorer
from clipguide.clip.latent_scorer import LatentScorer

need_comfyui()


def test_a_latent_reward_is_refused_latents_of_another_vae() -> None:
    with pytest.raises(ValueError, match="a scorer of pictures, expected one that reads latents"):
        run("rewards", "MakeLatentReward", tiny_scorer(), "a fox", "contrast")
    scorer = load_scorer("starter:latent")
    (reward,) = run("rewards", "MakeLatentReward", scorer, "a red star", "cosine")
    check = pack("autoencoders").check_latents
    with pytest.raises(ValueError, match="without a VAE, expected the model's own VAE connected"):
        check(reward, None)
    with pytest.raises(ValueError, match="got latents of another autoencoder"):
        check(reward, TinyVae())


def test_a_vae_of_comfyui_is_known_by_the_hash_that_diffusers_gives_it() -> None:
    """Its weights are ComfyUI's own conversion of a diffusers VAE's, the other way round."""
    from comfy.diffusers_convert import convert_vae_state_dict
    from comfy.latent_formats import SD15
    from comfy.ldm.models.autoencoder import AutoencoderKL as Comfy
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    theirs = AutoencoderKL(
        block_out_channels=(32,) * 4, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, latent_channels=4,
    ).eval()  # fmt: skip
    config = {
        "double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3,
        "ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 2, "attn_resolutions": [],
        "dropout": 0.0,
    }  # fmt: skip
    with torch.inference_mode():
        ours = Comfy(ddconfig=config, embed_dim=4).eval()
        state = {name: weight.clone() for name, weight in theirs.state_dict().items()}
        ours.load_state_dict(convert_vae_state_dict(state))

    class Vae:
        first_stage_model, latent_channels = ours, 4

    reward = ClipReward(LatentScorer(latent_clip(theirs)), "a red star")
    pack("autoencoders").check_latents(reward, Vae())
    decode = pack("decoding").find_decoder(SD15(), Vae())
    z = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = (theirs.decode(z / 0.18215).sample / 2 + 0.5).clamp(0, 1)
        torch.testing.assert_close(decode(z), expected, rtol=1e-4, atol=1e-5)


def test_a_tiny_vae_of_comfyui_is_known_too() -> None:
    from comfy.taesd.taesd import TAESD
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    theirs = AutoencoderTiny().eval()
    ours = TAESD()
    parts = {"encoder": ours.taesd_encoder, "decoder": ours.taesd_decoder}
    for name, part in parts.items():
        own = theirs.get_submodule(name).get_submodule("layers").state_dict()
        shift = int(name == "decoder")
        part.load_state_dict(
            {f"{int(k.split('.')[0]) + shift}.{k.partition('.')[2]}": v for k, v in own.items()}
        )

    class Vae:
        first_stage_model = ours

    check = pack("autoencoders").check_latents
    check(ClipReward(LatentScorer(latent_clip(theirs)), "a red star"), Vae())
    with pytest.raises(ValueError, match="another autoencoder"):
        check(ClipReward(LatentScorer(latent_clip(tiny_taesd())), "a red star"), Vae())
