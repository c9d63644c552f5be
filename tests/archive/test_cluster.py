"""The driver of an archive: chunks gathered, mergers asked again, machines counted; without a cluster."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from archives import OPTIONS
from rotanext.archive import cluster
from rotanext.archive.cluster import ClusterOptions, Gathering, Summary
from rotanext.archive.results import Target
from rotanext.archive.work import Job, load_weights
from rotanext.errors import UserError
from rotanext.inference.detector import Detector

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


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ((3, 0, 3, 0, 12, 40, 2.0), "3 of 3 scenes done: 12 objects in 40 tiles, 20.0 tiles/s; results are in out"),
        ((9, 4, 3, 2, 0, 0, 0.0), "3 of 9 scenes done, 2 failed, 4 had been before: 0 objects in 0 tiles, 0.0 tiles/s; "
                                  "results are in out"),
    ],
    ids=["all", "some"],
)  # fmt: skip
def test_what_came_of_an_archive(counts: tuple[Any, ...], text: str) -> None:
    assert Summary(*counts).text("out") == text
    assert Summary(*counts).to_json("out")["failed"] == counts[3]


def nodes(*resources: dict[str, float]) -> SimpleNamespace:
    """Ray with these machines, and a dead one."""
    alive = [{"Alive": True, "Resources": one} for one in resources]
    return SimpleNamespace(nodes=lambda: [*alive, {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}])


def job_on(device: str, detector: Detector) -> Job:
    return cluster._job(detector, Target("out"), OPTIONS, ClusterOptions(device=device), load_weights)


@pytest.mark.parametrize(
    ("machines", "device", "options", "expected"),
    [
        # machines, --device, other options; device, cores of a worker, workers, GPUs of each
        ([{"CPU": 8.0}, {"CPU": 9.0}], "auto", {}, ("cpu", 4, 4, 0)),
        ([{"CPU": 8.0}, {"CPU": 2.0}], "cpu", {}, ("cpu", 2, 5, 0)),  # the smallest machine's
        ([{"CPU": 0.0}, {"CPU": 2.0}], "auto", {}, ("cpu", 2, 1, 0)),  # a head that computes nothing
        ([{"CPU": 8.0}], "auto", {"cores": 3}, ("cpu", 3, 2, 0)),
        ([{"CPU": 8.0}], "auto", {"workers": 7}, ("cpu", 4, 7, 0)),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0}], "auto", {}, ("cuda", 1, 2, 1)),
        ([{"CPU": 8.0, "GPU": 2.0}], "cpu", {}, ("cpu", 4, 2, 0)),
        ([{"CPU": 8.0}], "cuda", {}, "no GPU in the cluster"),
        ([{"CPU": 8.0}], "auto", {"cores": 9}, r"no machine with 9 cores \(they have 8\)"),
        ([{"CPU": 0.0}], "auto", {}, r"no machine with 4 cores \(they have 0\)"),
    ],
)
def test_workers_are_as_many_as_the_machines_hold(
    machines: list[dict[str, float]], device: str, options: dict[str, int], expected: Any, detector: Detector
) -> None:
    asked = ClusterOptions(device=device, **options)
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            cluster._resources(nodes(*machines), job_on(device, detector), asked)
        return
    job, workers, gpus = cluster._resources(nodes(*machines), job_on(device, detector), asked)
    assert (job.device, job.cores, workers, gpus) == expected


def test_results_depend_on_weights_and_options(detector: Detector) -> None:
    before = cluster._settings(detector, OPTIONS)
    assert json.loads(json.dumps(before)) == before
    assert cluster._settings(detector, OPTIONS) == before
    assert cluster._settings(detector, replace(OPTIONS, batch_size=4, draw_threshold=0.9)) == before  # these change nothing
    for changed in (
        cluster._settings(detector, replace(OPTIONS, score_threshold=0.5)),
        cluster._settings(detector, replace(OPTIONS, across_classes=True)),
        cluster._settings(detector.reconfigured(tile=48), OPTIONS),
    ):
        assert changed != before
    weight = detector.model.head.cls_out.bias
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[0] += 1
        other = cluster._settings(detector, OPTIONS)
        weight.copy_(kept)
    assert {key for key in before if other[key] != before[key]} == {"weights"}


def test_a_clients_address_is_refused() -> None:
    with pytest.raises(UserError, match="found a client's address"), cluster.session("ray://127.0.0.1:10001"):
        pass
