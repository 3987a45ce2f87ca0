"""Pipeline classes of diffusers with tiny random components of our own, for guide and search."""
