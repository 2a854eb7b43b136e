"""Settings, records and checkpoints that must be refused."""

import json
import sys

from malicious_case import case, write
from manifests import rewrite_manifest
from record_factory import make_record

from robustnorm import cli, resnet18
from robustnorm.records.record import Record
from robustnorm.runs.checkpoint import save_checkpoint
from robustnorm.runs.run import load_model
from robustnorm.settings.config import Config
from robustnorm.system.sealed import seal, unseal

# Settings


def settings(folder, text, command="train"):
    path = write(folder / "config.yaml", text)
    write(folder / "foreign_module.py", "from pathlib import Path\nPath('owned').touch()\n")
    sys.path.append(str(folder))
    return lambda: cli.parse([command, f"--config={path}"])


@case
def yaml_with_a_python_tag(folder):
    return settings(folder, 'name: !!python/object/apply:os.system ["touch owned"]\n')


@case
def yaml_of_a_billion_aliases(folder):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    return settings(folder, "\n".join([*lines, "attacks: *a9"]))


@case
def yaml_nested_deeply(folder):
    return settings(folder, "attacks: " + "[" * 10_000)


@case
def yaml_of_a_megabyte(folder):
    return settings(folder, "attacks:\n" + "- x\n" * 250_000)


@case
def settings_that_name_a_class(folder):
    return settings(folder, "branches: {linf: {class_path: foreign_module.Attack}}\n")


@case
def settings_that_name_a_class_in_a_word(folder):
    return settings(folder, "branches: {linf: foreign_module.Attack}\n")


@case
def plan_that_names_a_class(folder):
    return settings(folder, "plans: {a: {class_path: foreign_module.Plan}}\n", "campaign")


@case
def fraction_of_a_billion_digits(folder):
    return settings(folder, "epsilon: '1e-999999999'\n")


# Records and checkpoints


def record(folder, **changes):
    content, _ = unseal(json.loads(make_record().to_json()))
    path = write(folder / "record.json", json.dumps(seal(content | changes)))
    return lambda: Record.load(path)


def run(folder, **changes):
    """A run whose manifest is changed."""
    data = {"name": "made", "sha256": "ab", "channels": 3, "classes": ["0", "1"]}
    data |= {"mean": [0.5] * 3, "std": [0.2] * 3, "train_images": 1}
    config = Config(norm="auxbn", width=2)
    model = resnet18(norm="auxbn", width=2, num_classes=2, mean=(0.5,) * 3)
    content = {"config": config.to_dict(), "dataset": data, "epoch": 1, "history": []}
    save_checkpoint(folder / "run", "best", model, content)
    path = folder / "run" / "best.json"
    manifest = json.loads(path.read_text())
    rewrite_manifest(path, **{name: change(manifest) for name, change in changes.items()})
    return lambda: load_model(folder / "run")


@case
def record_of_a_trillion_images(folder):
    return record(folder, image_ids=10**12)


@case
def record_of_a_checkpoint_outside(folder):
    return record(folder, checkpoint={"tag": "../../x", "epoch": 1, "epochs": 1, "sha256": "ab"})


@case
def record_of_a_run_outside(folder):
    return record(folder, name="../../x")


@case
def record_of_images_outside(folder):
    return record(folder, images={"folder": "..", "files": {}})


@case
def record_with_a_key_twice(folder):
    text = make_record().to_json().replace('"seed": 0', '"seed": 0, "seed": 1', 1)
    path = write(folder / "record.json", text)
    return lambda: Record.load(path)


@case
def record_nested_deeply(folder):
    path = write(folder / "record.json", "[" * 1_000_000)
    return lambda: Record.load(path)


@case
def manifest_of_a_file_outside(folder):
    read = run(folder, file=lambda manifest: "../../" + manifest["file"])
    file = next((folder / "run").glob("*.safetensors"))
    file.rename(folder.parent / file.name)
    return read


@case
def manifest_of_a_network_of_a_terabyte(folder):
    return run(folder, config=lambda manifest: manifest["config"] | {"width": 20_000})


@case
def manifest_of_settings_of_a_wrong_type(folder):
    return run(folder, config=lambda manifest: manifest["config"] | {"width": "wide"})


@case
def manifest_with_a_key_twice(folder):
    read = run(folder)
    path = folder / "run" / "best.json"
    write(path, path.read_text().replace('"file"', '"file": "", "file"', 1))
    return read
