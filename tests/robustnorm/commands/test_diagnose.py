"""The command "diagnose" from trained runs to its files."""

import json
import sys
from pathlib import Path

import pytest
import yaml
from manifests import rewrite_manifest
from small_runs import TRAINING

from robustnorm import cli
from robustnorm.commands.diagnose import _models
from robustnorm.data.dataset import subset
from robustnorm.data.digits import load_digits
from robustnorm.evaluation.search import Search
from robustnorm.runs.run import load_model
from robustnorm.settings.config import Config
from robustnorm.studies.diagnosis import diagnose

SETTINGS = {
    "data": "digits",
    **TRAINING,
    "network": "resnet18",
    "validation": 32,
    "device": "cpu",
    "name": "small",
}
RUNS = ("checkpoints/small/bn-seed0", "checkpoints/small/saauxbn-seed0")
FEW = ("--test_limit", "60", "--batches", "2", "--steps", "2", "--device", "cpu")


@pytest.fixture(scope="module")
def place(blank_figures, tmp_path_factory):
    """A folder with two trained runs."""
    folder = tmp_path_factory.mktemp("diagnose")
    (folder / "small.yaml").write_text(yaml.safe_dump(SETTINGS))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for norm in ("bn", "saauxbn"):
            assert cli.main(["train", "--config", "small.yaml", "--norm", norm]) == 0
    return folder


@pytest.fixture(autouse=True)
def here(place, monkeypatch):
    monkeypatch.chdir(place)


def refused(capsys, *words):
    assert cli.main(["diagnose", *words]) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_diagnose_prints_and_writes_what_the_function_gives(capsys):
    assert cli.main(["diagnose", *RUNS, *FEW]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "n = 60 of 500 test images of scikit-learn digits in 2 batches" in shown
    assert "PGD-2 images, adv: Linf, epsilon 3/16, step size 3/64, seed 0" in shown
    assert "Runs: bn-seed0 (BN), saauxbn-seed0 (SaAuxBN)." in shown
    folder = Path("reports/small/gradients")
    stems = [f"{kind}-bn-seed0-saauxbn-seed0-best" for kind in ("branches", "classes")]
    assert {path.name for path in folder.iterdir()} == {
        f"{stem}.{suffix}" for stem in stems for suffix in ("json", "svg", "png")
    }
    branches, classes = [json.loads((folder / f"{stem}.json").read_text()) for stem in stems]
    assert branches["models"] == ["BN", "SaAuxBN"]
    assert classes["models"] == [
        f"{run} ({branch})" for run in branches["models"] for branch in ("clean", "adv")
    ]
    model, manifest = load_model(Path(RUNS[1]))
    assert branches["checkpoints"]["SaAuxBN"]["sha256"] == manifest["sha256"]
    ids, test = subset(load_digits().test, 60)
    expected = diagnose(
        model,
        test.images,
        test.labels,
        num_classes=10,
        search=Search(3 / 16, 3 / 64, (2,)),
        batches=2,
        image_ids=ids,
    )
    for result, stages in (
        (branches, expected.branches),
        (classes, expected.classes["adv"]),
    ):
        rows = result["rows"][-len(stages) :]
        for row, stage in zip(rows, stages, strict=True):
            assert row["stage"] == stage.stage
            # The command's convolutions are channels-last: float32 sums in another order.
            for key in ("std_of_norms", "mean_norm", "mean_cosine"):
                assert row[key] == pytest.approx(getattr(stage, key), rel=1e-3, abs=1e-4)
            assert f"{row['mean_norm']:.4f}" in shown


def test_one_run_in_one_batch_has_no_intervals():
    words = (*FEW[:2], "--batches", "1", "--steps", "1", "--reports", "alone")
    assert cli.main(["diagnose", RUNS[0], *words]) == 0
    result = json.loads(Path("alone/small/gradients/branches-bn-seed0-best.json").read_text())
    assert {row["std_interval"] for row in result["rows"]} == {None}


def test_runs_are_named_as_in_reports_with_what_it_takes_to_tell_them_apart():
    def names(*runs):
        configs = [Config(norm=norm, seed=seed, adversarial=True) for norm, seed, _ in runs]
        return [model.name for model in _models(configs, [Path(place) for *_, place in runs])]

    assert names(("bn", 0, "a"), ("auxbn", 1, "b")) == ["BN", "AuxBN"]
    assert names(("bn", 0, "a"), ("bn", 1, "b")) == ["BN, seed 0", "BN, seed 1"]
    assert names(("bn", 0, "a/x"), ("bn", 0, "b/x")) == ["BN, a/x", "BN, b/x"]


def test_matplotlib_that_is_missing_names_the_extra(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "robustnorm.reporting.drawing", None)
    monkeypatch.delattr("robustnorm.reporting.drawing", raising=False)
    assert 'pip install "robustnorm[report]"' in refused(capsys, RUNS[0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "runs must be one or more different folders, such as checkpoints/"),
        ([RUNS[0], f"{RUNS[0]}/"], "runs must be one or more different folders, such as"),
        (["nowhere"], "no checkpoint 'best' in nowhere"),
        ([RUNS[0], "--checkpoint", "epoch9"], f"no checkpoint 'epoch9' in {RUNS[0]}"),
        ([RUNS[0], "--batches", "0"], "batches must be at least 1, got 0"),
        ([RUNS[0], "--batchez", "3"], "did you mean 'batches'?"),
        ([RUNS[0], "--test_limit", "20", "--batches", "5"], "use more images or fewer batches"),
        ([RUNS[0], "--data", "digit"], "did you mean 'digits'?"),
    ],
)
def test_unsound_words_are_refused(capsys, words, message):
    assert message in refused(capsys, *words)


def test_runs_of_other_data_or_another_threat_are_refused(capsys, tmp_path):
    manifest = json.loads(Path(RUNS[0], "best.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    (other / manifest["file"]).write_bytes(Path(RUNS[0], manifest["file"]).read_bytes())

    def say(part, **changes):
        (other / "best.json").write_text(json.dumps(manifest))
        rewrite_manifest(other / "best.json", **{part: manifest[part] | changes})
        return refused(capsys, RUNS[0], str(other))

    assert "was trained on other digits" in say("dataset", sha256="0" * 64, name="other digits")
    assert (
        "attacks, got adv: Linf, epsilon 1/8, step size 3/64 and adv: Linf, epsilon 3/16, step"
        in say("config", epsilon="1/8")
    )
