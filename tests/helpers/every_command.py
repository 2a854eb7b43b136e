"""Runs every command in folders where nothing can be written.

python every_command.py FOLDER CONDITION ... tells how each command ended under each condition, one
line of JSON each. What the commands read is made once, and a process is forked for each condition,
since importing torch takes as long as the commands do.
"""

import contextlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

import sklearn.datasets  # noqa: F401 - joblib writes a file when it is imported
import torch
import torch._inductor.codecache  # which cannot be imported twice, should that fail at first
import torch.onnx._internal.exporter._core
import yaml
from PIL import Image
from safetensors.torch import save_file

from robustnorm import cli, resnet18
from robustnorm.applications.style import data
from robustnorm.commands import referee

TRAINING = {
    "train_limit": 64, "validation": 20, "width": 4, "epochs": 1, "batch_size": 32,
    "epsilon": "3/16", "step_size": "3/64", "train_steps": 1, "validation_steps": 1,
}  # fmt: skip
EVALUATION = {"test_limit": 20, "checks": "none", "worst": False}
SMALL = ["--config=small.yaml", "--device=cpu"]
STYLE = [
    *("--encoder_widths=[8,16]", "--encoder_epochs=1", "--cut=2", "--steps=2", "--batch_size=2"),
    *("--crop=8", "--resize=16", "--validate_every=2", "--validation_pairs=2", "--seeds=[0]"),
    "--device=cpu",
]
GAN = [
    *("--data=digits", "--image_size=8", "--width=4", "--discriminator_width=4", "--steps=1"),
    *("--latent_dim=4", "--discriminator_steps=1", "--batch_size=8", "--generator_batch=8"),
    *("--eval_every=1", "--eval_images=20", "--classifier_epochs=1", "--classifier_width=1"),
    *("--networks=[sngan]", "--norms=[ccbn]", "--seeds=[0]", "--device=cpu"),
]
NAS = [
    *("--channels=2", "--cells=1", "--batch_size=16", "--steps=4", "--stop_step=2"),
    *("--record_every=2", "--device=cpu"),
]
READ = ["--norm=bn", "--mean=0.5", "--std=0.2"]
IMPORT = ["import", "weights.safetensors", *READ]
RUN = "checkpoints/small/auxbn-seed0"
SWEEP = ["sweep", "small.yaml", "--norms=[bn]", "--control=false", "--device=cpu"]
# Each writes something; "verify", which only reads, is there to show that it goes on.
COMMANDS = {
    "train": ["train", *SMALL, "--norm=bn"],
    "train, TensorBoard": ["train", *SMALL, "--norm=bn", "--tensorboard"],
    "train, continued": ["train", *SMALL, "--name=stopped", "--norm=auxbn", "--epochs=2"],
    "eval": ["eval", *SMALL, "--test_limit=15"],
    "eval, known": ["eval", *SMALL],
    "eval, images": ["eval", *SMALL, "--test_limit=15", "--keep_images"],
    "eval, weights": ["eval", *SMALL, "--weights=weights.safetensors", *READ],
    "verify": ["verify", "reports/small/records/auxbn-seed0-best.json", "--device=cpu"],
    "reproduce": ["reproduce", *SMALL, "--name=new"],
    "report": ["report", "--config=small.yaml"],
    "compare": ["compare", "reports/small"],
    "campaign": ["campaign", "--config=campaign.yaml", "--device=cpu"],
    "demo": ["demo", *SMALL, "--name=new"],
    "diagnose": ["diagnose", RUN, "--steps=1", "--batches=2", "--test_limit=100", "--device=cpu"],
    "ablate": ["ablate", *SMALL, "--name=new"],
    "study": ["study", *SMALL, "--study_batches=2", "--study_images=20"],
    "referee": ["referee", *SMALL, "--test_limit=15"],
    "import": [*IMPORT, *SMALL, "--name=imported"],
    "sweep": SWEEP,
    "figure7": ["figure7", "--name=new", *STYLE],
    "stylize": ["stylize", "checkpoints/made/adain-seed0", "a.png", "b.png", "--into=c.png"],
    "search": ["search", "--norm=bn", *NAS],
    "table1": ["table1", *GAN],
    "table2": ["table2", "--norms=[bn]", "--seeds=[0]", *NAS],
    "export, torch-export": ["export", RUN, "--branch=adv", "--to=torch-export"],
    "export, onnx": ["export", RUN, "--branch=adv", "--to=onnx"],
    "export, safetensors": ["export", RUN, "--branch=adv", "--to=safetensors"],
    "export, huggingface": ["export", RUN, "--branch=adv", "--to=huggingface"],
}  # fmt: skip


def prepare():
    """Makes in the working folder what the commands read."""
    Path("small.yaml").write_text(yaml.safe_dump(TRAINING | EVALUATION | {"name": "small"}))
    plan = {"config": "digits", "settings": TRAINING, "norms": ["bn"], "control": False}
    plans = {"plan": plan | {"evaluations": {"best": EVALUATION}}}
    Path("campaign.yaml").write_text(yaml.safe_dump({"plans": plans}))
    for name in ("a", "b"):
        Image.new("RGB", (20, 20), "teal").save(f"{name}.png")
    save_file(resnet18("bn", width=4, in_channels=1).state_dict(), "weights.safetensors")
    for words in (
        ["train", *SMALL, "--norm=auxbn"],
        ["train", *SMALL, "--norm=auxbn", "--name=stopped", "--epochs=2"],
        ["eval", *SMALL],
        ["figure7", "--name=made", "--rows=[adain]", *STYLE],
    ):
        assert run(words)[0] == 0, run(words)
    Path("checkpoints/stopped/auxbn-seed0/last.json").unlink()


def run(words):
    """Returns the exit status of a command, or "traceback", and what it told."""
    told = io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = cli.main(words)
        except SystemExit as end:
            status = end.code
        except BaseException:
            return "traceback", traceback.format_exc()
    return int(status), told.getvalue()


def forbid(condition):
    """Lets nothing be written from now on."""
    here = str(Path.cwd())
    if condition == "full":
        most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))
    elif condition == "read-only":
        subprocess.run(["mount", "--bind", here, here], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", here], check=True)
        os.chdir(here)  # into what is mounted
    elif condition == "reports are a file":
        shutil.rmtree("reports")
        Path("reports").write_text("no folder")
    elif condition == "removed":
        shutil.rmtree(here)


def tell(condition):
    """Tells how each command ends in the working folder under a condition."""
    forbid(condition)
    for name, words in COMMANDS.items():
        sys.stdout.write(json.dumps([condition, name, *run(words)]) + "\n")
        sys.stdout.flush()


def main(folder, *conditions):
    torch.set_num_threads(1)
    referee.installed = lambda: None
    referee.autoattack = lambda model, images, labels, **_: (model(images), images)[1]
    data._TRAIN_CROPS = 20
    prepared = Path(folder, "prepared")
    prepared.mkdir()
    os.chdir(prepared)
    prepare()
    for condition in conditions:
        os.chdir(shutil.copytree(prepared, Path(folder, condition)))
        process = os.fork()
        if not process:
            tell(condition)
            os._exit(0)
        assert os.waitpid(process, 0)[1] == 0, condition


if __name__ == "__main__":
    main(*sys.argv[1:])
