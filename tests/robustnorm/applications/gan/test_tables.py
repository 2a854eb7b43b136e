"""Table 1 and the gradients' tables from records of known numbers."""

import numpy as np
import pytest
import torch
from gan_record_factory import gan_record
from PIL import Image

from robustnorm.applications.gan.gradient_tables import gradient_tables
from robustnorm.applications.gan.record import GanRecord, pairs
from robustnorm.applications.gan.report import write_grid, write_report
from robustnorm.applications.gan.tables import PAPER, summary, tables
from robustnorm.evaluation.statistics import student
from robustnorm.records.record import RecordError
from robustnorm.reporting.render import to_text
from robustnorm.system.errors import UsageError


def both(*differences, network="sngan", **changes):
    """Returns pairs of runs whose last distances differ by what is given, SaBN minus CCBN."""
    return [
        gan_record(network, norm, seed, distances=(5.0, 3.0 + (norm == "sabn") * difference))
        for seed, difference in enumerate(differences)
        for norm in ("ccbn", "sabn")
    ]


def rows_of(made, name):
    table = next(table for table in made if table.name == name)
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def test_record_comes_back_from_its_file(tmp_path):
    record = gan_record()
    record.save(tmp_path / "record.json")
    assert GanRecord.load(tmp_path / "record.json") == record
    assert record.at("last")["step"] == 20


@pytest.mark.parametrize(
    "text", ["", "[]", '{"schema": 2}', '{"schema": 1, "config": {}}', '{"schema": 1}']
)
def test_file_that_holds_no_record_is_refused(tmp_path, text):
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(RecordError, match="is not a GAN's record"):
        GanRecord.load(path)


def test_table1_shows_last_and_best_beside_the_paper_s():
    records = [gan_record("biggan", "sabn", seed, distances=(2.0 - seed, 4.0)) for seed in (0, 1)]
    first, last = rows_of(tables(records), "table1")
    assert first["Model"] == "BigGAN (SaBN)"
    assert (first["FID-C10net, last"], first["FID-C10net, best"]) == ("4.00", "1.50")
    assert (first["Paper FID"], first["Paper IS"]) == ("8.03", "9.01")
    assert first["95 % interval"] == "[4.00, 4.00]"
    assert (last["Model"], last["FID-C10net, last"], last["Paper FID"]) == (
        "test images", "0.100", None,
    )  # fmt: skip


def test_differences_are_paired_by_seed_with_students_interval():
    differences = [0.5, 1.0, 1.5]
    row = rows_of(tables(both(*differences)), "differences")[0]
    low, high = student(differences)
    assert row["Measure"] == "FID-C10net, last"
    assert row["Difference"] == "+1.000"
    assert row["95 % interval"] == f"[{low:.3f}, {high:.3f}]"
    assert row["SaBN better"] == "0 of 3"
    assert row["Paper (FID, IS)"] == f"{8.97 - 10.18:+.2f}"


def test_reading_says_which_norm_is_better_or_that_none_is():
    assert "-1.10 [-1.35, -0.85], SaBN is better (3 seeds)" in summary(both(-1, -1.1, -1.2))
    assert "CCBN is better" in summary(both(1, 1.1, 1.2))
    assert "not distinguishable (3 seeds)" in summary(both(-1, 1, 0.1))
    assert "so there is no result" in summary(
        [gan_record(norm="ccbn"), gan_record(norm="ccbn", seed=1)]
    )


def test_pairs_leave_out_seeds_that_one_norm_lacks():
    records = [*both(0, 0), gan_record(norm="ccbn", seed=7)]
    assert [(a.seed, b.seed, a.norm, b.norm) for a, b in pairs(records, "sngan")] == [
        (0, 0, "ccbn", "sabn"),
        (1, 1, "ccbn", "sabn"),
    ]
    assert pairs(records, "biggan") == []


def test_differences_of_label_accuracy_are_in_points():
    records = both(0, 0)
    for record in records:
        if record.norm == "sabn":
            record.measured[-1]["label_accuracy"] = 0.425
    rows = rows_of(tables(records), "differences")
    (row,) = (row for row in rows if row["Measure"] == "Label accuracy in points, last")
    assert row["Difference"] == "+2.500"


def test_test_images_have_a_number_of_their_own():
    record = gan_record(test_images=gan_record().test_images | {"n": 60})
    (note,) = (n for n in tables([record])[0].notes if n.startswith("Test images"))
    assert "n = 60" in note


def test_minutes_name_every_device():
    note = tables([gan_record(), gan_record(seed=1, device="GPU")])[1].notes[1]
    assert "on CPU or GPU, beside" in note


