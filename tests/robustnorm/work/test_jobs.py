"""Jobs give what an evaluation in one process gives, however they are divided."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from sweep_jobs import RUN, load_record, make_record_job

from robustnorm.evaluation.protocol import identity
from robustnorm.runs.checkpoint import save_checkpoint
from robustnorm.runs.run import load_model
from robustnorm.system.errors import UsageError
from robustnorm.work import jobs
from robustnorm.work.attempt import Place, attempt
from robustnorm.work.evaluate import evaluate_runs
from robustnorm.work.merge import MergeError, digest


def finish(waiting, folder, threads=None):
    for job in waiting:
        assert attempt(job, Place(str(folder), threads)) is None
        assert job.done()


def test_merged_record_is_that_of_one_process(trained, record):
    job = make_record_job()
    finish(random.Random(0).sample(job.attacks, len(job.attacks)), trained)
    finish([job], trained)
    merged = load_record(job.config)
    assert digest(merged) == digest(record)
    assert identity(merged) == identity(record)
    for one, other in zip(merged.verdicts, record.verdicts, strict=True):
        assert np.array_equal(one.correct, other.correct)
        assert replace(one, correct=0) == replace(other, correct=0)
    for field in ("examples", "checks", "curve", "protocol", "history", "labels"):
        assert getattr(merged, field) == getattr(record, field)


def test_jobs_have_a_chunk_a_branch_and_an_attack(trained):
    attacks = make_record_job().attacks
    assert len({job.key for job in attacks}) == len(attacks) == 2 * 2 * 2
    assert {job.attack for job in attacks} == {"pgd", "fgsm"}  # pgd-20 is one of the search's
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
        {}, {"eval_seed": 1}, {"eval_precision": "bf16"}, {"keep_images": True},
    )}  # fmt: skip
    assert len(keys) == 4
    assert make_record_job(test_limit=100, reports="x").attacks[0].key in keys


def test_job_writes_the_same_bytes_with_another_number_of_threads(trained):
    job = make_record_job().attacks[1]
    before = torch.get_num_threads()
    try:
        finish([job], trained, threads=1)
        once = job.path.read_bytes()
        job.remove()
        assert not job.done()
        finish([job], trained, threads=2)
    finally:
        torch.set_num_threads(before)
    assert job.path.read_bytes() == once


def test_job_is_skipped_when_it_is_done(trained):
    job = make_record_job().attacks[0]
    job.path.parent.mkdir(parents=True)
    job.path.write_text("as it was")
    finish([job], trained)
    assert job.path.read_text() == "as it was"


def test_merge_names_what_is_missing_when_a_result_is_lost(trained):
    job = make_record_job(attacks=[])
    finish(job.attacks, trained)
    job.attacks[1].remove()
    with pytest.raises(MergeError, match="there is no result"):
        job.run()
    with pytest.raises(MergeError, match=r"pgd on clean: .* 30 are missing"):
        replace(job, attacks=(job.attacks[0], *job.attacks[2:])).run()
    assert not job.done()


def test_jobs_refuse_a_checkpoint_that_changed(trained):
    job = make_record_job(test_limit=100, attacks=[])
    finish(job.attacks, trained)
    last = job.attacks[-1]
    last.remove()
    model, manifest = load_model(RUN)
    torch.nn.init.zeros_(next(model.parameters()))
    save_checkpoint(RUN, "best", model, {k: manifest[k] for k in ("config", "dataset", "epoch")})
    jobs._attacked.cache_clear()  # a process keeps the network that it began with
    with pytest.raises(UsageError, match="changed during the sweep"):
        last.run()
    with pytest.raises(UsageError, match="changed during the sweep"):
        job.run()


def test_images_are_kept_as_one_process_keeps_them(trained):
    changes = {"keep_images": True, "serving": True, "attacks": []}
    job = make_record_job(**changes)
    evaluate_runs(job.config)
    expected = load_record(job.config)
    other = make_record_job(**changes, reports="elsewhere")
    finish(other.attacks[::-1], trained)
    finish([other], trained)
    found = load_record(other.config)
    assert digest(found) == digest(expected)
    assert found.images == expected.images
