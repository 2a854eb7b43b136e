"""Short versions of the soak: kills at random moments, bytes changed at random places."""

from dataclasses import replace

import pytest

from benchmarks.soak.damage import damage, train_tiny
from benchmarks.soak.killing import TINY, differences, steps_saved, train_and_kill
from benchmarks.soak.kills import kill_and_compare, kill_often
from robustnorm.settings.plan import PAPER_NORMS
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
    found = differences(one, other)
    assert {"metrics.jsonl", "last: random.torch", "last: model.conv1.weight"} <= set(found)


def test_kill_within_the_first_epoch_keeps_its_steps(tmp_path):
    config = replace(TINY, norm="bn", epochs=10_000, output=str(tmp_path))
    taken, ended = train_and_kill(config, 3)
    assert not ended
    assert taken - 1 <= steps_saved(config) <= taken


def test_damage_is_always_noticed(tmp_path):
    found = damage(train_tiny(tmp_path), flips=40, truncations=8)
    assert sum(found.values()) == 48
    assert {outcome for _, outcome in found} == {"refused", "the one before is used"}
