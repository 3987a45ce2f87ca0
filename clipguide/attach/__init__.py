"""The only layer that knows diffusers."""
