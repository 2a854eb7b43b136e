"""The wheel and the Makefile, from outside the checkout."""

import shlex
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


def output(*words, cwd=ROOT):
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """An environment with the wheel; its dependencies are looked up in this one."""
    place = tmp_path_factory.mktemp("wheel")
    output(
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(place),
        str(ROOT),
    )
    venv.create(place / "venv", with_pip=True)
    python = place / "venv" / "bin" / "python"
    (wheel,) = place.glob("*.whl")
    output(str(python), "-m", "pip", "install", "--no-deps", "--no-index", str(wheel), cwd=place)
    purelib = output(
        str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])", cwd=place
    )
    # A plain path: the .pth files in there, with this checkout among them, are not followed.
    (Path(purelib.strip()) / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])
    return place, python


def test_wheel_imports_from_outside_the_checkout(installed):
    place, python = installed
    code = (
        "import attacks, robustnorm, robustnorm.norms\n"
        "print(attacks.__file__, robustnorm.__file__)\n"
        "for package in (attacks, robustnorm, robustnorm.norms):\n"
        "    for name in package.__all__:\n"
        "        getattr(package, name)\n"
    )
    files = output(str(python), "-c", code, cwd=place).split()
    assert all(Path(file).is_relative_to(place) for file in files)


def test_wheel_is_typed_and_carries_the_configs(installed):
    place, python = installed
    code = (
        "import attacks, robustnorm, pathlib\n"
        "print(*(p.is_file() for p in (\n"
        "    pathlib.Path(attacks.__file__).with_name('py.typed'),\n"
        "    pathlib.Path(robustnorm.__file__).with_name('py.typed'),\n"
        "    pathlib.Path(robustnorm.__file__).with_name('configs') / 'digits.yaml',\n"
        "    pathlib.Path(robustnorm.__file__).parent / 'applications/nas/nasbench201.npz')))\n"
    )
    assert output(str(python), "-c", code, cwd=place).split() == ["True"] * 4


def test_wheel_carries_the_report_s_template(installed):
    place, python = installed
    code = (
        "from jinja2 import PackageLoader\n"
        "print(*PackageLoader('robustnorm', 'reporting').list_templates())\n"
    )
    assert {"page.css", "page.html"} <= set(output(str(python), "-c", code, cwd=place).split())


def test_console_script_reads_a_packaged_config(installed):
    place, python = installed
    script = python.with_name("robustnorm")
    shown = output(str(script), "demo", "--print_config", cwd=place)
    assert "epsilon: 3/16" in shown


def test_make_help_lists_every_target():
    shown = output("make", "help")
    for target in (
        "setup",
        "demo",
        "train",
        "eval",
        "reproduce",
        "referee",
        "report",
        "test",
        "check",
        "bench",
    ):
        assert f"\n  {target} " in shown


def make_dry_run(*words):
    """Returns the words of the command, joined; each ends with "|" so that spaces show."""
    # -o: the environment counts as made.
    shown = output("make", "--dry-run", "-o", ".venv/.installed", *words)
    return "".join(f"{word}|" for word in shlex.split(shown))


def test_make_train_passes_its_variables_on():
    shown = make_dry_run("train", "NORM=auxbn", "DATA=x", "SEED=3", "EPOCHS=2", "CONFIG=c.yaml")
    assert "robustnorm|train|--norm|auxbn|--config|c.yaml|--data|x|--seed|3|--epochs|2|" in shown


def test_make_takes_paths_with_spaces_and_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    for target in ("eval", "campaign", "reproducecpu", "table1", "table2", "figure7"):
        shown = make_dry_run(target, "DATA=~/my data/a,b.tar", "CONFIG=my config.yaml")
        assert "|--config|my config.yaml|" in shown
        assert "|--data|/home/me/my data/a,b.tar|" in shown
    shown = make_dry_run("figure7", "CONTENT=~/my pictures", "STYLE=a b")
    assert "|--content|/home/me/my pictures|--style|a b|" in shown


def test_make_eval_passes_its_variables_on():
    shown = make_dry_run("eval", "LIMIT=100", "CHECKPOINT=last")
    assert "robustnorm|eval|--config|configs/cifar10.yaml|" in shown
    assert "|--test_limit|100|--checkpoint|last|" in shown


def test_make_report_reads_the_config_s_records():
    shown = make_dry_run("report", "CONFIG=c.yaml")
    assert "robustnorm|report|--config|c.yaml|" in shown


def test_make_train_without_a_norm_says_what_to_type():
    done = subprocess.run(
        ["make", "--dry-run", "-o", ".venv/.installed", "train"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "make train NORM=saauxbn" in done.stderr
