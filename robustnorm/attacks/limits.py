"""Limits on the size of perturbations; no torch, so that settings can use them, too."""

from __future__ import annotations

from typing import Any

# float32 values near 1 are 6e-8 apart: a smaller radius would not change images.
LEAST = 1e-6
# An L2 ball may have a radius above 1: it is summed over all pixels.
MOST = {"linf": 1.0, "l2": 100.0}


def check_size(
    name: str, value: Any, threat_model: str, *, zero: bool = False, most: float = 0.0
) -> None:
    """Raises a ValueError on a radius or step size that is out of range or not a number.

    Args:
        name: Name of the setting, for the message.
        value: On the [0, 1] scale.
        threat_model: Name of the threat model; unknown ones have the limits of L2.
        zero: Whether 0, no change at all, is allowed.
        most: A limit above ``MOST``, if the size of the images is known.

    Examples:
        >>> check_size("epsilon", 8, "linf")
        Traceback (most recent call last):
        ValueError: epsilon must be from 1e-06 to 1, such as 8/255, got 8
    """
    most = max(most, MOST.get(threat_model, MOST["l2"]))
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):
        number = float("nan")
    if not (LEAST <= number <= most or (zero and number == 0)) or isinstance(value, str):
        nothing = "0, or " if zero else ""
        raise ValueError(
            f"{name} must be {nothing}from {LEAST:g} to {most:g}, such as 8/255, "
            f"got {str(value)[:80]}"
        )
