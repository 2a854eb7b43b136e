"""Verdicts of some of 130 images, for tests in this process and in others."""

import torch
from tiny_network import tiny

from robustnorm import evaluate
from robustnorm.norms.routing import bind

N = 130  # one whole chunk and one padded


def make_model():
    torch.manual_seed(0)
    network = tiny("auxbn", num_classes=4, in_channels=1)
    for layer in network.modules():
        if hasattr(layer, "branches"):
            layer.running_mean.normal_(std=0.3)
            layer.running_var.uniform_(0.5, 1.5)
    network.double().eval()  # float64: no verdict hangs on the order of a sum
    with torch.no_grad():  # every class is predicted, near to others
        network[-1].bias -= bind(network, "adv")(make_images()).mean(0)
    return network


def make_images():
    return torch.rand(N, 1, 4, 4, generator=torch.Generator().manual_seed(1)).double()


def make_data():
    images = make_images()
    with torch.no_grad():
        labels = bind(make_model(), "adv")(images).argmax(1)
    labels[::7] = (labels[::7] + 1) % 4
    return images, labels


def run(ids, **options):
    """Returns the verdicts of some images, each image's by its id."""
    images, labels = make_data()
    verdicts = evaluate(
        make_model(),
        images[ids],
        labels[ids],
        epsilon=0.1,
        step_size=0.03,
        steps=(2,),
        attacks=["pgd-2x2-dlr", "worst"],
        image_ids=torch.as_tensor(ids),
        **options,
    )
    return {
        (v.attack, v.rule, v.attack_branch, v.score_branch): dict(
            zip(ids, v.correct.tolist(), strict=True)
        )
        for v in verdicts
    }
