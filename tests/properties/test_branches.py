"""More than two branches, with a separate attack for each adversarial one."""

import csv
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional as F

from robustnorm import bind, cli, evaluate, resnet18
from robustnorm.attacks import pgd
from robustnorm.data.batches import epoch_batches
from robustnorm.data.dataset import Augmentation, Split
from robustnorm.evaluation import chunks
from robustnorm.evaluation.search import Search, random_start
from robustnorm.norms.routing import branches_of
from robustnorm.records.record import Record
from robustnorm.runs.run import load_model
from robustnorm.settings.config import Config
from robustnorm.settings.groups import BranchAttack
from robustnorm.training.advprop import step_generator, train, validate
from robustnorm.training.losses import AdvProp
from robustnorm.training.progress import BranchValidation
from robustnorm.training.saving import _selection_score
from robustnorm.training.schedule import learning_rate

ATTACKS = {
    "linf": BranchAttack("linf", Fraction(1, 10), Fraction(1, 20)),
    "l2": BranchAttack("l2", Fraction(3, 2), Fraction(1, 2)),
}
CONFIG = Config(
    name="test",
    width=4,
    epochs=2,
    batch_size=8,
    epsilon=Fraction(1, 10),
    step_size=Fraction(1, 20),
    train_steps=2,
    validation_steps=2,
    channels_last=False,
)
THREE = replace(CONFIG, branches=ATTACKS)


def make_model(norm="saauxbn", branches=("clean", "adv")):
    torch.manual_seed(0)
    return resnet18(norm=norm, width=4, num_classes=3, in_channels=1, branches=branches)


def make_split(n=16):
    images = torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8, generator=seeded(n))
    return Split(images, torch.arange(n) % 3)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def attack(model, branch, images, labels, steps, ball=None, **options):
    own = ATTACKS[ball or branch]
    return pgd(
        bind(model, branch),
        images,
        labels,
        epsilon=float(own.epsilon),
        step_size=float(own.step_size),
        threat_model=own.threat_model,
        steps=steps,
        **options,
    )


def test_branches_of_a_config_are_the_network_s():
    assert tuple(CONFIG.adversarial_branches) == ("adv",)
    assert CONFIG.attack == BranchAttack("linf", Fraction(1, 10), Fraction(1, 20))
    assert THREE.adversarial_branches == ATTACKS
    assert THREE.attack == ATTACKS["linf"]


def test_config_with_branches_is_saved_and_read_back():
    saved = yaml.safe_load(yaml.safe_dump(json.loads(json.dumps(THREE.to_dict()))))
    assert saved["branches"]["l2"] == {"threat_model": "l2", "epsilon": "3/2", "step_size": "1/2"}
    assert Config.from_dict(saved) == THREE
    del saved["branches"]  # of an earlier version
    assert Config.from_dict(saved) == CONFIG


@pytest.mark.parametrize(
    ("branches", "message"),
    [
        ("{clean: {threat_model: linf, epsilon: 8/255, step_size: 2/255}}", "other than clean"),
        ("{single: {threat_model: linf, epsilon: 8/255, step_size: 2/255}}", "other than clean"),
        ("{mean logits: {threat_model: linf, epsilon: 1/9, step_size: 1/9}}", "must be a word"),
        (
            "{linf: {threat_model: linf, epsilon: 8, step_size: 2/255}}",
            "epsilon must be from 1e-06 to 1",
        ),
        (
            "{l2: {threat_model: l2, epsilon: 1/2, step_size: 0}}",
            "step_size must be from 1e-06 to 100",
        ),
        ("{l1: {threat_model: l1, epsilon: 1/2, step_size: 1/2}}", "l1"),
        ("{l2: {threat_model: l2, epsilon: 1/2}}", "step_size"),
    ],
)
def test_unsound_branches_are_refused(capsys, branches, message):
    assert cli.main(("train", "--branches", branches)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(("norm", "loss"), [("bn", "mean"), ("saauxbn", "sum")])
def test_training_of_two_branches_is_that_of_a_loop_written_out(norm, loss):
    """Bit for bit: configs without branches train as they did before there were any."""
    config, split = replace(CONFIG, loss=loss), make_split()
    models = make_model(norm), make_model(norm)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in models]
    records = list(
        train(
            models[0],
            split,
            make_split(6),
            config=config,
            augmentation=Augmentation(),
            optimizer=optimizers[0],
        )
    )
    model, steps = models[1].train(), 2
    for epoch in range(config.epochs):
        adv_losses = []
        batches = epoch_batches(
            split, batch_size=8, seed=0, epoch=epoch, augmentation=Augmentation()
        )
        for step, (images, labels, _) in enumerate(batches, epoch * steps):
            optimizers[1].param_groups[0]["lr"] = learning_rate(config, step, steps)
            adv_images = pgd(
                bind(model, "adv"),
                images,
                labels,
                epsilon=0.1,
                step_size=0.05,
                steps=2,
                generator=step_generator(0, step, torch.device("cpu")),
            )
            clean_loss = F.cross_entropy(bind(model, "clean")(images), labels)
            adv_loss = F.cross_entropy(bind(model, "adv")(adv_images), labels)
            total = clean_loss + adv_loss
            optimizers[1].zero_grad()
            (total / 2 if loss == "mean" else total).backward()
            optimizers[1].step()
            adv_losses.append(adv_loss.detach())
        assert records[epoch].adv_loss == torch.stack(adv_losses).mean().item()
    state = models[0].state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("norm", ["saauxbn", "bn"])
