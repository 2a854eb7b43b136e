"""The report of networks from elsewhere, and of unusual names."""

from dataclasses import replace

from page_reader import Page
from record_factory import make_full_record, make_record

from robustnorm.reporting.page import render_page


def test_names_that_begin_with_a_digit_keep_their_hyphens():
    """Their columns look like columns of numbers, whose minus signs are longer."""
    text, _ = render_page([make_record("3-layer-net", name="2026-11-26")])
    (rows,) = (rows for title, rows in Page(text).tables.items() if title.startswith("Table 3"))
    assert "3-layer-net" in [cell for row in rows for cell in row]
    assert "2026−11−26" not in text


def test_page_asks_for_no_command_on_networks_given_in_python():
    """No command evaluates those, and the function has neither checks nor examples."""
    given = make_record("net", seed=0)
    given = replace(given, checkpoint=given.checkpoint | {"given": "Net"})
    text = Page(render_page([given])[0]).text
    for said in ("checks were not run", "no curve", "keep no images", "were not compared"):
        assert said in text
    assert "To change that" not in text
    both = Page(render_page([make_full_record("bn"), given])[0]).text
    assert "Not in the records of" not in both


def test_page_asks_for_no_training_of_networks_from_elsewhere():
    file = {"imported": {"file": "wrn.pt", "sha256": "12", "layout": "plain"}}
    theirs = make_record("bn", seed=1)
    theirs = replace(theirs, checkpoint=theirs.checkpoint | file)
    text = Page(render_page([theirs])[0]).text
    assert text.count("how their training went is not known") == 2
    assert "no training history" not in text
    assert "test_curve" not in text
    both = Page(render_page([make_full_record("bn"), theirs])[0]).text
    assert "Not in the records of BN, wrn.pt: run make eval for them." not in both  # of history
    assert "Not in the records of BN, wrn.pt: run make eval CHECKS=full for them." in both
