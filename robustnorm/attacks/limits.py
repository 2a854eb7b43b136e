"""How large a perturbation may be; no torch, so that settings are refused by the same words."""

from __future__ import annotations

from typing import Any

# Float32 tells values near 1 apart by 6e-8: a smaller radius would leave images as they are.
LEAST = 1e-6
# An L2 ball reaches beyond 1: every pixel may change a little.
MOST = {"linf": 1.0, "l2": 100.0}


def check_size(
    name: str, value: Any, threat_model: str, *, zero: bool = False, most: float = 0.0
) -> None:
    """Raises a ValueError on a radius or a step that is out of range or no number.

    Args:
        name: Of the setting, for the message.
        value: On the [0, 1] scale.
        threat_model: A name; an unknown one has the limits of L2.
        zero: Whether 0, no change at all, is allowed, too.
        most: A limit above ``MOST``, where the size of the images is known.

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
            f"{name} must be {nothing}from {LEAST:g} to {most:g}, such as 8/255, got {value}"
        )
