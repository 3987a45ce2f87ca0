"""What the pipelines of this project share: the call with CLIP guidance, and what it returns."""
