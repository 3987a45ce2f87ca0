"""CLIP models behind one protocol: loading, preprocessing, scoring."""
