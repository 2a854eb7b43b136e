"""Files that must be refused. As a program: builds each, reads it in its own process, measures.

Each case is a function from an empty folder to what reads the file that it has put there.
"""

import hashlib
import io
import json
import os
import pickle
import resource
import struct
import sys
import tarfile
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from record_factory import make_record
from safetensors.torch import save, save_file

from robustnorm import cli, resnet18
from robustnorm.config import Config
from robustnorm.data import load_dataset
from robustnorm.evaluation.records import Record
from robustnorm.foreign import read_weights
from robustnorm.loaders import load_released
from robustnorm.packing import pack, unpack
from robustnorm.runs import load_model
from robustnorm.training.checkpoint import save_checkpoint

CASES = {}


def case(build):
    CASES[build.__name__.replace("_", "-")] = build
    return build


class Owned:
    """A pickle of it runs a command when it is loaded."""

    def __reduce__(self):
        return os.system, ("touch owned",)


class Bytes:
    """A pickle of it takes a gigabyte."""

    def __reduce__(self):
        return bytearray, (10**9,)


def network(norm="auxbn"):
    return resnet18(norm=norm, width=2)


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# Weights


def saved(folder, content):
    torch.save(content, folder / "weights.pt")
    return lambda: read_weights(folder / "weights.pt")


def rezipped(folder, change, compression=zipfile.ZIP_STORED):
    """What torch saved, its members changed by ``change`` from (name, data) pairs to such pairs."""
    torch.save(network().state_dict(), folder / "whole.pt")
    with zipfile.ZipFile(folder / "whole.pt") as whole:
        members = [(name, whole.read(name)) for name in whole.namelist()]
    with zipfile.ZipFile(folder / "weights.pt", "w", compression) as archive:
        for name, data in change(members):
            archive.writestr(name, data)
    return lambda: read_weights(folder / "weights.pt")


def raw(folder, header, data=b""):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = write(folder / "w.safetensors", struct.pack("<Q", len(header)) + header + data)
    return lambda: read_weights(path)


def unfit(folder, tensor, change, norm="auxbn"):
    """A sound file, in which one tensor is not what a network takes."""
    model = network(norm)
    state = model.state_dict()
    state[tensor] = change(state[tensor].clone())
    save_file(state, folder / "w.safetensors")
    return lambda: load_released(model, read_weights(folder / "w.safetensors"), "plain")


@case
def pickle_that_runs_a_command(folder):
    return saved(folder, {"state_dict": Owned()})


@case
def legacy_pickle_that_runs_a_command(folder):
    path = write(folder / "weights.pth", pickle.dumps({"state_dict": Owned()}))
    return lambda: read_weights(path)


@case
def legacy_torch_file(folder):
    torch.save({"a": torch.ones(1)}, folder / "w.pt", _use_new_zipfile_serialization=False)
    return lambda: read_weights(folder / "w.pt")


@case
def pickle_of_a_gigabyte(folder):
    return saved(folder, {"weight": torch.ones(1), "rest": Bytes()})


@case
def tensor_of_a_terabyte(folder):
    return saved(folder, {"weight": torch.ones(1).expand(2**38)})


@case
def zip_bomb(folder):
    zeros = bytes(100_000_000)
    return rezipped(folder, lambda m: [*m, ("whole/data/zeros", zeros)], zipfile.ZIP_DEFLATED)


@case
def zip_member_outside(folder):
    return rezipped(folder, lambda members: [*members, ("../../owned", b"x")])


@case
def zip_of_two_pickles(folder):
    return rezipped(folder, lambda members: [*members, ("other/data.pkl", b"x")])


@case
def zip_member_twice(folder):
    with warnings.catch_warnings(action="ignore"):  # zipfile's, of what is meant
        return rezipped(folder, lambda members: [*members, members[0]])


@case
def truncated_zip(folder):
    read = saved(folder, network().state_dict())
    path = folder / "weights.pt"
    write(path, path.read_bytes()[:-1000])
    return read


@case
def page_saved_as_weights(folder):
    path = write(folder / "weights.pt", "<!DOCTYPE html><html><script>alert(1)</script></html>")
    return lambda: read_weights(path)


