"""The log of a training: one JSON object a line, rows with a `step`."""

import json
import math
from pathlib import Path
from typing import Any

from rotanext.errors import UserError, explain
from rotanext.system.files import write_bytes
from rotanext.training.folder import to_go_on


def append_row(path: Path, row: dict[str, float]) -> None:
    """Add a row; values that are not finite become null, as JSON has no NaN. Raises UserError where it cannot be written."""
    values = {key: round(value, 8) if math.isfinite(value) else None for key, value in row.items()}
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
    except OSError as error:
        found = f"that it cannot be written ({error.strerror})"
        raise UserError(explain(path, found, "a file with room", to_go_on(path.parent))) from None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows; none for a missing file, and without lines that a crash or a full disk damaged."""
    rows = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            row = json.loads(line.decode())
            if isinstance(row, dict) and type(row["step"]) is int and all(map(_is_figure, row.values())):
                rows.append(row)
        except (ValueError, KeyError, OverflowError, RecursionError):  # ValueError: neither JSON nor UTF-8
            continue
    return rows


def _is_figure(value: object) -> bool:
    return value is None or (type(value) in (int, float) and math.isfinite(value))  # type: ignore[arg-type]


def keep_rows(path: Path, count: int) -> None:
    """Forget all but the first rows: a resumed training does the others again."""
    rows = [json.dumps(row) + "\n" for row in read_rows(path)[:count]]
    write_bytes(path, "".join(rows).encode(), durable=True, advice=to_go_on(path.parent))
