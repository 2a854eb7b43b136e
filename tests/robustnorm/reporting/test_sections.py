import pytest

from robustnorm.reporting.drawing import PALETTE, Look, legend, panels
from robustnorm.reporting.render import Table
from robustnorm.reporting.sections import Drawing, Section, write_sections

LOOKS = {"one": Look(*PALETTE[0], "o")}


def draw():
    figure, (panel,) = panels(1, 1, 1.0)
    panel.plot([0, 1], [0, 1], color=LOOKS["one"].color)
    legend(figure, LOOKS)
    return figure


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    rows = [("one", 0.5), ("<b>two</b>", 0.25)]
    made = [
        Table(name, f"Table {name}", ("Name", "Value %"), rows, ["a shared note", f"note {name}"])
        for name in ("a", "b")
    ]
    paths = write_sections(
        folder,
        title="A <title>",
        summary="What it says.",
        facts={"Data": "noise & more"},
        sections=[
            Section("First", tables=made[:1]),
            Section("Second", made[1:], [Drawing("lines", "A caption.", "A line.", draw)]),
        ],
        looks=LOOKS,
        command="make it",
    )
    return folder, paths, (folder / "report.html").read_text()


def test_page_and_figures_are_written(written):
    folder, paths, page = written
    names = ["report.html", "figures/lines.svg", "figures/lines.png"]
    assert paths == [folder / name for name in names]
    for said in ("What it says.", "make it", "A caption.", "<svg", ">First<", "50.00"):
        assert said in page


def test_all_text_is_escaped(written):
    _, _, page = written
    assert "A &lt;title&gt;" in page
    assert "noise &amp; more" in page
    assert "<b>" not in page


def test_note_that_tables_share_stands_once(written):
    _, _, page = written
    assert [page.count(note) for note in ("a shared note", "note a", "note b")] == [1, 1, 1]


def test_names_that_figures_draw_show_their_color(written):
    _, _, page = written
    assert page.count('class="dot" style="background: var(--model-0)"') == 2


def test_nothing_is_loaded_from_elsewhere(written):
    _, _, page = written
    assert "src=" not in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http-equiv", "")
