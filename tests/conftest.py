"""Shared by the tests: one thread, torchvision, small trained networks."""

import sys
from collections.abc import Callable
from functools import cache

import pyautoattack
import pytest
import torch
import yaml
from small_runs import SMALL
from torch import Tensor, nn
from trained_networks import load_network

# Imported before a test sets another size of chunks, which they would keep for later tests.
import robustnorm.commands.referee
import robustnorm.commands.study
import robustnorm.evaluation.checks.run
import robustnorm.evaluation.evaluate
import robustnorm.studies.diagnosis
import robustnorm.studies.gradients
import robustnorm.work.evaluate_network
import robustnorm.work.jobs  # noqa: F401
from robustnorm.attacks import worst_case
from robustnorm.data.digits import load_digits
from robustnorm.models import NETWORKS
from robustnorm.reporting import drawing

# The tests' networks are small: a second thread costs more than it saves.
torch.set_num_threads(1)

# Radius and step on the digits: those of configs/digits.yaml.
EPSILON, STEP_SIZE = 3 / 16, 3 / 64


def pytest_collection_modifyitems(items):
    """Slow tests begin: a long file that a worker takes last would leave the others idle."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@cache
def _trained(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    test = load_digits().test
    return load_network(name), test.images, test.labels


@pytest.fixture(scope="session")
def trained() -> Callable[[str], tuple[nn.Module, Tensor, Tensor]]:
    """Returns a function that gives a network trained on digits, with uint8 images and labels.

    Trained with AdvProp against PGD-3 at radius 3/16; the 500 test images are those of the demo.
    Tests must leave the model as it is.
    """
    return _trained


@pytest.fixture(scope="session")
def tiny():
    """The name by which every command knows the network of tests/helpers/tiny_network.py."""
    NETWORKS["tiny"] = "tiny_network:tiny"
    yield "tiny"
    del NETWORKS["tiny"]


@pytest.fixture
def small_yaml(tiny, tmp_path, monkeypatch):
    """The working folder is empty but for small.yaml, with the settings of small_runs."""
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def short_worst():
    """The attack worst is a tenth as long for a whole file, whose subject is not its strength."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(worst_case.__kwdefaults__, "restarts", 4)
        patch.setitem(worst_case.__kwdefaults__, "queries", 500)
        yield


@pytest.fixture(scope="module")
def short_autoattack():
    """The authors' AutoAttack takes 10 steps instead of 100: its strength is not tested here."""
    initialize = pyautoattack.AutoAttack.__init__

    def shortened(self, *arguments, **options):
        initialize(self, *arguments, **options)
        for attack in (self.apgd, self.apgd_targeted, self.fab):
            attack.n_iter = 10

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyautoattack.AutoAttack, "__init__", shortened)
        yield


@pytest.fixture(scope="module")
def blank_figures():
    """Figures are files without content for a whole file, since drawing one takes half a second."""
    content = {
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"><g/></svg>',
        "png": b"",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "save", lambda _: content)
        yield


@pytest.fixture(scope="session")
def torchvision_library():
    """PyPI's torchvision needs two operators that a torch for the CPU does not have."""
    if "torchvision" in sys.modules or torch.version.cuda:
        return None
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
