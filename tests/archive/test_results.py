"""What an archive leaves behind: names of results, journal, manifest."""

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from archives import manifest
from rotanext.archive import results
from rotanext.archive.results import Journal, Record, Target, claim, result_name, to_parquet
from rotanext.boxes import CONVENTION
from rotanext.detections import Detections
from rotanext.errors import UserError

pq = pytest.importorskip("pyarrow.parquet")


def test_names_of_results() -> None:
    names = [
        result_name(address) for address in ("/a/x.tif", "/b/x.tif", "/a/\udce4.tif", "/a/\udce5.tif", "/a/" + "ä" * 200 + ".tif")
    ]
    assert len(set(names)) == 5
    assert all(len(name.encode()) < 200 for name in names)
    assert names[2].startswith("?-")


def test_the_manifest_is_whole_whatever_happened(tmp_path: Path) -> None:
    """Parts of a run that was killed, and a result whose record it never wrote, are in the next run's manifest."""
    target = Target(str(tmp_path))
    killed = Journal(target)
    killed.add(Record("a", "failed", "no"))
    killed.add(Record("b", "done", file="scenes/b-1.parquet"))
    killed.flush()
    killed.add(Record("never", "failed", "written"))
    for name in ("b-1", "c-2"):
        record = Record(name[0], "done", file=f"scenes/{name}.parquet", detections=0)
        empty = Detections(torch.zeros(0, 5), torch.zeros(0), torch.zeros(0, dtype=torch.long), ("plane",))
        target.write(record.file, to_parquet(record, empty, None))
    after = Journal(target)
    after.add(Record("a", "done", file="scenes/a-0.parquet"))
    assert after.compact() == 3
    assert {name: row["status"] for name, row in manifest(tmp_path).items()} == {"a": "done", "b": "done", "c": "done"}
    assert not list((tmp_path / "journal").iterdir())
    assert Journal(target).compact() == 3


FOUND = Detections(
    torch.tensor([[10.25, 20, 8, 4, 0.5], [30, 40, 6, 6, -0.25]]), torch.tensor([0.9, 0.3]), torch.tensor([1, 0]), ("plane", "ship")
)


def test_a_result_holds_its_detections_and_its_record() -> None:
    record = Record("a.tif", "done", width=64, file="scenes/a-1.parquet", detections=2)
    data = io.BytesIO(to_parquet(record, FOUND, None))
    table = pq.read_table(data)
    assert table.column_names == ["class", "score", "cx", "cy", "w", "h", "angle"]
    assert table["class"].to_pylist() == ["ship", "plane"]
    assert table["cx"].to_pylist() == [10.25, 30]
    said = json.loads(table.schema.metadata[b"rotanext"])
    assert said == {"record": asdict(record), "box_convention": CONVENTION}


def test_files_of_a_target(tmp_path: Path) -> None:
    target = Target(f"{tmp_path}/out/")
    assert target.address == f"{tmp_path}/out"
    assert target.read("run.json") is None
    assert target.names("scenes") == set()
    for name in ("a.parquet", ".b.parquet.1.part", "notes.md"):
        target.write(f"scenes/{name}", b"x")
    assert target.names("scenes") == {"a.parquet"}
    target.write("scenes/a.parquet", b"y")
    assert target.read("scenes/a.parquet") == b"y"
    target.remove("scenes/a.parquet")
    target.remove("scenes/a.parquet")  # it may be gone already
    assert target.names("scenes") == set()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"score": 0.1, "predict": {"tile": 64, "overlap": 8}}, None),
        ({"score": 0.2, "predict": {"tile": 64, "overlap": 8}}, "results with another score; expected those of this run"),
        ({"score": 0.1, "predict": {"tile": 32, "overlap": 4}}, "another predict.overlap and another predict.tile;"),
        ({"score": 0.1, "predict": {"tile": 64}}, "another predict.overlap;"),
        ({"score": 0.1, "predict": {"tile": 64, "overlap": 8}, "stretch": "full"}, "another stretch;"),
    ],
    ids=["the same", "score", "section", "less", "more"],
)
def test_a_target_belongs_to_one_kind_of_run(settings: dict[str, Any], message: str | None, tmp_path: Path) -> None:
    target = Target(str(tmp_path))
    claim(target, {"score": 0.1, "predict": {"tile": 64, "overlap": 8}})
    written = target.read("run.json")
    if message is None:
        claim(target, settings)
    else:
        with pytest.raises(UserError, match=message):
            claim(target, settings)
    assert target.read("run.json") == written


def test_a_damaged_run_file_is_no_match(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match="another score"):
        claim(Target(str(tmp_path)), {"score": 0.1})


def test_a_journal_is_written_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "_RECORDS", 2)
    journal = Journal(Target(str(tmp_path)))
    written = []
    for name in "abc":
        journal.add(Record(name, "failed", "no"))
        written.append(len(list((tmp_path / "journal").glob("*.parquet"))) if (tmp_path / "journal").exists() else 0)
    assert written == [0, 1, 1]
    assert journal.compact() == 3
    assert {row["address"]: row["error"] for row in manifest(tmp_path).values()} == dict.fromkeys("abc", "no")
