"""The command line, from arguments to files, on a small network."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from manifests import rewrite_manifest
from processes import command, kill

from robustnorm import cli
from robustnorm.records.record import Check, Record
from robustnorm.runs.run import load_model
from robustnorm.settings.base import names
from robustnorm.settings.config import Config
from robustnorm.system.errors import Status

SMALL = {
    "data": "digits",
    "network": "tiny",
    "train_limit": 128,
    "validation": 100,
    "width": 4,
    "epochs": 2,
    "batch_size": 32,
    "learning_rate": 0.05,
    "epsilon": "3/16",
    "step_size": "3/64",
    "train_steps": 2,
    "validation_steps": 2,
    "test_limit": 60,
    "device": "cpu",
    "checks": "none",
    "worst": False,
}


@pytest.fixture(autouse=True)
def place(tiny, tmp_path, monkeypatch):
    """Every command runs in a separate folder with small.yaml."""
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words, status=0):
    assert cli.main(words) == status


def refused(capsys, *words, status=2):
    run(*words, status=status)
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("robustnorm: ")
    return error


def tensors(folder, tag="last"):
    file = json.loads((Path(folder) / f"{tag}.json").read_text())["file"]
    return (Path(folder) / file).read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--norm", "saauxbm"], "unknown norm 'saauxbm'; did you mean 'saauxbn'?"),
        (["train", "--epsilon", "eight"], "must be a number such as 8/255 or 0.03, got eight"),
        (["train", "--epsilon", "8/0"], "epsilon must be a number such as 8/255 or 0.03, got 8/0"),
        (
            ["train", "--epsilon", "-8/255"],
            "epsilon must be from 1e-06 to 1, such as 8/255, got -8/255",
        ),
        (["train", "--epsilon", "8"], "epsilon must be from 1e-06 to 1, such as 8/255, got 8"),
        (["train", "--epochz", "3"], "did you mean 'epochs'?"),
        (["train", "--epochs", "ten"], "robustnorm: epochs must be a whole number, got ten\n"),
        (["train", "--precision", "fp16"], "precision must be fp32 or bf16, got fp16"),
        (["train", "--data", "digit"], "did you mean 'digits'?"),
        (["train", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["train", "--config", "cifar"], "unknown config 'cifar'; did you mean 'cifar10'?"),
        (["trian"], "did you mean 'train'?"),
        (["--epochs", "3"], "a command comes first"),
        (["evaluate"], "did you mean 'eval'?"),
        (["train", "--epochs"], "--epochs needs a value"),
        (["train", "--conf", "digits"], "unknown setting '--conf'"),
        (["train", "digits"], "unexpected word 'digits'"),
        (["verify"], "record is required"),
        (["eval", "--checkpoint", "newest"], "checkpoint must be best, last, or epoch"),
    ],
)
def test_wrong_word_is_refused_with_the_nearest_right_one(capsys, words, message):
    assert message in refused(capsys, *words)


def test_unknown_key_of_a_config_is_refused_with_the_nearest(capsys, place):
    (place / "odd.yaml").write_text("epochz: 3\n")
    assert "did you mean 'epochs'?" in refused(capsys, "train", "--config", "odd.yaml")


def test_yaml_tag_of_a_python_object_is_refused(capsys, place):
    (place / "odd.yaml").write_text("norm: !!python/object/apply:os.system ['touch owned']\n")
    refused(capsys, "train", "--config", "odd.yaml", status=Status.REFUSED)
    assert not (place / "owned").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--norm", "saauxbm"],
        ["train", "--config", "digits", "--attacks", "fgsm,none"],
        ["train", "--epsilon", "x"],
        ["--help"],
        ["train", "--help"],
    ],
)
def test_words_are_read_before_torch_is_imported(words):
    code = (
        "import sys\n"
        "from robustnorm.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["eval", "--help"]])
def test_help_explains(capsys, words):
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert ("--epsilon" if len(words) > 1 else "reproduce") in shown


@pytest.mark.parametrize(
    "name",
    [
        "digits",
        "cifar10",
        "cifar10-cpu",
        "cifar10-fast",
        "cifar10-released-code",
        "cifar10-three-branches",
    ],
)
def test_packaged_config_is_read_by_name(name):
    _, config, path = cli.parse(["train", "--config", name])
    assert config.name == name
    assert path.endswith(f"{name}.yaml")


def test_paper_and_released_code_follow_the_protocol():
    _, paper, _ = cli.parse(["train", "--config", "cifar10"])
    _, released, _ = cli.parse(["train", "--config", "cifar10-released-code"])
    differences = paper.differences(released, frozenset({"name"}))
    assert set(re.findall(r"(\w+): (\S+) there, (\S+) here", differences)) == {
        ("protocol", "released-code", "paper"),
        ("train_steps", "7", "10"),
        ("loss", "mean", "sum"),
        ("network", "preact_resnet18", "resnet18"),
        ("final_norm", "False", "True"),
        ("input_normalization", "imagenet", "dataset"),
        ("attack_norm_mode", "batch-update", "batch"),
    }
    assert (paper.epochs, paper.milestones, paper.warmup_steps, paper.validation) == (
        200,
        (50, 150),
        200,
        5000,
    )
    assert (paper.batch_size, paper.learning_rate, paper.momentum, paper.weight_decay) == (
        128,
        0.1,
        0.9,
        5e-4,
    )
    assert (str(paper.epsilon), str(paper.step_size), paper.keep_epochs) == (
        "8/255",
        "2/255",
        (190,),
    )


def test_demo_reads_the_digits():
    _, config, _ = cli.parse(["demo", "--epochs", "3"])
    assert (config.name, config.epochs) == ("digits", 3)


def test_config_file_names_the_run_unless_it_says_otherwise():
    assert cli.parse(["train", "--config", "small.yaml"])[1].name == "small"
    assert cli.parse(["train", "--config", "small.yaml", "--name", "mine"])[1].name == "mine"


def test_train_then_eval_prints_and_writes_the_tables(capsys, place):
    for norm in ("bn", "saauxbn"):
        run("train", "--config", "small.yaml", "--norm", norm)
    capsys.readouterr()
    run("eval", "--config", "small.yaml", "--worst", "true")
    shown = capsys.readouterr().out
    reports = place / "reports" / "small"
    assert "Table 3: standard accuracy, clean branch" in shown
    assert "Table 4" in shown
    assert "RA, worst case" in shown
    assert "Branch matrix" in shown
    assert "n = 60 of 500 test images of scikit-learn digits" in shown
    assert "AuxBN is not trained yet: make train NORM=auxbn CONFIG=small.yaml" in shown
    record = Record.load(reports / "records" / "saauxbn-seed0-best.json")
    row = next(
        row
        for row in csv.DictReader((reports / "table4.csv").read_text().splitlines())
        if row["Model"] == "SaAuxBN (adv)" and row["Evaluation"] == "RA, PGD-20"
    )
    accuracy = record.find("pgd-20", "final", "adv", "adv").accuracy
    assert float(row["Ours %"]) == pytest.approx(100 * accuracy, abs=0.005)  # two decimals
    assert record.n == 60
    assert record.config["norm"] == "saauxbn"
    assert not {"data_root", "output", "reports"} & record.config.keys()  # paths of this machine
    assert not list(reports.glob("records/*.journal"))


def test_run_folder_holds_settings_that_are_accepted_back(capsys):
    run("train", "--config", "small.yaml", "--norm", "bn", "--seed", "3", "--weight_decay", "0.001")
    folder = Path("checkpoints/small/bn-seed3")
    before = tensors(folder)
    run("train", "--config", str(folder / "config.yaml"))
    assert "bn-seed3: already trained" in capsys.readouterr().err
    assert tensors(folder) == before


def test_metrics_are_written_a_line_an_epoch():
    run("train", "--config", "small.yaml", "--norm", "auxbn")
    lines = Path("checkpoints/small/auxbn-seed0/metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["epoch"] for record in records] == [1, 2]
    assert set(records[0]["validation"]) == {"clean", "adv"}
    assert {"clean_loss", "adv_loss", "images_per_second", "learning_rate"} <= records[0].keys()


def test_tensorboard_files_are_written_when_asked_for():
    run("train", "--config", "small.yaml", "--norm", "bn", "--tensorboard", "true")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator("checkpoints/small/bn-seed0")
    events.Reload()
    lines = Path("checkpoints/small/bn-seed0/metrics.jsonl").read_text().splitlines()
    expected = [json.loads(line)["clean_loss"] for line in lines]
    assert [scalar.value for scalar in events.Scalars("loss/clean")] == pytest.approx(expected)


def test_tensorboard_that_is_missing_names_the_extra(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    words = ("train", "--config", "small.yaml", "--norm", "bn", "--tensorboard", "true")
    assert 'pip install "robustnorm[track]"' in refused(capsys, *words)


def test_control_has_a_folder_and_a_row_of_its_own(capsys):
    run("train", "--config", "small.yaml", "--norm", "bn", "--adversarial", "false")
    run("eval", "--config", "small.yaml")
    assert Path("checkpoints/small/bn-plain-seed0").is_dir()
    assert "BN, plain (control)" in capsys.readouterr().out


def test_reproduce_trains_four_norms_and_a_control(capsys):
    run("reproduce", "--config", "small.yaml", "--epochs", "1")
    shown = capsys.readouterr().out
    for model in ("BN", "ModeNorm", "AuxBN (clean)", "SaAuxBN (clean)", "BN, plain (control)"):
        assert f"SA            {model}" in shown
    assert "not trained yet" not in shown


def test_second_eval_reads_the_records(capsys):
    run("train", "--config", "small.yaml", "--norm", "bn")
    run("eval", "--config", "small.yaml")
    first = capsys.readouterr()
    run("eval", "--config", "small.yaml")
    second = capsys.readouterr()
    assert second.out == first.out
    assert "bn-seed0: already evaluated" in second.err


@pytest.mark.parametrize("change", [("--test_limit", "40"), ("--eval_seed", "1")])
def test_eval_of_another_protocol_evaluates_again(capsys, change):
    run("train", "--config", "small.yaml", "--norm", "bn")
    run("eval", "--config", "small.yaml")
    capsys.readouterr()
    run("eval", "--config", "small.yaml", *change)
    assert "already evaluated" not in capsys.readouterr().err


def test_damaged_record_is_named(capsys, place):
    run("train", "--config", "small.yaml", "--norm", "bn")
    run("eval", "--config", "small.yaml")
    (path,) = (place / "reports/small/records").glob("*.json")
    path.write_text("{")
    assert "is not a result record" in refused(capsys, "eval", "--config", "small.yaml", status=5)


def test_eval_without_a_checkpoint_says_how_to_train_one(capsys):
    error = refused(capsys, "eval", "--config", "small.yaml")
    assert "no checkpoint 'best' fits this config under checkpoints/small" in error
    assert "make train NORM=saauxbn CONFIG=small.yaml" in error


def test_eval_leaves_out_a_checkpoint_that_does_not_fit(capsys):
    run("train", "--config", "small.yaml", "--norm", "bn")
    error = refused(capsys, "eval", "--config", "small.yaml", "--width", "8")
    assert "bn-seed0 is left out because its settings differ: width: 4 there, 8 here" in error


def test_eval_takes_a_shortened_run_and_says_so(capsys):
    run("train", "--config", "small.yaml", "--norm", "bn", "--epochs", "1")
    run("eval", "--config", "small.yaml")
    assert "1 epoch (shortened" in capsys.readouterr().out


def test_eval_refuses_a_checkpoint_of_another_dataset(capsys, place, monkeypatch):
    run("train", "--config", "small.yaml", "--norm", "bn")
    manifest = place / "checkpoints/small/bn-seed0/best.json"
    dataset = json.loads(manifest.read_text())["dataset"]
    other = {"sha256": "0" * 64, "name": "other digits"}
    rewrite_manifest(manifest, dataset=dataset | other)
    error = refused(capsys, "eval", "--config", "small.yaml")
    assert (
        "was trained on other digits (content 000000000000), but the data given are scikit" in error
    )


def test_other_settings_in_the_same_folder_are_refused(capsys):
    run("train", "--config", "small.yaml", "--norm", "bn")
    error = refused(capsys, "train", "--config", "small.yaml", "--norm", "bn", "--epochs", "3")
    assert "holds a run with other settings (epochs: 2 there, 3 here)" in error


def test_batch_larger_than_the_data_is_refused(capsys):
    words = ("train", "--config", "small.yaml", "--norm", "bn", "--batch_size", "200")
    assert "a batch of 200 is larger than the 128 training images" in refused(capsys, *words)


def test_device_that_is_not_there_is_refused(capsys):
    words = ("train", "--config", "small.yaml", "--norm", "bn", "--device", "cuda:99")
    assert "device 'cuda:99' cannot be used" in refused(capsys, *words)


def test_diverging_run_names_the_step_the_good_checkpoint_and_what_to_try(capsys):
    words = ("train", "--config", "small.yaml", "--norm", "bn", "--learning_rate", "1e38")
    error = refused(capsys, *words)
    assert "the loss is not finite from step" in error
    assert "--learning_rate" in error


def test_keep_epochs_keeps_weights(capsys):
    run("train", "--config", "small.yaml", "--norm", "bn", "--keep_epochs", "[1]")
    run("eval", "--config", "small.yaml", "--checkpoint", "epoch1")
    assert "Checkpoint 'epoch1' of epoch 1." in capsys.readouterr().out


def test_load_model_gives_the_trained_network():
    run("train", "--config", "small.yaml", "--norm", "saauxbn")
    model, manifest = load_model(Path("checkpoints/small/saauxbn-seed0"), "last")
    assert not model.training
    assert manifest["epoch"] == 2
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("norm", ["saauxbn", "modenorm"])
def test_killed_run_continues_to_the_same_end(place, norm):
    steps = ("--train_steps", "1", "--validation_steps", "1")
    words = ("train", "--config", "small.yaml", "--norm", norm, "--epochs", "10", *steps)
    run(*words, "--output", "whole")
    process = command(*words, "--output", "killed")
    manifest = place / "killed" / "small" / f"{norm}-seed0" / "last.json"
    while not manifest.exists() and process.is_alive():
        time.sleep(0.001)
    kill(process)
    assert json.loads(manifest.read_text())["epoch"] < 10
    run(*words, "--output", "killed")
    for tag in ("last", "best"):
        assert tensors(place / f"killed/small/{norm}-seed0", tag) == tensors(
            place / f"whole/small/{norm}-seed0", tag
        )


def test_interrupted_run_says_that_the_same_command_continues(capsys, monkeypatch):
    from robustnorm.work import train

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train_run", interrupt)
    run("train", "--config", "small.yaml", "--norm", "bn", status=130)
    assert "the same command continues" in capsys.readouterr().err


def test_progress_without_a_terminal_is_plain_lines(capfd):
    run("train", "--config", "small.yaml", "--norm", "bn")
    error = capfd.readouterr().err
    lines = error.splitlines()
    assert "\r" not in error
    assert lines[1].startswith("bn-seed0: epoch 1/2  loss clean ")
    assert "img/s" in lines[1]
    assert "left" in lines[1]


@pytest.mark.parametrize(("verdict", "status"), [("unreliable", 6), ("warn", 0)])
def test_strict_evaluation_shows_its_tables_and_then_tells_that_it_is_unreliable(
    capsys, monkeypatch, verdict, status
):
    from robustnorm.work import evaluate

    found = Check("gradients", "single", verdict, 0.0, "of no image", 1)
    monkeypatch.setattr(evaluate, "run_checks", lambda *_, **__: ([found], []))
    words = ("--config", "small.yaml", "--checks", "quick")
    run("train", *words, "--norm", "bn", "--strict", "true")  # not one of the run's own settings
    run("eval", *words)
    shown = capsys.readouterr().out
    run("eval", *words, "--strict", "true", status=status)
    assert capsys.readouterr().out == shown


def test_lack_of_memory_anywhere_has_a_status_of_its_own(capsys, monkeypatch):
    from robustnorm.work import report

    def allocate(*_):
        raise MemoryError("Unable to allocate 7.45 GiB")

    monkeypatch.setattr(report, "report", allocate)
    error = refused(capsys, "report", "--config", "small.yaml", status=3)
    assert "out of memory (Unable to allocate 7.45 GiB)" in error


def test_error_that_nobody_expects_keeps_its_traceback(monkeypatch):
    from robustnorm.work import report

    def fail(*_):
        raise RuntimeError("size mismatch")

    monkeypatch.setattr(report, "report", fail)
    with pytest.raises(RuntimeError, match="size mismatch"):
        run("report", "--config", "small.yaml")


@pytest.mark.parametrize("words", [[], ["help"], ["-h"]])
def test_program_alone_lists_its_commands(capsys, words):
    with pytest.raises(SystemExit, match="0"):
        cli.main(words)
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in cli.COMMANDS)


@pytest.mark.parametrize("words", [["-v"], ["--version"], ["train", "--version"]])
def test_version_is_told_wherever_it_is_asked_for(capsys, words):
    with pytest.raises(SystemExit, match="0"):
        cli.main(words)
    assert re.fullmatch(r"robustnorm \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_help_shows_what_people_use_first_and_each_setting_once(capsys):
    with pytest.raises(SystemExit):
        cli.main(["help", "train"])
    first, _, rest = capsys.readouterr().out.partition("most used:\n")[2].partition("\n\n")
    assert len(re.findall("^  --", first, re.MULTILINE)) == 11  # with --config
    assert "--norm" in first
    shown = re.findall(r"^  --(\w+)", first + rest, re.MULTILINE)
    assert sorted(shown) == sorted(["config", *names(Config)])


def test_report_offers_no_setting_of_training(capsys):
    with pytest.raises(SystemExit):
        cli.main(["report", "--help"])
    assert "momentum" not in capsys.readouterr().out


def test_removed_working_folder_ends_in_one_sentence(capsys, place, monkeypatch):
    gone = place / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert "does the working folder still exist" in refused(capsys, "train", status=4)


@pytest.mark.parametrize("folder", ["output", "reports"])
def test_folder_that_cannot_be_written_ends_in_one_sentence(capsys, place, folder):
    (place / "file").touch()
    words = ("reproduce", "--config", "small.yaml", "--epochs", "1", f"--{folder}", "file/x")
    error = refused(capsys, *words, status=4)
    assert "cannot be written: a file is where its folder should be" in error
    assert "Traceback" not in error


def test_closed_pipe_ends_in_one_sentence():
    words = [sys.executable, "-m", "robustnorm", "help", "train"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, **streams) as process:
        process.stdout.close()
        error = process.stderr.read()
    assert error == "robustnorm: the output pipe was closed; the same command prints it again\n"
    assert process.returncode == Status.CLOSED


def test_interrupt_while_torch_is_loaded_ends_in_one_sentence(capsys, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "import_module", interrupt)
    run("train", "--config", "small.yaml", status=130)
    assert capsys.readouterr().err.startswith("robustnorm: interrupted; ")


def test_interrupt_that_a_library_takes_for_another_error_ends_in_one_sentence(capsys, monkeypatch):
    def interrupt(_):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        except KeyboardInterrupt:
            raise RecursionError("in an import that was cut off") from None

    monkeypatch.setattr(cli, "import_module", interrupt)
    run("train", "--config", "small.yaml", status=130)
    error = capsys.readouterr().err
    assert error.startswith("robustnorm: interrupted; ")
    assert error.count("\n") == 1


INTERRUPTED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which nohup would have ignored
class Interrupts:
    def find_spec(self, name, *_):
        if name == "robustnorm.settings.config":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupts())
from robustnorm.__main__ import main
sys.exit(main())
"""


