"""Weights as the code of public releases writes them to files."""

import argparse
import copy

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel


def other(model):
    """The network with other weights."""
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for value in changed.parameters():
            value.mul_(0.5)
    return changed


def inner(model):
    """The state of a network whose code normalizes elsewhere."""
    return {k: v for k, v in model.state_dict().items() if not k.startswith("normalize.")}


def prefixed(prefix, state):
    return {prefix + name: value for name, value in state.items()}


MEAN, STD = torch.full((1, 1, 1, 1), 0.25), torch.full((1, 1, 1, 1), 0.5)
OWN = {"normalize.mean": MEAN, "normalize.std": STD}


def without_counts(state):
    return {name: v for name, v in state.items() if not name.endswith("num_batches_tracked")}


# What torch.save is given, from the inner state and the whole network.
FILES = {
    "whole state": lambda s, m: m.state_dict(),
    "DataParallel": lambda s, m: prefixed("module.", m.state_dict()),
    "torch.compile": lambda s, m: prefixed("_orig_mod.", m.state_dict()),
    "compile in DDP": lambda s, m: prefixed("module._orig_mod.", m.state_dict()),
    "DDP in compile": lambda s, m: prefixed("_orig_mod.module.", m.state_dict()),
    "module.model": lambda s, m: prefixed("module.model.", m.state_dict()),
    "net": lambda s, m: prefixed("net.", m.state_dict()),
    "backbone": lambda s, m: prefixed("backbone.", m.state_dict()),
    "Lightning": lambda s, m: {
        "state_dict": prefixed("model.", m.state_dict()), "epoch": 3, "global_step": 7,
        "pytorch-lightning_version": "2.0", "hyper_parameters": {"lr": 0.1}, "callbacks": {},
    },
    "optimizer beside it": lambda s, m: {
        "model": m.state_dict(), "epoch": 9,
        "optimizer": torch.optim.SGD(m.parameters(), 0.1, momentum=0.9).state_dict(),
    },
    "numpy scores": lambda s, m: {
        "state_dict": m.state_dict(), "best": np.float64(0.5), "curve": np.arange(4.0),
    },
    "argparse arguments": lambda s, m: {
        "state_dict": m.state_dict(), "args": argparse.Namespace(lr=0.1, out=None),
    },
    "net and acc": lambda s, m: {"net": m.state_dict(), "acc": 91.2, "epoch": 5},
    "nested twice": lambda s, m: {"model": {"state_dict": prefixed("module.", m.state_dict())}},
    "timm's training": lambda s, m: {
        "epoch": 3, "arch": "resnet18", "state_dict": m.state_dict(), "version": 2,
        "args": argparse.Namespace(lr=0.1, aa="rand-m9"), "amp_scaler": {"scale": 65536.0},
        "metric": np.float64(71.5), "state_dict_ema": other(m).state_dict(),
    },
    "torch's AveragedModel": lambda s, m: AveragedModel(m).state_dict(),
    "operations counted by thop": lambda s, m: m.state_dict()
    | {"total_ops": torch.zeros(1), "layer1.total_params": torch.zeros(1)},
    "running average beside it": lambda s, m: {
        "model": m.state_dict(), "ema_state_dict": other(m).state_dict(),
    },
    "MadryLab's normalizer": lambda s, m: {
        "model": prefixed("module.model.", s)
        | {"module.normalizer.new_mean": MEAN, "module.normalizer.new_std": STD},
    },
    "mu and sigma": lambda s, m: s | {"mu": MEAN, "sigma": STD},
    "Sequential of normalizer and network": lambda s, m: prefixed("1.", s)
    | {"0.mean": MEAN, "0.std": STD},
    "RobustBench": lambda s, m: prefixed("model.", s) | prefixed("model.", OWN),
    "before counts of batches": lambda s, m: without_counts(m.state_dict()),
    "half precision": lambda s, m: {
        k: v.half() if v.is_floating_point() else v for k, v in m.state_dict().items()
    },
}  # fmt: skip