def test_chance_of_a_thousand_classes_is_not_zero():
    dataset = gan_record().dataset | {"classes": list(map(str, range(1000)))}
    assert "0.1 % for a generator that ignores" in tables([gan_record(dataset=dataset)])[1].notes[1]


def test_run_without_gradients_keeps_its_measures_and_is_left_out_of_figure_2():
    records = both(0.1, 0.2, 0.3)
    records[2] = gan_record("sngan", "ccbn", 1, gradients=[])
    made = gradient_tables(records, "setting")
    assert [row["Seeds"] for row in rows_of(made, "places")] == ["2", "2"]
    assert made[0].notes[-1].endswith("sngan-ccbn-seed1.")
    assert rows_of(tables(records), "table1")[0]["Seeds"] == "3"
    assert gradient_tables([gan_record(gradients=[]), records[1]], "setting") == []


def test_places_count_the_stages_in_which_sabn_is_lower():
    records = [
        gan_record(norm=norm, seed=seed, spread=0.2 + (norm == "sabn") * (-0.1 - 0.001 * seed))
        for seed in (0, 1, 2)
        for norm in ("ccbn", "sabn")
    ]
    made = gradient_tables(records, "setting")
    for row in rows_of(made, "places"):
        assert (row["Std of norms"], row["sure, std of norms"]) == ("2 of 2", "2 / 0")
        assert (row["Mean cosine"], row["sure, mean cosine"]) == ("0 of 2", "0 / 0")
    gradients = rows_of(made, "gradients")
    assert len(gradients) == 4
    assert gradients[0]["Std over mean, CCBN"] == "0.200"
    assert gradients[0]["Std over mean, SaBN"] == "0.099"
    assert gradient_tables(records[:1], "setting") == []


def test_paper_s_numbers_are_those_of_its_table():
    gains = {
        network: tuple(
            round(b - a, 2)
            for a, b in zip(PAPER[network, "ccbn"], PAPER[network, "sabn"], strict=True)
        )
        for network in ("autogan", "biggan", "sngan")
    }
    # As the paper prints them in brackets.
    assert gains == {"autogan": (0.29, -1.40), "biggan": (0.10, -0.54), "sngan": (0.13, -1.21)}


def test_runs_that_differ_in_more_are_not_put_into_one_table():
    other = gan_record(seed=1)
    other.config["width"] = 16
    with pytest.raises(UsageError, match=r"seed1 differs in width"):
        tables([gan_record(), other])
    other = gan_record(seed=1, features=gan_record().features | {"sha256": "0" * 64})
    with pytest.raises(UsageError, match="differs in features"):
        tables([gan_record(), other])
    with pytest.raises(UsageError, match="no network has been trained yet"):
        tables([])


def test_measures_bear_the_names_fid_and_is_through_inception_alone():
    inception = {"network": "Inception 2015-12-05", "sha256": "6726825d" + "0" * 56}
    shown = to_text(tables([gan_record(features=inception)]))
    assert "FID, last" in shown
    assert "C10net" not in shown
    shown = to_text(tables([gan_record()]))
    assert "FID-C10net, last" in shown
    assert "FID, last" not in shown
    assert "67.0 % test accuracy" in shown


def test_report_has_tables_figures_and_images_and_is_the_same_each_time(tmp_path):
    records = both(0.1, -0.1, 0.2)
    write_grid(
        torch.randint(0, 256, (2, 10, 3, 4, 4), dtype=torch.uint8),
        tmp_path / "images/sngan-ccbn-seed1.png",
    )
    shown = write_report(records, tmp_path, "robustnorm table1")
    assert "not distinguishable" in shown
    page = (tmp_path / "report.html").read_text()
    for said in ("Table 1", "Figure 2 for SNGAN", "Figure 3", "single samples", "Generated images"):
        assert said in page
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"figure2-sngan.png", "figure3.svg", "images.png"} <= figures
    assert (tmp_path / "tables.md").exists()
    write_report(records, tmp_path, "robustnorm table1")
    assert (tmp_path / "report.html").read_text() == page


def test_grid_has_a_class_a_column_and_a_latent_vector_a_row(tmp_path):
    images = torch.zeros(2, 3, 1, 4, 4, dtype=torch.uint8)
    images[1, 2] = 200
    write_grid(images, tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as image:
        picture = torch.from_numpy(np.array(image)).int()
    assert picture[4:, 8:].eq(200).all()
    assert picture.sum() == 200 * 16
