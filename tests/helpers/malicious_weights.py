"""Files of weights that must be refused."""

import json
import os
import pickle
import struct
import warnings
import zipfile

import torch
from malicious_case import case, write
from safetensors.torch import save, save_file

from robustnorm import resnet18
from robustnorm.exchange.foreign import read_weights
from robustnorm.exchange.loaders import load_released


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
    torch.save({"a": Owned()}, folder / "w.pt", _use_new_zipfile_serialization=False)
    return lambda: read_weights(folder / "w.pt")


@case
def legacy_torch_file_that_ends_early(folder):
    torch.save({"a": torch.ones(999)}, folder / "w.pt", _use_new_zipfile_serialization=False)
    path = write(folder / "w.pt", (folder / "w.pt").read_bytes()[:-2000])
    return lambda: read_weights(path)


@case
def legacy_torch_file_of_a_terabyte(folder):
    torch.save({"a": torch.ones(1)}, folder / "w.pt", _use_new_zipfile_serialization=False)
    data = (folder / "w.pt").read_bytes()
    one = b"K\x01Ntq"  # the number of values, in the pickle of the storage
    assert one in data
    path = write(folder / "w.pt", data.replace(one, b"\x8a\x06\x00\x00\x00\x00\x00\x01Ntq"))
    return lambda: read_weights(path)


@case
def pickle_of_a_gigabyte(folder):
    return saved(folder, {"weight": torch.ones(1), "rest": Bytes()})


@case
def tensor_of_a_terabyte(folder):
    return saved(folder, {"weight": torch.ones(1).expand(2**38)})


@case
def pickle_of_a_million_objects(folder):
    objects = pickle.PROTO + b"\x02]" + b"}a" * 800_000 + b"."

    def change(members):
        return [(name, objects if name.endswith(".pkl") else data) for name, data in members]

    return rezipped(folder, change)


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
