"""Records of all kinds, journals, kept images, manifests: damaged, or malformed and well sealed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz_harness import Target
from fuzz_made import changed, hurt
from gan_record_factory import gan_record
from hypothesis import strategies as st
from record_factory import make_full_record
from safetensors.torch import load, save

from robustnorm.applications.gan.gradient_tables import gradient_tables
from robustnorm.applications.gan.record import GanRecord
from robustnorm.applications.gan.tables import group_runs, setting_note
from robustnorm.applications.gan.tables import summary as gan_summary
from robustnorm.applications.gan.tables import tables as gan_tables
from robustnorm.applications.nas.comparison import group_by_norm
from robustnorm.applications.nas.record import SearchRecord
from robustnorm.applications.nas.table2 import summary as nas_summary
from robustnorm.applications.nas.table2 import tables as nas_tables
from robustnorm.applications.style.results import read_records
from robustnorm.applications.style.tables import summary as style_summary
from robustnorm.applications.style.tables import tables as style_tables
from robustnorm.data.dataset import Dataset, Split
from robustnorm.data.digits import load_digits
from robustnorm.records.images import read_chunk, write_chunk
from robustnorm.records.journal import ChunkVerdict, Journal, Key
from robustnorm.records.record import Record
from robustnorm.records.verify import verify
from robustnorm.reporting.gradients import gradient_table, read_gradients
from robustnorm.reporting.plans import plan_page
from robustnorm.reporting.render import to_csv, to_latex, to_markdown, to_text
from robustnorm.reporting.tables import tables
from robustnorm.runs import Run
from robustnorm.runs.checkpoint import manifest_bytes, read_history, restore, save_checkpoint
from robustnorm.runs.described import build_model, describe_dataset
from robustnorm.runs.run import setting_differences
from robustnorm.settings.config import Config
from robustnorm.system.sealed import seal, unseal
from robustnorm.system.untrusted import parse_json

REPORTS = Path(__file__).parents[2] / "reports"
CONFIG = Config(data="digits", width=1, norm="auxbn", name="tiny")


def shown(made: Any) -> None:
    to_text(made)
    for table in made:
        to_markdown(table), to_latex(table), to_csv(table)


def written(content: Any, sealed: bool = True) -> bytes:
    whole = seal(content) if sealed and isinstance(content, dict) else content
    return json.dumps(whole).encode()


def plain(text: str | bytes) -> Any:
    return unseal(parse_json(text))[0]


def of_kind(folder: Path, name: str, content: Any, read: Any, share: float = 1) -> Target:
    """A target of a sealed JSON file: changed values well sealed, and damaged bytes."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)

    def read_file(data: bytes) -> None:
        path.write_bytes(data)
        read(path)

    made = st.one_of(
        changed(content).map(written),
        changed(content).map(written),
        hurt(json.dumps(seal(content), indent=1).encode()),
    )
    return Target(made, read_file, share)


def read_record(path: Path) -> None:
    record = Record.load(path)
    shown(tables([record]))
    plan_page("plan", {"best": [record], "last": [record]})


def read_gan(path: Path) -> None:
    records = [GanRecord.load(path), gan_record(norm="sabn")]
    shown(gan_tables(records))
    shown(gradient_tables(records, setting_note(group_runs(records))))
    gan_summary(records)


def read_search(path: Path) -> None:
    records = [SearchRecord.load(path)]
    shown(nas_tables(records))
    nas_summary(group_by_norm(records))


def read_style(path: Path) -> None:
    rows = read_records(path.parent)
    shown(style_tables(rows))
    style_summary(rows)


def small_run(folder: Path) -> tuple[Path, Dataset]:
    """A run of an untrained network with one step of its optimizer."""
    dataset = load_digits()
    few = Split(dataset.test.images[:8], dataset.test.labels[:8])
    dataset = replace(dataset, test=few)
    data = describe_dataset(dataset, 32)
    model = build_model(CONFIG, data)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    epoch = make_full_record().history[0]
    manifest = {
        "epoch": 1,
        "best": 0.5,
        "config": CONFIG.to_dict(),
        "dataset": data,
        "history": [epoch],
        "processes": {"world_size": 1, "batch_size": 8, "batch_size_per_process": 8},
        "score": 0.5,
    }
    save_checkpoint(folder / "run", "last", model, manifest, optimizer)
    return folder / "run", dataset


