import numpy as np
import pytest

from robustnorm.applications.gan.networks import build_networks
from robustnorm.applications.gan.record import GanRecord
from robustnorm.cli import main, parse
from robustnorm.settings.gan import GanSettings

TINY = [
    *("--data=digits", "--image_size=8", "--width=4", "--discriminator_width=4", "--steps=2"),
    *("--latent_dim=4", "--discriminator_steps=1", "--batch_size=8", "--generator_batch=8"),
    *("--eval_every=1", "--eval_images=20", "--classifier_epochs=1", "--classifier_width=1"),
    *("--networks=[sngan]", "--seeds=[0]", "--keep_steps=[2]", "--gradient_latents=2"),
    *("--gradient_batches=2", "--device=cpu"),
]


def test_table1_trains_what_is_missing_and_prints_the_same_again(
    blank_figures, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["table1", *TINY]) == 0
    shown, told = capsys.readouterr()
    for said in ("Table 1", "FID-C10net, last", "SNGAN (SaBN)", "test images", "single samples"):
        assert said in shown
    assert "run 2 of 2: sngan-sabn-seed0" in told
    records = sorted((tmp_path / "reports/table1/records").iterdir())
    assert [path.name for path in records] == ["sngan-ccbn-seed0.json", "sngan-sabn-seed0.json"]
    assert GanRecord.load(records[0]).config["width"] == 4
    assert (tmp_path / "reports/table1/images/sngan-sabn-seed0.png").exists()
    assert main(["table1", *TINY]) == 0  # nothing is left to train
    again, told = capsys.readouterr()
    assert again == shown
    assert "run 1" not in told
    records[1].unlink()
    assert main(["table1", *TINY, "--train=false"]) == 0
    assert "SNGAN (SaBN)" not in capsys.readouterr().out
    assert main(["table1", *TINY, "--width=8"]) == 2
    assert "has other settings (width 4 there)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--networks=[dcgan]"], "networks"),
        (["--norms=[bn]"], "norms"),
        (["--seeds=[]"], "seeds must be one or more different values"),
        (["--seeds=[1,1]"], "seeds must be one or more different values"),
        (["--image_size=20"], "image_size must be a multiple of 8, got 20"),
        (
            ["--keep_steps=[3000000]"],
            "keep_steps must be different steps between 1 and the 50000 of the run",
        ),
        (["--features=inception"], "inception_weights must be the path of the weights"),
        (["--betas=[0,1]"], "betas must be in"),
        (["--eval_images=9"], "eval_images must be at least 10, got 9"),
        (["--generator_batch=1"], "generator_batch must be at least 2, got 1"),
        (["--keep_steps=[2,2]"], "keep_steps must be different steps between 1 and the 50000"),
    ],
)
def test_settings_out_of_range_are_refused_in_one_sentence(words, message, capsys):
    assert main(["table1", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_data_that_are_not_there_are_refused_before_anything_is_done(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["table1", "--data=cifar"]) == 2
    assert "did you mean 'cifar10'" in capsys.readouterr().err
    assert not (tmp_path / "checkpoints").exists()


def test_records_of_other_data_are_told_before_any_training(
    blank_figures, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    labels = np.arange(40) % 10
    np.savez("other.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    assert main(["table1", *TINY, "--norms=[ccbn]"]) == 0
    shown = capsys.readouterr().out
    for seeds in ("--seeds=[0]", "--seeds=[0,1]"):
        assert main(["table1", *TINY, "--norms=[ccbn]", "--data=other.npz", seeds]) == 2
        error = capsys.readouterr().err
        assert "sngan-ccbn-seed0.json was made with scikit-learn digits" in error
        assert "run 1" not in error
    words = ["table1", *TINY, "--norms=[ccbn]", "--data=other.npz", "--train=false"]
    assert main(words) == 0
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize("name", ["gan-cpu", "sngan-cifar10", "autogan-cifar10", "biggan-cifar10"])
def test_every_config_can_be_read_and_its_networks_built(name):
    _, config, _ = parse(["table1", f"--config={name}"])
    assert isinstance(config, GanSettings)
    for network in config.networks:
        build_networks(config, network, "sabn", 0, num_classes=10, channels=3)
    assert config.steps in config.keep_steps
