"""Short versions of the soak: kills at random moments, bytes changed at random places."""

from dataclasses import replace

import pytest

from benchmarks.soak.damage import (
    FAULT,
    FAULTS,
    NAMELESS,
    NUMBER,
    damage,
    finish_damaged,
)
from benchmarks.soak.full import checkpoints, journals, write_until_full
from benchmarks.soak.killing import TINY, run_differences, steps_saved, train_and_kill
from benchmarks.soak.kills import kill_and_compare, kill_evaluations, kill_often
from benchmarks.soak.together import CHANGES, SYSTEMS, two_trainings
from benchmarks.soak.written import Written, config_in, write_all
from robustnorm.settings.plan import PAPER_NORMS
from robustnorm.system.errors import UsageError
from robustnorm.work.train import train_run


def test_kills_leave_the_newest_checkpoint_whole_and_lose_one_interval_at_most(tmp_path):
    counts = kill_often(6, tmp_path)
    assert counts["unreadable"] == 0
    assert counts["lost"] <= 1


@pytest.mark.parametrize("norm", PAPER_NORMS)
def test_killed_run_ends_as_the_uninterrupted_one_in_every_bit(tmp_path, norm):
    survived, different = kill_and_compare(norm, 2, tmp_path)
    assert survived >= 1
    assert different == []


def test_comparison_finds_a_run_that_ended_otherwise(tmp_path):
    one, other = (
        replace(
            TINY,
            norm="bn",
            epochs=1,
            save_minutes=10.0,
            seed=seed,
            output=str(tmp_path / str(seed)),
        )
        for seed in (0, 1)
    )
    for config in (one, other):
        train_run(config)
    found = run_differences(one, other)
    assert {"metrics.jsonl", "last: random.torch", "last: model.conv1.weight"} <= set(found)


def test_kill_within_the_first_epoch_keeps_its_steps(tmp_path):
    config = replace(TINY, norm="bn", epochs=10_000, output=str(tmp_path))
    taken, ended = train_and_kill(config, 3)
    assert not ended
    assert taken - 1 <= steps_saved(config) <= taken


def test_damage_of_any_file_is_named_or_repaired(tmp_path):
    files = write_all(tmp_path)
    found, faults = damage(files, 5 * len(files))
    assert faults == []
    assert sum(found.values()) == 5 * len(files) > 100
    again, others = finish_damaged(config_in(tmp_path), 3)
    assert others == []
    assert again


def test_what_is_read_wrongly_is_found(tmp_path):
    path = tmp_path / "number.txt"
    path.write_text("12345678\n" * 20)

    def read():
        text = path.read_text()  # a traceback where bytes are no text
        if text.count("\n") != 20:
            raise UsageError("a file is damaged")  # which one?
        return {"text": text}

    found, faults = damage({"number": Written(path, read)}, 100)
    assert {outcome for _, outcome in found} >= {NUMBER, FAULT, NAMELESS}
    assert len(faults) == sum(found["number", outcome] for outcome in FAULTS)
    assert path.read_text() == "12345678\n" * 20


def test_full_disk_leaves_the_former_or_the_new_file(tmp_path):
    for writing in (checkpoints(), journals()):
        assert write_until_full(writing, tmp_path / "here", 5) == (5, 5, 5)


@pytest.mark.slow
def test_killed_evaluation_ends_as_the_uninterrupted_one(tmp_path):
    kills, evaluations, different = kill_evaluations(2, tmp_path)
    assert (kills >= 2, evaluations >= 1, different) == (True, True, 0)


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_two_trainings_never_save_in_one_folder(tmp_path, system):
    outcomes = {two_trainings(tmp_path / "run", SYSTEMS[system], change) for change in CHANGES}
    assert "the second is refused, the first saves" in outcomes
    assert "the second trains, the first saves" not in outcomes
