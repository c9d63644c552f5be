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
from rotanext.archive.work import Gate, Worker, finish, load_weights, plan
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
