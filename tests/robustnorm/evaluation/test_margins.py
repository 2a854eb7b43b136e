"""The median margin, by hand."""

import torch
from torch import nn

from robustnorm.evaluation.margins import median_margins


class Table(nn.Module):
    """Returns the row of logits given by the image's only pixel."""

    def forward(self, images):
        logits = torch.tensor([[3.0, 1.0, 0.0], [0.0, 5.0, 4.0], [2.0, 2.5, 2.0]])
        return logits[images.flatten(1)[:, 0].mul(2).round().long()]


def test_median_margin_is_that_of_all_images():
    images = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1)
    # 3 - 1, 5 - 4 and 2 - 2.5: the median of 2, 1 and -0.5.
    assert median_margins(Table().eval(), images, torch.tensor([0, 1, 2])) == {"single": 1.0}


def test_median_of_an_even_number_is_the_lower_one():
    images = torch.tensor([0.0, 0.5]).view(2, 1, 1, 1)
    assert median_margins(Table().eval(), images, torch.tensor([0, 1])) == {"single": 1.0}


def test_each_branch_and_serving_rule_has_a_margin(trained):
    model, images, labels = trained("auxbn")
    before = median_margins(model, images[:200], labels[:200], serving=True)
    assert list(before) == ["clean", "adv", "mean logits", "more confident branch"]
    assert min(before.values()) > 0.5
