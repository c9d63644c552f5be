"""Archives through Ray: the same detections as plain prediction, whatever fails, wherever scenes lie."""

import itertools
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console

from rotanext.archive import cluster, work
from rotanext.archive.addresses import Ranges, list_scenes, open_address
from rotanext.archive.cluster import ClusterOptions, Gathering, Summary, predict_archive
from rotanext.archive.results import Journal, Record, Target, result_name, to_parquet
from rotanext.archive.work import Gate, Job, Worker, finish, load_weights, plan
from rotanext.detections import Detections
from rotanext.errors import Problems, UserError
from rotanext.images.raster import Raster, RasterOptions
from rotanext.images.reading import write_png
from rotanext.inference.detector import Detector, build_network
from rotanext.inference.predict import PredictOptions, predict
from rotanext.load import save_detector
from rotanext.system.progress import Display
from tiny import tiny_config

ray = pytest.importorskip("ray", reason="needs the extra ray: pip install 'rotanext[ray]'")
pq = pytest.importorskip("pyarrow.parquet")
rasterio = pytest.importorskip("rasterio")
geopandas = pytest.importorskip("geopandas")

SCORE = 0.08
OPTIONS = PredictOptions(score_threshold=SCORE, images=False)
TWO = ClusterOptions(workers=2, cores=1, chunk=5)
WAIT = 900  # seconds after which a test counts as hung; 250 on a machine with ten times its work


