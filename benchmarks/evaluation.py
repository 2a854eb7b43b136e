"""Table 4's three rows (SA, PGD-10, PGD-20) through one branch: this suite against its peers.

    python -m benchmarks.evaluation [--width 64] [--images 100] [--rounds 2]

All use the same network, images, threads and threat model. A peer runs what its users run: one pass
for SA, one attack of 10 steps and one of 20. Each measurement has its own process, since the
allocator's settings apply to a whole process; rounds alternate between the jobs. Random starts
differ between peers, so a few verdicts differ; the table says how many.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn

from benchmarks.workload import images_and_network, machine, make_images, peak_mebibytes
from robustnorm import bind, resnet18
from robustnorm.evaluation.attack import attack_chunk
from robustnorm.evaluation.chunks import CHUNK
from robustnorm.evaluation.search import Branch, Search, branches
from robustnorm.evaluation.until_broken import any_outcomes
from robustnorm.records.journal import Key
from robustnorm.system.allocator import keep_freed_memory

STEPS = (10, 20)
JOBS = {
    "torchattacks, as installed": ("torchattacks", False),
    "torchattacks": ("torchattacks", True),
    "foolbox": ("foolbox", True),
    "robustnorm, fp32": ("fp32", True),
    "robustnorm, bf16 search": ("bf16", True),
    "robustnorm, bf16 search, 'any' only": ("any", True),
}

# Replacing broken images needs further images, so each image is used this many times, with as many
# random starts. The reported time is that of one copy.
_COPIES = 3

Steps = tuple[int, ...]


def ours(
    images: Tensor, labels: Tensor, steps: Steps, epsilon: float, job: str, branch: Branch
) -> Tensor:
    """Returns the verdicts after the last step, or for job "any" those under rule "any"."""
    search = Search(epsilon, epsilon / 4, steps)
    ids = torch.arange(len(images))
    if job == "any":
        outcomes = any_outcomes([branch], images, labels, ids, search)
        return outcomes[Key(f"pgd-{max(steps)}", "any", branch.name, branch.name)].correct
    key = Key(f"pgd-{max(steps)}", "final", branch.name, branch.name)
    parts = [
        attack_chunk([branch], images[part], labels[part], part, search)[key].correct
        for part in torch.split(ids, CHUNK)
    ]
    return torch.cat(parts)


def peer(
    images: Tensor, labels: Tensor, steps: Steps, epsilon: float, job: str, model: nn.Module
) -> Tensor:
    """Returns a peer's verdicts after the last step."""
    verdicts = []
    for part in torch.split(torch.arange(len(images)), CHUNK):
        inputs, targets = images[part], labels[part]
        with torch.no_grad():
            model(inputs).argmax(1)
        for count in steps:
            if job == "torchattacks":
                import torchattacks

                attack = torchattacks.PGD(model, eps=epsilon, alpha=epsilon / 4, steps=count)
                adv_images = attack(inputs, targets)
            else:
                import foolbox
                from foolbox.models.pytorch import PyTorchModel

                attack = foolbox.attacks.LinfPGD(rel_stepsize=1 / 4, steps=count)
                bounded = PyTorchModel(model, bounds=(0, 1))
                adv_images, _, _ = attack(bounded, inputs, targets, epsilons=epsilon)
            with torch.no_grad():
                correct = model(adv_images).argmax(1) == targets
        verdicts.append(correct)
    return torch.cat(verdicts)


def measure(job: str, keep: bool, options: argparse.Namespace) -> None:
    """Prints seconds, peak memory and verdicts of one job as JSON."""
    if keep:
        keep_freed_memory()
    images, labels = make_images(options.images)
    network = resnet18("saauxbn", width=options.width).eval()
    network.load_state_dict(torch.load(options.weights, weights_only=True))
    if job in ("torchattacks", "foolbox"):
        model = bind(network, "adv").requires_grad_(False)
        run = partial(peer, epsilon=options.epsilon, job=job, model=model)
    else:
        copies_of_all = branches(network, "fp32" if job == "fp32" else "bf16")
        branch = next(b for b in copies_of_all if b.name == "adv")
        run = partial(ours, epsilon=options.epsilon, job=job, branch=branch)
    copies = _COPIES if job == "any" else 1
    images, labels = images.repeat(copies, 1, 1, 1), labels.repeat(copies)
    run(images[:CHUNK], labels[:CHUNK], (1,))  # warm-up: kernels are chosen
    start = time.perf_counter()
    correct = run(images, labels, STEPS)
    seconds = (time.perf_counter() - start) / copies
    verdicts = correct[: options.images].int().tolist()
    result = {"seconds": seconds, "memory": peak_mebibytes(), "correct": verdicts}
    print(json.dumps(result))


def main() -> None:
    """Runs every job in its own process, round by round, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--images", type=int, default=CHUNK)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--epsilon", type=float, default=4 / 255)  # RA is near 40 % there
    parser.add_argument("--weights")
    parser.add_argument("--job", choices=JOBS)
    options = parser.parse_args()
    if options.job:
        measure(*JOBS[options.job], options)
        return
    keep_freed_memory()
    _, _, network = images_and_network(options.images, options.width, steps=150)
    folder = tempfile.TemporaryDirectory()
    options.weights = f"{folder.name}/weights.pt"
    torch.save(network.state_dict(), options.weights)
    results: dict[str, list[dict[str, Any]]] = {job: [] for job in JOBS}
    for _ in range(options.rounds):
        for job in JOBS:
            command = [sys.executable, "-m", "benchmarks.evaluation", "--job", job]
            for name in ("width", "images", "epsilon", "weights"):
                command += [f"--{name}", str(getattr(options, name))]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            results[job].append(json.loads(done.stdout))
    base = results["robustnorm, fp32"]
    rows = []
    for job, runs in results.items():
        seconds = [run["seconds"] for run in runs]
        correct = torch.tensor(runs[0]["correct"])
        ratios = [
            reference["seconds"] / run["seconds"]
            for reference, run in zip(results["torchattacks"], runs, strict=True)
        ]
        same = (correct == torch.tensor(base[0]["correct"])).float().mean()
        rows.append(
            (
                job,
                statistics.median(seconds),
                f"{min(seconds):.1f} to {max(seconds):.1f}",
                statistics.median(ratios),
                max(run["memory"] for run in runs),
                100 * correct.float().mean(),
                100 * same,
            )
        )
    print(
        f"## Evaluation\n\nSA, PGD-10 and PGD-20 of {options.images} synthetic images of 32x32, "
        f"ResNet-18 of width {options.width}, trained on others at width 16 and widened, one "
        f"branch, epsilon {255 * options.epsilon:.2f}/255; "
        f"{options.rounds} rounds; {machine()}.\n"
    )
    headers = [
        "job", "seconds", "range", "times torchattacks", "peak MiB", "RA %", "verdicts as ours %",
    ]  # fmt: skip
    print(
        tabulate(
            rows,
            headers=headers,
            tablefmt="pipe",
            floatfmt=("", ".1f", "", ".2f", "", ".1f", ".1f"),
        )
    )


if __name__ == "__main__":
    main()
