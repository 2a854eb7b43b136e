"""Weights of other code are imported and evaluated in one command, which its repetition resumes."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from robustnorm import cli
from robustnorm.commands.evaluate import evaluate
from robustnorm.models import NETWORKS
from robustnorm.records.record import Record
from robustnorm.system.errors import Status
from robustnorm.system.stopping import Stopped

SIZE, N = 4, 12
QUICK = ("--device=cpu", "--checks=none", "--worst=false")


def flat(num_classes=2, in_channels=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * SIZE * SIZE, num_classes))


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(NETWORKS, "flat", flat)


def write(channels=3, classes=2, name="set"):
    torch.manual_seed(channels + classes)
    network = flat(classes, channels)
    torch.save({"state_dict": network.state_dict(), "epoch": 3}, "their weights.pt")
    pixels = torch.randint(256, (N, channels, SIZE, SIZE), dtype=torch.uint8)
    labels = torch.arange(N) % classes
    labels[-1] = classes - 1
    np.savez(f"{name}.npz", x_test=pixels.numpy(), y_test=labels.numpy())
    return network, pixels, labels


def words(*more, data="set.npz"):
    return ["--network=flat", f"--data={data}", "--input_normalization=none", *QUICK, *more]


def run(*more, data="set.npz"):
    return cli.main(["eval", "--weights", "their weights.pt", *words(*more, data=data)])


def records():
    return sorted(Path("reports").glob("*/records/*.json"))


@pytest.mark.parametrize(
    ("channels", "classes", "attack"),
    [
        (1, 2, ()),
        (3, 1000, ()),
        (3, 2, ("--threat_model=l2", "--epsilon=1/2", "--step_size=1/8")),
        (1, 1000, ("--threat_model=l2", "--epsilon=1/2", "--step_size=1/8")),
    ],
)
def test_one_command_gives_what_import_and_eval_give(channels, classes, attack, capsys):
    network, pixels, labels = write(channels, classes)
    assert run(*attack) == Status.DONE
    shown = capsys.readouterr()
    (path,) = records()
    record = Record.load(path)
    expected = network(pixels / 255).argmax(1) == labels
    assert record.find("none", "final", "single", "single").correct.tolist() == expected.tolist()
    assert record.protocol["threat_model"] == ("l2" if attack else "linf")
    assert "weights imported from their weights.pt, their training is not known" in shown.out
    assert f"n = {N} of {N} test images" in shown.out
    assert "not trained yet" not in shown.out  # foreign networks are not the paper's
    assert re.search(r"checkpoints/their-weights-[0-9a-f]{8}/bn-seed0: 2 tensors", shown.err)

    typed = words("--norm=bn", "--name=both", *attack)
    offered = [word for word in typed if not word.startswith(("--checks", "--worst"))]
    assert cli.main(["import", "their weights.pt", *offered]) == Status.DONE
    assert cli.main(["eval", *typed]) == Status.DONE
    both = Record.load(Path("reports/both/records/bn-seed0-best.json"))
    assert both.checkpoint["sha256"] == record.checkpoint["sha256"]
    assert both.protocol_hash == record.protocol_hash
    for one, other in zip(record.verdicts, both.verdicts, strict=True):
        assert np.array_equal(one.correct, other.correct)


def test_second_call_resumes_and_other_data_or_settings_have_their_own_folder(capsys):
    write()
    assert run() == Status.DONE
    (path,) = records()
    files = {file: file.read_bytes() for file in Path().glob("[cr]*/**/*") if file.is_file()}
    capsys.readouterr()
    assert run() == Status.DONE
    again = capsys.readouterr()
    assert "already holds these weights" in again.err
    assert "already evaluated" in again.err
    assert {file: file.read_bytes() for file in files} == files

    path.unlink()  # as after a kill before the record was written
    assert run() == Status.DONE
    assert records() == [path]
    write(name="other", classes=2)
    assert run(data="other.npz") == Status.DONE  # made alike: the same content, the same run
    assert records() == [path]
    assert run("--epsilon=4/255") == Status.DONE
    assert len(records()) == 2
    assert cli.main(["verify", str(path), "--data=set.npz"]) == Status.DONE


def test_typed_name_of_other_weights_is_refused(capsys):
    write()
    assert run("--name=mine") == Status.DONE
    assert run("--name=mine") == Status.DONE
    torch.save(flat().state_dict(), "their weights.pt")
    capsys.readouterr()
    assert run("--name=mine") == Status.USAGE
    assert "checkpoints/mine/bn-seed0 holds other weights, or those of" in capsys.readouterr().err


def test_mean_and_std_are_applied_once():
    network, pixels, labels = write()
    given = ("--mean=0.5,0.4,0.3", "--std=0.2,0.2,0.4")
    command = ["eval", "--weights=their weights.pt", "--network=flat", "--data=set.npz", *QUICK]
    assert cli.main([*command, *given]) == Status.DONE
    (path,) = records()
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in ((0.5, 0.4, 0.3), (0.2, 0.2, 0.4)))
    expected = network((pixels / 255 - mean) / std).argmax(1) == labels
    record = Record.load(path)
    assert record.find("none", "final", "single", "single").correct.tolist() == expected.tolist()
    shown = record.checkpoint["imported"]["normalization"]
    assert shown["mean"] == pytest.approx([0.5, 0.4, 0.3])


def test_network_of_a_module_is_imported_where_its_name_is_typed(monkeypatch, capsys):
    write()
    Path("theirs.py").write_text(
        "from torch import nn\n\n"
        "def net(size, num_classes=2):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, num_classes))\n"
    )
    command = ["eval", "--weights", "their weights.pt", "--network=theirs:net", "--data=set.npz",
               "--input_normalization=none", "--network_args={size: 4}", *QUICK]  # fmt: skip
    assert cli.main(command) == Status.DONE
    assert Record.load(*records()).config["network"] == "theirs:net"
    assert cli.main(command) == Status.DONE


REFUSED = {
    "no such file": (("--weights=no.pt",), "weights must be a file, but there is no file no.pt"),
    "mean without weights": (("--mean=0.5", "--std=0.5"), "mean is for weights of other code"),
    "other checkpoint": (
        ("--weights=their weights.pt", "--checkpoint=last"), "checkpoint must be best",
    ),
    "other classes": (
        ("--weights=their weights.pt", "--data=many.npz"), "holds a network with 2 classes",
    ),
    "other channels": (
        ("--weights=their weights.pt", "--data=grey.npz"),
        "the network was built for grey, images of 1 channel(s), 4x4",
    ),
    "no normalization": (
        ("--weights=their weights.pt", "--input_normalization=dataset"),
        "does not contain the mean and std of its input: set",
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", REFUSED)
def test_refusals_are_one_sentence_and_leave_nothing(wrong, capsys):
    for name, channels, classes in (("many", 3, 1000), ("grey", 1, 2), ("set", 3, 2)):
        write(channels, classes, name)
    given, message = REFUSED[wrong]
    assert cli.main(["eval", *words(), *given]) in (Status.USAGE, Status.REFUSED)
    (sentence,) = [s for s in capsys.readouterr().err.splitlines() if s.startswith("robustnorm: ")]
    assert message in sentence
    assert not records()
    assert not Path("checkpoints").exists()


def test_settings_of_eval_are_printed_as_those_of_a_run(capsys):
    write()
    with pytest.raises(SystemExit):
        cli.main(["eval", *words(), "--print_config"])
    Path("run.yaml").write_text(capsys.readouterr().out)
    assert "weights" not in Path("run.yaml").read_text().split()
    with pytest.raises(SystemExit):
        cli.main(["train", "--config=run.yaml", "--print_config"])


def test_stopped_evaluation_continues_with_the_same_command():
    torch.manual_seed(0)
    torch.save(flat().state_dict(), "w.pt")
    pixels = torch.randint(256, (250, 3, SIZE, SIZE), dtype=torch.uint8).numpy()
    np.savez("set.npz", x_test=pixels, y_test=np.arange(250) % 2)
    _, settings, _ = cli.parse(["eval", "--weights=w.pt", *words()])
    asked = []

    def stop_at_the_second_part(seconds):
        asked.append(seconds)
        return len(asked) == 2

    with pytest.raises(Stopped, match="1 of 3 parts are evaluated"):
        evaluate(settings, should_stop=stop_at_the_second_part)
    (folder,) = Path("checkpoints").iterdir()
    assert not records()
    continued = []
    evaluate(settings, should_stop=lambda seconds: continued.append(seconds) and False)
    assert len(continued) == 2  # the first part is not attacked again
    assert [path.name for path in Path("checkpoints").iterdir()] == [folder.name]
    whole = Record.load(*records())
    evaluate(replace(settings, name="whole"))
    again = Record.load(Path("reports/whole/records/bn-seed0-best.json"))
    for one, other in zip(whole.verdicts, again.verdicts, strict=True):
        assert np.array_equal(one.correct, other.correct)
