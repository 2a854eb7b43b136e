import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustnorm.applications.nas.darts import DartsSearch, cosine, run_search, search_folder
from robustnorm.applications.nas.record import SearchRecord, find_record, record_path
from robustnorm.system.errors import RefusedFileError, UsageError
from robustnorm.system.stopping import Stopped

SAMPLED = [(0, 1, 2, 3, 4, 0)] * 3


def stop_after(steps):
    """Stops the work at the given call."""
    asked = iter(range(steps))
    return lambda _seconds: next(asked, None) is None


def make(dataset, settings):
    return DartsSearch(settings, dataset, torch.device("cpu"))


def batch(search):
    return search.images.weights.images[:8].float() / 255, search.images.weights.labels[:8]


def test_search_writes_alpha_every_so_many_steps(settings):
    record = run_search(settings)
    assert [entry.step for entry in record.history] == [0, 2, 4, 6]
    assert record.history[0].weight_loss is None
    assert record.history[-1].weight_loss > 0
    assert record.history[0].alpha != record.history[-1].alpha
    assert record.dataset["name"] == "scikit-learn digits"
    assert (record.dataset["weight_images"], record.dataset["alpha_images"]) == (649, 648)
    assert SearchRecord.load(record_path(settings)) == record
    assert find_record(settings) == record


@pytest.mark.parametrize("stopped", [[0], [2], [1, 1]])
def test_killed_search_goes_on_to_the_same_bits(settings, tmp_path, stopped):
    whole = run_search(replace(settings, output=str(tmp_path / "a"), reports=str(tmp_path / "ra")))
    for steps in stopped:
        with pytest.raises(Stopped, match="steps are done"):
            run_search(settings, should_stop=stop_after(steps))
    assert run_search(settings).history == whole.history
    # Weights, momentum and Adam's averages, too.
    files = [
        json.loads((folder / "last.json").read_text())["file"]
        for folder in (
            search_folder(settings),
            search_folder(replace(settings, output=str(tmp_path / "a"))),
        )
    ]
    assert files[0] == files[1]  # named by their content


def test_finished_search_is_not_made_again(settings):
    record = run_search(settings)
    (search_folder(settings) / "last.json").unlink()
    assert run_search(settings, should_stop=stop_after(0)) == record


@pytest.mark.parametrize(
    "changes", [{"alpha_learning_rate": 0.2}, {"paths": "paper"}, {"stop_step": 7}]
)
def test_search_of_other_settings_is_not_continued(settings, changes):
    with pytest.raises(Stopped):
        run_search(settings, should_stop=stop_after(1))
    (name, value), *_ = changes.items()
    with pytest.raises(UsageError, match=f"other settings .*{name}: .* there, {value} here"):
        run_search(replace(settings, **changes))
    run_search(settings)
    with pytest.raises(UsageError, match=f"other settings .*{name}: .* there, {value} here"):
        run_search(replace(settings, **changes))


def test_search_of_other_data_is_not_continued(settings, dataset):
    with pytest.raises(Stopped):
        run_search(settings, should_stop=stop_after(1))
    with pytest.raises(
        UsageError, match="holds a search on scikit-learn digits, but these data are noise"
    ):
        make(dataset, settings).resume()


def test_damaged_record_is_refused(settings):
    run_search(settings)
    path = record_path(settings)
    text = path.read_text()
    for damaged in (
        text[:-20],
        text.replace('"step": 2,', '"step": 5,'),
        text.replace('"kind": "nas-search"', '"kind": "other"'),
        text.replace('"channels"', '"chanels"'),
    ):
        path.write_text(damaged)
        with pytest.raises(RefusedFileError, match="is not the record of a search"):
            find_record(settings)


def test_norms_begin_with_the_same_alpha(dataset, settings):
    first = [make(dataset, replace(settings, norm=norm)).history[0] for norm in ("bn", "sabn")]
    assert first[0] == first[1]


def test_step_on_the_weights_is_nesterov_s_with_clipping_and_leaves_alpha(dataset, settings):
    settings = replace(settings, gradient_clipping=0.1)
    search, again = make(dataset, settings), make(dataset, settings)
    images, labels = batch(search)
    network, before = again.network.train(), [w.detach().clone() for w in again.network.weights()]
    loss = F.cross_entropy(network(images, SAMPLED), labels)
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    norm = torch.stack([g.norm() for g in gradients]).norm()  # of alpha's, too
    assert norm > settings.gradient_clipping
    found = search.network.train()
    torch.testing.assert_close(search.step_weights(images, labels, SAMPLED), loss.detach())
    assert torch.equal(found.alpha, network.alpha)
    by_parameter = dict(zip(network.parameters(), gradients, strict=True))
    for weight, mine, start in zip(network.weights(), found.weights(), before, strict=True):
        gradient = by_parameter[weight] * settings.gradient_clipping / norm
        gradient = gradient + settings.weight_decay * start
        # The first step's momentum is the gradient itself, and Nesterov adds it once more.
        expected = start - settings.learning_rate * (1 + settings.momentum) * gradient
        torch.testing.assert_close(mine.detach(), expected, rtol=1e-4, atol=1e-6)


def test_step_on_alpha_is_adam_s_and_leaves_the_weights(dataset, settings):
    search = make(dataset, settings)
    images, labels = batch(search)
    network = search.network.train()
    before = [weight.detach().clone() for weight in network.weights()]
    start = network.alpha.detach().clone()
    loss = F.cross_entropy(network(images, SAMPLED), labels)
    (gradient,) = torch.autograd.grad(loss, [network.alpha])
    gradient = gradient + settings.alpha_weight_decay * start
    search.step_alpha(images, labels, SAMPLED)
    # At the first step both averages, corrected, are the gradient and its square.
    step = settings.alpha_learning_rate * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(network.alpha.detach(), start - step, rtol=1e-4, atol=1e-6)
    assert all(map(torch.equal, network.weights(), before))
    assert all(weight.grad is None for weight in network.weights())


def test_learning_rate_falls_along_the_cosine(dataset, settings):
    search = make(dataset, settings)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.025)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8, eta_min=0.001)
    for step in range(6):
        expected = schedule.get_last_lr()[0]
        assert cosine(step, 8, 0.025, 0.001) == pytest.approx(expected, rel=1e-9)
        search.step = step
        search.step_weights(*batch(search), SAMPLED)
        assert search.weight_optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-9)
        optimizer.step()
        schedule.step()


def test_losses_that_are_not_finite_end_the_search(settings):
    with pytest.raises(UsageError, match="sabn-seed0: loss or alpha is no longer finite near step"):
        run_search(replace(settings, learning_rate=1e38))
    assert not record_path(settings).exists()
