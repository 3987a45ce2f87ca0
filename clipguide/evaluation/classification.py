"""How good a zero-shot classifier is on images whose labels are known, in one report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from clipguide.clip.finite import check_finite
from clipguide.evaluation.confusion import (
    Confused,
    confusion_matrix,
    expected_calibration_error,
    fit_scale,
    most_confused,
)


@dataclass(frozen=True)
class ClassificationReport:
    """Figures of one classifier on N images and L labels.

    Attributes:
        images: N.
        accuracy: share of the images whose likeliest label is the true one, in [0, 1].
        calibration_error: of the probabilities given, see `expected_calibration_error`.
        fitted_scale: the factor on cosines that fits these images best, see `fit_scale`.
        fitted_calibration_error: of the probabilities under that factor.
        confusion: L rows (true label) of L counts (predicted label).
        confused: the pairs mixed up most often.
    """

    images: int
    accuracy: float
    calibration_error: float
    fitted_scale: float
    fitted_calibration_error: float
    confusion: list[list[int]]
    confused: list[Confused]


def classification_report(
    cosines: Tensor, probabilities: Tensor, truth: Tensor, labels: Sequence[str]
) -> ClassificationReport:
    """Accuracy, calibration and confusion of predictions whose true labels are known.

    Args:
        cosines: (N, L) of every image with every label.
        probabilities: (N, L) that the classifier gave; the largest is its answer.
        truth: (N,) the place of each image's true label.
        labels: their L names.

    Raises:
        ValueError: shapes that do not fit each other, or no image; a number that is not finite.

    Example:
        >>> cosines = torch.tensor([[0.3, 0.1], [0.2, 0.4]])
        >>> probabilities = (100 * cosines).softmax(dim=1)
        >>> classification_report(cosines, probabilities, torch.tensor([0, 1]), "ab").accuracy
        1.0
    """
    if cosines.shape != probabilities.shape or cosines.shape[1:] != (len(labels),):
        got = f"cosines {tuple(cosines.shape)}, probabilities {tuple(probabilities.shape)}"
        raise ValueError(f"got {got} and {len(labels)} labels, expected (N, L), (N, L) and L")
    check_finite(probabilities, "probabilities")
    chances, predicted = probabilities.max(dim=1)
    right = predicted == truth
    scale = fit_scale(cosines, truth)
    fitted = (scale * cosines).softmax(dim=1).amax(dim=1)
    matrix = confusion_matrix(truth, predicted, len(labels))
    return ClassificationReport(
        images=len(truth),
        accuracy=float(right.double().mean()),
        calibration_error=expected_calibration_error(chances.clamp(max=1), right),
        fitted_scale=scale,
        fitted_calibration_error=expected_calibration_error(fitted.clamp(max=1), right),
        confusion=matrix.tolist(),
        confused=most_confused(matrix, labels),
    )