def test_each_branch_learns_from_its_own_attack(norm):
    model, reference = (make_model(norm, ("clean", "linf", "l2")).train() for _ in range(2))
    split = make_split(8)
    images, labels = split.images / 255, split.labels
    clean_loss, adv_loss = AdvProp(model, THREE).losses(images, labels, seeded())
    generator = seeded()  # one after the other from the same generator
    adv_images = {b: attack(reference, b, images, labels, 2, generator=generator) for b in ATTACKS}
    expected = [F.cross_entropy(bind(reference, "clean")(images), labels)]
    expected += [F.cross_entropy(bind(reference, b)(x), labels) for b, x in adv_images.items()]
    assert torch.equal(clean_loss, expected[0])
    assert torch.equal(adv_loss, expected[1] + expected[2])
    (clean_loss + adv_loss).backward()
    sum(expected).backward()
    for mine, its in zip(model.parameters(), reference.parameters(), strict=True):
        # The three gradients are the same and are added in another order.
        torch.testing.assert_close(mine.grad, its.grad)


def test_loss_of_a_record_is_the_mean_over_adversarial_branches_and_mean_loss_that_of_all():
    split, model = make_split(8), make_model(branches=("clean", "linf", "l2"))
    reference = make_model(branches=("clean", "linf", "l2")).train()
    config = replace(THREE, epochs=1, loss="mean", schedule="milestones")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    settings = {"config": config, "augmentation": Augmentation(), "optimizer": optimizer}
    (record,) = train(model, split, split, **settings)
    (batch,) = epoch_batches(split, batch_size=8, seed=0, epoch=0, augmentation=Augmentation())
    start = step_generator(0, 0, torch.device("cpu"))
    losses = AdvProp(reference, config).losses(batch.images, batch.labels, start)
    assert record.adv_loss == pytest.approx(losses[1].item() / 2, rel=1e-6)
    (sum(losses) / 3).backward()
    for mine, its in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.equal(mine.grad, its.grad)


def test_evaluation_attacks_each_branch_within_its_own_ball():
    # float64, in which the folded copy that searches takes the steps of the network itself.
    model = make_model(branches=("clean", "linf", "l2")).double().eval()
    split = make_split(12)
    images, labels, ids = split.images.double() / 255, split.labels, torch.arange(12)
    verdicts = evaluate(
        model,
        images,
        labels,
        epsilon=0.1,
        step_size=0.05,
        steps=(2,),
        branch_attacks=ATTACKS,
    )
    found = {(v.attack, v.rule, v.attack_branch, v.score_branch): v.correct for v in verdicts}
    base = Search(0.1, 0.05, (2,), branch_attacks=ATTACKS)
    names = {"clean": "linf", "linf": "linf", "l2": "l2"}  # whose ball
    for branch, ball in names.items():
        start = random_start(images, ids, base.for_branch(ball))
        adv_images = attack(model, branch, images, labels, 2, ball, start=start)
        for scorer in names:
            with torch.no_grad():
                expected = bind(model, scorer)(adv_images).argmax(1) == labels
            assert np.array_equal(found["pgd-2", "final", branch, scorer], expected.numpy())


