"""What an archive leaves behind: names of results, journal, manifest."""

from pathlib import Path

import torch

from archives import manifest
from rotanext.archive.results import Journal, Record, Target, result_name, to_parquet
from rotanext.detections import Detections


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
