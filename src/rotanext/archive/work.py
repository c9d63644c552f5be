"""What runs on the cluster's machines: planning a scene's chunks, computing them, merging and writing a scene."""

import pickle
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rotanext.archive.addresses import describe, open_address
from rotanext.archive.results import SCENES, Record, Target, result_name, spelt, to_parquet
from rotanext.detections import Detections
from rotanext.images.scenes import FileScene, is_raster, raster_settings
from rotanext.inference.detector import Detector
from rotanext.inference.predict import PredictOptions
from rotanext.inference.stitch import MergeRule, SceneMerger
from rotanext.inference.tiles import Tiling

Row = dict[str, Any]
WHOLE = -1  # the tile of detections that need no merging: those of a scene of one chunk
_FOUND = np.dtype([("tile", "<i4"), ("label", "<i4"), ("score", "<f4"), ("box", "<f4", (5,))])
_POLL = 0.2  # seconds between looks at whether planning may go on


def load_weights(weights: bytes, job: "Job") -> Detector:
    """A detector of a file's bytes: machines need not share a file system."""
    from rotanext.load import load_detector

    with tempfile.TemporaryDirectory(prefix="rotanext-") as folder:
        path = Path(folder) / "weights.safetensors"
        path.write_bytes(weights)
        return load_detector(path, job.device, precision=job.precision, compiled=job.compiled)


@dataclass(frozen=True)
class Job:
    """What all machines know: how scenes are cut, computed, merged; where results go."""

    target: str
    class_names: tuple[str, ...]
    tiling: Tiling
    rule: MergeRule
    resized: bool  # scenes are shrunk or enlarged to one tile
    options: PredictOptions
    device: str
    cores: int
    chunk: int  # tiles that one worker computes at a time
    precision: str = "fp32"
    compiled: bool = False
    tries: int = 3  # a chunk that so many workers died with is given up
    load: Callable[[bytes, "Job"], Detector] = field(default=load_weights)


class Gate:
    """An actor beside the driver: holds planning back, knows what workers died of, has the weights."""

    def __init__(self, weights: bytes) -> None:
        self._weights, self._finished = weights, 0
        self._begun: dict[tuple[str, int], int] = {}

    def begin(self, address: str, chunk: int) -> int:
        """How often a chunk had been begun and not ended before now: as often a worker, or its machine, died of it or with it."""
        before = self._begun.get((address, chunk), 0)
        self._begun[address, chunk] = before + 1
        return before

    def end(self, address: str, chunk: int) -> None:
        """A chunk was computed, or its error is known."""
        self._begun.pop((address, chunk), None)

    def weights(self) -> bytes:
        """A detector's file."""
        return self._weights

    def finish(self) -> None:
        """One more scene is finished."""
        self._finished += 1

    def finished(self) -> int:
        """How many scenes are finished."""
        return self._finished


