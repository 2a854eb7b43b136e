"""What an evaluation in Python returns: verdicts that become a table, a record or a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, overload

from torch import Tensor, nn

from robustnorm.attacks.contract import is_training
from robustnorm.attacks.inputs import admit_images, admit_labels
from robustnorm.data.stored import is_stored
from robustnorm.evaluation.statistics import wilson
from robustnorm.records.digests import digest_of_images, digest_of_network
from robustnorm.records.record import Record, Verdict
from robustnorm.records.verify import Verification, check_verdicts
from robustnorm.reporting.notes import setting_notes
from robustnorm.reporting.render import to_text
from robustnorm.reporting.side_by_side import name_models, verdict_table
from robustnorm.reporting.verification import conclude
from robustnorm.system.errors import UsageError
from robustnorm.system.extras import extra
from robustnorm.system.files import write_atomically

if TYPE_CHECKING:
    from pandas import DataFrame


class Results(Sequence[Verdict]):
    """The verdicts of an evaluation, in order; they print as a table.

    Args:
        record: The record of the evaluation.
        kept: Folder of the adversarial images, if they were kept.
    """

    def __init__(self, record: Record, kept: Path | None = None) -> None:
        self.record = record
        self._kept = kept
        self._model = name_models([record], [record.name])

    @overload
    def __getitem__(self, index: int) -> Verdict: ...
    @overload
    def __getitem__(self, index: slice) -> list[Verdict]: ...
    def __getitem__(self, index: int | slice) -> Verdict | list[Verdict]:
        return self.record.verdicts[index]

    def __len__(self) -> int:
        return len(self.record.verdicts)

    def __repr__(self) -> str:
        """Returns every verdict's accuracy with its interval, and how it was measured."""
        every = verdict_table(self._model)
        table = replace(
            every,
            title=f"{self._model[0].name} on {self.record.dataset['name']}",
            columns=every.columns[1:],
            rows=[row[1:] for row in every.rows],
            notes=[*setting_notes(self._model, paper=False), *every.notes],
        )
        return to_text([table]).rstrip()

    def to_dataframe(self) -> DataFrame:
        """Returns one row per verdict, with accuracies and interval limits as fractions.

        Raises:
            ImportError: When pandas is not installed.
        """
        with extra("pandas", "a data frame needs pandas"):
            import pandas as pd
        rows = []
        for verdict in self:
            n, attack = len(verdict.correct), self.record.attack_on(verdict.attack_branch)
            low, high = wilson(int(verdict.correct.sum()), n)
            kept = asdict(verdict)
            kept.pop("correct")
            rows.append(
                {"network": self._model[0].name, "data": self.record.dataset["name"], "n": n}
                | kept
                | {"accuracy": verdict.accuracy, "low": low, "high": high}
                | {key: attack[key] for key in ("threat_model", "epsilon", "step_size")}
            )
        return pd.DataFrame(rows)

    def save(self, path: str | Path) -> Path:
        """Writes the result record, a JSON file that ``robustnorm compare`` and ``report`` read."""
        self.record.save(Path(path))
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Results:
        """Reads a result record, also one that a command wrote.

        Raises:
            UsageError: When there is no such file.
            RecordError: When it is not a record.
        """
        record = Record.load(Path(path))
        return cls(record, Path(path).parent / Path(record.images.get("folder", "")).name)

    def verify(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, kept: str | Path | None = None
    ) -> str:
        """Checks the verdicts on clean and on kept images again; returns a table of the checks.

        Args:
            model: The network, in evaluation mode.
            images: The images that were evaluated, in the same order and any form that
                ``evaluate`` takes.
            labels: Their labels, likewise.
            kept: Folder of the adversarial images; by default that of the evaluation, or for a
                loaded record the one beside its file.

        Raises:
            CheckFailed: When a check fails; names the first failures.
            UsageError: When the record is that of a run, or the model in training mode.
            InputError: When these are no images or labels.
        """
        if not self.record.given:
            raise UsageError(
                f"{self._model[0].name} is a run, not a network given in Python; check its record "
                "with robustnorm verify"
            )
        if is_training(model):
            raise UsageError("verify needs the model in evaluation mode: call model.eval() first")
        images = images if is_stored(images) else admit_images(images, integers=True)
        labels = admit_labels(labels, images)
        origin = Verification("network and data")
        checkpoint, dataset = self.record.checkpoint["sha256"], self.record.dataset["images"]
        origin.add(digest_of_network(model) == checkpoint, "it is another network")
        origin.add(digest_of_images(images, labels) == dataset, "these are other images or labels")
        findings = [origin]
        if not origin.failed:
            folder = Path(kept or self._kept or "")
            findings += check_verdicts(self.record, model, images, labels, folder)
        return conclude(self._model[0].name, self.record, findings)

    def report(self, path: str | Path) -> Path:
        """Writes one self-contained HTML page.

        Args:
            path: Path of the file; must end in ``.html``.

        Raises:
            UsageError: When the path ends otherwise.
            ImportError: When the packages of the extra "report" are not installed.
        """
        path = Path(path)
        if path.suffix.lower() not in (".html", ".htm"):
            raise UsageError(f"the page's path must end in .html, got {path}")
        with extra("report", "a report needs matplotlib and jinja2"):
            from robustnorm.reporting.comparison_page import comparison_page
        page, _ = comparison_page(
            self._model,
            title=f"{self._model[0].name} on {self.record.dataset['name']}",
            command="robustnorm.evaluate(...).report(...)",
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, page.encode())
        return path
