"""Checks the content of a record, which may come from an untrusted source, before it is used."""

from __future__ import annotations

from typing import Any

from robustnorm.system.escaping import for_terminal
from robustnorm.system.names import check_name
from robustnorm.system.structure import attack_size, check_structure, count, finite
from robustnorm.system.untrusted import most_decoded, parse_fraction

# Memory that an image's id and label take as Python's integers.
_IMAGE_BYTES = 48
_OF_BRANCH = {"sa": float, "ra": float, "clean_loss": float, "adv_loss": float}
_ATTACK = {"threat_model": str, "epsilon": attack_size, "step_size": attack_size}
_EPOCH = {
    "epoch": count,
    "learning_rate": float,
    "clean_loss": (float, None),
    "adv_loss": (float, None),
    "validation": {"*": _OF_BRANCH},
    "test": {"*": _OF_BRANCH},
    "seconds": finite,
    "validation_seconds?": finite,
    "device?": str,
    "*": object,
}
_VERDICT = {
    **dict.fromkeys(("attack", "rule", "attack_branch", "score_branch", "correct"), str),
    **{f"{name}?": count for name in ("disagreements", "forward", "backward")},
    "count": count,
    "searched?": str,
}
_CHECK = {"name": str, "answer": str, "verdict": str, "value": float, "figure": str, "n": count}
_POINT = {"answer": str, "epsilon": parse_fraction, "correct": count, "n": count}
_EXAMPLE = {
    **dict.fromkeys(("image_id", "clean_prediction", "adv_prediction"), count),
    **dict.fromkeys(("answer", "image", "adv_image"), str),
}
# A record as plain values; entries that only older or newer versions write are optional.
_STRUCTURE = {
    "schema": int,
    **dict.fromkeys(("name", "norm", "config_hash", "protocol_hash", "device", "labels"), str),
    "seed": int,
    "adversarial": bool,
    "checkpoint": {
        "tag": str,
        "epoch": count,
        "epochs": count,
        "sha256": str,
        "imported?": {"file": str, "*": object},
        "given?": str,
        "network_source?": {"*": str},
    },
    "config": {
        "network?": str,
        "network_args?": {"*": object},
        "width?": count,
        "precision?": str,
        "train_steps?": count,
        "*": object,
    },
    "history": [_EPOCH],
    "dataset": {
        "name": str,
        "sha256": str,
        "classes": [str],
        "train_images": count,
        "test_images": count,
        "*": object,
    },
    "image_ids": (count, [count]),
    "protocol": {
        "name": str,
        **_ATTACK,
        "branches?": {"*": _ATTACK},
        "precision": str,
        "search": str,
        "*": object,
    },
    "verdicts": [_VERDICT],
    "checks": [_CHECK],
    "curve": [_POINT],
    "examples": [_EXAMPLE],
    "versions": {"*": str},
    "wall_seconds": finite,
    "images?": ({"folder": str, "files": {"*": str}}, {}),
    "sources?": {"*": str},
    "margins?": {"*": float},
}


def check_content(content: dict[str, Any]) -> None:
    """Raises a ValueError unless a record's plain values have valid types and ranges."""
    check_text(content)
    check_structure(content, _STRUCTURE)
    if not any(verdict["attack"] == "none" for verdict in content["verdicts"]):
        raise ValueError("it has no verdicts on clean images")
    unknown = {each["verdict"] for each in content["checks"]}
    unknown -= {"reliable", "warn", "unreliable"}
    if unknown:
        raise ValueError(f"a check cannot be '{min(unknown)}'")
    if any(point["correct"] > point["n"] or not point["n"] for point in content["curve"]):
        raise ValueError("a point of the curve has no images, or more correct ones than images")
    if "given" not in content["checkpoint"]:
        check_structure(content["config"], {"network": str, "width": count, "*": object})
        if "imported" not in content["checkpoint"]:
            check_structure(
                content["config"], {"precision": str, "train_steps": count, "*": object}
            )
    check_paths(content)


def check_size(images: int, verdicts: int, size: int) -> None:
    """Raises a ValueError when a file of ``size`` bytes claims more images than it can hold."""
    if images * (_IMAGE_BYTES + verdicts) > most_decoded(size):
        raise ValueError(f"a file of {size:,} bytes cannot hold {images:,} images")


def check_indices(content: dict[str, Any]) -> None:
    """Raises a ValueError unless labels, ids and predictions are within the images and classes."""
    ids, classes = content["image_ids"], content["dataset"]["classes"]
    test_images = content["dataset"]["test_images"]
    predictions = [
        entry[name]
        for entry in content["examples"]
        for name in ("clean_prediction", "adv_prediction")
    ]
    if not ids or len(set(ids)) < len(ids) or max(ids) >= test_images:
        raise ValueError(f"its images must be one or more different ones of {test_images:,}")
    if max([*content["labels"], *predictions]) >= len(classes):
        raise ValueError(f"it has a label outside its {len(classes)} classes")
    if not {entry["image_id"] for entry in content["examples"]} <= set(ids):
        raise ValueError("it has an example that is not among its images")


def check_text(value: Any) -> None:
    """Raises a ValueError on text with control characters, at any depth."""
    if isinstance(value, str) and for_terminal(value) != value:
        raise ValueError(f"it holds a control character, in '{for_terminal(value)[:80]}'")
    for entry in value.values() if isinstance(value, dict) else ():
        check_text(entry)
    for entry in [*value] if isinstance(value, (list, dict)) else ():
        check_text(entry)


def check_paths(content: dict[str, Any]) -> None:
    """Raises a ValueError when a name that becomes part of a path is not allowed."""
    config, images = content["config"], content.get("images", {})
    names = [content["checkpoint"]["tag"], content["norm"], *content.get("sources", {})]
    names += [config[name] for name in ("norm", "checkpoint") if name in config]
    names += [images["folder"], *images["files"]] if images else []
    for name in names:
        check_name("each name in it", name)
    check_name("its name", content["name"], nested=True)
