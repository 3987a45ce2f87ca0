"""Every supported pipeline family as a tiny random-weight pipeline of the real classes."""
