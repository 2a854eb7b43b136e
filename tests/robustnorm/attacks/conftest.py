"""Shared by the tests of attacks."""

import pyautoattack
import pytest


@pytest.fixture(scope="module")
def short_autoattack():
    """The authors' AutoAttack takes 10 steps instead of 100: its strength is not tested here."""
    initialize = pyautoattack.AutoAttack.__init__

    def shortened(self, *arguments, **options):
        initialize(self, *arguments, **options)
        for attack in (self.apgd, self.apgd_targeted, self.fab):
            attack.n_iter = 10

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyautoattack.AutoAttack, "__init__", shortened)
        yield
