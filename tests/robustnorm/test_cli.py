"""The command line: its words, its help, and how it ends."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from small_runs import refused, run

from robustnorm import cli
from robustnorm.settings.base import names
from robustnorm.settings.config import Config
from robustnorm.system.errors import Status

pytestmark = pytest.mark.usefixtures("small_yaml")


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


def test_unknown_key_of_a_config_is_refused_with_the_nearest(capsys, tmp_path):
    (tmp_path / "odd.yaml").write_text("epochz: 3\n")
    assert "did you mean 'epochs'?" in refused(capsys, "train", "--config", "odd.yaml")


def test_yaml_tag_of_a_python_object_is_refused(capsys, tmp_path):
    (tmp_path / "odd.yaml").write_text("norm: !!python/object/apply:os.system ['touch owned']\n")
    refused(capsys, "train", "--config", "odd.yaml", status=Status.REFUSED)
    assert not (tmp_path / "owned").exists()


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


def test_removed_working_folder_ends_in_one_sentence(capsys, tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert "does the working folder still exist" in refused(capsys, "train", status=4)


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
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # nohup ignores it
    try:
        run("train", "--config", "small.yaml", status=130)
    finally:
        signal.signal(signal.SIGINT, before)
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


def test_unknown_attack_is_refused_before_torch_is_imported(capsys):
    error = refused(capsys, "eval", "--config", "small.yaml", "--attacks", "[pdg-50]")
    assert "unknown attack 'pdg-50'; did you mean 'pgd-50'?" in error


@pytest.mark.parametrize("name", cli.REMOVED)
def test_removed_command_says_what_does_its_work(capsys, name):
    assert cli.main([name, "anything", "--into", "x"]) == Status.USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert f"'{name}' is no longer a command: {cli.REMOVED[name]}" in line
