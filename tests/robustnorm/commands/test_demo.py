"""The demo on more than one core."""

from dataclasses import replace

import pytest
import torch

from robustnorm.commands.demo import demo
from robustnorm.commands.reproduce import reproduce
from robustnorm.settings.config import Config


@pytest.mark.slow
def test_demo_on_two_cores_prints_what_one_core_computes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = {
        "width": 4,
        "epochs": 1,
        "train_limit": 64,
        "validation": 20,
        "test_limit": 20,
        "batch_size": 32,
    }
    config = Config(name="small", data="digits", device="cpu", checks="none", worst=False, **small)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        shared = demo(config)
        torch.set_num_threads(1)
        alone = reproduce(replace(config, output="alone", reports="alone"))
    finally:
        torch.set_num_threads(threads)
    assert len(list((tmp_path / "reports/small/records").iterdir())) == 5
    assert shared == alone
