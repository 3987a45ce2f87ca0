"""Reusable training code: the resumable loop and what the recipes under ``training/`` share."""
