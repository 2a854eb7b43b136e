"""The command export, from a run's folder to files and a model card."""

import json
import sys
import types
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from differing_branches import trained
from manifests import rewrite_manifest

from robustnorm import cli
from robustnorm.data import load_dataset
from robustnorm.exchange.export import (
    load_exported,
)
from robustnorm.records.record import Record, Verdict
from robustnorm.runs.checkpoint import save_checkpoint
from robustnorm.runs.described import build_model, describe_dataset
from robustnorm.settings.config import Config
from robustnorm.settings.groups import BranchAttack

pytestmark = pytest.mark.slow


TWO = {
    "linf": BranchAttack("linf", Fraction(1, 10), Fraction(1, 20)),
    "l2": BranchAttack("l2", Fraction(3, 4), Fraction(1, 4)),
}


BOTH = (
    "against Linf attacks with epsilon 1/10 (branch linf) and "
    "L2 attacks with epsilon 3/4 (branch l2) on 100"
)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run's folder with a checkpoint of a network on the digits, as training leaves it."""
    monkeypatch.chdir(tmp_path)
    config = Config(name="digits", norm="saauxbn", data="digits", width=4, epochs=3)
    return save_run(config)


def save_run(config):
    data = describe_dataset(load_dataset("digits"), 100)
    folder = Path("checkpoints/digits") / config.run
    manifest = {"config": config.to_dict(), "dataset": data, "epoch": 2, "history": []}
    save_checkpoint(folder, "best", trained(build_model(config, data)), manifest)
    return folder


def sha256(folder):
    return json.loads((folder / "best.json").read_text())["sha256"]


def refused(capsys, *words):
    assert cli.main(words) == 2
    return capsys.readouterr().err


def test_command_writes_weights_checked_on_noise_and_test_images(run, capsys):
    words = ("--to", "safetensors", "--branch", "adv", "--data", "digits", "--check_images", "20")
    assert cli.main(["export", str(run), *words]) == 0
    shown = capsys.readouterr().out
    assert "same prediction on 40 of 40 images; the largest difference of a logit" in shown
    network = load_exported(run / "export" / "best-adv.safetensors")
    assert network(torch.rand(2, 1, 8, 8)).shape == (2, 10)


