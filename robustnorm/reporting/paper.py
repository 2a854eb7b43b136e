"""The paper's published numbers and the experiment behind them."""

from __future__ import annotations

from typing import Any

# Gong et al., Sandwich Batch Normalization, WACV 2022, arXiv:2102.11382, Tables 3 and 4, percent.
PAPER: dict[tuple[str, str], dict[str, float]] = {
    ("clean", "SA"): {"bn": 84.84, "modenorm": 83.28, "auxbn": 94.47, "saauxbn": 94.62},
    ("adv", "SA"): {"bn": 84.84, "modenorm": 83.28, "auxbn": 83.42, "saauxbn": 84.08},
    ("adv", "RA, PGD-10"): {"bn": 41.57, "modenorm": 43.56, "auxbn": 43.05, "saauxbn": 44.93},
    ("adv", "RA, PGD-20"): {"bn": 40.02, "modenorm": 41.85, "auxbn": 41.60, "saauxbn": 43.14},
}
SETTING: dict[str, Any] = {
    "data": "CIFAR-10",
    "training images": 45_000,
    "network": "resnet18",
    "width": 64,
    "epochs": 200,
    "threat model": "Linf",
    "epsilon": "8/255",
    "step size": "2/255",
    "training attack steps": 10,
}
