"""The record of a search: its settings, device, and alpha at regular steps."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustnorm.settings.base import names
from robustnorm.settings.nas import SearchFiles, SearchSettings
from robustnorm.system.errors import RefusedFileError, UsageError
from robustnorm.system.files import write_atomically
from robustnorm.system.sealed import read_sealed, seal
from robustnorm.system.structure import check_structure, count, finite

_SCHEMA = 1
_STRUCTURE = {
    "schema": int,
    "kind": str,
    "settings": {"*": object},
    "dataset": {
        **dict.fromkeys(("name", "sha256"), str),
        **dict.fromkeys(("classes", "weight_images", "alpha_images"), count),
        "image_size": [count],
    },
    "seconds": finite,
    "device": str,
    "versions": {"*": str},
    "history": [
        {
            "step": count,
            "alpha": [[finite]],
            "weight_loss": (float, None),
            "alpha_loss": (float, None),
        }
    ],
}


class Entry(NamedTuple):
    """Alpha after a number of steps, (6, 5), and the mean losses since the previous entry."""

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
        settings: Settings of the search, as plain values.
        dataset: ``name``, ``sha256``, ``classes``, ``image_size``, and the numbers of images for
            weights and alpha.
        history: Entries from the initial alpha to the final one.
        seconds: Time of the steps on ``device``.
        device: Name of the device.
        versions: Versions of packages, and the commit.
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
        """Writes the record atomically."""
        content: dict[str, Any] = {"schema": _SCHEMA, "kind": "nas-search"} | asdict(self)
        content = seal(content | {"history": [entry._asdict() for entry in self.history]})
        # One line per entry, at the end.
        entries = ",\n  ".join(map(json.dumps, content.pop("history")))
        head = json.dumps(content, indent=1).removesuffix("\n}")
        write_atomically(path, f'{head},\n "history": [\n  {entries}\n ]\n}}\n'.encode())

    @classmethod
    def load(cls, path: Path) -> SearchRecord:
        """Reads a record from its file.

        Raises:
            RefusedFileError: When the file is not a record.
        """
        try:
            content = read_sealed(path)
            if (content.get("schema"), content.get("kind")) != (_SCHEMA, "nas-search"):
                raise ValueError(f"schema {_SCHEMA} of kind nas-search is required")
            check_structure(content, _STRUCTURE)
            del content["schema"], content["kind"]
            content["history"] = [Entry(**entry) for entry in content["history"]]
            record = cls(**content)
            shapes = {entry.array.shape for entry in record.history}
            steps = [entry.step for entry in record.history]
            if shapes != {(6, 5)} or steps != sorted(set(steps)):
                raise ValueError("entries of (6, 5) with ascending steps are required")
            if steps[-1] != record.search.stop_step:
                raise ValueError(f"it ends after step {steps[-1]}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RefusedFileError(
                f"{path} is not the record of a search ({error}); remove it"
            ) from error
        return record


def record_path(settings: SearchSettings) -> Path:
    """Returns the path of a search's record."""
    return Path(settings.reports) / str(settings.name) / "records" / f"{settings.run}.json"


def find_record(settings: SearchSettings) -> SearchRecord | None:
    """Returns the record of a search, or None if there is none.

    Raises:
        UsageError: When its settings differ.
        RefusedFileError: When it is damaged.
    """
    path = record_path(settings)
    if not path.exists():
        return None
    record = SearchRecord.load(path)
    differences = settings.differences(record.search, names(SearchFiles))
    if differences:
        raise UsageError(
            f"{path} is a search with other settings ({differences}); use those, choose another "
            "--name, or remove the file"
        )
    return record
