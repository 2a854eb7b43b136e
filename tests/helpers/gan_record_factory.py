"""Records of GANs that were never trained."""

from typing import Any

from robustnorm.applications.gan.record import ClassGradients, GanRecord
from robustnorm.evaluation.diversity import StageDiversity

CLASSES = list("0123456789")


def measures(step: int, distance: float, score: float = 2.0) -> dict[str, Any]:
    return {
        "step": step, "n": 100, "distance": distance, "score": score, "precision": 0.8,
        "recall": 0.25, "label_accuracy": 0.4,
    }  # fmt: skip


def gan_record(
    network: str = "sngan",
    norm: str = "ccbn",
    seed: int = 0,
    *,
    distances: tuple[float, ...] = (4.0, 3.0),
    spread: float = 0.2,
    **changes: Any,
) -> GanRecord:
    """Returns a record with measures at steps 10, 20, ... and gradients of two stages."""
    measured = [measures(10 * i, distance) for i, distance in enumerate(distances, 1)]
    best = min(measured, key=lambda entry: entry["distance"])
    values: dict[str, Any] = {
        "config": {
            "image_size": 16, "steps": 20, "discriminator_steps": 2, "width": 8,
            "discriminator_width": 8, "average": 0.9,
            "network": network, "norm": norm, "seed": seed,
        },
        "dataset": {"name": "made", "sha256": "d" * 64, "classes": CLASSES, "train_images": 50},
        "features": {
            "network": "ResNet-18", "width": 8, "epochs": 5, "accuracy": 0.67, "sha256": "f" * 64,
        },
        "test_images": measures(0, 0.1, 5.0),
        "measured": measured,
        "best": best["step"],
        "losses": [{"step": 10 * i, "generator": 0.1 * i, "discriminator": 1.5} for i in (1, 2)],
        "gradients": [
            ClassGradients(
                20,
                reading,
                [StageDiversity(stage, spread, 1.0, 0.3, None, None) for stage in ("a", "b")],
            )
            for reading in ("single samples", "class batches")
        ],
        "seconds": 60.0,
        "device": "CPU",
        "versions": {"torch": "2"},
        "sha256": "a" * 64,
    }  # fmt: skip
    return GanRecord(**(values | changes))
