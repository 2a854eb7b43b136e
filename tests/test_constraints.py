import re
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"


def test_every_pin_is_a_version_that_the_public_index_can_have():
    """A local version such as 2.13.0+cpu exists on one machine's index only."""
    for pin in CONSTRAINTS.read_text().splitlines():
        assert re.fullmatch(r"[\w.-]+==\d[\w.]*", pin), pin
