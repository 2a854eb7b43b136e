"""Networks: built, converted, folded, served.

A factory in ``NETWORKS`` takes whichever of ``norm``, ``num_classes``, ``width``, ``in_channels``,
``mean``, ``std``, ``branches`` and ``final_norm`` it needs, as ``resnet18`` does, and returns a
module, images in [0, 1] to logits. A new network takes one file, one line here and one test.
``building.build_network`` also accepts factories with none of these arguments.
"""

from robustnorm.models.naming import Networks

NETWORKS = Networks(
    {
        "resnet18": "robustnorm.models.resnet:resnet18",
        "preact_resnet18": "robustnorm.models.resnet:preact_resnet18",
        "wideresnet28_10": "robustnorm.models.wideresnet:wideresnet28_10",
        "wideresnet34_10": "robustnorm.models.wideresnet:wideresnet34_10",
        "vgg16": "robustnorm.models.vgg:vgg16",
    },
)
