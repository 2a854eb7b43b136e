"""Jobs give what an evaluation in one process gives, however they are divided."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from record_factory import make_record
from sweep_jobs import RUN, load_record, make_record_job

from robustnorm.attacks import worst_case
from robustnorm.evaluation.protocol import record_identity
from robustnorm.records.digests import digest_of_verdicts
from robustnorm.records.journal import ChunkVerdict, Journal, Key
from robustnorm.runs import described
from robustnorm.runs.checkpoint import save_checkpoint
from robustnorm.runs.run import load_model
from robustnorm.settings.config import Config
from robustnorm.system.device import device_name
from robustnorm.system.errors import UsageError
from robustnorm.system.sealed import seal, unseal
from robustnorm.system.source import versions
from robustnorm.work import jobs
from robustnorm.work.attempt import JobEnvironment, attempt
from robustnorm.work.evaluate import evaluate_runs


def test_jobs_read_the_data_as_training_does(monkeypatch):
    read = []
    described._load_once.cache_clear()
    monkeypatch.setattr(described, "load_dataset", lambda data, **how: read.append((data, how)))
    config = Config(data="pictures", data_root="there", resize=32, stream=True)
    for each in (config, config, replace(config, norm="auxbn", width=8)):
        described.load_data_once(each)
    described._load_once.cache_clear()
    ((data, how),) = read
    assert (data, how["root"], how["resize"], how["stream"]) == (
        "pictures",
        Path("there"),
        32,
        True,
    )


def finish(waiting, folder, threads=None):
    for job in waiting:
        assert attempt(job, JobEnvironment(str(folder), threads)) is None
        assert job.done()


def test_merged_record_is_that_of_one_process(trained, record):
    job = make_record_job()
    finish(random.Random(0).sample(job.attacks, len(job.attacks)), trained)
    finish([job], trained)
    merged = load_record(job.config)
    assert digest_of_verdicts(merged) == digest_of_verdicts(record)
    assert record_identity(merged) == record_identity(record)
    for one, other in zip(merged.verdicts, record.verdicts, strict=True):
        assert np.array_equal(one.correct, other.correct)
        assert replace(one, correct=0) == replace(other, correct=0)
    for field in ("examples", "checks", "curve", "protocol", "history", "labels"):
        assert getattr(merged, field) == getattr(record, field)


def test_record_that_lacks_only_checks_gets_them_without_attacks(trained, record):
    path = trained / "reports/digits/records/auxbn-seed0-best.json"
    record.save(path)
    assert make_record_job().done()
    job = make_record_job(checks="quick")
    assert job.attacks == ()
    assert not job.done()
    finish([job], trained)
    checked = load_record(job.config)
    assert checked.checks
    assert digest_of_verdicts(checked) == digest_of_verdicts(record)
    replace(record, device="a GPU").save(path)
    assert make_record_job(checks="quick").attacks


def test_jobs_have_a_chunk_a_branch_and_an_attack(trained):
    attacks = make_record_job().attacks
    assert len({job.key for job in attacks}) == len(attacks) == 2 * 2 * 3
    assert {job.attack for job in attacks} == {
        "pgd",
        "worst",
        "fgsm",
    }  # pgd-20 is one of the search's
    assert [len(job.image_ids) for job in attacks[:2]] == [100, 30]


@pytest.mark.parametrize(
    "change",
    [
        {"checkpoint": "00"},
        {"dataset": "00"},
        {"branch": "clean"},
        {"attack": "fgsm"},
        {"image_ids": (1, 2)},
    ],
)
def test_key_follows_from_what_the_verdicts_follow_from(trained, change):
    job = make_record_job(test_limit=100).attacks[1]
    assert replace(job, **change).key != job.key == replace(job).key


def test_key_follows_from_the_protocol(trained):
    keys = {make_record_job(test_limit=100, **change).attacks[0].key for change in (
        {}, {"eval_seed": 1}, {"eval_precision": "bf16"}, {"keep_images": True}, {"checks": "full"},
    )}  # fmt: skip
    assert len(keys) == 4
    assert make_record_job(test_limit=100, reports="x").attacks[0].key in keys


def test_job_finds_the_same_with_another_number_of_threads(trained):
    job = make_record_job().attacks[1]
    before = torch.get_num_threads()
    try:
        finish([job], trained, threads=1)
        once = job.journal.chunks
        job.path.unlink()
        assert not job.done()
        finish([job], trained, threads=2)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_equal(job.journal.chunks, once)


def test_job_of_other_versions_is_refused_and_what_to_remove_is_told(trained):
    record = make_record_job(attacks=[])
    job, bits = record.attacks[0], np.ones(100, bool)
    older = Journal(job.path, job.key, versions() | {"torch": "2.9.1"})
    older.add(0, {Key("none", "final", "clean", "clean"): ChunkVerdict(bits, bits)})
    with pytest.raises(
        UsageError, match=r"torch 2\.9\.1, here .*; the same holds for all files in "
    ) as caught:
        record.run()
    assert str(caught.value).endswith(str(job.results))
    shutil.rmtree(job.results)
    assert not job.done()


def test_record_names_the_devices_of_its_jobs_and_ends_all_of_them(trained, caplog):
    record = make_record_job(attacks=[], worst=False)
    finish(record.attacks, trained)
    stale = record.attacks[0].path.with_name("of-another-version.journal")
    lines = record.attacks[0].path.read_text().splitlines()
    entry, _ = unseal(json.loads(lines[-1]))
    entry["by"]["device"] = "a GPU"
    record.attacks[0].path.write_text(json.dumps(seal(entry)))
    stale.touch()
    finish([record], trained)
    here = device_name(torch.device("cpu"))
    assert load_record(record.config).device == f"{here}; a GPU"
    assert f"evaluated on several devices, whose last bits may differ: {here}; a GPU" in caplog.text
    assert not Path("reports/digits/jobs").exists()


def test_job_is_skipped_when_it_is_done(trained):
    job = make_record_job().attacks[0]
    bits = np.ones(100, bool)
    job.journal.add(
        job.number, {Key("pgd-20", "final", "clean", "clean"): ChunkVerdict(bits, bits)}
    )
    before = job.path.read_bytes()
    finish([job], trained)
    assert job.path.read_bytes() == before


def test_job_that_was_killed_while_it_wrote_is_done_again(trained):
    job = make_record_job(test_limit=20, attacks=[]).attacks[0]
    finish([job], trained)
    job.path.write_bytes(job.path.read_bytes()[:-20])
    assert not job.done()
    finish([job], trained)
    assert list(job.journal.chunks) == [0]


def test_record_names_what_is_missing_when_a_result_is_lost(trained):
    job = make_record_job(attacks=[])
    finish(job.attacks, trained)
    lost = job.attacks[1]
    lost.path.unlink()
    missing = rf"1 results are missing \({lost.name}\); run the same command again"
    with pytest.raises(UsageError, match=missing):
        job.run()
    assert not job.done()


def test_digest_follows_from_verdicts_alone():
    record = make_record()
    assert digest_of_verdicts(record) == digest_of_verdicts(make_record())
    record.verdicts[0].correct[0] ^= True
    assert digest_of_verdicts(record) != digest_of_verdicts(make_record())


def test_jobs_refuse_a_checkpoint_that_changed(trained):
    job = make_record_job(test_limit=100, attacks=[])
    finish(job.attacks, trained)
    last = job.attacks[-1]
    last.path.unlink()
    model, manifest = load_model(RUN)
    torch.nn.init.zeros_(next(model.parameters()))
    kept = ("config", "dataset", "epoch", "history")
    save_checkpoint(RUN, "best", model, {name: manifest[name] for name in kept})
    jobs._branches_to_attack.cache_clear()  # a process keeps the network that it began with
    with pytest.raises(UsageError, match="changed during the sweep"):
        last.run()
    with pytest.raises(UsageError, match="changed during the sweep"):
        job.run()


def test_images_are_kept_as_one_process_keeps_them(trained, monkeypatch):
    monkeypatch.setitem(worst_case.__kwdefaults__, "restarts", 4)  # for time
    changes = {"keep_images": True, "serving": True, "attacks": []}
    job = make_record_job(**changes)
    evaluate_runs(job.config)
    expected = load_record(job.config)
    shutil.rmtree(job.config.reports_folder)  # or its record would be found
    other = make_record_job(**changes)
    finish(other.attacks[::-1], trained)
    finish([other], trained)
    found = load_record(other.config)
    assert digest_of_verdicts(found) == digest_of_verdicts(expected)
    assert found.images == expected.images
