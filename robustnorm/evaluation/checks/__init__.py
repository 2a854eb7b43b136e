"""Checks of an evaluation: attacks that must not win, forwards that must not differ.

``CHECKS`` explains each check, ``run_checks`` runs them, ``verdict_of`` sums up a branch.
"""

from robustnorm.evaluation.checks.explanations import CHECKS
from robustnorm.evaluation.checks.judge import verdict_of
from robustnorm.evaluation.checks.run import check_installed, run_checks

__all__ = ["CHECKS", "check_installed", "run_checks", "verdict_of"]
