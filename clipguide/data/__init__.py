"""Captions, prompt sets and the procedural scene world of the starter model."""
