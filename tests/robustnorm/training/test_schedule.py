import pytest
import torch

from robustnorm.settings.config import Config
from robustnorm.training.schedule import learning_rate

STEPS = 352  # an epoch of 45,000 images in batches of 128, rounded up


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.01),
        (100, 0.055),
        (200, 0.1),
        (50 * STEPS - 1, 0.1),
        (50 * STEPS, 0.01),
        (150 * STEPS - 1, 0.01),
        (150 * STEPS, 0.001),
        (200 * STEPS - 1, 0.001),
    ],
)
def test_milestones_follow_the_release(step, expected):
    config = Config(
        epochs=200,
        learning_rate=0.1,
        schedule="milestones",
        milestones=(50, 150),
        warmup_steps=200,
        warmup_from=0.01,
    )
    assert learning_rate(config, step, STEPS) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("milestones", [(2, 5), (5, 2), (6, 1, 3, 3)])
def test_milestones_in_any_order_are_those_of_torch(milestones):
    config = Config(epochs=8, schedule="milestones", milestones=milestones)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, config.decay)
    for epoch in range(config.epochs):
        for step in (10 * epoch, 10 * epoch + 9):
            assert learning_rate(config, step, 10) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("peak", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("epochs", [1, 2, 7])
def test_one_cycle_rises_to_the_peak_and_falls_without_reaching_zero(epochs, peak):
    config = Config(epochs=epochs, learning_rate=0.2, schedule="one-cycle", peak=peak)
    rates = [learning_rate(config, step, 10) for step in range(10 * epochs)]
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.2)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert min(rates) > 0
    assert top == max(1, round(peak * 10 * epochs)) - 1
