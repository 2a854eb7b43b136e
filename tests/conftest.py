import sys

import pytest
import torch

# The tests' networks are small: a second thread costs more than it gives.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def torchvision_library():
    """PyPI's torchvision needs two operators that a torch for the CPU does not have."""
    if "torchvision" in sys.modules or torch.version.cuda:
        return None
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
