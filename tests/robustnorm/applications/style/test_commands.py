"""The commands figure7 and stylize, on embedded pictures."""

import numpy as np
import pytest
from PIL import Image

from robustnorm.applications.style import data
from robustnorm.cli import main

SETTINGS = {
    "name": "made",
    "encoder_widths": "[8,16]",
    "encoder_epochs": "1",
    "cut": "2",
    "steps": "4",
    "batch_size": "2",
    "crop": "8",
    "resize": "16",
    "validate_every": "2",
    "validation_pairs": "4",
    "log_every": "1",
    "seeds": "[0]",
    "device": "cpu",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder in which figure7 has run."""
    place = tmp_path_factory.mktemp("figure7")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(data, "_TRAIN_CROPS", 20)
        assert main(["figure7", *(f"--{name}={value}" for name, value in SETTINGS.items())]) == 0
    return place


def test_figure7_writes_records_tables_figures_and_page(place):
    report = place / "reports" / "made"
    rows = ("adain", "ilm", "saadain", "saadain-detached")
    assert {path.name for path in (report / "records").iterdir()} == {
        f"{row}-seed0.json" for row in rows
    }
    assert "SaAdaIN, target detached" in (report / "tables.md").read_text()
    page = (report / "report.html").read_text()
    assert "Figure 8" in page
    assert str(place) not in page
    figures = {path.name for path in (report / "figures").iterdir()}
    assert {"figure7-training.png", "figure7-validation.svg", "figure8.png"} <= figures


def test_runs_that_could_not_be_compared_are_told_before_training(place, monkeypatch, capfd):
    monkeypatch.chdir(place)
    monkeypatch.setattr(data, "_TRAIN_CROPS", 20)
    checkpoint = place / "checkpoints/made/adain-seed0/last.json"
    before = checkpoint.read_bytes()
    settings = SETTINGS | {"rows": "[adain]", "steps": "6"}
    words = ["figure7", *(f"--{name}={value}" for name, value in settings.items())]
    assert main(words) == 2
    error = capfd.readouterr().err
    assert "ilm-seed0.json differs from this command in config" in error
    assert checkpoint.read_bytes() == before
    foreign = place / "reports/made/records/bn-seed0-best.json"
    foreign.write_text("{}")
    assert main(words) == 5
    assert "choose another --name" in capfd.readouterr().err
    foreign.unlink()


def test_stylize_writes_a_picture_of_the_contents_size(place, monkeypatch):
    monkeypatch.chdir(place)
    random = np.random.default_rng(0)
    for name, size in (("content", (21, 30)), ("style", (40, 40))):
        pixels = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"{name}.png")
    run = "checkpoints/made/saadain-seed0"
    assert main(["stylize", run, "content.png", "style.png", "--into", "out.png"]) == 0
    with Image.open("out.png") as painted:
        assert (painted.size, painted.mode) == ((30, 21), "RGB")
    words = ["stylize", run, "content.png", "style.png", "--side", "20", "--into", "small.jpg"]
    assert main(words) == 0
    with Image.open("small.jpg") as painted:
        assert (painted.size, painted.format) == ((20, 14), "JPEG")


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("none", "a.png", "b.png"), 2, "no checkpoint 'last' in none"),
        (("encoder", "a.png", "b.png"), 2, "holds no network for style transfer"),
        (("adain-seed0", "missing.png", "b.png"), 5, "missing.png cannot be read (No such file"),
        (("adain-seed0", "tiny.png", "b.png"), 2, "tiny.png has 9x9 pixels"),
        (("adain-seed0", "a.png", "b.png", "--into", "a.txt"), 2, "into must end in .png or .jpg"),
        (
            ("adain-seed0", "a.png", "b.png", "--side", "3"),
            2,
            "a.png, scaled down by --side, has 3x3",
        ),
    ],
)
def test_stylize_says_in_one_sentence_what_does_not_serve(
    place, monkeypatch, capfd, words, status, message
):
    monkeypatch.chdir(place / "checkpoints" / "made")
    for name, side in (("a", 20), ("b", 20), ("tiny", 9)):
        Image.new("L", (side, side)).save(f"{name}.png")
    assert main(["stylize", *words]) == status
    error = capfd.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert error.count("\n") == 1


def test_huge_cut_is_refused_with_its_bounds(capfd):
    assert main(["figure7", "--cut", "1000000000"]) == 2
    error = capfd.readouterr().err
    assert "cut must be from 2 to 4, the encoder's stages, got 1000000000" in error


def test_figure7_refuses_unknown_rows_before_anything_else(capfd):
    assert main(["figure7", "--rows", "[saadin]"]) == 2
    assert "unknown row 'saadin'; did you mean 'saadain'" in capfd.readouterr().err
