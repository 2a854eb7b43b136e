"""Strategies: odd values, plain values with a few changes, damaged bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from hypothesis import strategies as st

from benchmarks.soak.damages import DAMAGES, damaged

NUMBERS = (0, 1, -1, 2, 7, 255, 2**31, 2**63, 2**64, 10**12, 10**30, -(10**30), 0.5, -0.5, 1e-320)
NUMBERS += (1e308, -1e308, float("nan"), float("inf"), -float("inf"))
TEXTS = (
    "", " ", "x", "0", "1", "-1", "null", "true", "~", "nan", "inf", ".inf", "1e999", "1e-999",
    "8/255", "1/0", "0/1", "-8/255", "1e400", "2/3/4", "08/255", "1_000", "0x10", "1:30", "٣",
    "best", "last", "epoch1", "epoch", "linf", "l2", "clean", "adv", "single", "none", "pgd-20",
    "worst", "pgd-0", "pgd-99999999999999999999x3-margin-targeted", "torchattacks:", "../x", "/x",
    "a/b", ".", "..", "con", "x\0y", "\x1b[2J", "\u202e", "\ud800", "é", "a" * 300, "a" * 5000,
    "<b>", "a|b", "=1+1", "%s {x} {0}", "{", "[", "[]", "{}", "[1, [2", "{a: 1}", "!!int 3", "&a",
    "*a", "2020-01-01", "99999999999999999999999999", "/", "//", "-", "--", "=", "digits", "🂡",
    "AAAA", "not base64", "iVBORw0KGgo=", "a\nb", "a\rb", "a\u2028b", "\t", "'", '"', "\\", "#",
)  # fmt: skip
DEEP: Any = "x"
for _ in range(200):
    DEEP = [DEEP]
WIDE = {str(number): number for number in range(300)}

texts = st.sampled_from(TEXTS) | st.text(max_size=12)
numbers = st.sampled_from(NUMBERS) | st.integers(-3, 300) | st.floats()
plain = st.none() | st.booleans() | numbers | texts
odd: st.SearchStrategy[Any] = st.one_of(
    plain,
    st.lists(plain, max_size=3),
    st.dictionaries(texts, plain, max_size=3),
    st.sampled_from([[[]], [{}], {"a": {}}, [None] * 50, DEEP, WIDE, {"": None}]),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the path of each value, of the first few of a list."""
    if path:
        yield path
    entries = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        entries = list(enumerate(value))[:3]
    for key, entry in entries:
        yield from places(entry, (*path, key))


def _copy(value: Any) -> Any:
    return json.loads(json.dumps(value))


@st.composite
def changed(draw: st.DrawFn, content: Any, most: int = 2) -> Any:
    """Plain values of which a few are others, gone, additional, or those of another place."""
    copy = _copy(content)
    for _ in range(draw(st.integers(1, most))):
        paths = list(places(copy))
        if not paths:
            break
        path = draw(st.sampled_from(paths))
        place = copy
        for key in path[:-1]:
            place = place[key]
        match draw(st.sampled_from(("other", "other", "other", "gone", "more", "moved"))):
            case "other":
                place[path[-1]] = _copy(draw(odd))
            case "gone":
                del place[path[-1]]
            case "more" if isinstance(place, dict):
                place[draw(texts)] = _copy(draw(odd))
            case "more":
                place.append(_copy(draw(odd)))
            case "moved":
                source: Any = copy
                for key in draw(st.sampled_from(paths)):
                    source = source[key]
                place[path[-1]] = _copy(source)
    return copy


def hurt(data: bytes, most: int = 2) -> st.SearchStrategy[bytes]:
    """The bytes after one or a few damages."""

    def make(kinds: Sequence[str], number: int) -> bytes:
        dice, found = Random(number), data
        for kind in kinds:
            found = damaged(found, kind, dice) if found else found
        return found

    kinds = st.lists(st.sampled_from(list(DAMAGES)), min_size=1, max_size=most)
    return st.builds(make, kinds, st.integers(0, 2**40))
