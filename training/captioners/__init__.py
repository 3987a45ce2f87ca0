"""Captioners of photographs, and of the starter's scenes."""
