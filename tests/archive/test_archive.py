"""Archives through Ray: the same detections as plain prediction, whatever fails, wherever scenes lie."""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from archives import OPTIONS, SCORE, TWO, check_result, manifest, open_remote, quiet
from rotanext.archive import cluster
from rotanext.archive.cluster import ClusterOptions, Summary, predict_archive
from rotanext.archive.results import result_name
from rotanext.archive.work import Job, load_weights
from rotanext.detections import Detections
from rotanext.errors import Problems, UserError
from rotanext.inference.detector import Detector
from rotanext.load import save_detector

ray = pytest.importorskip("ray", reason="needs the extra ray: pip install 'rotanext[ray]'")
pq = pytest.importorskip("pyarrow.parquet")
rasterio = pytest.importorskip("rasterio")
geopandas = pytest.importorskip("geopandas")


@pytest.fixture(scope="module")
def machines(storage: str) -> Iterator[Any]:
    """A cluster whose head computes nothing, and two machines of one core each, as far as Ray can tell; the last test kills one."""
    from ray.cluster_utils import Cluster

    few = {"object_store_memory": 100 << 20, "include_dashboard": False}
    soon = {"health_check_initial_delay_ms": 2000, "health_check_period_ms": 1000, "health_check_failure_threshold": 5}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **few, "_system_config": soon})
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=100 << 20) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster, nodes
    ray.shutdown()
    cluster.shutdown()


def run(detector: Detector, source: object, target: object, problems: Problems | None = None, **changes: Any) -> Summary:
    options, machines = changes.pop("options", OPTIONS), changes.pop("cluster", TWO)
    return predict_archive(
        detector, str(source), str(target), options, machines, problems or Problems(strict=True), quiet(), **changes
    )


def results(target: Path) -> dict[str, Path]:
    return {path.name.rsplit("-", 1)[0]: path for path in (target / "scenes").iterdir()}


