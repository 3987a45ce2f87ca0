"""Asked for classes by name alone."""
