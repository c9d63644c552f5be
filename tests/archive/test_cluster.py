"""The driver of an archive: chunks gathered, mergers asked again, machines counted; without a cluster."""

from typing import Any

import numpy as np
import pytest

from rotanext.archive import cluster
from rotanext.archive.cluster import Gathering

ray = pytest.importorskip("ray", reason="needs the extra ray: pip install 'rotanext[ray]'")


def test_chunks_are_gathered_once() -> None:
    """Whatever their order, and however often the cluster computes one again."""
    rng = np.random.default_rng(0)
    rows = [
        {"address": f"s{k}", "chunk": c, "chunks": 1 + k % 4, "try": t} for k in range(20) for c in range(1 + k % 4) for t in "ab"
    ]
    gathered, complete = Gathering(), list[list[dict[str, Any]]]()
    for index in rng.permutation(len(rows)):
        scene = gathered.add(rows[index])
        complete += [] if scene is None else [scene]
    assert sorted(scene[0]["address"] for scene in complete) == sorted(f"s{k}" for k in range(20))
    assert all(sorted(row["chunk"] for row in scene) == list(range(scene[0]["chunks"])) for scene in complete)
    assert gathered.held == 0
    assert gathered.missing(["s1", "lost"]) == ["lost"]


@pytest.mark.parametrize(
    ("lost", "status", "waits"), [(0, "done", []), (2, "done", [2.0, 5.0]), (9, "failed", list(cluster._AGAIN))]
)
def test_a_merger_that_is_lost_is_asked_for_again(
    lost: int, status: str, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cluster needs a while to notice that a machine is gone; Ray's own retries are spent by then."""
    slept: list[float] = []
    monkeypatch.setattr(cluster.time, "sleep", slept.append)
    asked: list[list[Any]] = []

    class FakeRay:
        exceptions = ray.exceptions

        @staticmethod
        def wait(references: list[int], **_: Any) -> tuple[list[int], list[int]]:
            return references, []

        @staticmethod
        def get(reference: int) -> cluster.Record:
            if reference <= lost:
                raise ray.exceptions.ActorUnavailableError("the actor is unavailable", None)
            return cluster.Record("a.tif", "done", "")

    def submit(rows: list[Any]) -> int:
        asked.append(rows)
        return len(asked)

    merging = {submit(["rows"]): cluster._Merging("a.tif", ["rows"])}
    (record,) = cluster._merged(FakeRay, merging, submit, most=0)
    assert (record.status, slept) == (status, waits)
    assert asked == [["rows"]] * (1 + len(waits))
    assert not merging
