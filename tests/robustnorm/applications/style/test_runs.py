"""A run: continued to the same bits, recorded, and refused for other settings."""

import json
from dataclasses import replace

import pytest
import torch

from robustnorm.applications.style import classifier, encoders
from robustnorm.applications.style.data import Sources, validation_pairs
from robustnorm.applications.style.encoder import VGG19_DEPTHS, VGG19_WIDTHS, Encoder
from robustnorm.applications.style.encoders import figure_folder, get_encoder
from robustnorm.applications.style.pictures import InMemory
from robustnorm.applications.style.runs import load_network, split_row, train_style
from robustnorm.data.dataset import Augmentation, Dataset, Split
from robustnorm.runs.checkpoint import load_checkpoint
from robustnorm.settings.style import StyleSettings
from robustnorm.system.errors import RefusedFileError, UsageError
from robustnorm.system.stopping import Stopped, never

CPU = torch.device("cpu")


@pytest.fixture
def settings(tmp_path):
    return StyleSettings(
        name="made",
        encoder_widths=(8, 16),
        encoder_epochs=2,
        cut=2,
        steps=7,
        batch_size=2,
        crop=8,
        log_every=2,
        validate_every=3,
        validation_pairs=4,
        output=str(tmp_path / "checkpoints"),
        reports=str(tmp_path / "reports"),
    )


@pytest.fixture
def sources(monkeypatch):
    monkeypatch.setattr(encoders, "CALIBRATION", 20)
    monkeypatch.setattr(classifier, "BATCH", 8)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (24, 3, 8, 8), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.arange(24) % 2)
    classes = Dataset("made", ("a", "b"), split, split, Augmentation(), "0")
    pictures = InMemory("made pictures", list(images), "1")
    return Sources(classes, pictures, pictures, pictures, pictures)


def stop_after(asked):
    """A ShouldStop that returns True from the given call on."""
    answers = iter([False] * asked)
    return lambda _seconds: next(answers, True)


def run(row, settings, sources, should_stop=never, seed=0):
    described = get_encoder(settings, sources, CPU, never)
    pairs = validation_pairs(sources, settings)
    return train_style(row, seed, settings, sources, described, pairs, CPU, should_stop)


def state(settings, name):
    checkpoint = load_checkpoint(figure_folder(settings) / name, "last")
    progress = {k: v for k, v in checkpoint.manifest["progress"].items() if k != "seconds"}
    return checkpoint.tensors, progress


@pytest.mark.parametrize("row", ["adain", "ilm-detached", "saadain"])
def test_killed_run_goes_on_to_the_same_bits(settings, sources, tmp_path, row):
    run(row, settings, sources)
    expected, progress = state(settings, f"{row}-seed0")
    other = replace(settings, output=str(tmp_path / "other"))
    for asked in (4, 1):  # after step 4, within a point of the curve, and one step later
        with pytest.raises(Stopped, match=f"{row}-seed0: stopped after step"):
            run(row, other, sources, stop_after(asked))
    run(row, other, sources)
    tensors, continued = state(other, f"{row}-seed0")
    assert continued == progress
    assert tensors.keys() == expected.keys()
    assert any(name.startswith("optimizer.exp_avg.decoder") for name in tensors)
    # Global random states belong to whatever else the process did.
    names = [name for name in tensors if not name.startswith("random.")]
    assert all(torch.equal(tensors[name], expected[name]) for name in names)


def test_run_killed_between_two_savings_goes_on_from_the_first(settings, sources, tmp_path):
    run("saadain", settings, sources)
    expected, progress = state(settings, "saadain-seed0")
    other = replace(settings, output=str(tmp_path / "other"))

    def killed(_seconds, asked=iter(range(9))):  # noqa: B008 - one count a test
        if next(asked) == 5:  # after step 5; step 3 is saved
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        run("saadain", other, sources, killed)
    assert state(other, "saadain-seed0")[1]["step"] == 3
    run("saadain", other, sources)
    tensors, continued = state(other, "saadain-seed0")
    assert continued == progress
    names = [name for name in tensors if not name.startswith("random.")]
    assert all(torch.equal(tensors[name], expected[name]) for name in names)


def test_longer_training_goes_on_from_a_shorter_one(settings, sources, tmp_path):
    run("saadain", settings, sources)
    expected, progress = state(settings, "saadain-seed0")
    other = replace(settings, output=str(tmp_path / "other"))
    run("saadain", replace(other, steps=6), sources)  # a whole number of points and validations
    run("saadain", other, sources)
    tensors, continued = state(other, "saadain-seed0")
    assert continued == progress
    names = [name for name in tensors if not name.startswith("random.")]
    assert all(torch.equal(tensors[name], expected[name]) for name in names)
    with pytest.raises(UsageError, match="steps: 7 there, 6 here"):
        run("saadain", replace(other, steps=6), sources)


def test_record_holds_curves_measures_and_origin(settings, sources):
    path = run("saadain", settings, sources)
    record = json.loads(path.read_text())
    assert (record["row"], record["seed"], record["step"]) == ("saadain", 0, 7)
    assert [point[0] for point in record["curve"]] == [2, 4, 6, 7]
    assert [entry["step"] for entry in record["validation"]] == [3, 6, 7]
    assert record["dataset"]["content"]["name"] == "made pictures"
    assert record["encoder"]["name"] == "small VGG-like encoder"
    assert record["encoder"]["layer"] == "relu2_1"
    assert 0 <= record["encoder"]["test_accuracy"] <= 1
    assert str(settings.output) not in path.read_text()