def test_interrupt_while_the_program_is_loaded_ends_in_one_sentence():
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, "train"], capture_output=True, text=True, check=False
    )
    assert done.returncode == Status.INTERRUPTED
    assert done.stderr == "robustnorm: interrupted before it started\n"


def test_help_names_every_exit_status(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    table = capsys.readouterr().out.partition("exit statuses:\n")[2].splitlines()
    assert [int(line.split()[0]) for line in table] == [status.value for status in Status]


def test_evaluation_uses_fp32_whatever_the_training_precision(capsys):
    run("train", "--config", "small.yaml", "--norm", "bn", "--precision", "bf16")
    run("eval", "--config", "small.yaml", "--precision", "bf16")
    (path,) = Path("reports/small/records").glob("*.json")
    record = Record.load(path)
    assert record.protocol["precision"] == "fp32"
    model, _ = load_model(Path("checkpoints/small/bn-seed0"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_kept_and_transferred_images_are_verified(capsys):
    for norm in ("bn", "auxbn"):
        run("train", "--config", "small.yaml", "--norm", norm, "--epochs", "1")
    words = ("eval", "--config", "small.yaml", "--transfer", "true", "--attacks", "[fgsm]")
    run(*words)
    assert "RA, worst case" in capsys.readouterr().out
    records = Path("reports/small/records")
    record = Record.load(records / "bn-seed0-best.json")
    transfers = [v for v in record.verdicts if v.attack == "transfer:auxbn-seed0"]
    assert {(v.attack_branch, v.score_branch) for v in transfers} == {
        ("clean", "single"),
        ("adv", "single"),
    }
    assert len(record.examples) <= 8
    before = (records / "bn-seed0-best.json").read_bytes()
    run(*words)  # nothing is done again
    assert (records / "bn-seed0-best.json").read_bytes() == before
    capsys.readouterr()
    for norm in ("bn", "auxbn"):
        run("verify", str(records / f"{norm}-seed0-best.json"))
        assert "Everything holds." in capsys.readouterr().out
    (file, *_) = (records / "bn-seed0-best.images").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    run("verify", str(records / "bn-seed0-best.json"), status=1)
    assert "files of images: " in capsys.readouterr().out
    run("verify", str(records / "none.json"), status=2)


def test_unknown_attack_is_refused_before_torch_is_imported(capsys):
    error = refused(capsys, "eval", "--config", "small.yaml", "--attacks", "[pdg-50]")
    assert "unknown attack 'pdg-50'; did you mean 'pgd-50'?" in error


def test_l2_is_recorded_as_the_threat_model(capsys):
    words = ("--config", "small.yaml", "--threat_model", "l2", "--epsilon", "3/2", "--epochs", "1")
    run("train", *words, "--norm", "bn")
    run("eval", *words)
    assert (
        Record.load(Path("reports/small/records/bn-seed0-best.json")).protocol["threat_model"]
        == "l2"
    )
    assert "PGD, L2, epsilon 3/2" in capsys.readouterr().out


@pytest.mark.parametrize("name", cli.REMOVED)
def test_removed_command_says_what_does_its_work(capsys, name):
    assert cli.main([name, "anything", "--into", "x"]) == Status.USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert f"'{name}' is no longer a command: {cli.REMOVED[name]}" in line
