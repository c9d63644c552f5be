"""Labelled objects of one image: chosen by index or mask, in the order of the file."""

import numpy as np
import pytest

from rotanext.objects import Fault, Objects

OBJECTS = Objects(np.arange(24, dtype=np.float64).reshape(3, 4, 2), ["plane", "ship", "harbor"], np.array([0, 1, 2]))


@pytest.mark.parametrize(
    ("index", "names"),
    [
        (np.array([2, 0]), ["harbor", "plane"]),
        (np.array([1, 1]), ["ship", "ship"]),
        (np.array([True, False, True]), ["plane", "harbor"]),
        (np.array([], np.int64), []),
        (np.zeros(3, bool), []),
    ],
    ids=["indices", "one twice", "mask", "no index", "nothing in the mask"],
)
def test_objects_are_taken_whole(index: np.ndarray, names: list[str]) -> None:
    taken = OBJECTS.take(index)
    assert taken.names == names
    assert len(taken) == len(names)
    np.testing.assert_array_equal(taken.corners, OBJECTS.corners[index])
    np.testing.assert_array_equal(taken.difficult, OBJECTS.difficult[index])


def test_an_index_beyond_the_last_object_is_an_error() -> None:
    with pytest.raises(IndexError):
        OBJECTS.take(np.array([3]))


def test_a_fault_says_what_to_do_where_nothing_else_is_known() -> None:
    assert Fault("3 fields", "ten").advice == "Correct or remove the line."
    assert Fault("3 fields", "ten", "Export it again.").advice == "Export it again."
