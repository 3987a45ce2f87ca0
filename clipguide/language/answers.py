"""Questions about pictures, answered with probabilities."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from clipguide.clip.cross_encoder_loading import load_module, model_parts
from clipguide.clip.finite import check_weights_finite
from clipguide.clip.hub import NO_CODE
from clipguide.clip.image_arrays import Images
from clipguide.clip.inference_mode import ordinary_tensors
from clipguide.clip.loading import ASSETS
from clipguide.clip.refusals import refusing
from clipguide.clip.scorer import check_prompts
from clipguide.data.prompt_parts import parts_of
from clipguide.language.captioner import pictures_of
from clipguide.language.captioner_files import CONFIG, load_captioner_folder
from clipguide.language.library_captioner import TalkingCaptioner
from clipguide.language.trained_captioner import TrainedCaptioner

YES_NO = ("yes", "no")
SCHEME = "hf:"
BUNDLED = {"starter": ASSETS / "questions"}
"""Name -> folder of the answerers that come with the package."""
ONLY = "Answer with one of: {answers}."


@dataclass(frozen=True)
class Answer:
    """The likeliest of the answers, and the probability of each: they sum up to 1."""

    text: str
    probabilities: dict[str, float]


class Answerer(ABC):
    """Answers questions about pictures by a choice; no gradient.

    Args:
        name: what the user called it.
        module: the model; frozen from then on.
    """

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name, self.module = name, module.eval().requires_grad_(False)

    @abstractmethod
    def logits(self, image: Image.Image, question: str, answers: Sequence[str]) -> Tensor:
        """(A,) of the answers; their softmax are the probabilities.

        Raises:
            ValueError: a question longer than what the model reads, an answer it does not know.
        """

    @torch.no_grad()
    def answer(
        self, images: Images, questions: str | Sequence[str], answers: Sequence[str] = YES_NO
    ) -> list[Answer]:
        """The likeliest answer to question i about image i, with all probabilities.

        Args:
            images: B images.
            questions: B texts; a single string is asked of every image.
            answers: what there is to choose from, two or more texts that differ in more than
                capitals.

        Cost: one pass of the model for each answer (ViLT: one for all).

        Raises:
            ImageError, ValueError: an image that cannot be read; no, or twice the same answer;
                see `logits`.
        """
        choices = check_prompts(answers) if answers else []
        if len({choice.strip().casefold() for choice in choices}) < max(2, len(choices)):
            raise ValueError(f"got answers {[*answers]}, expected two or more different ones")
        shown = pictures_of(images)
        asked = [questions] * len(shown) if isinstance(questions, str) else [*questions]
        asked = check_prompts(asked)
        if len(asked) != len(shown):
            raise ValueError(f"got {len(shown)} images and {len(asked)} questions, expected both")
        return [self._one(*pair, choices) for pair in zip(shown, asked, strict=True)]

    def _one(self, image: Image.Image, question: str, choices: Sequence[str]) -> Answer:
        chances = self.logits(image, question, choices).double().softmax(dim=0)
        if not bool(chances.isfinite().all()):
            raise ValueError(f"{self.name}: got probabilities that are not finite for {question!r}")
        found = dict(zip(choices, chances.tolist(), strict=True))
        return Answer(choices[int(chances.argmax())], found)


class TalkingAnswerer(Answerer):
    """An image-text-to-text model with a chat template: the log-probability of each answer as what
    it would say, its end included.

    Args:
        name, module: as of `Answerer`.
        processor: chat template, tokenizer, image processor.
    """

    def __init__(self, name: str, module: nn.Module, processor: Any) -> None:
        super().__init__(name, module)
        self._processor = processor

    def logits(self, image: Image.Image, question: str, answers: Sequence[str]) -> Tensor:
        asked = f"{question} {ONLY.format(answers=', '.join(answers))}"
        talking = TalkingCaptioner(self.name, self.module, self._processor, asked)
        talking.encode(asked)  # refuses special tokens
        return talking.likelihood([image] * len(answers), answers).sentence


class ClassifyingAnswerer(Answerer):
    """`ViltForQuestionAnswering` (Kim et al. 2021, https://arxiv.org/abs/2102.03334): a classifier
    over the answers that it was trained on.

    Args:
        name, module: as of `Answerer`.
        processor: tokenizer and image processor.
    """

    def __init__(self, name: str, module: nn.Module, processor: Any) -> None:
        super().__init__(name, module)
        self._processor = processor
        model: Any = module
        self._longest = int(model.config.max_position_embeddings)
        labels: dict[str, Any] = model.config.label2id
        self._places = {str(label).lower(): int(place) for label, place in labels.items()}

    def logits(self, image: Image.Image, question: str, answers: Sequence[str]) -> Tensor:
        unknown = [answer for answer in answers if answer.lower() not in self._places]
        if unknown:
            raise ValueError(f"{self.name}: got answer {unknown[0]!r}, expected one it was taught")
        inputs: Any = self._processor(images=image, text=question, return_tensors="pt")
        if inputs["input_ids"].shape[1] > self._longest:
            count = inputs["input_ids"].shape[1]
            raise ValueError(
                f"{self.name}: got a question of {count} tokens, expected at most {self._longest}"
            )
        device = next(self.module.parameters()).device
        found: Tensor = self.module(**inputs.to(device)).logits[0]
        return found[[self._places[answer.lower()] for answer in answers]].cpu()


class CaptioningAnswerer(Answerer):
    """A captioner that was taught questions with their answers (`training/captioners/scenes.py`):
    the log-probability of each answer behind the question, its end included.

    Args:
        name: what the user called it.
        captioner: of `clipguide train`.
    """

    def __init__(self, name: str, captioner: TrainedCaptioner) -> None:
        super().__init__(name, captioner.module)
        self._captioner = captioner

    def logits(self, image: Image.Image, question: str, answers: Sequence[str]) -> Tensor:
        words = self._captioner.vocabulary
        for answer in answers:
            if not words.encode(answer):
                raise ValueError(f"{self.name}: got answer {answer!r}, expected a word in it")
            if unknown := words.first_unknown(answer, words.encode(answer)):
                raise ValueError(f"{self.name}: got answer {unknown!r}, expected words it knows")
        # p(question | image) is the same for all of them and falls out of the softmax
        texts = [f"{question} {answer}" for answer in answers]
        return self._captioner.log_prob([image] * len(answers), texts).sentence


@ordinary_tensors()
def load_answerer(name: str, *, device: str | torch.device = "cpu") -> Answerer:
    """A model that answers, by name.

    Args:
        name: "starter", which knows the questions of `training/captioners/scenes.py` about the
            starter's scenes; "hf:" and a Hub repository or a folder, or a folder: ViLT for
            questions, or an image-text-to-text model with a chat template; a folder of a captioner
            that `clipguide train` taught questions (`training/captioners/starter_questions.toml`).
        device: where the model shall be.

    Raises:
        ValueError: a model that cannot be loaded, or does not answer.
    """
    from transformers import (
        AutoConfig,
        AutoModelForImageTextToText,
        AutoProcessor,
        ViltForQuestionAnswering,
    )

    place = BUNDLED.get(name, Path(name).expanduser())
    if (place / CONFIG).is_file():
        captioner = load_captioner_folder(name, place)
        captioner.module.to(device)
        return CaptioningAnswerer(name, captioner)
    with refusing(name):
        folder = model_parts(name, name.removeprefix(SCHEME))
        kind = str(AutoConfig.from_pretrained(folder, **NO_CODE).model_type)
        processor: Any = AutoProcessor.from_pretrained(folder, **NO_CODE)
        if kind != "vilt" and not getattr(processor, "chat_template", None):
            raise ValueError(f"{name}: got a {kind} without a chat template, expected one, or vilt")
        classifies = kind == "vilt"
        source = ViltForQuestionAnswering if classifies else AutoModelForImageTextToText
        module = load_module(name, folder, source, torch.float32)
    check_weights_finite(name, module)
    made = ClassifyingAnswerer if classifies else TalkingAnswerer
    return made(name, module.to(device), processor)


@dataclass(frozen=True)
class PartAnswer:
    """A part of a prompt, the question that was asked of it, and the probability of yes."""

    part: str
    question: str
    yes: float


def ask_prompt(answerer: Answerer, image: Image.Image, prompt: str) -> list[PartAnswer]:
    """Of each thing that a prompt names whether it is there, and at last of the whole prompt.

    The things are those of `clipguide.data.prompt_parts.parts_of`.

    Cost: one answer for each.
    """
    parts = parts_of(prompt)
    asked = [(part, f"Is there {part} in this picture?") for part in parts]
    if [*parts] != [prompt]:
        asked.append((prompt, f"Does this picture show {prompt}?"))
    found = answerer.answer([image] * len(asked), [question for _, question in asked])
    return [
        PartAnswer(part, question, answer.probabilities["yes"])
        for (part, question), answer in zip(asked, found, strict=True)
    ]


def sentence_of(parts: Sequence[PartAnswer]) -> str:
    """What is missing, as a sentence.

    Example:
        >>> sentence_of([PartAnswer("a hat", "", 0.9), PartAnswer("a dog", "", 0.2)])
        'Missing: a dog (yes with 20 %).'
    """
    missing = [part for part in parts if part.yes < 0.5]
    if not missing:
        return "Nothing is missing."
    told = "; ".join(f"{part.part} (yes with {100 * part.yes:.0f} %)" for part in missing)
    return f"Missing: {told}."
