"""Images of any rank: vectors, signals and volumes."""

import pytest
import torch
from torch import nn

from robustnorm import convert, evaluate
from robustnorm.evaluation.margins import median_margins

SEARCH = {"epsilon": 0.05, "step_size": 0.02, "steps": (2,), "attacks": ["worst"]}
NETWORKS = {
    (12,): lambda: [nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)],
    (2, 12): lambda: [nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(40, 3)],
    (2, 5, 5, 5): lambda: [
        nn.Conv3d(2, 4, 3),
        nn.BatchNorm3d(4),
        nn.Flatten(),
        nn.Linear(4 * 27, 3),
    ],
}


@pytest.mark.parametrize("norm", ["bn", "auxbn"])
@pytest.mark.parametrize("shape", NETWORKS)
def test_verdicts_are_those_of_the_same_values_as_images(shape, norm):
    torch.manual_seed(0)
    network = nn.Sequential(*NETWORKS[shape]()).double().eval()
    inputs = torch.rand(20, *shape, dtype=torch.float64)
    with torch.no_grad():  # every class is predicted, near to others
        network[-1].bias -= network(inputs).mean(0)
        labels = network(inputs).argmax(1)
    network = network if norm == "bn" else convert(network, norm)
    of_images = nn.Sequential(nn.Flatten(1), nn.Unflatten(1, shape), network).eval()
    images = inputs.reshape(20, 1, 1, -1)
    found, expected = (
        {
            (v.attack, v.rule, v.attack_branch, v.score_branch): v.correct.tolist()
            for v in evaluate(model, given, labels, **SEARCH)
        }
        for model, given in ((network, inputs), (of_images, images))
    )
    assert found == expected
    assert len({sum(correct) for correct in found.values()}) > 1
    assert median_margins(network, inputs, labels) == median_margins(of_images, images, labels)
