"""Short name for ``robustnorm.attacks``, which holds the code.

Nothing in ``robustnorm`` imports this package, so your project may have its own folder ``attacks``.

Examples:
    >>> from attacks import pgd
    >>> pgd.__module__
    'robustnorm.attacks.descent'
"""

from robustnorm.attacks import ATTACKS, autoattack, fgsm, pgd, torchattack, worst_case

__all__ = ["ATTACKS", "autoattack", "fgsm", "pgd", "torchattack", "worst_case"]
