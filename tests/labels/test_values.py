"""Values of label files that somebody else wrote."""

import math
from pathlib import Path

import numpy as np
import pytest

from rotanext.errors import UserError
from rotanext.labels.values import (
    Invalid,
    class_name,
    flag,
    four_corners,
    half_turn,
    items,
    level,
    number,
    points,
    read_bytes,
    read_json,
    read_xml,
    record,
    side,
    tell,
    upright_box,
    xml_attribute,
    xml_text,
)


@pytest.mark.parametrize(("value", "wanted"), [("false", 0), ("true", 1), (True, 1), (0, 0), (" 2 ", 2), ("1", 1), (2, 2)])
def test_words_for_difficulty(value: object, wanted: int) -> None:
    assert level(value) == wanted


@pytest.mark.parametrize("value", ["1       xyz", "3", -1, "9" * 5000, None, [1], 2.5])
def test_what_is_no_difficulty(value: object) -> None:
    with pytest.raises(Invalid) as refused:
        level(value)
    assert refused.value.expected == "a difficulty of 0, 1 or 2"


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(3, 3.0), ("4.5", 4.5), (" 1e2 ", 100.0), (-1e6, -1e6)],
)
def test_numbers(value: object, wanted: float) -> None:
    assert number(value) == wanted


@pytest.mark.parametrize("value", [True, None, "1_000", "x", "", "nan", float("inf"), 1e6 + 1, 10**400, [1]])
def test_what_is_no_number(value: object) -> None:
    with pytest.raises(Invalid) as refused:
        number(value, "a width")
    assert refused.value.expected.startswith("a width")
    assert len(refused.value.found) < 80  # whatever stood in the file


@pytest.mark.parametrize(("value", "wanted"), [(1, 1), ("80", 80), (80.0, 80), (1_000_000, 1_000_000)])
def test_sides(value: object, wanted: int) -> None:
    assert side(value) == wanted


@pytest.mark.parametrize("value", [0, -3, 2.5, "x", 1_000_001, True])
def test_what_is_no_side(value: object) -> None:
    with pytest.raises(Invalid):
        side(value)


@pytest.mark.parametrize(("value", "wanted"), [("ship", "ship"), ("  ship \n yard ", "ship yard"), ("x" * 100, "x" * 100)])
def test_class_names(value: object, wanted: str) -> None:
    assert class_name(value) == wanted


@pytest.mark.parametrize("value", ["", "  ", "x" * 101, "a\0b", "\u200b", 3, None])
def test_what_is_no_class_name(value: object) -> None:
    with pytest.raises(Invalid) as refused:
        class_name(value)
    assert "at most 100 printable characters" in refused.value.expected


@pytest.mark.parametrize("value", ["yes", "TRUE", 1, True, " 1 "])
def test_flags_that_are_set(value: object) -> None:
    assert flag(value)


@pytest.mark.parametrize("value", ["no", "False", 0, False, ""])
def test_flags_that_are_not_set(value: object) -> None:
    assert not flag(value)


@pytest.mark.parametrize("value", ["maybe", 2, None, 1.0, "1" * 30])
def test_what_is_no_flag(value: object) -> None:
    with pytest.raises(Invalid) as refused:
        flag(value)
    assert refused.value.expected == "0 or 1"


def test_points_are_pairs_or_numbers_by_turns() -> None:
    wanted = [[1, 2], [3, 4], [5, 6]]
    assert points(wanted).tolist() == points([1, 2, 3, 4, 5, 6]).tolist() == points([("1", "2"), (3, 4), (5, 6)]).tolist() == wanted


POINTLESS = (  # what stands where an outline should, and what is found
    ("1,2", "an outline that is '1,2'"),
    ([[1, 2], [3, 4, 5], [5, 6]], "a point that has not two numbers"),
    ([1, 2, 3, 4], "an outline of 4 numbers"),
    ([1, 2, 3, 4, 5, 6, 7], "an outline of 7 numbers"),
    ([[1, 2], 3, 4, 5, 6], "an outline of 5 numbers"),
    ([1, 2, 3, 4, 5, None], "nothing"),
    ([], "an outline of 0 numbers"),
)


@pytest.mark.parametrize(("value", "found"), POINTLESS)
def test_what_is_no_outline(value: object, found: str) -> None:
    with pytest.raises(Invalid) as refused:
        points(value)
    assert refused.value.found == found


def test_upright_boxes_run_from_the_top_left_corner() -> None:
    assert upright_box(1, 2, 5, 4).tolist() == [[1, 2], [5, 2], [5, 4], [1, 4]]
    for ends in ((5, 2, 1, 4), (1, 4, 5, 2)):
        with pytest.raises(Invalid) as refused:
            upright_box(*ends)
        assert refused.value.expected == "left before right and top before bottom"