@pytest.fixture(autouse=True)
def _not_for_ever() -> Iterator[None]:
    """A hang fails: an alarm interrupts whatever waits in the main thread."""

    def give_up(*_: object) -> None:
        raise TimeoutError(f"the test took more than {WAIT} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(WAIT)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def storage() -> Iterator[str]:
    """The address of an S3 server on the loopback; s3fs finds it, and its credentials, in the environment, as workers do."""
    server_module = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_S3", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        yield f"http://{host}:{port}"
    server.stop()


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


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    """A small network with random weights, wide enough that scores differ."""
    torch.manual_seed(0)
    config = tiny_config(Path("unread"), None, "predict.image_size=0", "predict.tile=64", "predict.overlap=16")
    model = build_network(config, 2)
    for name, values in model.head.named_parameters():
        if name.endswith("weight"):
            torch.nn.init.normal_(values, std=0.1)
    return Detector(model, config, ("plane", "ship"))


def draw(width: int, height: int, seed: int) -> np.ndarray:
    """Noise with bright rectangles, uint8 `[height, width, 3]`."""
    rng = np.random.default_rng(seed)
    image = rng.integers(60, 90, (height, width, 3)).astype(np.uint8)
    for _ in range(width * height // 1500):
        box = ((rng.uniform(0, width), rng.uniform(0, height)), (24, 8), rng.uniform(0, 180))
        cv2.fillPoly(image, [np.rint(cv2.boxPoints(box)).astype(np.int32)], (230, 40, 40))
    return image


def write_raster(path: Path, image: np.ndarray, **profile: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = image.shape[:2]
    settings = {"driver": "GTiff", "count": 3, "dtype": "uint8", "width": width, "height": height} | profile
    with rasterio.open(path, "w", **settings) as file:
        file.write(image.transpose(2, 0, 1))
    return path


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rasters with a place, one without, an empty one, and two images; several tiles each."""
    root = tmp_path_factory.mktemp("scenes")
    place = {"crs": "EPSG:32633", "transform": rasterio.transform.from_origin(5e5, 5e6, 0.5, 0.5)}
    write_raster(root / "a.tif", draw(300, 250, 0), **place)
    write_raster(root / "b.tif", draw(130, 420, 1), tiled=True, blockxsize=64, blockysize=64, compress="deflate", **place)
    write_raster(root / "c.tif", draw(200, 200, 2))
    write_raster(root / "empty.tif", np.zeros((200, 200, 3), np.uint8), nodata=0, **place)
    write_png(root / "d.png", draw(150, 150, 3))
    write_png(root / "small.png", draw(50, 40, 4))
    return root


@pytest.fixture(scope="module")
def plain(detector: Detector, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Detections]:
    """What prediction without Ray finds, by stem."""
    found = predict(detector, scenes, tmp_path_factory.mktemp("plain"), OPTIONS, Problems(strict=True), quiet())
    assert sum(map(len, found.values())) > 100
    assert min(len(found[stem]) for stem in "abcd") > 5
    return found


def quiet() -> Display:
    return Display(Console(quiet=True))


def run(detector: Detector, source: object, target: object, problems: Problems | None = None, **changes: Any) -> Summary:
    options, machines = changes.pop("options", OPTIONS), changes.pop("cluster", TWO)
    return predict_archive(
        detector, str(source), str(target), options, machines, problems or Problems(strict=True), quiet(), **changes
    )


def check_result(path: str | Path, expected: Detections) -> None:
    """A result file holds exactly these detections, in order."""
    table = pq.read_table(str(path)) if "://" not in str(path) else pq.read_table(open_remote(str(path)))
    assert table["class"].to_pylist() == expected.names
    np.testing.assert_allclose(table["score"].to_numpy(), expected.scores.double().numpy(), atol=1e-6)
    boxes = np.stack([table[name].to_numpy() for name in ("cx", "cy", "w", "h", "angle")], 1)
    np.testing.assert_allclose(boxes, expected.boxes.double().numpy(), atol=1e-3)


def open_remote(address: str) -> Any:
    import fsspec

    return fsspec.open(address).open()


def results(target: Path) -> dict[str, Path]:
    return {path.name.rsplit("-", 1)[0]: path for path in (target / "scenes").iterdir()}


def manifest(target: Path) -> dict[str, dict[str, Any]]:
    rows = pq.read_table(target / "manifest.parquet").to_pylist()
    assert len({row["address"] for row in rows}) == len(rows)
    return {Path(row["address"]).name: row for row in rows}


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


def test_of_a_remote_raster_only_ranges_are_read(storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    image = np.random.default_rng(0).integers(0, 255, (2048, 2048, 3)).astype(np.uint8)
    path = write_raster(tmp_path / "large.tif", image, tiled=True, blockxsize=256, blockysize=256, compress="deflate")
    s3fs.S3FileSystem().mkdir("large")
    s3fs.S3FileSystem().put_file(str(path), "large/large.tif")
    read: list[int] = []
    fetch = s3fs.core.S3File._fetch_range
    monkeypatch.setattr(
        s3fs.core.S3File, "_fetch_range", lambda self, start, end: (read.append(end - start), fetch(self, start, end))[1]
    )
    scene = open_address("s3://large/large.tif", RasterOptions())
    assert isinstance(scene, Raster)
    opened = sum(read)
    crop, _ = scene.read(300, 700, 200, 300)
    scene.close()
    np.testing.assert_array_equal(crop, image[700:1000, 300:500])
    assert 0 < opened < 100_000
    assert sum(read) < 0.1 * path.stat().st_size  # 2 of 64 blocks, and a little after each
    assert len(read) <= 5
    with pytest.raises(UserError, match=r"s3://large/none\.tif: found nothing there"):
        open_address("s3://large/none.tif", RasterOptions())
    with pytest.raises(FileNotFoundError):
        Ranges("s3://large/large.tif")("s3://large/large.tif.ovr")


def test_scenes_by_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("a.tif", "B.TIF", "deep/er/c.png", "deep/d.jp2", "deep/.e.tif", "notes.md", "[1].tif")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)

    def found(source: object) -> list[str]:
        return [str(Path(address).relative_to(tmp_path)) for address in list_scenes(str(source))]

    below = ["B.TIF", "[1].tif", "a.tif", "deep/d.jp2", "deep/er/c.png"]
    assert found(tmp_path) == found(".") == below
    assert found("*.tif") == ["[1].tif", "a.tif"]
    assert found("**/*.jp2") == ["deep/d.jp2"]
    assert found("[1].tif") == ["[1].tif"]
    assert found("a.tif") == ["a.tif"]
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf# scenes\r\na.tif\r\n\n  gone.tif \na.tif\ns3://bucket/x#1.tif\n")
    assert list_scenes("list.txt") == [str(tmp_path / "a.tif"), str(tmp_path / "gone.tif"), "s3://bucket/x#1.tif"]
    (tmp_path / "empty.txt").write_text("# nothing\n")
    for source, message in (
        ("none", "none: found no scenes"),
        ("*.jpg", r"\*\.jpg: found no scenes"),
        ("empty.txt", "found an empty list"),
        ("nothing://a", "nothing://a: found .*nothing"),
    ):
        with pytest.raises(UserError, match=message):
            list_scenes(source)


def test_names_of_results() -> None:
    names = [
        result_name(address) for address in ("/a/x.tif", "/b/x.tif", "/a/\udce4.tif", "/a/\udce5.tif", "/a/" + "ä" * 200 + ".tif")
    ]
    assert len(set(names)) == 5
    assert all(len(name.encode()) < 200 for name in names)
    assert names[2].startswith("?-")


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
