"""Single bits flipped in every kind of record that the applications write and read again."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from robustnorm.applications.gan.record import GanRecord
from robustnorm.applications.nas.record import SearchRecord
from robustnorm.applications.style.results import read_records
from robustnorm.system import sealed
from robustnorm.system.errors import UserError
from robustnorm.system.sealed import seal, unseal
from robustnorm.system.untrusted import parse_json

REPORTS = Path(__file__).parents[2] / "reports"


def gan(path):
    return json.dumps(vars(GanRecord.load(path)), default=repr)


def search(path):
    return repr(SearchRecord.load(path))


def style(path):
    return repr(read_records(path.parent))


KINDS = {"table1": gan, "table2": search, "figure7": style}


@pytest.mark.parametrize("kind", KINDS)
def test_old_records_open_without_a_hash_and_no_flipped_bit_of_a_sealed_one_passes(
    tmp_path, kind, caplog
):
    read = KINDS[kind]
    source = next((REPORTS / kind / "records").glob("*.json"))
    sealed._log_unsealed.cache_clear()
    with caplog.at_level(logging.INFO):
        read(source)  # from before records were sealed
    assert f"{source.parent} has files without a hash" in caplog.text
    content, _ = unseal(parse_json(source.read_text()))
    path = tmp_path / source.name
    path.write_text(json.dumps(seal(content)))
    data, expected = path.read_bytes(), read(path)
    generator = np.random.default_rng(0)
    for bit in generator.choice(8 * len(data), 60, replace=False):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            assert read(path) == expected
        except UserError:
            continue
