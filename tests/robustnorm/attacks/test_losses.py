"""The attacks' losses against formulas written out and against the authors' code of DLR."""

import math

import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted

from robustnorm.attacks.losses import LOSSES, find_loss

N, CLASSES = 40, 6


def make_inputs(classes=CLASSES):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(N, classes, generator=generator, dtype=torch.float64) * 3
    labels = torch.randint(classes, (N,), generator=generator)
    targets = (labels + torch.randint(1, classes, (N,), generator=generator)) % classes
    return logits, labels, targets


def by_hand(name, z, y, t):
    """One image's loss, from a list of logits."""
    wanted = y if t is None else t
    others = [value for place, value in enumerate(z) if place != wanted]
    if name == "ce":
        entropy = torch.stack(z).exp().sum().log() - z[wanted]
        return entropy if t is None else -entropy
    lead = max(others) - z[wanted]
    if name == "margin":
        return lead if t is None else -lead
    ordered = sorted(z, reverse=True)
    if t is None:
        return lead / (ordered[0] - ordered[2])
    return (z[t] - z[y]) / (ordered[0] - 0.5 * (ordered[2] + ordered[3]))


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_equal_the_formula_written_out(name, targeted):
    logits, labels, targets = make_inputs()
    logits.requires_grad_()
    found = find_loss(name)(logits, labels, targets if targeted else None)
    expected = torch.stack(
        [
            by_hand(name, list(logits[i]), int(labels[i]), int(targets[i]) if targeted else None)
            for i in range(N)
        ]
    )
    assert found.shape == (N,)
    # float64; DLR's 1e-12 in the denominator.
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), logits)
    assert gradient.abs().amax(1).min() > 0
    # DLR's gradient divides by the cube of a denominator of 0.18 and more.
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-9)


def test_dlr_equals_its_authors_code_bit_for_bit():
    logits, labels, targets = make_inputs()
    expected = APGDAttack.dlr_loss(None, logits, labels)
    # They subtract before they change the sign.
    assert torch.equal(find_loss("dlr")(logits, labels, None), expected)
    attack = APGDAttack_targeted.__new__(APGDAttack_targeted)
    attack.y_target = targets
    expected = attack.dlr_loss_targeted(logits, labels)
    torch.testing.assert_close(
        find_loss("dlr")(logits, labels, targets), expected, rtol=1e-14, atol=0
    )


@pytest.mark.parametrize("targeted", [False, True])
def test_dlr_does_not_change_when_logits_are_scaled(targeted):
    logits, labels, targets = make_inputs()
    wanted = targets if targeted else None
    loss = find_loss("dlr")
    # 1e-12 beside differences of at least 1e-2.
    torch.testing.assert_close(
        loss(1000 * logits, labels, wanted), loss(logits, labels, wanted), rtol=1e-9, atol=0
    )


@pytest.mark.parametrize(("targeted", "least"), [(False, 3), (True, 4)])
def test_dlr_refuses_too_few_classes(targeted, least):
    logits, labels, targets = make_inputs(least - 1)
    with pytest.raises(
        ValueError, match=rf"at least {least} classes, but the model has {least - 1}"
    ):
        find_loss("dlr")(logits, labels, targets if targeted else None)
    logits, labels, targets = make_inputs(least)
    assert find_loss("dlr")(logits, labels, targets if targeted else None).isfinite().all()


def test_dlr_of_equal_logits_is_zero():
    labels = torch.zeros(2, dtype=torch.int64)
    assert find_loss("dlr")(torch.ones(2, 4), labels, None).tolist() == [0.0, 0.0]
    assert math.isfinite(find_loss("dlr")(torch.ones(2, 4), labels, labels + 1).sum().item())


def test_unknown_loss_names_the_nearest():
    with pytest.raises(ValueError, match="unknown loss 'margn'; did you mean 'margin'"):
        find_loss("margn")
