"""Result records whose counts are known."""

import base64
import io

import numpy as np
from PIL import Image

from robustnorm.records.parts import Check, CurvePoint, Example
from robustnorm.records.record import SINGLE, Record, Verdict

N = 200


def bits(correct, shift=0):
    return np.roll(np.arange(N) < correct, shift)


def make_record(norm="auxbn", seed=0, adversarial=True, sa=180, ra=80, shift=0, **changes):
    branches = ("clean", "adv") if norm.startswith(("aux", "saaux")) else (SINGLE,)
    verdicts = []
    for row, branch in enumerate(branches):
        # The adv branch classifies ten clean images fewer and ten attacked images more.
        clean, attacked = sa - 10 * row, ra - 10 * (1 - row) * (len(branches) - 1)
        verdicts += [
            Verdict("none", "final", branch, branch, bits(clean, shift)),
            Verdict("pgd-10", "final", branch, branch, bits(attacked + 5, shift)),
            Verdict("pgd-10", "any", branch, branch, bits(attacked + 4, shift), disagreements=3),
            Verdict("pgd-20", "final", branch, branch, bits(attacked, shift)),
            Verdict("pgd-20", "any", branch, branch, bits(attacked - 2, shift)),
        ]
        verdicts += [
            Verdict("pgd-20", "final", branch, other, bits(100))
            for other in branches
            if other != branch
        ]
    content = {
        "name": "test",
        "norm": norm,
        "seed": seed,
        "adversarial": adversarial,
        "checkpoint": {"tag": "best", "epoch": 2, "epochs": 3, "sha256": "ab"},
        "config": {"width": 4, "network": "resnet18", "precision": "fp32", "train_steps": 10},
        "config_hash": "cd",
        "history": [],
        "dataset": {
            "name": "a_b",
            "sha256": "ef",
            "classes": ["0", "1"],
            "train_images": 50,
            "test_images": 1000,
        },
        "image_ids": list(range(N)),
        "labels": [i % 2 for i in range(N)],
        "protocol": {
            "name": "short",
            "threat_model": "linf",
            "epsilon": "8/255",
            "step_size": "2/255",
            "precision": "fp32",
            "search": "folded, bf16",
        },
        "protocol_hash": "01",
        "verdicts": verdicts,
        "checks": [],
        "curve": [],
        "examples": [],
        "versions": {},
        "device": "CPU",
        "wall_seconds": 1.0,
    }
    return Record(**(content | changes))


RULE_VERDICTS = {
    # Scored by the rule: clean images, its own attack (any), then the last iterates of all attacks.
    "clean": (190, 20, 25, 60, 30),
    "adv": (170, 80, 90, 84, 100),
    "mean logits": (186, 50, 55, 45, 60),
}


def serving_record(**changes):
    answers = tuple(RULE_VERDICTS)
    verdicts = []
    for answer, (clean, broken, *lasts) in RULE_VERDICTS.items():
        verdicts.append(Verdict("none", "final", answer, answer, bits(clean)))
        for steps in (10, 20):
            verdicts.append(Verdict(f"pgd-{steps}", "any", answer, answer, bits(broken)))
        verdicts.append(Verdict("pgd-10", "final", answer, answer, bits(lasts[0])))
        verdicts += [
            # Shifted by one image for each attacker, so that the worst case is an intersection.
            Verdict("pgd-20", "final", attacker, answer, bits(count, shift))
            for shift, (attacker, count) in enumerate(zip(answers, lasts, strict=True))
        ]
    return make_record("auxbn", verdicts=verdicts, **changes)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def make_full_record(norm="auxbn", epochs=3, **changes):
    """A record with everything that a report shows; its losses and accuracies are plain."""
    record = make_record(norm, **changes)

    def followed(epoch):
        return {
            branch: {
                "sa": 0.3 + 0.1 * epoch,
                "ra": 0.1 * epoch,
                "clean_loss": 2 - 0.2 * epoch,
                "adv_loss": 3 - 0.1 * epoch,
            }
            for branch in record.branches
        }

    record.history.extend(
        {
            "epoch": epoch,
            "learning_rate": 0.1,
            "clean_loss": 2.5 - 0.3 * epoch,
            "adv_loss": 3 - 0.2 * epoch if record.adversarial else None,
            "validation": followed(epoch),
            "test": followed(epoch),
            "seconds": 1.0,
            "images_per_second": 10.0,
        }
        for epoch in range(1, epochs + 1)
    )
    for branch in record.branches:
        record.curve.extend(
            CurvePoint(branch, "0" if k == 0 else f"{k}/255", 180 - 10 * k, N) for k in (0, 2, 8)
        )
        record.checks.extend(
            [
                Check("FGSM", branch, "reliable", 0.0, "% of images that FGSM breaks", N),
                Check("Square", branch, "warn", 0.5, "% of images fall to Square only", N),
            ]
        )
        image = np.full((8, 8, 3), 100)
        record.examples.append(
            Example(3, branch, 1, 0, png(image), png(image + np.array([8, 0, -8])))
        )
    return record
