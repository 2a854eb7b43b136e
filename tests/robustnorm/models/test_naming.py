"""Networks by the name of a module's function: what may be imported, and when."""

import hashlib
import sys
from pathlib import Path

import pytest

from robustnorm.cli import parse
from robustnorm.models import NETWORKS
from robustnorm.models.naming import Networks
from robustnorm.settings.parsing import typed_networks
from robustnorm.system.errors import UsageError

MODULE = (
    "from pathlib import Path\nPath('imported').touch()\ndef net(num_classes): ...\nnumber = 3\n"
)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module in the current folder that leaves a trace when it is imported; its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", ".")])
    name = f"own_{tmp_path.name}".replace("-", "_")
    Path(f"{name}.py").write_text(MODULE)
    yield name
    sys.modules.pop(name, None)


def is_imported():
    return Path("imported").exists()


def test_module_is_imported_where_its_name_is_typed(module):
    with NETWORKS.typed(f"{module}:net"):
        assert NETWORKS[f"{module}:net"].__name__ == "net"
    assert is_imported()


def test_module_is_not_imported_before_or_after_its_name_is_typed(module):
    with NETWORKS.typed(f"{module}:other"), pytest.raises(UsageError) as refused:
        NETWORKS[f"{module}:net"]
    assert f"add --network {module}:net" in str(refused.value)
    with NETWORKS.typed(f"{module}:net"):
        pass
    with pytest.raises(UsageError, match="add --network"):
        NETWORKS[f"{module}:net"]
    assert not is_imported()


def test_current_folder_is_on_the_path_for_the_typed_module_alone(module):
    Path("another_of_the_folder.py").touch()
    with NETWORKS.typed(f"{module}:net"):
        NETWORKS[f"{module}:net"]
        assert str(Path.cwd()) not in sys.path
        with pytest.raises(ModuleNotFoundError):
            __import__("another_of_the_folder")


@pytest.mark.parametrize("command", ["train", "eval", "ablate", "study", "referee", "reproduce"])
def test_module_in_a_config_file_is_refused_with_the_words_to_type(command, module):
    Path("mine.yaml").write_text(f"network: {module}:net\n")
    with pytest.raises(UsageError) as refused:
        parse([command, "--config", "mine.yaml"])
    assert str(refused.value).endswith(f"add --network {module}:net")
    assert not is_imported()


def test_module_in_a_sweep_or_campaign_file_is_refused_with_the_words_to_type(module):
    Path("mine.yaml").write_text(f"network: {module}:net\n")
    Path("sweep.yaml").write_text("configs: [mine.yaml]\n")
    Path("changed.yaml").write_text(f"configs: [digits]\nsettings: {{network: '{module}:net'}}\n")
    Path("set.yaml").write_text(f"configs: [digits]\nnetwork: {module}:net\n")
    Path("campaign.yaml").write_text("plans: {first: {config: mine.yaml}}\n")
    Path("permitted.yaml").write_text(
        f"network: ['{module}:net']\nplans: {{first: {{config: mine.yaml}}}}\n"
    )
    for command, *files in (
        ("sweep", "sweep.yaml", "changed.yaml", "set.yaml"),
        ("campaign", "campaign.yaml", "permitted.yaml"),
    ):
        for file in files:
            with pytest.raises(UsageError) as refused:
                parse([command, "--config", file])
            assert str(refused.value).endswith(f"add --network {module}:net"), file
    assert not is_imported()


def test_typed_name_is_taken_by_every_command_that_reads_one(module):
    Path("mine.yaml").write_text(f"network: {module}:net\n")
    Path("campaign.yaml").write_text("plans: {first: {config: mine.yaml}}\n")
    typed = ["--network", f"{module}:net"]
    for words in (
        ["train", *typed],
        ["eval", f"--network={module}:net", "--network_args", "{depth: 28}"],
        ["ablate", "--config", "mine.yaml", *typed],
        ["sweep", "digits", *typed],
        ["campaign", "--config", "campaign.yaml", *typed],
        ["import", "weights.pt", *typed],
        ["export", "run", *typed],
        ["verify", "record.json", *typed],
        ["diagnose", "run", *typed],
    ):
        with NETWORKS.typed(*typed_networks(words)):
            parse(words)
    assert not is_imported()  # reading settings imports nothing


def test_source_is_the_hash_of_the_module_file(module):
    digest = hashlib.sha256(Path(f"{module}.py").read_bytes()).hexdigest()
    with NETWORKS.typed(f"{module}:net"):
        NETWORKS[f"{module}:net"]
        assert NETWORKS.source(f"{module}:net") == {"file": f"{module}.py", "sha256": digest}
    assert NETWORKS.source("resnet18") == {}


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("no_such_module:net", "no module no_such_module, neither installed nor in the current"),
        ("{module}:nett", "has no 'nett'; did you mean 'net'"),
        ("{module}:number", "number is a int; give a function or class"),
        ("broken:net", r"importing broken failed \(ZeroDivisionError: division by zero\)"),
        (
            "incomplete:net",
            r"importing incomplete failed \(ModuleNotFoundError: No module named 'no",
        ),
        ("ends:net", r"importing ends failed \(SystemExit: 3\)"),
        ("unfinished:net", r"importing unfinished failed \(SyntaxError"),
    ],
)
def test_wrong_place_is_refused_in_one_sentence(place, message, module):
    Path("broken.py").write_text("1 / 0\n")
    Path("incomplete.py").write_text("import no_such_package\n")
    Path("ends.py").write_text("raise SystemExit(3)\n")
    Path("unfinished.py").write_text("def net(:\n")
    place = place.format(module=module)
    with NETWORKS.typed(place), pytest.raises(UsageError, match=message) as refused:
        NETWORKS[place]
    assert "\n" not in str(refused.value)


def test_registered_network_comes_before_a_module_and_needs_no_typing():
    networks = Networks({"zipfile:ZipFile": "fractions:Fraction"})
    assert networks[networks.check("zipfile:ZipFile")].__name__ == "Fraction"


@pytest.mark.parametrize("name", ["resnet19", "a b:c", "x:y z", "../nets:wrn", "pkg.nets:", ":wrn"])
def test_other_words_are_unknown_networks(name):
    with NETWORKS.typed(name), pytest.raises(ValueError, match="unknown network"):
        NETWORKS.check(name)


def test_timm_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr("robustnorm.models.naming.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "robustnorm\[timm\]"'):
        NETWORKS.check("timm:resnet18")
