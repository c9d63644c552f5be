"""What runs on the cluster's machines, in this process: planning, computing, merging."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from archives import OPTIONS, TWO, check_result
from rotanext.archive import cluster, work
from rotanext.archive.results import Target
from rotanext.archive.work import Gate, Worker, finish, load_weights, pack, plan, unpack
from rotanext.detections import Detections
from rotanext.inference.detector import Detector

ray = pytest.importorskip("ray", reason="needs the extra ray: pip install 'rotanext[ray]'")


class Answer:
    """A method of a fake actor: `ray.get` of what `remote` gives is what the method gives."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self.remote = method


class FakeGate:
    """A gate in this process."""

    def __init__(self, gate: Gate) -> None:
        for name in ("begin", "end", "weights", "finish", "finished"):
            setattr(self, name, Answer(getattr(gate, name)))


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Actors are objects in this process; each asks once, when it is made, who it is."""
    numbers, threads = itertools.count(), torch.get_num_threads()

    class Context:
        def __init__(self) -> None:
            self.get_node_id = lambda: "node"
            self.get_worker_id = lambda: f"worker{next(numbers)}"

    monkeypatch.setattr(ray, "get", lambda answer: answer)
    monkeypatch.setattr(ray, "get_runtime_context", Context)
    yield
    torch.set_num_threads(threads)


def test_a_scene_spread_over_workers_is_the_same_scene(
    no_cluster: None, detector: Detector, scenes: Path, plain: dict[str, Detections], tmp_path: Path
) -> None:
    """However its chunks are dealt out, and in whatever order they come back."""
    options = replace(TWO, device="cpu")
    job = cluster._job(detector, Target(str(tmp_path)), OPTIONS, options, load_weights)
    gate = FakeGate(Gate(cluster._weights(detector)))
    workers = [Worker(job, gate) for _ in range(3)]
    turns = itertools.cycle(workers)
    for stem in "ab":
        chunks = plan({"index": 0, "address": str(scenes / f"{stem}.tif")}, job, gate, ahead=1)
        assert len(chunks) == chunks[0]["chunks"] == -(-chunks[0]["tiles"] // TWO.chunk) > 3
        rows = [next(turns)(row) for row in chunks]
        record = finish(job, [rows[k] for k in np.random.default_rng(0).permutation(len(rows))])
        assert (record.status, record.error, record.workers, record.tiles) == ("done", "", 3, chunks[0]["tiles"])
        assert sum(row["computed"] for row in rows) == record.tiles
        check_result(tmp_path / record.file, plain[stem])


def test_planning_waits_for_its_turn(
    no_cluster: None, detector: Detector, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until fewer than `ahead` scenes before it are unfinished."""
    job = cluster._job(detector, Target(str(tmp_path)), OPTIONS, TWO, load_weights)
    gate, waited = Gate(b""), list[int]()

    def one_is_finished(_: float) -> None:
        waited.append(gate.finished())
        gate.finish()

    monkeypatch.setattr(work.time, "sleep", one_is_finished)
    for index, expected in ((0, []), (1, []), (2, [0]), (5, [1, 2, 3])):
        waited.clear()
        assert plan({"index": index, "address": str(scenes / "d.png")}, job, FakeGate(gate), ahead=2)
        assert waited == expected


def some(count: int, seed: int = 0) -> Detections:
    """Random detections of the classes plane and ship."""
    rng = torch.Generator().manual_seed(seed)
    boxes, scores = torch.rand(count, 5, generator=rng), torch.rand(count, generator=rng)
    return Detections(boxes, scores, torch.randint(0, 2, (count,), generator=rng), ("plane", "ship"))


def test_detections_travel_as_bytes_without_loss() -> None:
    tiles = [(0, some(3)), (4, some(1, 1)), (5, some(0)), (7, some(2, 2))]
    data = pack(tiles)
    assert len(data) == 32 * 6
    found = unpack(data, ("plane", "ship"))
    assert [tile for tile, _ in found] == [0, 4, 7]  # tiles without detections are gone
    for (_, one), (_, other) in zip(found, [tiles[0], tiles[1], tiles[3]], strict=True):
        assert torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.labels, other.labels)
        assert one.names == other.names
    assert unpack(pack([]), ("plane",)) == unpack(pack([(3, some(0))]), ("plane",)) == []


def test_the_gate_knows_what_was_begun_and_never_ended() -> None:
    gate = Gate(b"weights")
    assert gate.weights() == b"weights"
    assert [gate.begin("a", 0), gate.begin("a", 0), gate.begin("a", 1), gate.begin("b", 0)] == [0, 1, 0, 0]
    gate.end("a", 0)
    assert [gate.begin("a", 0), gate.begin("a", 1)] == [0, 1]
    gate.end("never", 3)
    assert gate.finished() == 0


def test_a_chunk_that_killed_its_workers_is_given_up(no_cluster: None, detector: Detector, scenes: Path, tmp_path: Path) -> None:
    job = cluster._job(detector, Target(str(tmp_path)), OPTIONS, replace(TWO, device="cpu", tries=2), lambda *_: detector)
    gate = FakeGate(Gate(b""))
    worker = Worker(job, gate)
    (row,) = plan({"index": 0, "address": str(scenes / "d.png")}, job, gate, ahead=1)
    for _ in range(2):  # begun, and nobody came back
        gate.begin.remote(row["address"], 0)
    result = worker(row)
    assert result["error"] == f"{row['address']}: 2 workers died while they computed a part of it (memory, or a damaged file)"
    assert worker(row)["error"] == ""  # what is told counts no more


def test_a_scene_that_fails_is_a_record_and_lets_its_file_go(
    no_cluster: None, detector: Detector, scenes: Path, tmp_path: Path
) -> None:
    job = cluster._job(detector, Target(str(tmp_path)), OPTIONS, replace(TWO, device="cpu"), lambda *_: detector)
    gate = FakeGate(Gate(b""))
    worker = Worker(job, gate)
    (tmp_path / "text.tif").write_text("no raster")
    (bad,) = plan({"index": 0, "address": str(tmp_path / "text.tif")}, job, gate, ahead=1)
    assert bad["error"].startswith(f"{tmp_path / 'text.tif'}: found")
    record = finish(job, [worker(bad)])
    assert (record.status, record.error, record.file) == ("failed", bad["error"], "")
    (broken,) = plan({"index": 0, "address": str(scenes / "none.png")}, job, gate, ahead=1)  # images are not opened here
    assert broken["error"] == ""
    failed = worker(broken)
    assert "none.png" in failed["error"]
    assert finish(job, [failed]).status == "failed"
    assert not (tmp_path / "scenes").exists()


def test_a_result_that_cannot_be_written_is_a_failure(no_cluster: None, detector: Detector, scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "scenes").write_text("in the way")
    job = cluster._job(detector, Target(str(tmp_path)), OPTIONS, replace(TWO, device="cpu"), lambda *_: detector)
    gate = FakeGate(Gate(b""))
    (row,) = plan({"index": 0, "address": str(scenes / "small.png")}, job, gate, ahead=1)
    record = finish(job, [Worker(job, gate)(row)])
    assert record.status == "failed"
    assert "could not be written" in record.error