def test_command_exports_a_network_without_branches(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = save_run(Config(name="digits", norm="modenorm", data="digits", width=4, epochs=3))
    assert cli.main(["export", str(run), "--to", "safetensors", "--output", "m.safetensors"]) == 0
    assert "branch 'single'" in capsys.readouterr().out
    assert load_exported(Path("m.safetensors"))(torch.rand(2, 1, 8, 8)).shape == (2, 10)


def make_record(folder, digest):
    verdicts = [
        Verdict(attack, rule, branch, branch, torch.arange(10).numpy() < correct)
        for branch, correct in (("clean", 9), ("adv", 7))
        for attack, rule in (
            ("none", "final"),
            *((f"pgd-{steps}", rule) for steps in (10, 20) for rule in ("final", "any")),
        )
    ]
    verdicts += [
        replace(verdicts[0], attack="pgd-20", attack_branch="clean", score_branch="adv"),
        replace(verdicts[0], attack="pgd-20", attack_branch="adv", score_branch="clean"),
    ]
    config = Config(name="digits", norm="saauxbn", data="digits", width=4, epochs=3).to_dict()
    record = Record(
        name="digits",
        norm="saauxbn",
        seed=0,
        adversarial=True,
        checkpoint={"tag": "best", "epoch": 2, "epochs": 3, "sha256": digest},
        config=config,
        config_hash="",
        history=[],
        dataset={
            "name": "digits",
            "sha256": "",
            "classes": ["0"] * 10,
            "train_images": 100,
            "test_images": 500,
        },
        image_ids=list(range(10)),
        labels=[0] * 10,
        protocol={
            "name": "short",
            "threat_model": "linf",
            "epsilon": "8/255",
            "step_size": "2/255",
            "steps": 20,
            "random_start": True,
            "seed": 0,
            "chunk": 100,
            "precision": "fp32",
            "search": "folded, fp32",
            "serving": False,
            "autoattack": False,
            "train_steps": 10,
            "attack_norm_mode": "batch",
        },
        protocol_hash="",
        verdicts=verdicts,
        checks=[],
        curve=[],
        examples=[],
        versions={},
        device="CPU",
        wall_seconds=1.0,
    )
    record.save(Path("reports/digits/records") / f"{folder.name}-best.json")


@pytest.mark.parametrize("evaluated", [True, False])
def test_hugging_face_card_prints_the_tables_of_its_own_record(run, evaluated):
    make_record(run, sha256(run) if evaluated else "of another checkpoint")
    words = ("--to", "huggingface", "--branch", "adv", "--check_images", "3")
    assert cli.main(["export", str(run), *words]) == 0
    folder = run / "export" / "best-adv-huggingface"
    card = (folder / "README.md").read_text()
    assert '# resnet18 with SaAuxBN, branch "adv"' in card
    assert "epsilon 8/255 on 100 images of scikit-learn digits (10 classes), 2 of 3 epochs" in card
    assert ("SaAuxBN (adv)" in card) == ("70.00" in card) == evaluated
    assert ("has not been evaluated" in card) != evaluated
    assert "not trained" not in card  # other norms are no matter of this network
    config = json.loads((folder / "config.json").read_text())
    assert (config["branch"], config["arguments"]["norm"]) == ("adv", "bn")


def test_card_shows_what_a_campaign_evaluated_on_the_most_images(run, monkeypatch):
    make_record(run, sha256(run))
    record = Path("reports/digits/records") / f"{run.name}-best.json"
    for title in ("all", "few"):
        path = Path("reports/digits") / title / "records" / record.name
        path.parent.mkdir(parents=True)
        path.write_bytes(record.read_bytes())
    found = Record.load(record)
    few = [replace(verdict, correct=verdict.correct[:10]) for verdict in found.verdicts]
    replace(found, verdicts=few, image_ids=found.image_ids[:10], labels=found.labels[:10]).save(
        path
    )
    record.unlink()
    monkeypatch.chdir(run)
    reports = str(Path(*[".."] * 3, "reports"))
    words = ("--to", "huggingface", "--branch", "adv", "--check_images", "3", "--reports", reports)
    assert cli.main(["export", ".", *words]) == 0  # also from within the run's folder
    card = Path("export/best-adv-huggingface/README.md").read_text()
    assert f"n = {found.n:,} of" in card


@pytest.mark.parametrize(
    ("settings", "branch", "threat_model", "epsilon", "against"),
    [
        (
            {"threat_model": "l2", "epsilon": Fraction(1, 2)},
            "adv", "l2", "1/2", "against L2 attacks with epsilon 1/2 on 100",
        ),
        ({"branches": TWO}, "l2", "l2", "3/4", BOTH),
        ({"branches": TWO}, "linf", "linf", "1/10", BOTH),
        ({"branches": TWO}, "clean", "linf", "1/10", BOTH),  # as it is evaluated
    ],
)  # fmt: skip
def test_card_and_config_say_what_the_branch_was_trained_against(
    tmp_path, monkeypatch, settings, branch, threat_model, epsilon, against
):
    monkeypatch.chdir(tmp_path)
    run = save_run(Config(name="digits", data="digits", width=4, epochs=3, **settings))
    words = ("--to", "huggingface", "--branch", branch, "--check_images", "1")
    assert cli.main(["export", str(run), *words]) == 0
    folder = run / "export" / f"best-{branch}-huggingface"
    config = json.loads((folder / "config.json").read_text())
    assert (config["threat_model"], config["epsilon"]) == (threat_model, epsilon)
    assert against in (folder / "README.md").read_text()


def test_push_uploads_the_folder_that_was_written(run, monkeypatch, capsys):
    calls = []
    hub = types.ModuleType("huggingface_hub")
    hub.HfApi = lambda: types.SimpleNamespace(
        create_repo=lambda repository, exist_ok: calls.append(("create", repository)),
        upload_folder=lambda repo_id, folder_path: calls.append((repo_id, folder_path)),
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    words = ("--to", "huggingface", "--branch", "adv", "--check_images", "3", "--push", "me/net")
    assert cli.main(["export", str(run), *words]) == 0
    folder = run / "export" / "best-adv-huggingface"
    assert calls == [("create", "me/net"), ("me/net", folder)]
    assert "uploaded to me/net" in capsys.readouterr().out


def test_push_without_its_library_is_refused_before_anything_is_written(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    words = ("--to", "huggingface", "--branch", "adv", "--push", "me/net")
    assert 'pip install "robustnorm[hub]"' in refused(capsys, "export", str(run), *words)
    assert not (run / "export").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--branch must be a branch of the network (clean, adv), got None"),
        (("--branch", "advs"), "(clean, adv), got advs"),
        (("--branch", "adv", "--output", "net.bin"), "--output must end in .safetensors"),
        (("--branch", "adv", "--check_images", "0"), "check_images must be at least 1, got 0"),
        (("--branch", "adv", "--push", "a/b"), "push needs --to huggingface, got --to safetensors"),
        (("--branch", "adv", "--checkpoint", "last"), "no checkpoint 'last' in"),
        (("--branch", "adv", "--data", "digist"), "did you mean 'digits'?"),
    ],
)
def test_command_refuses_what_does_not_fit(run, capsys, words, message):
    assert message in refused(capsys, "export", str(run), "--to", "safetensors", *words)
    assert not (run / "export").exists()


def test_command_asks_for_the_size_that_an_older_checkpoint_lacks(run, capsys):
    dataset = json.loads((run / "best.json").read_text())["dataset"]
    del dataset["image_size"]
    rewrite_manifest(run / "best.json", dataset=dataset)
    words = ("export", str(run), "--to", "safetensors", "--branch", "adv", "--check_images", "3")
    assert "does not record its image size; set --image_size" in refused(capsys, *words)
    assert cli.main([*words, "--image_size", "12"]) == 0