def use_run(folder: Path) -> None:
    """All that commands take from a run."""
    run = Run.open(folder, "last")
    setting_differences(CONFIG, run)
    read_history(folder)
    assert run.epoch + run.best + run.processes is not None
    assert (run.imported, run.within_epoch, run.whole_history, run.dataset["name"]) is not None
    run.check_settings(replace(run.config, device="cpu"))
    model = run.network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    restore(run.checkpoint, model, optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()


def manifests(folder: Path) -> Target:
    run, _ = small_run(folder)
    path = run / "last.json"
    whole = path.read_bytes()
    content = parse_json(whole)
    del content["manifest_sha256"]

    def hashed(made: Any) -> bytes:
        return manifest_bytes(made) if isinstance(made, dict) else json.dumps(made).encode()

    def read(data: bytes) -> None:
        path.write_bytes(data)
        use_run(run)

    made = st.one_of(changed(content).map(hashed), changed(content).map(hashed), hurt(whole))
    return Target(made, read, 0.3)


@st.composite
def changed_tensors(draw: st.DrawFn, data: bytes) -> bytes:
    tensors = dict(sorted(load(data).items()))  # it has them in no order
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(list(tensors)))
        value = tensors[name]
        match draw(st.sampled_from(("gone", "shape", "dtype", "value", "name", "other", "empty"))):
            case "gone":
                del tensors[name]
            case "shape":
                tensors[name] = value.reshape(-1)[: draw(st.integers(0, 9))].contiguous()
            case "dtype":
                tensors[name] = value.to(draw(st.sampled_from(DTYPES)))
            case "value":
                odd = draw(st.sampled_from((float("nan"), float("inf"), -1.0, 1e30, 0.0, 7.0)))
                changed_value = value.clone()
                changed_value.view(-1)[:1] = odd if value.is_floating_point() else int(odd == 7.0)
                tensors[name] = changed_value
            case "name":
                tensors[draw(st.sampled_from(NAMES))] = tensors.pop(name)
            case "other":
                tensors[name] = tensors[draw(st.sampled_from(list(tensors)))].clone()
            case "empty":
                tensors[name] = value[..., :0].contiguous() if value.dim() else value
        if not tensors:
            break
    return save(tensors)


DTYPES = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
NAMES = ("", "x", "model.", "random.torch", "random.python", "momentum.x", "optimizer.x", "[]")
NAMES += ("image_ids", '["pgd-20", "final", "adv"]', '["a", "b", "c", "d"]', "optimizer.step.x")


def tensors_of_runs(folder: Path) -> Target:
    run, _ = small_run(folder)
    path = run / "last.json"
    content = parse_json(path.read_bytes())
    del content["manifest_sha256"]
    file = run / content["file"]
    whole = file.read_bytes()

    def read(data: bytes) -> None:
        file.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        path.write_bytes(manifest_bytes(content | {"sha256": digest, "bytes": len(data)}))
        use_run(run)

    return Target(st.one_of(changed_tensors(whole), hurt(whole)), read, 0.1)


def journals(folder: Path) -> Target:
    path = folder / "x.journal"
    bits = np.arange(8) % 2 == 0
    keys = [Key("none", "final", "adv", "adv"), Key("pgd-20", "any", "adv", "adv")]
    journal = Journal(path, "ab")
    for number in range(3):
        journal.add(number, {key: ChunkVerdict(bits, bits) for key in keys}, 1.5, "cd")
    lines = path.read_bytes().strip().splitlines()
    entry = plain(lines[0])

    def read(data: bytes) -> None:
        path.write_bytes(data)
        found = Journal(path, "ab")
        found.forget_others([8, 8, 8])
        if len(found.chunks) == 3:
            found.collected(3)
        for number, part in found.chunks.items():
            assert 0 <= number < 3
            assert found.images[number] == str(found.images[number])
            sum(int((~each.agrees).sum()) + each.passes.forward for each in part.values())
        assert found.seconds >= 0

    sealed = changed(entry).map(lambda made: b"\n".join([written(made), *lines[1:]]))
    return Target(st.one_of(sealed, sealed, hurt(b"\n".join(lines))), read, 3)


def kept_images(folder: Path) -> Target:
    run, dataset = small_run(folder)
    model, path = Run.open(run, "last").network(), folder / "00000.safetensors"
    ids, n = torch.arange(8), 8
    key = Key("pgd-20", "final", "adv", "adv")
    write_chunk(path, ids, {key: dataset.test.images / 255})
    whole = path.read_bytes()
    record = replace(
        make_full_record(),
        image_ids=list(range(n)),
        labels=dataset.test.labels.tolist(),
        checkpoint={"sha256": "ab"},
        dataset={"sha256": dataset.sha256},
        verdicts=[replace(v, correct=v.correct[:n]) for v in make_full_record().verdicts],
    )

    def read(data: bytes) -> None:
        path.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        read_chunk(path, digest)
        images = {"folder": "x", "files": {path.name: digest}}
        verify(replace(record, images=images), model, "ab", dataset, folder)

    return Target(st.one_of(changed_tensors(whole), hurt(whole)), read, 0.2)


def targets(folder: Path) -> dict[str, Target]:
    def report(name: str) -> Any:
        return plain(next(iter(sorted(REPORTS.glob(name)))).read_bytes())

    gan = gan_record()
    gan.save(folder / "gan.json")
    return {
        "result records": of_kind(
            folder, "record.json", plain(make_full_record().to_json()), read_record, 1.5
        ),
        "records of table1": of_kind(
            folder, "gan.json", plain((folder / "gan.json").read_bytes()), read_gan
        ),
        "records of table2": of_kind(
            folder, "nas.json", report("table2/records/*.json"), read_search, 0.3
        ),
        "records of figure7": of_kind(
            folder / "style", "style.json", report("figure7/records/*.json"), read_style
        ),
        "results of diagnose": of_kind(
            folder,
            "gradients.json",
            report("cpu/gradients/*.json"),
            lambda path: shown([gradient_table(read_gradients(path))]),
        ),
        "journals": journals(folder / "journals"),
        "manifests": manifests(folder / "manifests"),
        "tensors of checkpoints": tensors_of_runs(folder / "tensors"),
        "kept images": kept_images(folder / "kept"),
    }
