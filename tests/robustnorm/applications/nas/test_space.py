import pytest

from robustnorm.applications.nas.space import (
    CONV_1X1,
    CONV_3X3,
    EDGES,
    NONE,
    POOL,
    SKIP,
    all_cells,
    from_string,
    num_paths,
    number,
    path,
    to_string,
)


def test_cells_have_5_to_the_6_different_strings_and_come_back_from_them():
    cells = [tuple(cell) for cell in all_cells().tolist()]
    strings = [to_string(cell) for cell in cells]
    assert len(set(strings)) == 5**6 == 15_625
    assert [from_string(text) for text in strings] == cells


def test_cells_stand_in_the_order_of_their_numbers():
    assert [number(cell) for cell in all_cells().tolist()] == list(range(15_625))


def test_string_is_the_benchmark_s():
    cell = (CONV_3X3, CONV_1X1, NONE, SKIP, POOL, CONV_3X3)
    assert to_string(cell) == (
        "|nor_conv_3x3~0|+|nor_conv_1x1~0|none~1|+|skip_connect~0|avg_pool_3x3~1|nor_conv_3x3~2|"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "|none~0|",
        "|none~0|+|none~0|none~1|+|none~0|none~1|none~1|",
        "|none~0|+|none~0|none~1|+|none~0|none~1|max_pool~2|",
        "|none~0|none~0|none~1|none~0|none~1|none~2|",
    ],
)
def test_other_strings_are_refused(text):
    with pytest.raises(ValueError, match=r"a cell such as .* is required, got"):
        from_string(text)


def test_paths_by_edge():
    sources = [source for _, source in EDGES]
    assert [num_paths(source, "release") for source in sources] == [1, 1, 5, 1, 5, 25]
    assert [num_paths(source, "paper") for source in sources] == [1, 1, 5, 1, 5, 5]


def test_release_s_path_is_the_sum_of_powers_of_five():
    sampled = (4, 2, 3, 1, 1, 1)
    assert path(0, sampled, "release") == 0
    assert path(1, sampled, "release") == 4
    assert path(2, sampled, "release") == 2 + 5 * 3
    every = {path(2, (0, a, b, 0, 0, 0), "release") for a in range(5) for b in range(5)}
    assert every == set(range(25))


def test_paper_s_path_is_the_operation_of_the_node_before():
    sampled = (4, 2, 3, 1, 1, 1)
    assert [path(source, sampled, "paper") for source in range(3)] == [0, 4, 3]
