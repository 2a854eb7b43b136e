"""What tests/robustnorm/training/test_distributed.py has two processes do, and what it does alone.

Each process leaves a file of what it saw in the folder. The last part ends process 1 in the middle
of a run, so both fail.
"""

import os
import signal
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import count

import torch
from torch import nn

from robustnorm import route
from robustnorm.data.dataset import Augmentation, Split
from robustnorm.evaluation.search import Search
from robustnorm.norms import NORMS
from robustnorm.norms.synchronized import synchronize
from robustnorm.settings.config import Config
from robustnorm.system.errors import UsageError
from robustnorm.training import distributed, saving
from robustnorm.training.advprop import train, validate
from robustnorm.training.losses import AdvProp
from robustnorm.training.progress import TrainingStopped
from robustnorm.work.train import train_run

BATCH = 8
STEPS = 40
CONFIG = Config(
    name="two",
    epochs=1,
    batch_size=32,
    sync_norm=True,
    learning_rate=0.05,
    epsilon=Fraction("0.1"),
    step_size=Fraction("0.05"),
    train_steps=1,
    validation_steps=1,
    channels_last=False,
)
SEARCH = Search.of(CONFIG, (CONFIG.validation_steps,))
# Two steps an epoch.
RUN = replace(
    CONFIG,
    norm="auxbn",
    train_limit=64,
    validation=20,
    width=2,
    epochs=2,
    sync_norm=False,
    device="cpu",
)
# How a layer's batch is routed: by name, or by each image's row, where process 1 has no "adv".
ROUTES = {"name": "adv", "index": torch.tensor([0, 1, 1, 0, 0, 0, 0, 0])}


class Float64(nn.Module):
    """Casts images: in float64 no rounding turns the sign of an attack's gradient."""

    def forward(self, images):
        return images.double()


def network(norm):
    torch.manual_seed(0)
    layer = partial(NORMS[norm], branches=("clean", "adv"))
    return nn.Sequential(
        *(Float64(), nn.Conv2d(1, 4, 3, bias=False), layer(4), nn.ReLU()),
        *(nn.Conv2d(4, 8, 3, 2, bias=False), layer(8), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32, 3)),
    ).double()


def split(n):
    labels = torch.arange(n) % 3
    images = torch.randint(0, 100, (n, 1, 8, 8), generator=torch.Generator().manual_seed(n))
    images[torch.arange(n), 0, labels] += 100
    return Split(images.to(torch.uint8), labels)


def layer_and_batch(norm):
    torch.manual_seed(0)
    layer = NORMS[norm](3, ("clean", "adv")).double()
    batch = 10 + 3 * torch.randn(BATCH, 3, 4, 5, dtype=torch.float64)
    return layer, batch, torch.randn_like(batch)


def run_layer(layer, batch, grad, branch):
    """Returns output, gradients and buffers of one forward and backward in training."""
    batch = batch.clone().requires_grad_()
    with route(layer, branch):
        output = layer(batch)
    output.backward(grad)
    parameters = {name: value.grad for name, value in layer.named_parameters()}
    return output.detach(), batch.grad, parameters, dict(layer.named_buffers())


def stop_after(step):
    """Asks to stop after a step, in process 0 only."""
    asked = count(1)
    return lambda seconds: seconds >= 0 and next(asked) == step and distributed.rank() == 0


def signal_after(step):
    """A signal to process 1 only, during a step counted from 1."""
    taken = []

    def should_stop(seconds):
        taken.extend([seconds] * (seconds >= 0))  # asked after a step
        return len(taken) >= step and distributed.rank() == 1

    return should_stop


def training(model, images, **options):
    return train(
        model,
        split(images),
        split(12),
        augmentation=Augmentation(padding=1),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        **options,
    )


