"""Parts of a record besides its verdicts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """Result of one check of the evaluation, for one branch or serving rule.

    Args:
        name: Name of the check, a key of ``robustnorm.evaluation.checks.CHECKS``.
        answer: The branch or rule that was checked.
        verdict: "reliable", "warn" or "unreliable".
        value: The figure behind the verdict, in the unit that ``figure`` names.
        figure: Description of the value, with its limits.
        n: Number of images measured.
    """

    name: str
    answer: str
    verdict: str
    value: float
    figure: str
    n: int


@dataclass(frozen=True)
class CurvePoint:
    """How many of n images withstand the attack at one radius, through one branch or rule.

    Args:
        answer: The branch or rule that was attacked and scored.
        epsilon: As people write it, "8/255"; "0" for no attack.
        correct: Number of images that withstood.
        n: Number of images attacked.
    """

    answer: str
    epsilon: str
    correct: int
    n: int


@dataclass(frozen=True)
class Example:
    """One image before and after an attack, for display.

    Args:
        image_id: Index in the test set.
        answer: The branch or rule that was attacked and scored.
        clean_prediction: Class predicted for the image.
        adv_prediction: Class predicted for the adversarial image.
        image: The image as a PNG file in base64.
        adv_image: The adversarial image, rounded to 8 bits, as a PNG file in base64.
    """

    image_id: int
    answer: str
    clean_prediction: int
    adv_prediction: int
    image: str
    adv_image: str