def test_curve_is_the_mean_of_the_steps(settings, sources):
    fine = json.loads(run("adain", replace(settings, name="a", log_every=1), sources).read_text())
    coarse = json.loads(run("adain", replace(settings, name="b"), sources).read_text())
    steps = [point[1] for point in fine["curve"]]
    expected = [sum(steps[:2]) / 2, sum(steps[2:4]) / 2, sum(steps[4:6]) / 2, steps[6]]
    assert [point[1] for point in coarse["curve"]] == pytest.approx(expected, rel=1e-12)


def test_learning_rate_falls_as_the_release_has_it(settings, sources, monkeypatch):
    rates = []
    step = torch.optim.Adam.step

    def noted(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", noted)
    run("adain", replace(settings, learning_rate=0.01, learning_rate_decay=0.5, steps=3), sources)
    assert rates == [0.01, 0.01 / 1.5, 0.01 / 2]


def test_trained_network_is_loaded_with_its_encoder(settings, sources):
    run("ilm", settings, sources)
    network, manifest = load_network(figure_folder(settings) / "ilm-seed0")
    described = get_encoder(settings, sources, CPU, never)
    image = torch.rand(1, 3, 8, 8)
    for mine, theirs in zip(network.encoder(image), described.encoder(image), strict=True):
        assert torch.equal(mine, theirs)
    assert manifest["config"]["row"] == "ilm"


def test_encoder_is_trained_once_and_a_stopped_one_goes_on(settings, sources, tmp_path):
    whole = get_encoder(settings, sources, CPU, never)
    assert get_encoder(settings, sources, CPU, stop_after(0)).about == whole.about
    other = replace(settings, output=str(tmp_path / "other"))
    with pytest.raises(Stopped, match="stopped in epoch 2; 1 epochs are saved"):
        get_encoder(other, sources, CPU, stop_after(4))  # three steps an epoch
    assert get_encoder(other, sources, CPU, never).about["sha256"] == whole.about["sha256"]


def test_encoders_mean_activations_on_content_are_one(settings, sources):
    described = get_encoder(settings, sources, CPU, never)
    crops = torch.cat(encoders._calibration(settings, sources, CPU))
    mean = described.encoder(crops)[-1].mean((0, 2, 3))
    active = mean > 0
    assert active.any()
    torch.testing.assert_close(mean[active], torch.ones(int(active.sum())))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"style_weight": 2.0}, "style_weight: 1.0 there, 2.0 here"),
        ({"encoder_epochs": 1}, "encoder_epochs: 2 there, 1 here"),
    ],
)
def test_run_of_other_settings_is_refused(settings, sources, change, message):
    run("adain", settings, sources)
    with pytest.raises(UsageError, match=f"was created with other settings \\({message}\\)"):
        run("adain", replace(settings, **change), sources)


def test_run_of_other_pictures_is_refused(settings, sources):
    run("adain", settings, sources)
    other = replace(sources, style=replace(sources.style, sha256="2"))
    with pytest.raises(UsageError, match="style: 1 there, 2 here"):
        run("adain", settings, other)


def test_loss_that_is_not_finite_ends_the_run(settings, sources):
    with pytest.raises(UsageError, match="loss is not finite at step"):
        run("adain", replace(settings, learning_rate=1e30), sources)


def test_vgg19_is_taken_as_it_is_and_named_by_its_hash(settings, sources, tmp_path, caplog):
    torch.manual_seed(0)
    weights = Encoder(VGG19_WIDTHS, VGG19_DEPTHS).layers.state_dict()
    torch.save(weights, tmp_path / "vgg.pth")
    changed = replace(settings, vgg=str(tmp_path / "vgg.pth"))
    with caplog.at_level("INFO", "robustnorm"):
        described = get_encoder(changed, sources, CPU, never)
    assert described.about["file_sha256"] in caplog.text
    assert described.about["layer"] == "relu2_1"
    loaded = described.encoder.layers.state_dict()
    assert all(torch.equal(loaded[name], weights[name]) for name in loaded)


def test_file_without_vgg19_is_refused(settings, sources, tmp_path):
    torch.save({"0.weight": torch.zeros(2)}, tmp_path / "vgg.pth")
    with pytest.raises(RefusedFileError, match=r"vgg\.pth: the weights must be those of VGG-19"):
        get_encoder(replace(settings, vgg=str(tmp_path / "vgg.pth")), sources, CPU, never)


def test_row_names_norm_and_target():
    assert split_row("ilm-detached") == ("ilm", "detached")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": ("saadin",)}, "unknown row 'saadin'; did you mean 'saadain'"),
        ({"seeds": (1, 1)}, "seeds must be one or more different values"),
        ({"crop": 4}, "crop must be at least 8 with this cut, got 4"),
        ({"crop": 65}, "crop must be at most resize 64, got 65"),
        ({"cut": 5}, "cut must be from 2 to 4, the encoder's stages, got 5"),
        ({"steps": 0}, "steps must be above 0, got 0"),
        ({"encoder_widths": (8, 8, 8)}, "ilm needs a multiple of 16 channels .*, got 8"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        StyleSettings(**change)


def test_longer_training_has_the_curves_of_one_that_was_never_shorter(settings, sources):
    whole = json.loads(run("adain", replace(settings, name="a", steps=9), sources).read_text())
    shorter = replace(settings, name="b", steps=7)  # ends within a point of both curves
    run("adain", shorter, sources)
    continued = json.loads(run("adain", replace(shorter, steps=9), sources).read_text())
    assert [point[0] for point in continued["curve"]] == [2, 4, 6, 8, 9]
    for point, expected in zip(continued["curve"], whole["curve"], strict=True):
        assert point == pytest.approx(expected, rel=1e-12)
    assert continued["validation"] == whole["validation"]