def test_four_corners_of_any_outline() -> None:
    square = np.array([[0, 0], [4, 0], [4, 2], [0, 2.0]])
    for outline in (square, np.concatenate([square, square[:1]])):  # a repeated last point is none
        corners, exact = four_corners(outline)
        assert exact
        np.testing.assert_array_equal(corners, square)
    corners, exact = four_corners(np.insert(square, 1, [2, 0.5], 0))
    assert not exact
    assert sorted(np.round(corners, 6).tolist()) == [[0, 0], [0, 2], [4, 0], [4, 2]]
    with pytest.raises(Invalid, match="encloses no area"):
        four_corners(np.array([[0, 0], [1, 1], [2, 2.0]]))


@pytest.mark.parametrize("start", [0.0, -math.pi / 2])
def test_half_turns_stay_in_range_once_written(start: float) -> None:
    angles = np.array([start, start - 1e-10, start + math.pi, start + math.pi - 1e-10, start + 1, start + 1 - math.pi])
    found = half_turn(angles, start)
    assert ((found >= start) & (found < start + math.pi)).all()
    np.testing.assert_allclose(np.sin(found - angles), 0, atol=2e-8)
    for angle in found:
        assert start <= float(tell(angle, 9)) + 1e-9
        assert float(tell(angle, 9)) < start + math.pi


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(1.0, 4, "1"), (-0.00001, 4, "0"), (1.23456, 4, "1.2346"), (100.0, 0, "100"), (2.50, 4, "2.5"), (1e6, 4, "1000000")],
)
def test_numbers_for_a_file(value: float, digits: int, text: str) -> None:
    assert tell(value, digits) == text


def test_texts_for_xml_come_back(tmp_path: Path) -> None:
    odd = "é<&>\"' ]]>"
    (tmp_path / "a.xml").write_text(f"<a b={xml_attribute(odd)}>\n<c>{xml_text(odd)}</c><c>second</c></a>", encoding="utf-8")
    root = read_xml(tmp_path / "a.xml", ("a",))
    assert root.attribute("b") == root.value("c") == odd
    assert [child.text for child in root.all("c")] == [odd, "second"]
    assert (root.line, root.child("c").line) == (1, 2)
    assert root.value("d", "none") == "none"
    for wrong, found in ((lambda: root.value("d"), "<a> without <d>"), (lambda: root.attribute("d"), "<a> without d")):
        with pytest.raises(Invalid) as refused:
            wrong()
        assert refused.value.found == found


XMLS = (  # what a file holds, and the line and the reason that are told
    (b"<a>\n<b></a>", ":2: found what is no XML"),
    (b"", ": found what is no XML"),
    (b'<?xml version="1.0" encoding="klingon"?><a/>', "found what is no XML"),
    (b"<b/>", ":1: found <b>; expected <a>"),
    (b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>', ":1: found a document type or entities"),
    (b"<a>" * 61 + b"</a>" * 61, "nested more than 60 deep"),
)


@pytest.mark.parametrize(("data", "message"), XMLS, ids=range(len(XMLS)))
def test_xml_that_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_bytes(data)
    with pytest.raises(UserError) as refused:
        read_xml(tmp_path / "a.xml", ("a",))
    assert message in str(refused.value)


def test_json_that_is_none(tmp_path: Path) -> None:
    for data in (b"{", b"\xff\xfe\x00", b"[" * 100_000, b""):
        (tmp_path / "a.json").write_bytes(data)
        with pytest.raises(UserError, match="a file that is no JSON"):
            read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"a": [1]}')
    assert read_json(tmp_path / "a.json") == {"a": [1]}


def test_files_that_cannot_be_read_or_are_huge(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_bytes(tmp_path / "none")
    with pytest.raises(UserError, match="cannot be read"):
        read_bytes(tmp_path)
    with (tmp_path / "huge").open("wb") as file:
        file.truncate((2 << 30) + 1)  # takes no room on the disk
    with pytest.raises(UserError, match="less than 2 GB"):
        read_bytes(tmp_path / "huge")


def test_lists_and_objects_of_json() -> None:
    assert items([1], "points") == [1]
    assert record({"a": 1}, "a shape") == {"a": 1}
    with pytest.raises(Invalid, match="points that are a dict"):
        items({}, "points")
    with pytest.raises(Invalid, match="a shape that is nothing"):
        record(None, "a shape")
    with pytest.raises(Invalid, match="a shape that is a number of many digits"):
        record(10**4000, "a shape")