@case
def safetensors_with_a_header_of_a_terabyte(folder):
    path = write(folder / "w.safetensors", struct.pack("<Q", 2**40) + b"{}")
    return lambda: read_weights(path)


@case
def safetensors_with_a_large_header(folder):
    return raw(folder, b"{" + b" " * 20_000_000 + b"}")


@case
def safetensors_with_tensors_that_overlap(folder):
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    return raw(folder, {"a": entry, "b": entry | {"data_offsets": [4, 12]}}, bytes(12))


@case
def safetensors_with_a_name_twice(folder):
    entry = json.dumps({"dtype": "F32", "shape": [1], "data_offsets": [0, 4]})
    return raw(folder, f'{{"a": {entry}, "a": {entry}}}'.encode(), bytes(4))


@case
def safetensors_nested_deeply(folder):
    return raw(folder, b'{"a":' * 100_000)


@case
def truncated_safetensors(folder):
    path = write(folder / "w.safetensors", save(network().state_dict())[:-4])
    return lambda: read_weights(path)


@case
def weights_not_a_number(folder):
    return unfit(folder, "layer1.0.conv1.weight", lambda value: value.fill_(torch.nan))


@case
def weights_infinite_in_float32(folder):
    return unfit(folder, "conv1.weight", lambda value: value.double().fill_(1e300))


@case
def negative_variance(folder):
    return unfit(folder, "bn1.running_var", lambda value: value.fill_(-1e-3))


@case
def negative_count(folder):
    return unfit(folder, "bn1.num_batches_tracked", lambda value: value.fill_(-1))


@case
def second_moment_below_the_squared_mean(folder):
    # The second moment is 1.
    return unfit(folder, "bn1.running_mean", lambda value: value.fill_(1.01), "modenorm")


@case
def weights_of_another_shape(folder):
    return unfit(folder, "conv1.weight", lambda value: value.flatten())


@case
def weights_of_integers(folder):
    return unfit(folder, "conv1.weight", lambda value: value.long())


@case
def counts_of_fractions(folder):
    return unfit(folder, "bn1.num_batches_tracked", lambda value: value.float())


# Archives and images


def archive(folder, *members, mode="w"):
    """A tar archive of (name or TarInfo, data) pairs."""
    path = folder / "images.tar"
    with tarfile.open(path, mode) as tar:
        for member, data in members:
            if isinstance(member, str):
                member = tarfile.TarInfo(member)
                member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return lambda: load_dataset(str(path), root=folder / "cache")


