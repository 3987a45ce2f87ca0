"""Latent scorers for real autoencoders, made from a CLIP of photographs."""
