import io
from importlib.resources import files

import numpy as np
import pytest

from robustnorm.applications.nas.benchmark import SETS, accuracies, compact, set_statistics
from robustnorm.applications.nas.space import (
    CONV_3X3,
    NONE,
    SKIP,
    all_cells,
    from_string,
    number,
    to_string,
)


def percent(cell):
    return np.round(100 * accuracies()[number(cell)], 2).tolist()


def test_optimum_is_the_paper_s():
    assert [round(100 * set_statistics(place).best, 2) for place in range(3)] == [
        94.37,
        73.51,
        47.31,
    ]
    start = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|"
    # Two cells are best on CIFAR-10; the other exchanges the last two operations.
    assert percent(from_string(start + "nor_conv_1x1~2|"))[0] == 94.37
    assert to_string(set_statistics(1).best_cell) == start + "nor_conv_3x3~2|"
    assert to_string(set_statistics(2).best_cell) == (
        "|nor_conv_1x1~0|+|nor_conv_1x1~0|nor_conv_3x3~1|"
        "+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
    )


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (SKIP, [54.30, 15.61, 16.32]),
        (NONE, [10.00, 1.00, 0.83]),
        (CONV_3X3, [93.76, 71.11, 41.44]),
    ],
)
def test_cells_of_one_operation(operation, expected):
    assert percent((operation,) * 6) == expected


def test_random_cell():
    found = set_statistics(1)
    shown = [round(100 * value, 1) for value in (found.mean, found.median, found.std)]
    assert shown == [61.4, 65.3, 12.2]
    assert [round(100 * limit, 1) for limit in found.middle] == [42.5, 70.1]


def test_packaged_file_is_compact():
    data = (files("robustnorm.applications.nas") / "nasbench201.npz").read_bytes()
    assert len(data) <= 200_000


def published(rows):
    header = (
        "CIFAR10TestAccuracy200Epochs,CIFAR100TestAccuracy200Epochs,"
        "ImageNetTestAccuracy200Epochs,ArchitectureString\n"
    )
    return io.StringIO(header + "".join(rows))


def rows():
    # As published, with the rounding of float32 in two of the columns.
    for cell, (first, *others) in zip(all_cells(), 100 * accuracies(), strict=True):
        single = [float(np.float32(value)) for value in others]
        yield f"{float(first)},{single[0]},{single[1]},{to_string(cell)}\n"


def test_packaged_file_follows_from_the_published_one():
    made = compact(published(reversed(list(rows()))))
    with (
        (files("robustnorm.applications.nas") / "nasbench201.npz").open("rb") as file,
        np.load(file) as packaged,
    ):
        assert set(packaged) == set(SETS)
        for name in SETS:
            np.testing.assert_array_equal(packaged[name], made[name])


def test_published_file_without_all_cells_is_refused():
    with pytest.raises(ValueError, match="each cell needs accuracies"):
        compact(published(list(rows())[:-1]))
