"""Text towers of other languages, taught by a CLIP's own."""
