"""One file of every kind that is written and read again, with a function that reads it."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from benchmarks.soak.killing import TINY
from robustnorm.applications.gan.record import GanRecord
from robustnorm.applications.nas.record import SearchRecord
from robustnorm.applications.style.pictures import read_folder
from robustnorm.applications.style.results import read_records
from robustnorm.commands import referee
from robustnorm.data import load_dataset
from robustnorm.evaluation.evaluate import evaluate
from robustnorm.evaluation.protocol import images_folder, record_path
from robustnorm.evaluation.search import Search
from robustnorm.exchange.export import Description, export, load_exported
from robustnorm.records.images import read_chunk
from robustnorm.records.journal import Journal
from robustnorm.records.record import Record
from robustnorm.reporting.gradients import read_gradients
from robustnorm.runs import Run
from robustnorm.runs.described import load_data, network_arguments
from robustnorm.settings.config import Config
from robustnorm.settings.parsing import read_file
from robustnorm.system.errors import UsageError
from robustnorm.system.sealed import seal, unseal
from robustnorm.system.untrusted import parse_json
from robustnorm.work.evaluate_run import evaluate_run
from robustnorm.work.jobs import record_job
from robustnorm.work.train import train_run

ATTACKS = ("worst", "autoattack")
REPORTS = Path(__file__).parents[2] / "reports"
Entries = dict[str, str]


class Written(NamedTuple):
    """A file that is written and read again.

    Args:
        path: The file.
        read: Returns what commands read from it, as digests by name. Commands compute missing
            content again, and raise a UserError for content that cannot be trusted.
        allowed: Results of earlier states that may replace it, such as the previous checkpoint.
    """

    path: Path
    read: Callable[[], Entries]
    allowed: tuple[Entries, ...] = ()


def config_in(folder: Path) -> Config:
    """Returns the settings of the run and of its evaluation, with all files below a folder."""
    return replace(
        TINY, output=str(folder / "checkpoints"), reports=str(folder / "reports"),
        norm="auxbn", width=1, save_minutes=10.0,
        worst=False, checks="none", test_limit=20, keep_images=True,
    )  # fmt: skip


def write_all(folder: Path) -> dict[str, Written]:
    """Trains, evaluates and exports a tiny network; returns the files by kind."""
    config = config_in(folder)
    train_run(config)
    return (
        _of_run(config)
        | _of_evaluation(config, folder)
        | _of_applications(folder)
        | _of_data(folder)
        | _of_export(config, folder)
    )


def _of_run(config: Config) -> dict[str, Written]:
    run = config.folder

    def state(tag: str) -> Entries:
        opened = Run.open(run, tag)
        return {"state": _digest(opened.manifest) + opened.sha256}

    def settings() -> Entries:
        try:
            found = read_file(Config, run / "config.yaml")
        except ValueError as error:  # the command line reports it as a UsageError too
            raise UsageError(str(error)) from error
        return {k: _digest(v) for k, v in found.items()}

    newest = state("last")
    aside = (run / "last.json").rename(run / "aside.json")
    before = (state("last"),)  # "last" falls back to the checkpoint before it
    aside.rename(run / "last.json")
    assert before != (newest,)
    tensors = {tag: run / Run.open(run, tag).manifest["file"] for tag in ("last", "best")}
    return {
        "manifest of last": Written(run / "last.json", lambda: state("last"), before),
        "tensors of last": Written(tensors["last"], lambda: state("last"), before),
        "manifest of best": Written(run / "best.json", lambda: state("best")),
        "tensors of best": Written(tensors["best"], lambda: state("best")),
        "settings of a run": Written(run / "config.yaml", settings),
    }


def _of_evaluation(config: Config, folder: Path) -> dict[str, Written]:
    run, dataset = Run.open(config.folder, "best"), load_data(config)
    cpu, reports = torch.device("cpu"), config.reports_folder
    evaluated = evaluate_run(run, config, dataset, cpu, reports)
    path = record_path(reports, run.folder, config)
    images = images_folder(path)
    (kept, sha256), *_ = evaluated.images["files"].items()

    def record() -> Entries:
        content = json.loads(Record.load(path).to_json())  # the order of names does not matter
        return {"record": _digest(json.dumps(content, sort_keys=True))}

    def chunk() -> Entries:
        found = read_chunk(images / kept, sha256)
        return {"chunk": _digest([found.image_ids, sorted(found.images.items())])}

    journal = folder / "evaluation.journal"
    test, n = dataset.test, 250
    evaluate(
        run.network(),
        test.images[:n],
        test.labels[:n],
        Search(8 / 255, 2 / 255, (1,)),
        journal=journal,
        fingerprint="",
    )

    def parts(path: Path, fingerprint: str) -> Entries:
        found = Journal(path, fingerprint)
        taken = {"seconds": str(found.seconds)} if len(found.chunks) == 3 else {}
        return taken | {str(n): _digest([p, found.images[n]]) for n, p in found.chunks.items()}

    # With a seed that no record has yet.
    job = record_job(run, replace(config, eval_seed=1)).attacks[0]
    job.run()

    def result() -> Entries:
        if not job.done():
            return {}
        kept = read_chunk(job.images_path, job.journal.images[job.number])
        return {"job": _digest([job.journal.chunks, sorted(kept.images.items())])}

    compared = folder / "referee.json"
    attacks = {name: {"correct": "//8=", "seconds": 1.5, "passes": 90} for name in ATTACKS}
    compared.write_text(json.dumps(seal({"fingerprint": "ab"} | attacks)))

    def verdicts() -> Entries:
        found = referee._read(compared, "ab")
        return {} if found is None else {"verdicts": _digest(found)}

    return {
        "result record": Written(path, record),
        "kept images": Written(images / kept, chunk),
        "journal": Written(journal, lambda: parts(journal, "")),
        "result of a job": Written(job.path, result),
        "images of a job": Written(job.images_path, result),
        "result of referee": Written(compared, verdicts),
    }


def _of_applications(folder: Path) -> dict[str, Written]:
    """Returns committed records, sealed as they are written today."""
    readers: dict[str, tuple[str, Callable[[Path], Any]]] = {
        "record of table1": ("table1/records", lambda path: vars(GanRecord.load(path))),
        "record of table2": ("table2/records", lambda path: vars(SearchRecord.load(path))),
        "record of figure7": ("figure7/records", lambda path: read_records(path.parent)),
        "result of diagnose": ("cpu/gradients", read_gradients),
    }
    found = {}
    for name, (source, read) in readers.items():
        original = min((REPORTS / source).glob("*.json"))
        content, _ = unseal(parse_json(original.read_bytes()))
        path = folder / source / original.name
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(seal(content)))
        found[name] = Written(path, partial(_read_record, path, read))
    return found


def _read_record(path: Path, read: Callable[[Path], Any]) -> Entries:
    return {"record": _digest(read(path))}


def _of_data(folder: Path) -> dict[str, Written]:
    """Returns what is cached for an archive of images and for a folder of pictures."""
    archive, cache = folder / "images.tar", folder / "cache"
    dice = np.random.default_rng(0)
    with tarfile.open(archive, "w") as tar:
        for part in ("train", "test"):
            for number in range(6):
                data = io.BytesIO()
                Image.fromarray(dice.integers(0, 256, (8, 8, 3), np.uint8)).save(data, "PNG")
                member = tarfile.TarInfo(f"{part}/{number % 2}/{number}.png")
                member.size = data.tell()
                tar.addfile(member, io.BytesIO(data.getvalue()))
    pictures = folder / "pictures"
    pictures.mkdir()
    Image.fromarray(dice.integers(0, 256, (16, 16, 3), np.uint8)).save(pictures / "a.png")

    def dataset() -> Entries:
        found = load_dataset(str(archive), root=cache, stream=False)
        splits = [[split.images[:], split.labels] for split in (found.train, found.test)]
        return {"images": _digest([splits, found.sha256, found.classes])}

    def streamed() -> Entries:
        stored = load_dataset(str(archive), root=cache, stream=True).test
        return {"images": _digest([stored.images[:], stored.labels])}

    def looked() -> Entries:
        return {"sha256": read_folder(pictures, 16, cache=cache).sha256}

    dataset(), looked()
    return {
        "decoded images": Written(next(cache.glob("decoded-*")), dataset),
        "checksums of images": Written(next(cache.glob("looked-*")), dataset),
        "index of an archive": Written(next(cache.glob("packed-*.safetensors")), dataset),
        "images of an archive": Written(next(cache.glob("packed-*.bin")), streamed),
        "hash of pictures": Written(next(cache.glob("pictures-*")), looked),
    }


def _of_export(config: Config, folder: Path) -> dict[str, Written]:
    run, path = Run.open(config.folder, "best"), folder / "exported"
    arguments = network_arguments(run.config, run.dataset) | {"norm": "bn"}
    arguments.pop("branches")
    content = {"network": run.config.network, "arguments": arguments}
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    description = Description(content)
    export(run.network(), "adv", path, to="huggingface", images=images, description=description)

    def logits() -> Entries:
        with torch.no_grad():
            return {"logits": _digest(load_exported(path)(images))}

    return {
        "exported weights": Written(path / "model.safetensors", logits),
        "description of an export": Written(path / "config.json", logits),
    }


def _digest(value: Any) -> str:
    """Returns a hash of values; for arrays it depends on every byte."""
    return hashlib.sha256(_text(value)).hexdigest()[:16]


def _text(value: Any) -> bytes:
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}".encode() + value.tobytes()
    if isinstance(value, dict):
        return b"{" + b",".join(_text(pair) for pair in value.items()) + b"}"
    if isinstance(value, (list, tuple)):
        return b"[" + b",".join(map(_text, value)) + b"]"
    return repr(value).encode()
