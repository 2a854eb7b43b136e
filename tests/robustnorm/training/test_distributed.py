"""Two processes, started once by torchrun's agent, compared with one process doing the same."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import two_processes
from processes import CONTEXT
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from two_processes import CONFIG, ROUTES, RUN, STEPS

from robustnorm.cli import main
from robustnorm.norms import NORMS
from robustnorm.runs.checkpoint import load_checkpoint
from robustnorm.system.errors import UsageError
from robustnorm.training.advprop import validate
from robustnorm.training.distributed import own_device
from robustnorm.training.losses import AdvProp
from robustnorm.work.train import train_run

TRAINED = ("modenorm", "saauxbn")


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """The results of each process; both end, in an error, after process 1 was killed."""
    folder = tmp_path_factory.mktemp("two")
    launch = LaunchConfig(
        *(1, 1, 2),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method=CONTEXT.get_start_method(),
        signals_to_handle="",
    )
    with pytest.raises(ChildFailedError) as ended:
        elastic_launch(launch, two_processes.main)(folder)
    files = [folder / f"seen-by-{rank}.pt" for rank in (0, 1)]
    assert all(file.exists() for file in files), ended.value
    ranks = [torch.load(file, weights_only=True) for file in files]
    return SimpleNamespace(ranks=ranks, folder=folder)


@pytest.fixture
def place(seen, monkeypatch):
    monkeypatch.chdir(seen.folder)


def both(seen, key):
    return [rank[key] for rank in seen.ranks]


def assert_equal(found, expected):
    """Equal but for the order of sums in float64."""
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("norm", NORMS)
def test_synchronized_layer_equals_the_layer_on_the_whole_batch(seen, norm, route):
    layer, batch, grad = two_processes.layer_and_batch(norm)
    output, batch_grad, grads, buffers = two_processes.run_layer(layer, batch, grad, ROUTES[route])
    parts = [found[norm, route] for found in both(seen, "layers")]
    assert_equal(torch.cat([part[0] for part in parts]), output)
    assert_equal(torch.cat([part[1] for part in parts]), batch_grad)
    for name, expected in grads.items():
        # A row that no image of a process was routed to has no gradient there.
        own = [part[2][name] for part in parts if part[2][name] is not None]
        assert_equal(sum(own), expected)
    for part in parts:
        assert part[3].keys() == buffers.keys()
        for name, expected in buffers.items():
            assert_equal(part[3][name], expected)


@pytest.mark.parametrize("norm", TRAINED)
def test_two_processes_train_as_one_with_synchronized_statistics(seen, norm):
    expected, model = two_processes.trained(norm)
    for losses, _ in both(seen, norm):
        assert losses.shape == (STEPS, 2)
        # In float64 they differ by rounding alone; the bound is the promised one.
        torch.testing.assert_close(losses, expected, rtol=1e-3, atol=0)
    assert expected[-1, 0] < 0.8 * expected[0, 0]  # something was learned
    validation = validate(model, two_processes.split(250), two_processes.SEARCH)
    for _, found in both(seen, norm):
        assert found.keys() == validation.keys()
        for branch, values in validation.items():
            assert found[branch] == pytest.approx(vars(values), rel=1e-3)


def test_gradients_are_means_over_the_processes_and_statistics_become_so(seen):
    alone = []
    for part in (0, 1):
        losses = AdvProp(two_processes.network("saauxbn"), CONFIG)
        images_and_labels = two_processes.step_images(part)
        alone.append(two_processes.gradients_and_statistics(losses, *images_and_labels))
    (first, first_buffers), (second, second_buffers) = alone
    for gradients, buffers, averaged in both(seen, "step"):
        for found, one, other in zip(gradients, first, second, strict=True):
            assert_equal(found, (one + other) / 2)
        assert len(buffers) == len(averaged) == 6  # of two layers
        for found, one, other in zip(averaged, first_buffers, second_buffers, strict=True):
            if found.is_floating_point():
                assert_equal(found, (one + other) / 2)
            else:
                assert found.tolist() == one.tolist() == other.tolist() == [1, 1]
    for (_, buffers, _), expected in zip(both(seen, "step"), alone, strict=True):
        for found, own in zip(buffers, expected[1], strict=True):
            assert_equal(found, own)  # until then each process has its own
    assert not torch.equal(first_buffers[0], second_buffers[0])


def test_batch_that_does_not_divide_is_refused(seen):
    for message in both(seen, "refusal"):
        assert "33 for 2 processes; try 32" in message


def test_all_stop_at_the_step_at_which_one_should(seen, place):
    """Process 1 alone was told to stop; process 0 alone writes, as 1 would have failed."""
    assert both(seen, "stopped") == ["stopped in epoch 2 after step 1"] * 2
    manifest = load_checkpoint(replace(RUN, output="stopped").folder, "last").manifest
    assert (manifest["epoch"], len(manifest["within_epoch"]["losses"])) == (1, 1)
    assert manifest["processes"] == {
        "world_size": 2,
        "batch_size": RUN.batch_size,
        "batch_size_per_process": RUN.batch_size // 2,
    }


def test_statistics_are_means_when_training_validates_saves_or_stops(seen):
    moments = zip(*both(seen, "statistics"), strict=True)
    for first, second in moments:
        for one, other in zip(first, second, strict=True):
            assert torch.equal(one, other)
    counts = [moment[2].tolist() for moment in both(seen, "statistics")[0]]
    assert counts == [[1, 1], [2, 2], [3, 3]]


def test_death_of_a_process_ends_all_and_the_run_can_be_continued(seen, place, caplog):
    config = replace(RUN, output="killed")
    assert load_checkpoint(config.folder, "last").manifest["epoch"] == 1
    with caplog.at_level("INFO", "robustnorm"):
        train_run(config)  # with one process
    assert "continued with 1 process(es) after 2" in caplog.text
    manifest = load_checkpoint(config.folder, "last").manifest
    assert [entry["world_size"] for entry in manifest["history"]] == [2, 1]


def test_one_gpu_for_many_processes_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="got --device cuda:1"):
        own_device("cuda:1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert own_device("cuda") == "cuda:1"
    assert own_device("cpu") == "cpu"


def test_commands_other_than_train_are_refused_under_torchrun(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["eval", "--config=digits"]) == 2
    assert "only 'train' can use torchrun" in capsys.readouterr().err