def special(name, kind, target=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, b""


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(np.full(pixels, 7, np.uint8)).save(file, "PNG")
    return file.getvalue()


def images(folder, data, suffix="png"):
    for part in ("train", "test"):
        (folder / part / "cat").mkdir(parents=True)
        write(folder / part / "cat" / f"1.{suffix}", data)
    return lambda: load_dataset(str(folder), root=folder / "cache")


@case
def archive_member_outside(folder):
    return archive(folder, ("../../owned", b"x"))


@case
def archive_member_absolute(folder):
    return archive(folder, (str(folder / "owned"), b"x"))


@case
def archive_with_a_symbolic_link(folder):
    return archive(folder, special("train", tarfile.SYMTYPE, "/"), ("train/owned", b"x"))


@case
def archive_with_a_hard_link(folder):
    return archive(folder, special("train/passwd", tarfile.LNKTYPE, "/etc/passwd"))


@case
def archive_with_a_pipe(folder):
    return archive(folder, special("train/cat/1.png", tarfile.FIFOTYPE))


@case
def archive_member_twice(folder):
    return archive(folder, ("train/cat/1.png", b"x"), ("train/cat/1.png", b"y"))


@case
def xz_bomb(folder):
    return archive(folder, ("train/cat/1.png", bytes(100_000_000)), mode="w:xz")


@case
def gzip_bomb_of_many_members(folder):
    return archive(
        folder, *((f"train/cat/{i}.png", bytes(10_000_000)) for i in range(20)), mode="w:gz"
    )


@case
def archive_with_a_header_of_a_gigabyte(folder):
    member = tarfile.TarInfo("pax")
    member.type, member.size = tarfile.XHDTYPE, 2**30
    path = write(folder / "images.tar", member.tobuf() + bytes(1024))
    return lambda: load_dataset(str(path), root=folder / "cache")


@case
def truncated_archive(folder):
    read = archive(folder, ("train/cat/1.png", os.urandom(5000)), mode="w:xz")
    path = folder / "images.tar"
    write(path, path.read_bytes()[:-2000])
    return read


@case
def image_bomb(folder):
    # 12,000 x 12,000: where Pillow alone only warns.
    return images(folder, png((12_000, 12_000)))


@case
def image_that_is_a_program(folder):
    return images(folder, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "eps")


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


# Records, checkpoints and packs


def record(folder, **changes):
    content = json.loads(make_record().to_json())
    path = write(folder / "record.json", json.dumps(content | changes))
    return lambda: Record.load(path)


def run(folder, **changes):
    """A run whose manifest is changed."""
    data = {"channels": 3, "classes": ["0", "1"], "mean": [0.5] * 3, "std": [0.2] * 3}
    config = Config(norm="auxbn", width=2)
    model = resnet18(norm="auxbn", width=2, num_classes=2, mean=(0.5,) * 3)
    save_checkpoint(folder / "run", "best", model, {"config": config.to_dict(), "dataset": data})
    path = folder / "run" / "best.json"
    manifest = json.loads(path.read_text())
    changes = {name: change(manifest) for name, change in changes.items()}
    write(path, json.dumps(manifest | changes))
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
    write(path, path.read_text().replace('"format": 1', '"format": 1, "format": 1'))
    return read


@case
def pack_with_a_sparse_file_of_a_terabyte(folder):
    # The header of GNU tar's sparse format: one piece of no bytes, of a file of 2^40.
    header = tarfile.TarInfo("a")
    header.type = tarfile.GNUTYPE_SPARSE
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    block[386:410] = b"00000000000\x0000000000000\x00"
    block[483:495] = b"\x80" + (2**40).to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\x00 " % sum(block)
    stream = bytes(block) + bytes(1024)
    (folder / "pack").mkdir()
    write(folder / "pack" / "piece-0000", stream)
    entry = {"bytes": len(stream), "sha256": hashlib.sha256(stream).hexdigest()}
    empty = {"name": "a", "bytes": 2**40, "sha256": hashlib.sha256(b"").hexdigest()}
    manifest = {"format": 1, "pieces": [{"name": "piece-0000"} | entry], "files": [empty]}
    write(folder / "pack" / "manifest.json", json.dumps(manifest))
    return lambda: unpack(folder / "pack", folder / "there")


@case
def pack_of_a_file_outside(folder):
    (folder / "runs").mkdir()
    write(folder / "runs" / "a", b"x")
    pack(folder / "runs", folder / "pack", 10_000)
    path = folder / "pack" / "manifest.json"
    write(path, path.read_text().replace("runs/a", "../../owned"))
    return lambda: unpack(folder / "pack", folder / "there")


def files(folder):
    """Every file below a folder."""
    return {str(path) for path in folder.rglob("*") if not path.is_dir()}


def attempt(read):
    """Returns what came of reading a file, in this process, of which it is the last act."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30,) * 2)  # the machine is not taken along
    start = time.process_time()  # of this process alone, however busy the machine is
    try:
        read()
        error = None
    except Exception as raised:
        error = raised
    return {
        "seconds": time.process_time() - start,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
        "error": type(error).__name__,
        "status": int(getattr(error, "status", 0)),
        "message": str(error),
    }


def outcome(name, folder):
    folder.mkdir()
    os.chdir(folder)
    read = CASES[name](folder)
    before = files(folder.parent)
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(send, json.dumps(attempt(read)).encode())
        os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        found = json.loads(pipe.read() or b"{}")
    os.waitpid(child, 0)
    return found | {"made": sorted(files(folder.parent) - before)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    names = sys.argv[2:] or list(CASES)
    print(json.dumps({name: outcome(name, place / name) for name in names}))  # noqa: T201