def trained(norm):
    """Returns the losses (STEPS, 2) of training with synchronized statistics, and the network."""
    model, config = network(norm), replace(CONFIG, norm=norm)
    images = CONFIG.batch_size * (STEPS + 1)
    try:
        next(training(model, images, config=config, should_stop=stop_after(STEPS)))
    except TrainingStopped as stop:
        return torch.tensor(stop.position.losses), model.eval()
    raise AssertionError("training went on")


def statistics_of_training():
    """Returns unsynchronized running statistics saved, after an epoch, and when stopped."""
    model, found = network("saauxbn"), []

    def keep(*_):
        found.append([buffer.clone() for buffer in model.buffers()])

    due = iter([distributed.rank() == 1, False, False])
    records = training(
        model,
        2 * CONFIG.batch_size,
        config=replace(CONFIG, norm="saauxbn", epochs=2, sync_norm=False),
        should_stop=stop_after(3),
        save_is_due=lambda: next(due),
        save=keep,
    )
    try:
        for _ in records:
            keep()
    except TrainingStopped:
        keep()
    return found


def gradients_and_statistics(losses, images, labels):
    """Returns gradients and running statistics after the losses' backward."""
    clean, adv = losses(images, labels, {"adv": images.flip(3)})
    (clean + adv).backward()
    return (
        [parameter.grad for parameter in losses.parameters()],
        [buffer.clone() for buffer in losses.buffers()],
    )


def step_images(part):
    """Returns the images and labels of one process's part of a step."""
    parts = split(2 * BATCH)
    rows = slice(part * BATCH, (part + 1) * BATCH)
    return parts.images[rows] / 255, parts.labels[rows]


def unsynchronized_step():
    """Returns averaged gradients, and running statistics before and after they are averaged."""
    model = network("saauxbn")
    losses = distributed.data_parallel(AdvProp(model, CONFIG))
    found = gradients_and_statistics(losses, *step_images(distributed.rank()))
    distributed.average_statistics(model)
    return *found, list(model.buffers())


def synchronized_layers():
    """Returns what each layer computes of its part of a batch."""
    part = slice(distributed.rank() * BATCH // 2, (distributed.rank() + 1) * BATCH // 2)
    found = {}
    for norm in NORMS:
        for name, branch in ROUTES.items():
            layer, batch, grad = layer_and_batch(norm)
            synchronize(layer)
            own = branch if isinstance(branch, str) else branch[part]
            found[norm, name] = run_layer(layer, batch[part], grad[part], own)
    return found


def stopped_by_signal(config):
    try:
        train_run(config, should_stop=signal_after(3))
    except TrainingStopped as stop:
        return str(stop)
    raise AssertionError("the signal was not heeded")


def refusal(config):
    try:
        train_run(config)
    except UsageError as error:
        return str(error)
    raise AssertionError("not refused")


def forbid_writing():
    def write(*_):
        raise AssertionError("a process other than rank 0 writes")

    saving.save_checkpoint = saving.write_atomically = write


def die_after(step):
    """Kills process 1, as a failing machine would."""
    asked = count(1)

    def should_stop(seconds):
        if seconds >= 0 and next(asked) == step and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    return should_stop


def main(folder):
    torch.set_num_threads(1)
    with distributed.process_group("cpu"):
        rank = distributed.rank()
        if rank:
            forbid_writing()
        found = {
            "layers": synchronized_layers(),
            "step": unsynchronized_step(),
            "statistics": statistics_of_training(),
            "refusal": refusal(replace(RUN, batch_size=33)),
        }
        for norm in ("modenorm", "saauxbn"):
            losses, model = trained(norm)
            validation = validate(model, split(250), SEARCH)  # three chunks for two processes
            found[norm] = losses, {branch: vars(v) for branch, v in validation.items()}
        os.chdir(folder)
        found["stopped"] = stopped_by_signal(replace(RUN, output="stopped"))
        torch.save(found, f"seen-by-{rank}.pt")
        train_run(replace(RUN, output="killed"), should_stop=die_after(3))
