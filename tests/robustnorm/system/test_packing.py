import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from robustnorm import cli
from robustnorm.system.errors import UsageError
from robustnorm.system.packing import PackError, pack, size_in_bytes, unpack

PIECE = 5000


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_files(folder="checkpoints/small"):
    """Files of several sizes, whose contents do not repeat."""
    contents = {
        "bn-seed0/last.json": b"{}",
        "bn-seed0/last-0123.safetensors": bytes(i * i % 251 for i in range(12_345)),
        "auxbn-seed0/empty": b"",
    }
    for name, data in contents.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return {f"{folder}/{name}": data for name, data in contents.items()}


def files_below(folder):
    folder = Path(folder)
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def packed():
    """A pack of the files above, and its manifest."""
    contents = make_files()
    pack(Path("checkpoints"), Path("packed"), PIECE)
    return contents, json.loads(Path("packed/manifest.json").read_text())


def entry(name, data):
    return {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def forge(members, listed):
    """A pack whose hashes are right and whose archive is what somebody else made."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:") as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    Path("packed").mkdir()
    Path("packed/piece-0000").write_bytes(stream.getvalue())
    pieces = [entry("piece-0000", stream.getvalue())]
    manifest = {"format": 1, "pieces": pieces, "files": listed}
    Path("packed/manifest.json").write_text(json.dumps(manifest))


def test_unpacked_files_are_those_that_were_packed():
    contents, manifest = packed()
    assert len(manifest["pieces"]) > 3
    unpack(Path("packed"), Path("there"))
    assert files_below("there") == contents


def test_pieces_joined_are_a_tar_archive():
    contents, manifest = packed()
    data = b"".join(Path("packed", piece["name"]).read_bytes() for piece in manifest["pieces"])
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert {m.name: archive.extractfile(m).read() for m in archive} == contents


def test_no_piece_is_larger_than_asked_for_and_all_but_the_last_are_full():
    _, manifest = packed()
    sizes = [Path("packed", piece["name"]).stat().st_size for piece in manifest["pieces"]]
    assert set(sizes[:-1]) == {PIECE}
    assert 0 < sizes[-1] <= PIECE


def test_same_files_give_the_same_pieces():
    packed()
    for path in Path("checkpoints").rglob("*"):
        os.utime(path, (1, 1))
    pack(Path("checkpoints"), Path("again"), PIECE)
    assert files_below("again") == files_below("packed")


def test_links_and_leftovers_of_a_kill_are_not_packed():
    contents = make_files()
    Path("checkpoints/small/.last.json.tmp").write_text("half")
    Path("checkpoints/small/.lock").touch()
    Path("checkpoints/small/link").symlink_to("/etc/passwd")
    pack(Path("checkpoints"), Path("packed"), PIECE)
    unpack(Path("packed"), Path("there"))
    assert files_below("there") == contents


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda p: (p / "piece-0001").unlink(), "piece-0001 is missing"),
        (lambda p: (p / "piece-0001").write_bytes(b"x"), "piece-0001 is damaged$"),
        (
            lambda p: (p / "piece-0001").write_bytes((p / "piece-0000").read_bytes()),
            r"piece-0001 is damaged \(it is piece-0000 once more\)",
        ),
        (lambda p: (p / "piece-0099").write_bytes(b"x"), "piece-0099 belongs to another pack"),
        (lambda p: (p / "manifest.json").unlink(), "is no manifest of a pack"),
        (lambda p: (p / "manifest.json").write_text("[]"), "is no manifest of a pack"),
    ],
)
def test_pack_that_is_not_whole_is_refused_and_nothing_is_written(harm, message):
    packed()
    harm(Path("packed"))
    with pytest.raises(PackError, match=message):
        unpack(Path("packed"), Path("there"))
    assert files_below("there") == {}


def test_all_that_is_wrong_is_told_at_once():
    packed()
    Path("packed/piece-0000").unlink()
    Path("packed/piece-0002").write_bytes(b"")
    with pytest.raises(PackError, match="piece-0000 is missing; piece-0002 is damaged"):
        unpack(Path("packed"), Path("there"))


@pytest.mark.parametrize("kind", ["pieces", "files"])
@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside"])
def test_manifest_that_leads_outside_is_refused(kind, name):
    _, manifest = packed()
    manifest[kind][0]["name"] = name
    Path("packed/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PackError, match="leads outside"):
        unpack(Path("packed"), Path("there"))


@pytest.mark.parametrize("kind", ["pieces", "files"])
def test_manifest_that_names_something_twice_is_refused(kind):
    _, manifest = packed()
    manifest[kind].append(manifest[kind][0])
    Path("packed/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PackError, match="twice"):
        unpack(Path("packed"), Path("there"))


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside"])
def test_archive_that_leads_outside_is_refused(place, name):
    forge([(tarfile.TarInfo(name), b"x")], [entry("inside", b"x")])
    with pytest.raises(PackError, match="does not hold the files that its manifest names"):
        unpack(Path("packed"), Path("there"))
    assert not (place / "outside").exists()


def test_link_in_an_archive_is_refused():
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    forge([(link, b"")], [entry("link", b"")])
    with pytest.raises(PackError, match="does not hold the files that its manifest names"):
        unpack(Path("packed"), Path("there"))


@pytest.mark.parametrize(
    "members", [[("a", b"one")], [("a", b"two"), ("a", b"one")], [("a", b"one"), ("b", b"two")]]
)
def test_archive_of_other_files_than_listed_is_refused(members):
    forge([(tarfile.TarInfo(name), data) for name, data in members], [entry("a", b"two")])
    with pytest.raises(PackError, match=r"is not what was packed|does not hold the files"):
        unpack(Path("packed"), Path("there"))
    assert files_below("there") == {}


def test_file_of_other_content_is_replaced_only_when_asked_for():
    contents, _ = packed()
    changed = Path("checkpoints/small/bn-seed0/last.json")
    changed.write_text("newer")
    with pytest.raises(UsageError, match=r"last\.json is there with other content; --overwrite"):
        unpack(Path("packed"), Path())
    assert changed.read_text() == "newer"
    unpack(Path("packed"), Path(), overwrite=True)
    assert files_below("checkpoints") == {
        name.removeprefix("checkpoints/"): data for name, data in contents.items()
    }


def test_pack_that_fails_leaves_no_folder(monkeypatch):
    make_files()
    monkeypatch.setattr(json, "dumps", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pack(Path("checkpoints"), Path("packed"), PIECE)
    assert not Path("packed").exists()
    assert not list(Path().glob(".packed.*"))


@pytest.mark.parametrize(
    ("source", "into", "message"),
    [
        ("nowhere", "packed", "a folder below .* is required"),
        ("/etc", "packed", "a folder below .* is required"),
        ("there", "packed", "has no files"),
        ("checkpoints", "checkpoints", "not empty"),
    ],
)
def test_folder_that_cannot_be_packed_is_named(source, into, message):
    make_files()
    with pytest.raises(UsageError, match=message):
        pack(Path(source), Path(into), PIECE)


@pytest.mark.parametrize("text", ["", "0MB", "15 megabytes", "-1", "1.5MB"])
def test_size_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="piece must be a size such as 15MB or 500kB"):
        size_in_bytes(text)


def test_commands_pack_and_unpack(capsys):
    contents = make_files()
    assert cli.main(["pack", "checkpoints", "--into", "small", "--piece", "4kB"]) == 0
    assert cli.main(["unpack", "small", "--into", "there"]) == 0
    assert "small: 3 files, below there" in capsys.readouterr().out
    assert files_below("there") == contents


def test_command_tells_a_damaged_piece_on_one_line(capsys):
    packed()
    Path("packed/piece-0000").unlink()
    assert cli.main(["unpack", "packed"]) == 5
    assert capsys.readouterr().err.splitlines() == [
        "robustnorm: the pack in packed is not whole: piece-0000 is missing"
    ]
    assert cli.main(["pack", "checkpoints", "--piece", "big"]) == 2
    assert "piece must be a size such as 15MB" in capsys.readouterr().err
