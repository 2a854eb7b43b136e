"""The attacks under a short name: all of it lives in ``robustnorm.attacks``.

Nothing in ``robustnorm`` imports this package, so a folder ``attacks`` of your own may stand in its
place.

Examples:
    >>> from attacks import pgd
    >>> pgd.__module__
    'robustnorm.attacks.descent'
"""

from robustnorm.attacks import ATTACKS, autoattack, fgsm, pgd, torchattack, worst_case

__all__ = ["ATTACKS", "autoattack", "fgsm", "pgd", "torchattack", "worst_case"]
