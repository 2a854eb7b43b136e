"""Networks: built, converted, folded, served.

A factory in ``NETWORKS`` takes what it needs of ``norm``, ``num_classes``, ``width``,
``in_channels``, ``mean``, ``std``, ``branches`` and ``final_norm``, as ``resnet18`` does, and
returns a module, images in [0, 1] to logits. To add a network: one file, one line here, one test.
"""

from robustnorm.system.registry import Registry

NETWORKS = Registry(
    "network",
    {
        "resnet18": "robustnorm.models.resnet:resnet18",
        "preact_resnet18": "robustnorm.models.resnet:preact_resnet18",
    },
)
