"""The page of networks side by side, or of one network."""

from __future__ import annotations

from collections.abc import Sequence

from robustnorm.reporting import drawing, figures
from robustnorm.reporting.model_records import ModelRecords
from robustnorm.reporting.notes import attacks_text
from robustnorm.reporting.provenance import provenance
from robustnorm.reporting.render import Cell, Table
from robustnorm.reporting.sections import Drawing, Section, render_sections
from robustnorm.reporting.side_by_side import (
    accuracy_table,
    check_table,
    significance,
    under_attack,
    verdict_table,
)
from robustnorm.reporting.summary import summary


def comparison_page(
    models: Sequence[ModelRecords], *, title: str, command: str
) -> tuple[str, dict[str, bytes]]:
    """Returns the page and its figure files (content by name); see ``render_sections``.

    Args:
        models: From ``name_models``.
        title: Title of the page.
        command: The command that makes the page.

    Raises:
        RecordError: When the records have no PGD attack in common.
    """
    record, deciding = models[0].records[0], under_attack(models)
    origin, tests = provenance(models), significance(models)
    looks = drawing.looks(models)
    classes = Drawing(
        "classes",
        f"SA and {deciding[-1]} of each class, through the adversarial branch or the only one. "
        "Bars: 95 % Wilson intervals over the class's images. At most "
        f"{figures.MOST_CLASSES} classes are shown, those with the lowest RA.",
        f"Accuracy of each class for {', '.join(model.name for model in models)}.",
        lambda: figures.per_class(models, looks, deciding[-1]),
    )
    facts = {
        "Data": record.dataset["name"],
        "Test images": record.sample,
        "Attack": attacks_text(record.protocol, "ε ="),
        "Models": ", ".join(model.name for model in models),
    }
    sections = [
        Section("Accuracy", [accuracy_table(models)]),
        *[Section("Paired tests", [tests])] * bool(tests.rows),
        Section("Checks", [check_table(models)]),
        Section("Classes", [], [classes]),
        Section("Verdicts", [verdict_table(models)]),
        Section("Provenance", [origin.runs, _versions(origin.versions | origin.data)]),
    ]
    named = {
        text: looks[model.name]
        for model in models
        for text in (model.name, *map(model.label, model.records[0].branches))
    }
    return render_sections(
        title=title,
        summary=summary(models, deciding[-1], together=True),
        facts=facts,
        sections=sections,
        looks=named,
        command=command,
    )


def _versions(found: dict[str, str]) -> Table:
    rows: list[tuple[Cell, ...]] = list(found.items())
    return Table("versions", "Versions and data", ("What", "Version or hash"), rows, [])