def plan(row: Row, job: Job, gate: Any, ahead: int) -> list[Row]:
    """The chunks of a scene (index, address): one row each; a scene that does not open gets a single one, with the error.

    Images are decoded whole, so that they are one chunk, and are not opened here. Waits until fewer than `ahead` scenes before
    this one are unfinished, which bounds what the driver holds, however large the archive is.
    """
    _wait_for_turn(row["index"], gate, ahead)
    rows = {"chunk": 0, "chunks": 1, "width": 0, "height": 0, "tiles": 0, "error": "", **row}
    if job.resized or not is_raster(row["address"]):
        return [rows]
    try:
        with raster_settings():
            scene = open_address(row["address"], job.options.raster)
            try:
                width, height = scene.width, scene.height
            finally:
                scene.close()
    except Exception as error:  # one bad file of a million
        return [rows | {"error": describe(error)}]
    tiles = job.tiling.count(width, height)
    chunks = -(-tiles // job.chunk)
    return [rows | {"chunk": k, "chunks": chunks, "width": width, "height": height, "tiles": tiles} for k in range(chunks)]


def _wait_for_turn(index: int, gate: Any, ahead: int) -> None:
    if index < ahead:
        return
    import ray

    try:
        while index >= ray.get(gate.finished.remote()) + ahead:
            time.sleep(_POLL)
    except ray.exceptions.RayActorError:
        return  # only the bound is lost


class Worker:
    """Computes chunks: an actor that holds the detector, and the scene it was last asked about."""

    def __init__(self, job: Job, gate: Any) -> None:
        import ray

        torch.set_num_threads(job.cores)
        self.job, self._gate, self._ask = job, gate, ray.get
        self.detector = job.load(ray.get(gate.weights.remote()), job)
        self._address = ""
        self._scene: FileScene | None = None
        self._name = f"{ray.get_runtime_context().get_node_id()[:8]}/{ray.get_runtime_context().get_worker_id()[:8]}"

    def __call__(self, row: Row) -> Row:
        """The row with the detections of its chunk, or with the error that stopped it."""
        begun = time.perf_counter()
        result = row | {"found": b"", "place": b"", "seconds": 0.0, "computed": 0, "worker": self._name}
        died = self._ask(self._gate.begin.remote(row["address"], row["chunk"]))
        if died >= self.job.tries:
            result["error"] = f"{row['address']}: {died} workers died while they computed a part of it (memory, or a damaged file)"
        elif not row["error"]:
            try:
                result |= self._compute(row)
            except Exception as error:  # of this scene; the archive goes on
                result["error"] = describe(error) or type(error).__name__
                self._let_go()
        self._gate.end.remote(row["address"], row["chunk"])
        return result | {"seconds": time.perf_counter() - begun}

    def _compute(self, row: Row) -> Row:
        job, options = self.job, self.job.options
        how: dict[str, Any] = {"score_threshold": options.score_threshold, "batch_size": options.batch_size}
        with raster_settings():
            scene = self._open(row["address"])
            if row["chunks"] == 1:
                found = [(WHOLE, self.detector.on_scene(scene, across_classes=options.across_classes, **how))]
            else:
                first = row["chunk"] * job.chunk
                found = self.detector.on_tiles(scene, range(first, min(first + job.chunk, row["tiles"])), **how)
            place = scene.georeference() if row["chunk"] == 0 else None
            tiles = self.detector.tile_count(scene.width, scene.height)
            size = {"width": scene.width, "height": scene.height, "tiles": tiles}
            size["computed"] = min(job.chunk, tiles - row["chunk"] * job.chunk) if row["chunks"] > 1 else tiles
        if row["chunks"] == 1:
            self._let_go()
        return {**size, "found": pack(found), "place": b"" if place is None else pickle.dumps(place)}

    def _open(self, address: str) -> FileScene:
        if self._scene is None or self._address != address:
            self._let_go()
            scene = open_address(address, self.job.options.raster)
            self._address, self._scene = address, scene
        return self._scene

    def _let_go(self) -> None:
        if self._scene is not None:
            self._scene.close()
        self._scene = None


def pack(tiles: list[tuple[int, Detections]]) -> bytes:
    """Detections of tiles as bytes, 32 each."""
    table = np.zeros(sum(len(found) for _, found in tiles), _FOUND)
    at = 0
    for tile, found in tiles:
        part = table[at : at + len(found)]
        part["tile"], part["label"], part["score"], part["box"] = tile, found.labels, found.scores, found.boxes
        at += len(found)
    return table.tobytes()


def unpack(data: bytes, class_names: tuple[str, ...]) -> list[tuple[int, Detections]]:
    """The inverse of `pack`; tiles without detections are gone."""
    table = np.frombuffer(data, _FOUND)
    edges = np.flatnonzero(np.diff(table["tile"])) + 1
    tiles = []
    for part in np.split(table, edges) if len(table) else []:
        boxes, scores = torch.from_numpy(part["box"].copy()), torch.from_numpy(part["score"].copy())
        tiles.append(
            (int(part["tile"][0]), Detections(boxes, scores, torch.from_numpy(part["label"].astype(np.int64)), class_names))
        )
    return tiles


def finish(job: Job, rows: list[Row]) -> Record:
    """Merge a scene's chunks and write its result, the last thing that happens to it; the record says what became of it."""
    rows = sorted(rows, key=lambda row: row["chunk"])
    first = rows[0]
    seconds, workers = round(sum(row["seconds"] for row in rows), 3), len({row["worker"] for row in rows})
    size = {key: max(row[key] for row in rows) for key in ("width", "height", "tiles")}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    error = next((row["error"] for row in rows if row["error"]), "")
    if not error:
        try:
            found = _merged(job, rows)
            name = f"{SCENES}/{result_name(first['address'])}"
            counts = {"detections": len(found), "workers": workers}
            record = Record(spelt(first["address"]), "done", "", **size, **counts, seconds=seconds, file=name, finished=now)
            place = pickle.loads(first["place"]) if first["place"] else None
            Target(job.target).write(name, to_parquet(record, found, place))
            return record
        except Exception as failure:  # a full disk, a storage that refuses
            error = describe(failure) or type(failure).__name__
    return Record(spelt(first["address"]), "failed", error, **size, workers=workers, seconds=seconds, finished=now)


class Finisher:
    """`finish` as an actor."""

    def __init__(self, job: Job, gate: Any) -> None:
        torch.set_num_threads(1)
        self.job, self._gate = job, gate

    def finish(self, rows: list[Row]) -> Record:
        """See `finish`."""
        try:
            return finish(self.job, rows)
        finally:
            self._gate.finish.remote()


def _merged(job: Job, rows: list[Row]) -> Detections:
    tiles = [tile for row in rows for tile in unpack(row["found"], job.class_names)]
    if len(rows) == 1:
        merger = SceneMerger(1, 1, job.class_names, job.rule)
        return tiles[0][1] if tiles else merger.finish()
    width, height = rows[0]["width"], rows[0]["height"]
    windows = job.tiling.windows(width, height)
    merger = SceneMerger(width, height, job.class_names, job.rule)
    for index, found in tiles:
        merger.add(found, windows[index])
    return merger.finish()
