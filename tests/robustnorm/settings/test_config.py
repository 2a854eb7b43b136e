from fractions import Fraction

import pytest

from robustnorm.settings.base import names
from robustnorm.settings.config import Config
from robustnorm.settings.groups import Compared


def test_config_round_trips_through_plain_values():
    config = Config(
        epsilon=Fraction("8/255"), milestones=(1, 2), keep_epochs=(3,), name="x", attacks=("fgsm",)
    )
    assert Config.from_dict(config.to_dict()) == config


def test_config_writes_fractions_as_people_do():
    assert Config().to_dict()["epsilon"] == "8/255"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"train_limit": 0}, "train_limit must be at least 1, or null for all, got 0"),
        ({"seed": -1}, r"seed must be at least 0 and below 2\^64, got -1"),
        ({"epsilon": Fraction(8)}, r"epsilon must be from 1e-06 to 1, such as 8/255, got 8"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"gradient_clipping": 0.0}, "gradient_clipping must be above 0, or null, got 0.0"),
        ({"padding": -1}, "padding must be 0 to 4096, or null, got -1"),
        ({"checkpoint": "newest"}, "checkpoint must be best, last, or epoch and a number"),
        ({"checkpoint": "190"}, "checkpoint must be best, last, or epoch and a number"),
    ],
)
def test_config_refuses_values_out_of_range(values, message):
    with pytest.raises(ValueError, match=message):
        Config(**values)


@pytest.mark.parametrize("checkpoint", ["best", "last", "epoch190"])
def test_config_takes_a_checkpoint(checkpoint):
    assert Config(checkpoint=checkpoint).checkpoint == checkpoint


def test_l2_radius_may_exceed_one():
    assert Config(threat_model="l2", epsilon=Fraction(3, 2)).epsilon == 1.5


def test_config_of_an_earlier_version_is_read():
    assert Config.from_dict({"width": 8, "autoattack": False}) == Config(width=8)


def test_config_names_the_run():
    assert Config(norm="auxbn", seed=3).run == "auxbn-seed3"
    assert Config(norm="bn", adversarial=False).run == "bn-plain-seed0"


def test_config_differences_leave_out_what_is_to_be_ignored():
    first, second = Config(norm="bn", seed=1, width=16), Config(norm="auxbn", width=32)
    assert first.differences(second, ignore=names(Compared)) == "width: 32 there, 16 here"
