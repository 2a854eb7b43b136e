"""Every public name has an example that the tests run."""

import doctest

import pytest

import robustnorm
import robustnorm.attacks as attacks
from robustnorm import norms

PUBLIC = [
    pytest.param(module, name, id=f"{module.__name__}.{name}")
    for module in (robustnorm, norms, attacks)
    for name in module.__all__
]


@pytest.mark.parametrize(("module", "name"), PUBLIC)
def test_public_name_has_an_example(module, name):
    thing = getattr(module, name)
    # A registry is an object, which has no docstring of its own: its module's shows it.
    documented = module if name.isupper() and not isinstance(thing, type) else thing
    parsed = doctest.DocTestParser().get_examples(documented.__doc__)
    assert any(name in example.source + example.want for example in parsed)
    # Only what is written in these packages is collected (pyproject.toml, testpaths).
    home = documented.__name__ if documented is module else documented.__module__
    assert home.partition(".")[0] in ("robustnorm", "attacks")
