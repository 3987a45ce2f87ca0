"""The kinds of links between this pack's nodes, beside ComfyUI's own."""

from __future__ import annotations

from comfy_api.latest import io

CATEGORY = "clipguide"
"""Where the nodes are in ComfyUI's menu."""

Scorer = io.Custom("CLIPGUIDE_SCORER")  # clipguide.Scorer
Reward = io.Custom("CLIPGUIDE_REWARD")  # clipguide.Reward
Region = io.Custom("CLIPGUIDE_REGION")  # tuple of clipguide.rewards.Region
Runs = io.Custom("CLIPGUIDE_TRACE")  # guided_runs.GuidedRuns
