"""The log of a training: what is written, what is read back."""

import json
import math
from pathlib import Path

import pytest

from rotanext.errors import UserError
from rotanext.training.runlog import append_row, keep_rows, read_rows


def test_a_log_with_a_cut_line_is_read(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(json.dumps({"step": 1}) + '\n{"step": 2, "lo')
    assert read_rows(tmp_path / "m.jsonl") == [{"step": 1}]
    assert read_rows(tmp_path / "missing.jsonl") == []


def test_the_log_forgets_what_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 2, 3)) + '{"st')
    keep_rows(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    rows = [{"step": 1, "loss": 0.123456789012, "lr": 1e-5}, {"step": 2, "loss": math.nan, "lr": math.inf}]
    for row in rows:
        append_row(path, row)
    assert read_rows(path) == [{"step": 1, "loss": 0.12345679, "lr": 1e-5}, {"step": 2, "loss": None, "lr": None}]
    assert "NaN" not in path.read_text()  # which is no JSON


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{", b"[1]", b"7", b"null", b'{"loss": 1}', b'{"step": "1"}', b'{"step": 1.5}', b'{"step": true}',
        b'{"step": 1, "loss": "a"}', b'{"step": 1, "loss": [2]}', b'{"step": 1, "loss": NaN}', b'{"step": 1, "loss": 1e999}',
        b'{"step": 1, "loss": true}', b"\xff\xfe", b"\x00" * 40, b"[" * 100_000, b'{"step": 1, "loss": ' + b"9" * 5000 + b"}",
    ],
    ids=lambda line: line[:24].decode(errors="replace") or "empty",
)  # fmt: skip
def test_damaged_lines_are_passed_over(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 2, "loss": null}\n')
    assert read_rows(path) == [{"step": 1}, {"step": 2, "loss": None}]


@pytest.mark.parametrize(("count", "steps"), [(0, []), (1, [1]), (3, [1, 2, 3]), (9, [1, 2, 3])])
def test_keeping_the_first_rows(count: int, steps: list[int], tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    for step in (1, 2, 3):
        append_row(path, {"step": step})
    keep_rows(path, count)
    assert [row["step"] for row in read_rows(path)] == steps
    append_row(path, {"step": 7})
    assert [row["step"] for row in read_rows(path)] == [*steps, 7]
    assert [file.name for file in tmp_path.iterdir()] == ["m.jsonl"]


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").mkdir()
    with pytest.raises(UserError, match=rf"m\.jsonl: found that it cannot be written .*train --resume {tmp_path}$"):
        append_row(tmp_path / "m.jsonl", {"step": 1})
