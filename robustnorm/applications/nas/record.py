"""One search on disk: its settings, where it ran, and alpha every so many steps."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustnorm.settings.base import names
from robustnorm.settings.nas import SearchSettings, Where
from robustnorm.system.errors import RefusedFileError, UsageError
from robustnorm.system.files import write_atomically
from robustnorm.system.untrusted import parse_json

_SCHEMA = 1


class Entry(NamedTuple):
    """Alpha after a number of steps, (6, 5), and the mean losses since the entry before."""

    step: int
    alpha: list[list[float]]
    weight_loss: float | None
    alpha_loss: float | None

    @property
    def array(self) -> NDArray[np.float64]:
        return np.array(self.alpha, dtype=np.float64)


@dataclass(frozen=True)
class SearchRecord:
    """A finished search.

    Args:
        settings: Of the search, plain values.
        dataset: ``name``, ``sha256``, ``classes``, ``image_size``, and the numbers of images of
            weights and alpha.
        history: The first entry is alpha as it began, the last the search's result.
        seconds: Of the steps, on ``device``.
        device: As a report names it.
        versions: Of packages, and the commit.
    """

    settings: dict[str, Any]
    dataset: dict[str, Any]
    history: list[Entry]
    seconds: float
    device: str
    versions: dict[str, str]

    @property
    def search(self) -> SearchSettings:
        return SearchSettings.from_dict(self.settings)

    def save(self, path: Path) -> None:
        """Writes the record, whole or not at all."""
        content: dict[str, Any] = {"schema": _SCHEMA, "kind": "nas-search"} | asdict(self)
        del content["history"]  # a line an entry
        entries = ",\n  ".join(json.dumps(entry._asdict()) for entry in self.history)
        head = json.dumps(content, indent=1).removesuffix("\n}")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, f'{head},\n "history": [\n  {entries}\n ]\n}}\n'.encode())

    @classmethod
    def load(cls, path: Path) -> SearchRecord:
        """Returns the record in a file.

        Raises:
            RefusedFileError: When the file holds none.
        """
        try:
            content: dict[str, Any] = parse_json(path.read_bytes())
            if (content.pop("schema"), content.pop("kind")) != (_SCHEMA, "nas-search"):
                raise ValueError(f"schema {_SCHEMA} of a nas-search is required")
            content["history"] = [Entry(**entry) for entry in content["history"]]
            record = cls(**content)
            shapes = {entry.array.shape for entry in record.history}
            steps = [entry.step for entry in record.history]
            if shapes != {(6, 5)} or steps != sorted(set(steps)):
                raise ValueError("entries of (6, 5) with ascending steps are required")
            if steps[-1] != record.search.stop_step:
                raise ValueError(f"it ends after step {steps[-1]}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RefusedFileError(f"{path} holds no search ({error}); remove it") from error
        return record


def record_path(settings: SearchSettings) -> Path:
    """Returns where a search's record lies."""
    return Path(settings.reports) / str(settings.name) / "records" / f"{settings.run}.json"


def find_record(settings: SearchSettings) -> SearchRecord | None:
    """Returns the record of a search, None where there is none.

    Raises:
        UsageError: When it is of other settings.
        RefusedFileError: When it is damaged.
    """
    path = record_path(settings)
    if not path.exists():
        return None
    record = SearchRecord.load(path)
    differences = settings.differences(record.search, names(Where))
    if differences:
        raise UsageError(
            f"{path} is a search with other settings ({differences}); take those, choose another "
            "--name, or remove the file"
        )
    return record