def test_validation_attacks_each_branch_as_the_evaluation_does():
    model, split = make_model(branches=("clean", "linf", "l2")).eval(), make_split(12)
    settings = {"epsilon": 0.1, "step_size": 0.05, "steps": (2,), "branch_attacks": ATTACKS}
    found = {
        verdict.score_branch: verdict.accuracy
        for verdict in evaluate(model, split.images, split.labels, **settings)
        if (verdict.attack, verdict.rule) == ("pgd-2", "final")
        and verdict.attack_branch == verdict.score_branch
    }
    validation = validate(model, split, Search.of(THREE, (THREE.validation_steps,)))
    assert {branch: validation[branch].ra for branch in validation} == found


def test_best_is_the_worst_adversarial_branch():
    def record(**accuracies):
        measured = {name: BranchValidation(0.9, ra, 1.0, 1.0) for name, ra in accuracies.items()}
        return type("Epoch", (), {"validation": measured})

    assert _selection_score(THREE, record(clean=0.1, linf=0.5, l2=0.4)) == 0.4
    assert _selection_score(CONFIG, record(clean=0.1, adv=0.5)) == 0.5
    assert _selection_score(THREE, record(single=0.3)) == 0.3
    assert _selection_score(replace(THREE, adversarial=False), record(clean=0, linf=0, l2=0)) == 0.9


def test_three_branches_from_the_command_line_to_the_tables(
    tiny, short_worst, blank_figures, tmp_path, monkeypatch, capsys
):
    settings = {
        "data": "digits",
        "network": "tiny",
        "train_limit": 32,
        "validation": 20,
        "width": 4,
        "epochs": 1,
        "batch_size": 32,
        "branches": {
            "linf": {"threat_model": "linf", "epsilon": "3/16", "step_size": "3/64"},
            "l2": {"threat_model": "l2", "epsilon": "1/2", "step_size": "1/8"},
        },
        "train_steps": 1,
        "validation_steps": 1,
        "test_limit": 20,
        "keep_images": True,
        "study_batches": 1,
        "device": "cpu",
    }
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(chunks, "CHUNK", 20)
    Path("study.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    del settings["study_batches"]
    Path("three.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    assert cli.main(("train", "--config", "three.yaml", "--norm", "saauxbn")) == 0
    saved = "checkpoints/three/saauxbn-seed0/config.yaml"
    assert cli.main(("train", "--config", saved)) == 0
    assert "already trained" in capsys.readouterr().err
    model, manifest = load_model(Path(saved).parent)
    assert branches_of(model) == ("clean", "linf", "l2")
    assert set(manifest["history"][0]["validation"]) == {"clean", "linf", "l2"}
    assert cli.main(("eval", "--config", "three.yaml")) == 0
    shown = capsys.readouterr().out
    assert "branch l2: L2, epsilon 1/2, step 1/8" in " ".join(shown.split())
    record = Record.load(Path("reports/three/records/saauxbn-seed0-best.json"))
    assert record.protocol["branches"] == settings["branches"]
    assert {p.epsilon for p in record.curve if p.answer == "l2"} == {"0", "0.5", "1.5", "4"}
    assert {c.verdict for c in record.checks if c.name == "valid perturbations"} == {"reliable"}
    assert cli.main(("verify", "reports/three/records/saauxbn-seed0-best.json")) == 0
    assert "Everything holds" in capsys.readouterr().out
    matrix = _rows("branch-matrix")
    attacked = [row for row in matrix if row["Attacked branch"] != "no attack"]
    pairs = {(row["Attacked branch"], row["Scoring branch"]) for row in attacked}
    names = ("clean", "linf", "l2")
    assert pairs == {(i, j) for i in names for j in names}
    table4 = {(row["Evaluation"], row["Model"]): row for row in _rows("table4")}
    for branch in ("linf", "l2"):
        row = table4["RA, PGD-20", f"SaAuxBN ({branch})"]
        accuracy = record.find("pgd-20", "final", branch, branch).accuracy
        assert row["Ours %"] == f"{100 * accuracy:.2f}"
        assert row["Paper %"] == ""  # another experiment
    assert cli.main(("study", "--config", "study.yaml", "--name", "three", "--what", "swap")) == 0
    assert len(_rows("swap")) == 9


def _rows(name):
    return list(csv.DictReader(Path(f"reports/three/{name}.csv").read_text().splitlines()))
