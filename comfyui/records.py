"""What was done: pictures with their metadata, and the trace of a guided run as a picture."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io, ui

import clipguide
from clipguide.guidance.trace import Trace
from clipguide.images import pixel_hash, to_pil, to_tensor
from clipguide.report.metadata import Parameters, save_png
from clipguide.report.trace_picture import trace_picture

from .guided_runs import GuidedRuns
from .sockets import CATEGORY, Runs, Scorer
from .values import as_image, pictures

MADE_IN = "ComfyUI"


class SaveImages(io.ComfyNode):
    """Pictures that say how they were made."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ClipguideSaveImages",
            display_name="Save images with metadata",
            category=CATEGORY,
            description="Saves pictures as PNG with prompt, seed, scores, guidance and its trace, "
            "and with the graph, so that the page opens it again.",
            inputs=[
                io.Image.Input("images"),
                io.String.Input("filename_prefix", default="clipguide"),
                io.String.Input("prompt", multiline=True),
                io.String.Input("negative", multiline=True),
                # not "seed": the page adds a control to that name which changes it after every run
                io.Int.Input("recorded_seed", default=0, min=0, max=2**64 - 1),
                Scorer.Input("scorer", optional=True, tooltip="Scores are written down too."),
                Runs.Input("trace", optional=True, tooltip="Of Guide model."),
            ],
            outputs=[],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, images: Any, filename_prefix: str, prompt: str, negative: str, recorded_seed: int,
        scorer: Any = None, trace: GuidedRuns | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        tensor = pictures(images)
        scores: list[float] = [] if scorer is None else scorer.score(tensor, prompt).tolist()
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory(), tensor.shape[3], tensor.shape[2]
        )
        graph = {"prompt": cls.hidden.prompt, **(cls.hidden.extra_pnginfo or {})}
        texts = {key: json.dumps(value) for key, value in graph.items() if value is not None}
        saved: list[Any] = []
        for place, picture in enumerate(to_pil(tensor)):
            score = {} if scorer is None else {scorer.name: scores[place]}
            record = record_of(prompt, negative, recorded_seed, score, trace)
            record |= {"place_in_batch": place, "pixels_sha256": pixel_hash(picture)}
            file = f"{name}_{counter + place:05}_.png"
            parameters = _parameters(record, picture.size)
            save_png(picture, Path(folder, file), record=record, parameters=parameters, texts=texts)
            saved.append(ui.SavedResult(file, subfolder, io.FolderType.output))
        return io.NodeOutput(ui=ui.SavedImages(saved))


def record_of(
    prompt: str, negative: str, seed: int, scores: dict[str, float], runs: GuidedRuns | None
) -> dict[str, Any]:
    """The JSON object of the `clipguide` chunk; `clipguide info` shows it."""
    found: dict[str, Any] = {
        "schema": 1,
        "ai_generated": True,
        "made_in": MADE_IN,
        "prompt": prompt,
        "negative": negative,
        "seed": seed,
        "scores": [{"scorer": name, "value": value} for name, value in scores.items()],
        "versions": {"clipguide": clipguide.__version__},
    }
    if runs is not None:
        found["guidance"] = asdict(runs.config)
        found["trace"] = [
            {"sigma_bar": step.sigma, "score": step.score.tolist()} for step in runs.trace.steps
        ]
    return found


def _parameters(record: dict[str, Any], size: tuple[int, int]) -> Parameters:
    """The same in the words of AUTOMATIC1111's web UI."""
    fields = {"Seed": str(record["seed"]), "Size": f"{size[0]}x{size[1]}"}
    if "guidance" in record:
        fields["CLIP guidance strength"] = f"{record['guidance']['strength']:g}"
        fields["CLIP guidance mode"] = record["guidance"]["mode"]
    fields |= {f"CLIP score {row['scorer']}": f"{row['value']:.4f}" for row in record["scores"]}
    fields["Version"] = f"clipguide {clipguide.__version__} in {MADE_IN}"
    return Parameters(record["prompt"], record["negative"], fields)


class TracePicture(io.ComfyNode):
    """The score of each guided step, drawn."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ClipguideTracePicture",
            display_name="Trace as picture",
            category=CATEGORY,
            description="Draws the reward of each step of the last guided run.",
            inputs=[
                Runs.Input("trace"),
                io.Latent.Input(
                    "after", tooltip="The sampler's output, so that the trace is drawn after it."
                ),
                io.Int.Input("width", default=640, min=160, max=4096),
                io.Int.Input("height", default=360, min=120, max=4096),
            ],
            outputs=[io.Image.Output("image")],
            not_idempotent=True,
        )

    @classmethod
    def execute(cls, trace: GuidedRuns, after: Any, width: int, height: int) -> io.NodeOutput:
        drawn = trace_picture(_of_a_run(trace), width, height)
        return io.NodeOutput(as_image(to_tensor(drawn)))


def _of_a_run(runs: GuidedRuns) -> Trace:
    if not runs.trace.steps:
        raise ValueError(
            "got a trace without a guided step, expected `after` connected to a sampler that has "
            "the guided model, with a window that covers some of its steps"
        )
    return runs.trace
