"""The GPU's benchmark, on the CPU with tiny numbers."""

import sys
from functools import partial

import pytest
import torch
from tiny_network import tiny

from benchmarks import gpu, training_step, workload
from robustnorm.settings.config import Config

TINY = "--width 4 --images 120 --epoch_images 16 --batch 16 --rounds 1"


@pytest.fixture
def run(monkeypatch, capsys):
    compile_eagerly = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compile_eagerly(model, backend="eager"))
    monkeypatch.setattr(gpu, "STEPS", 2)
    monkeypatch.setattr(training_step, "Config", partial(Config, train_steps=1))
    for module in (training_step, workload):
        monkeypatch.setattr(module, "resnet18", lambda norm, width: tiny(norm))
    monkeypatch.setattr(gpu, "keep_freed_memory", lambda: None)  # of this process

    def call(arguments):
        monkeypatch.setattr(sys, "argv", ["gpu", *arguments.split()])
        gpu.main()
        return capsys.readouterr().out

    return call


@pytest.mark.slow
def test_both_tables_are_printed(run):
    lines = run(f"--device cpu {TINY}").splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    training, evaluation = rows[2:8], rows[10:]
    assert [row[0] for row in training] == [
        "saauxbn, release's method, fp32, TF32 on",
        "saauxbn, release's method, fp32, TF32 off",
        "saauxbn, bf16, eager",
        "saauxbn, bf16, compiled",
        "bn, bf16, eager",
        "bn, bf16, compiled",
    ]
    assert len(evaluation) == 1 + 8
    assert evaluation[0][0] == gpu.PEER
    assert evaluation[0][3] == training[0][3] == "1.00"  # the peer itself
    assert {row[6] for row in evaluation} == {"120"}
    fp32 = [row[5] for row in evaluation if row[0].startswith("fp32")]
    assert len(set(fp32)) == 1  # the same verdicts, compiled or not


def test_peer_that_is_not_installed_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchattacks", None)  # importing it is an ImportError
    row = gpu.peer(torch.zeros(1), torch.zeros(1), torch.nn.Identity(), None)
    assert f"{gpu.PEER}: not installed" in gpu.table(
        iter([row, gpu.Timing("ours", [1.0, 2.0, 4.0])])
    )


def test_lack_of_a_gpu_is_told_in_one_line(run):
    with pytest.raises(SystemExit) as stop:
        run("--device cuda:99")
    assert str(stop.value).startswith("device 'cuda:99' cannot be used (")
    assert "\n" not in str(stop.value)
