"""Settings: words of the command line, files, names of attacks, numbers."""

from __future__ import annotations

from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml
from fuzz_harness import Target
from fuzz_made import TEXTS, changed, hurt, odd, texts
from hypothesis import strategies as st

from robustnorm import cli
from robustnorm.settings.config import Config
from robustnorm.system.errors import UsageError
from robustnorm.system.untrusted import parse_fraction

CONFIGS = Path(__file__).parents[2] / "configs"
ATTACKS = (
    "pgd", "fgsm", "worst", "autoattack", "square", "apgd-ce", "torchattacks:DeepFool", "pgd-50",
    "pgd-50x5-margin", "pgd-20-dlr-targeted", "-", "x", "0", "1" * 30, "margin", "dlr", ":", ",",
    "[", "]", " ", "'", "\0", "é",
)  # fmt: skip
NAMES = {
    name: sorted({field.name for field in fields(command.settings)} | {"config", "help"})
    for name, command in cli.COMMANDS.items()
}
command = st.sampled_from(list(cli.COMMANDS))
value = st.one_of(
    texts,
    st.sampled_from(["digits", "cifar10", "saauxbn", "bn,modenorm", "pgd-5x2", "8/255", "{a: 1}"]),
    st.integers(-2, 99).map(str),
    st.floats().map(str),
    odd.map(lambda made: yaml.safe_dump(made, default_flow_style=True)),
    odd.map(str),
)


@st.composite
def words(draw: st.DrawFn) -> list[str]:
    name = draw(command | texts) if draw(st.integers(0, 9)) == 0 else draw(command)
    made = [name]
    for _ in range(draw(st.integers(0, 4))):
        option = draw(st.sampled_from(NAMES.get(name, ["x"]))) if draw(st.booleans()) else ""
        option += draw(st.sampled_from(("", "", "", ".adv", ".adv.epsilon", "."))) + (
            draw(texts) if not option else ""
        )
        match draw(st.sampled_from(("--x=y", "--x y", "--x", "word"))):
            case "--x=y":
                made.append(f"--{option}={draw(value)}")
            case "--x y":
                made += [f"--{option}", draw(value)]
            case "--x":
                made.append(f"--{option}")
            case "word":
                made.append(draw(value))
    return made


@st.composite
def settings_file(draw: st.DrawFn) -> bytes:
    if draw(st.booleans()):
        return draw(st.sampled_from([path.read_bytes() for path in KINDS]).flatmap(hurt))
    content = draw(st.sampled_from(KNOWN).flatmap(changed))
    text = yaml.safe_dump(content, default_flow_style=draw(st.booleans()))
    return text.encode(errors="surrogatepass")


KINDS = sorted(CONFIGS.glob("*.yaml"))
KNOWN: list[Any] = [yaml.safe_load(path.read_bytes()) for path in KINDS]
KNOWN.append(Config(attacks=("pgd-5",), keep_epochs=(1,)).to_dict())


def targets(folder: Path) -> dict[str, Target]:
    path = folder / "settings.yaml"

    def read_file(made: tuple[str, bytes]) -> None:
        path.write_bytes(made[1])
        cli.parse([made[0], "--config", str(path)])

    def read_attack(name: str) -> None:
        cli.parse(["eval", "--attacks", name])
        cli.parse(["eval", f"--attacks=[{name}, fgsm]"])

    def read_fraction(text: str) -> None:
        _, settings, _ = cli.parse(["train", f"--epsilon={text}", "--threat_model=l2"])
        assert isinstance(settings.epsilon, Fraction)
        assert settings.to_dict()["epsilon"]
        try:
            parse_fraction(text)
        except ValueError as error:
            raise UsageError(str(error)) from error

    attacks = st.lists(st.sampled_from(ATTACKS), max_size=6).map("".join) | texts
    digits = st.text("0123456789./eE+-_ ٣", max_size=24) | st.sampled_from(TEXTS)
    return {
        "command line": Target(words(), cli.parse, 4),
        "settings files": Target(st.tuples(command, settings_file()), read_file, 1),
        "names of attacks": Target(attacks, read_attack, 2),
        "fractions": Target(digits | st.fractions().map(str), read_fraction, 2),
    }
