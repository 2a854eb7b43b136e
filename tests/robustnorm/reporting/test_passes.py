"""Where each attack stands in the figure of robust accuracy over passes."""

import pytest
from record_factory import N, bits, make_record

from robustnorm.records.record import SINGLE, Verdict
from robustnorm.reporting.comparisons import families
from robustnorm.reporting.drawing import looks
from robustnorm.reporting.model_records import group
from robustnorm.reporting.passes import accuracy_over_passes
from robustnorm.reporting.summary import summary


def record(norm="bn", worst=60, **changes):
    verdicts = [
        Verdict("none", "final", SINGLE, SINGLE, bits(180)),
        Verdict("pgd-20", "final", SINGLE, SINGLE, bits(80), forward=20 * N, backward=20 * N),
        Verdict("pgd-20", "any", SINGLE, SINGLE, bits(78), forward=20 * N, backward=20 * N),
        Verdict("worst", "final", SINGLE, SINGLE, bits(worst), forward=70 * N, backward=60 * N),
    ]
    return make_record(norm, verdicts=verdicts, **changes)


def test_each_attack_stands_over_its_passes_an_image():
    models = group([record()])
    figure = accuracy_over_passes(models, looks(models))
    (panel,) = figure.axes
    line, *points = panel.lines
    assert line.get_xdata() == pytest.approx([40, 130])
    assert line.get_ydata() == pytest.approx([40, 30])
    assert [(p.get_xdata()[0], p.get_ydata()[0]) for p in points] == [(40, 40), (130, 30)]


def test_there_is_no_figure_without_passes():
    models = group([make_record("bn")])
    assert accuracy_over_passes(models, looks(models)) is None


def test_models_are_compared_in_the_worst_case_where_all_have_it():
    models = group([record("bn", 60), record("modenorm", 20)])
    found = families(models)["RA, worst case, adversarial branch"]
    assert [(c.first, c.first_only, c.second_only) for c in found] == [("BN", 40, 0)]
    assert "BN has the highest robust accuracy in the worst case, 30.00 %" in summary(models)
    models = group([record("bn"), make_record("modenorm")])
    assert not any("worst" in name for name in families(models))
    assert "under PGD-20" in summary(models)
