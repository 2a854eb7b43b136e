"""Networks of width below 16 on images above 32 pixels, channels-last: a fault of oneDNN."""

import subprocess
import sys

import pytest
import torch

from robustnorm import evaluate, resnet18
from robustnorm.models.layout import is_channels_last, is_fragile, must_be_contiguous
from robustnorm.settings.config import Config
from robustnorm.work.train import train_run


@pytest.fixture
def avx512(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")


def images(side):
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def channels_last(model):
    return model.to(memory_format=torch.channels_last)


@pytest.mark.usefixtures("avx512")
@pytest.mark.parametrize(("width", "side", "expected"), [(4, 33, 1), (4, 32, 0), (16, 224, 0)])
def test_narrow_network_on_large_images_must_be_contiguous(width, side, expected):
    assert must_be_contiguous(resnet18("bn", width=width), images(side)) == bool(expected)


def test_other_processors_take_any_layout(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not is_fragile(resnet18("bn", width=4))


def test_layout_of_weights_is_seen():
    model = resnet18("bn", width=4)
    assert not is_channels_last(model)
    assert is_channels_last(channels_last(model))


@pytest.mark.usefixtures("avx512")
def test_evaluation_refuses_channels_last_weights_that_would_end_the_process():
    model = channels_last(resnet18("bn", width=4)).eval()
    with pytest.raises(ValueError, match=r"memory_format=torch\.contiguous_format"):
        evaluate(model, images(48), torch.tensor([0, 1]), steps=(1,))


_STEPS = """
import torch
from robustnorm import evaluate, resnet18
torch.set_num_threads(1)
images, labels = torch.rand(12, 3, 64, 64), torch.arange(12) % 10
model = resnet18("bn", width=4)
for _ in range(2):
    torch.nn.functional.cross_entropy(model(images), labels).backward()
model.eval()
images = images[:2].contiguous(memory_format=torch.channels_last)
evaluate(model, images, labels[:2], steps=(1,), rules="any")
"""


@pytest.mark.slow
def test_process_survives_64_pixels_of_width_4():
    """Ended by "double free" or a segmentation fault when channels-last, each time."""
    done = subprocess.run([sys.executable, "-c", _STEPS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.usefixtures("avx512")
def test_training_refuses_it_before_the_first_step(tmp_path):
    from PIL import Image

    for split in ("train", "test"):
        for label in ("a", "b"):
            folder = tmp_path / "data" / split / label
            folder.mkdir(parents=True)
            for number in range(6):
                Image.new("RGB", (40, 40), (40 * number, 9 * number, 250 - 20 * number)).save(
                    folder / f"{number}.png"
                )
    options = {"data": str(tmp_path / "data"), "validation": 2, "batch_size": 4, "epochs": 1}
    places = {"output": str(tmp_path / "runs"), "reports": str(tmp_path), "device": "cpu"}
    config = Config(norm="bn", width=4, data_root=str(tmp_path / "root"), **options, **places)
    with pytest.raises(ValueError, match="set --channels_last false, or --width 16 or more"):
        train_run(config)