@pytest.mark.slow
def test_an_archive_is_what_plain_prediction_finds(
    machines: Any, detector: Detector, scenes: Path, plain: dict[str, Detections], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing here depends on when Ray starts a second worker: each chunk is a task of its own, which any worker may take."""
    import ray.data

    for name in ("_PLANNERS", "_PLANNED", "_AHEAD"):  # at most two scenes are planned and not finished
        monkeypatch.setattr(cluster, name, 1)
    asked: list[tuple[Any, Any]] = []
    data_map = ray.data.Dataset.map

    def spied(*arguments: Any, **how: Any) -> Any:
        dataset = data_map(*arguments, **how)
        asked.append((dataset, how["compute"]))
        return dataset

    monkeypatch.setattr(ray.data.Dataset, "map", spied)
    diary = tmp_path / "diary"
    diary.mkdir()
    log = str(diary)

    def noting(weights: bytes, job: Job) -> Detector:
        found = load_weights(weights, job)
        on_tiles = found.on_tiles

        def noted(scene: Any, part: range, **how: Any) -> Any:
            (Path(log) / f"{Path(scene.path).stem} {part.start} {part.stop} {time.time_ns()}").touch()
            return on_tiles(scene, part, **how)

        found.on_tiles = noted  # type: ignore[method-assign]
        return found

    done = run(detector, scenes, tmp_path / "out", load=noting)
    assert (done.scenes, done.skipped, done.done, done.failed) == (6, 0, 6, 0)
    assert done.detections == sum(map(len, plain.values()))
    files = results(tmp_path / "out")
    assert files.keys() == plain.keys()
    for stem, expected in plain.items():
        check_result(files[stem], expected)
    rows = manifest(tmp_path / "out")
    for name, row in rows.items():
        assert row["status"] == "done"
        assert row["detections"] == len(plain[Path(name).stem])
        assert tmp_path / "out" / row["file"] == files[Path(name).stem]
    assert (rows["a.tif"]["width"], rows["a.tif"]["height"], rows["a.tif"]["tiles"]) == (300, 250, 6 * 5)
    assert done.tiles == sum(row["tiles"] for row in rows.values())
    computed = [path.name.split()[:3] for path in diary.iterdir()]
    chunks = [
        [Path(name).stem, str(first), str(min(first + TWO.chunk, row["tiles"]))]
        for name, row in rows.items()
        for first in range(0, row["tiles"], TWO.chunk)
        if name.endswith(".tif")
    ]
    assert sorted(computed) == sorted(chunks)  # each once
    ((dataset, pool),) = asked
    assert (pool.initial_size, pool.max_size, pool.max_tasks_in_flight_per_actor) == (2, 2, 2)
    # a task each, images being one chunk: Ray is free to give it to whichever worker has time
    assert f"Map(Worker): {len(chunks) + 2} tasks executed" in dataset.stats()
    frame = geopandas.read_parquet(files["a"])
    assert frame.crs.to_epsg() == 32633
    assert frame.geometry.centroid.x.to_numpy() == pytest.approx(5e5 + 0.5 * frame["cx"].to_numpy(), abs=1e-3)
    assert b"geo" not in pq.read_schema(files["c"]).metadata
    assert not list((tmp_path / "out/journal").iterdir())


@pytest.mark.slow
def test_bad_files_are_recorded_and_a_restart_goes_on(
    machines: Any, cli: Callable, detector: Detector, scenes: Path, plain: dict[str, Detections], tmp_path: Path
) -> None:
    save_detector(detector, tmp_path / "weights.safetensors")
    folder, out = tmp_path / "some", tmp_path / "out"
    (folder / "deeper").mkdir(parents=True)
    good = [Path(shutil.copy(scenes / "a.tif", folder)), Path(shutil.copy(scenes / "b.tif", folder / "deeper/a.tif"))]
    (folder / "text.tif").write_text("no raster")
    (folder / "cut.png").write_bytes((scenes / "d.png").read_bytes()[:3000])
    whole = (scenes / "b.tif").read_bytes()
    (folder / "cut.tif").write_bytes(whole[: len(whole) * 2 // 3])
    bad = [folder / "text.tif", folder / "cut.png", folder / "cut.tif", folder / "missing.tif"]
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(["# some scenes", *map(str, [*good, *bad, good[0]])]))
    command = ("predict", listed, "-w", tmp_path / "weights.safetensors", "--out", out, "--ray", "local", "--device", "cpu")
    command += ("--workers", 1, "--cores-per-worker", 1, "--score", SCORE)
    first = cli(*command)
    assert first.code == 1, first.err
    assert "2 of 6 scenes done, 4 failed" in first.err
    for path in bad:
        assert f"  {path}: found" in first.err
    rows = pq.read_table(out / "manifest.parquet").to_pylist()
    assert {row["address"]: row["status"] for row in rows} == dict.fromkeys(map(str, good), "done") | dict.fromkeys(
        map(str, bad), "failed"
    )
    assert all(row["error"] for row in rows if row["status"] == "failed")
    for path, stem in zip(good, "ab", strict=True):  # two scenes of one name
        check_result(out / "scenes" / result_name(str(path)), plain[stem])
    assert len(list((out / "scenes").iterdir())) == 2
    before = {row["address"]: row for row in rows}

    shutil.copy(scenes / "b.tif", folder / "cut.tif")
    second = cli(*command)
    assert second.code == 1
    assert "2 of 6 scenes have their results" in second.err
    assert "1 of 6 scenes done, 3 failed, 2 had been before" in second.err
    after = {row["address"]: row for row in pq.read_table(out / "manifest.parquet").to_pylist()}
    assert after.keys() == before.keys()
    assert all(after[str(path)] == before[str(path)] for path in good)  # not computed again
    assert after[str(folder / "cut.tif")]["status"] == "done"

    other = cli(*command[:-1], 0.5)
    assert other.code == 2
    assert "run.json: found results with another score; expected those of this run" in other.err


@pytest.mark.slow
def test_object_storage_in_and_out(
    machines: Any, detector: Detector, scenes: Path, plain: dict[str, Detections], tmp_path: Path
) -> None:
    import s3fs

    storage = s3fs.S3FileSystem(skip_instance_cache=True)
    storage.mkdir("archive")
    for name in ("a.tif", "b.tif", "d.png"):
        storage.put_file(str(scenes / name), f"archive/in/deeper [1]/{name}")
    storage.pipe_file("archive/in/bad.tif", b"no raster")
    storage.pipe_file("archive/in/notes.md", b"no scene")
    problems = Problems()
    done = run(detector, "s3://archive/in", "s3://archive/out/", problems, cluster=ClusterOptions(workers=1, cores=1, chunk=8))
    assert (done.scenes, done.done, done.failed) == (4, 3, 1), problems.first
    assert problems.first[0].startswith("s3://archive/in/bad.tif: found that it does not open ('s3://archive/in/bad.tif' not recog")
    for stem, name in (("a", "a.tif"), ("b", "b.tif"), ("d", "d.png")):
        check_result(f"s3://archive/out/scenes/{result_name(f's3://archive/in/deeper [1]/{name}')}", plain[stem])
    storage.invalidate_cache()
    assert sorted(storage.find("archive/out"))[0] == "archive/out/manifest.parquet"
    assert len(storage.find("archive/out")) == 3 + 2  # with run.json; no parts of a journal
    rows = pq.read_table(open_remote("s3://archive/out/manifest.parquet")).to_pylist()
    assert {row["address"].rsplit("/", 1)[1]: row["status"] for row in rows} == {
        "a.tif": "done", "b.tif": "done", "d.png": "done", "bad.tif": "failed",
    }  # fmt: skip


@pytest.mark.slow
def test_a_file_that_kills_its_workers_is_recorded(
    machines: Any, detector: Detector, scenes: Path, plain: dict[str, Detections], tmp_path: Path
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    shutil.copy(scenes / "a.tif", source / "a.tif")
    shutil.copy(scenes / "b.tif", source / "poison.tif")

    def deadly(weights: bytes, job: Job) -> Detector:
        found = load_weights(weights, job)
        on_tiles = found.on_tiles

        def die(scene: Any, part: range, **how: Any) -> Any:
            if "poison" in str(scene.path) and 0 in part:
                os._exit(139)
            return on_tiles(scene, part, **how)

        found.on_tiles = die  # type: ignore[method-assign]
        return found

    problems = Problems()
    done = run(detector, source, tmp_path / "out", problems, load=deadly, cluster=replace(TWO, tries=2))
    assert (done.done, done.failed) == (1, 1)
    assert "poison.tif: 2 workers died while they computed a part of it" in problems.first[0]
    check_result(results(tmp_path / "out")["a"], plain["a"])


@pytest.mark.slow
def test_a_worker_that_cannot_start_is_one_message(machines: Any, detector: Detector, scenes: Path, tmp_path: Path) -> None:
    def broken(weights: bytes, job: Job) -> Detector:
        raise ImportError("no rotanext here")

    with pytest.raises(UserError, match=r"the cluster gave up: .*no rotanext here"):
        run(detector, scenes / "a.tif", tmp_path / "out", load=broken)


@pytest.mark.slow
def test_a_node_that_dies_takes_nothing_with_it(
    machines: Any, detector: Detector, scenes: Path, plain: dict[str, Detections], tmp_path: Path
) -> None:
    """The first machine to begin a third chunk dies; no machine goes beyond its third before that."""
    cluster_, nodes = machines
    by_name = {node.node_id[:8]: node for node in nodes}
    source, diary, target = tmp_path / "in", tmp_path / "diary", tmp_path / "out"
    source.mkdir()
    diary.mkdir()
    for name in ("a", "b"):
        for copy in range(3):
            shutil.copy(scenes / f"{name}.tif", source / f"{name}_{copy}.tif")
    log = str(diary)

    def noting(weights: bytes, job: Job) -> Detector:
        found = load_weights(weights, job)
        node, on_tiles = ray.get_runtime_context().get_node_id()[:8], found.on_tiles

        def noted(scene: Any, part: range, **how: Any) -> Any:
            mark = Path(log) / f"{node}-{time.time_ns()}"
            mark.with_suffix(".begun").touch()
            if len(list(Path(log).glob(f"{node}-*.begun"))) >= 3:
                while not (Path(log) / "killed").exists():
                    time.sleep(0.02)
            result = on_tiles(scene, part, **how)
            mark.with_suffix(".ended").touch()
            return result

        found.on_tiles = noted  # type: ignore[method-assign]
        return found

    victims: list[str] = []

    def kill() -> None:
        while not victims:
            time.sleep(0.02)
            victims.extend(name for name in by_name if len(list(diary.glob(f"{name}-*.begun"))) == 3)
        cluster_.remove_node(by_name[victims[0]], allow_graceful=False)
        (diary / "killed").touch()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    done = run(detector, source, target, load=noting, cluster=replace(TWO, chunk=3))
    killer.join(1)
    assert not killer.is_alive()
    assert len(list(diary.glob(f"{victims[0]}-*.begun"))) == 3
    assert len(list(diary.glob(f"{victims[0]}-*.ended"))) == 2
    assert (done.scenes, done.done, done.failed) == (6, 6, 0)
    rows = manifest(target)
    assert len(rows) == 6
    assert sum(row["detections"] for row in rows.values()) == 3 * (len(plain["a"]) + len(plain["b"]))
    files = results(target)
    for stem, path in files.items():
        check_result(path, plain[stem[0]])
    assert len(files) == len(list((target / "scenes").iterdir())) == 6


@pytest.mark.slow
def test_clusters_that_are_not_there(cli: Callable, detector: Detector, scenes: Path, tmp_path: Path) -> None:
    if ray.is_initialized():
        ray.shutdown()
    save_detector(detector, tmp_path / "weights.safetensors")
    command = ("predict", scenes, "-w", tmp_path / "weights.safetensors", "--out", tmp_path / "out", "--device", "cpu")
    for options, message in (
        (("--ray", "ray://127.0.0.1:10001"), "found a client's address"),
        (("--ray", "127.0.0.1:1"), "found no cluster"),
        (("--ray", "yes"), "found no cluster"),
        (("--ray", "local", "--cores-per-worker", 4096), "found no machine with 4096 cores"),
        (("--workers", 2), "--workers, --cores-per-worker and --chunk belong to --ray"),
    ):
        done = cli(*command, *options)
        assert done.code == 2, options
        assert message in done.err
