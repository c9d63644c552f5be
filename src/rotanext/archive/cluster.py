"""Prediction on archives of scenes through Ray Data: chunks of scenes spread over workers, results gathered by scene."""

import hashlib
import itertools
import logging
import math
import os
import socket
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from rotanext.archive.addresses import describe, is_remote, list_scenes
from rotanext.archive.options import ClusterOptions
from rotanext.archive.results import SCENES, Journal, Record, Target, claim, result_name, spelt
from rotanext.archive.work import Finisher, Gate, Job, Row, Worker, load_weights, plan
from rotanext.errors import Problems, UserError, explain, extra
from rotanext.inference.detector import Detector
from rotanext.inference.predict import PredictOptions
from rotanext.inference.stitch import MergeRule
from rotanext.system.files import make_folder
from rotanext.system.progress import Display

CORES = 4  # of a worker without a GPU, where the machines have so many
_PLANNERS = 4  # tasks that open scenes' headers at once
_PLANNED = 16  # scenes a planning task takes on
_WORKERS_A_MERGER = 8  # as many workers keep one process that merges busy at most
_AGAIN = (2.0, 5.0, 10.0, 20.0, 40.0)  # seconds before a scene is given to another merger, its own being lost
_AHEAD = 16  # scenes for each worker that may be planned and not finished
_IN_FLIGHT = 2  # chunks at a worker: one computed, one waiting
_CONNECT = 10.0  # seconds that a cluster may take to answer
_OBJECTS = 512 << 20  # bytes of a local Ray's shared memory: only weights and detections lie there


@dataclass(frozen=True)
class Summary:
    """What came of an archive; scenes of earlier runs in `skipped`."""

    scenes: int
    skipped: int
    done: int
    failed: int
    detections: int
    tiles: int
    seconds: float

    def text(self, target: str) -> str:
        """A line for the terminal."""
        rate = self.tiles / max(self.seconds, 1e-9)
        failed = f", {self.failed} failed" if self.failed else ""
        skipped = f", {self.skipped} had been before" if self.skipped else ""
        counted = f"{self.detections} objects in {self.tiles} tiles, {rate:.1f} tiles/s"
        return f"{self.done} of {self.scenes} scenes done{failed}{skipped}: {counted}; results are in {target}"

    def to_json(self, target: str) -> dict[str, object]:
        """Plain data."""
        return asdict(self) | {"out": target}


def predict_archive(
    detector: Detector,
    source: str,
    target: str,
    options: PredictOptions,
    cluster: ClusterOptions,
    problems: Problems,
    display: Display,
    load: Callable[[bytes, Job], Detector] = load_weights,
) -> Summary:
    """Detect on all scenes that `list_scenes` finds, and write a file for each below `target`, a path or an address of fsspec.

    Scenes with a result are skipped, so that an archive that was interrupted goes on where it stood. A scene that fails is a
    problem, stands in the manifest with its error, and is tried again the next time. Raises UserError where the results at
    `target` were made with other weights or options, where no machine can hold a worker, and for what strict problems refuse.
    `load` makes a worker's detector of the weights (tests and benchmarks put in their own).
    """
    begun = time.perf_counter()
    addresses = list_scenes(source)
    out = Target(target if is_remote(target) else os.path.abspath(target))  # noqa: PTH100  (links are left alone)
    job = _job(detector, out, options, cluster, load)
    if not is_remote(out.address):
        make_folder(Path(out.address))
    claim(out, _settings(detector, options))
    finished = out.names(SCENES)
    todo = [address for address in addresses if result_name(address) not in finished]
    if len(todo) < len(addresses):
        display.say(f"{len(addresses) - len(todo)} of {len(addresses)} scenes have their results in {out.address}")
    counts = _Counts()
    journal = Journal(out)
    try:
        if todo:
            with session(cluster.address) as ray, display.archive(len(todo)) as tick:
                for record in _told(ray, _run(ray, todo, job, cluster, _weights(detector), tick)):
                    journal.add(record)
                    counts.add(record)
                    tick(counts.done + counts.failed, None)
                    if record.status == "failed":
                        problems.note(record.error if record.address in record.error else f"{record.address}: {record.error}")
    finally:  # Ctrl-C and refusals keep what is finished
        journal.compact()
    left = len(addresses) - len(todo)
    seconds = time.perf_counter() - begun
    return Summary(len(addresses), left, counts.done, counts.failed, counts.detections, counts.tiles, seconds)


@dataclass
class _Counts:
    done: int = 0
    failed: int = 0
    detections: int = 0
    tiles: int = 0

    def add(self, record: Record) -> None:
        self.done += record.status == "done"
        self.failed += record.status == "failed"
        self.detections += record.detections
        self.tiles += record.tiles * (record.status == "done")


def _told(ray: Any, records: Iterator[Record]) -> Iterator[Record]:
    """Ray's own errors as one message."""
    try:
        yield from records
    except ray.exceptions.RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]  # Ray's trace, the reason last
        advice = "Mend that (is rotanext installed on every machine?); the same command then goes on where this one stood."
        raise UserError(f"the cluster gave up: {type(error).__name__}: {lines[-1][:500] if lines else ''}. {advice}") from error


def _job(
    detector: Detector, out: Target, options: PredictOptions, cluster: ClusterOptions, load: Callable[[bytes, Job], Detector]
) -> Job:
    config = detector.config.predict
    return Job(
        target=out.address,
        class_names=detector.class_names,
        tiling=detector.tiling(options.batch_size),
        rule=MergeRule(config.merge_iou, options.across_classes),
        resized=bool(config.image_size),
        options=options,
        device=cluster.device,
        cores=1,
        chunk=cluster.chunk,
        tries=cluster.tries,
        precision=detector.precision,
        compiled=detector.compiled,
        load=load,
    )


def _settings(detector: Detector, options: PredictOptions) -> dict[str, Any]:
    """What results depend on, for `run.json`."""
    digest = hashlib.sha256()
    for name, values in sorted(detector.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(values.detach().cpu().contiguous().float().numpy().tobytes())
    return {
        "weights": digest.hexdigest(),
        **{part: getattr(detector.config, part).model_dump(mode="json") for part in ("backbone", "neck", "head")},
        "predict": detector.config.predict.model_dump(mode="json"),
        "classes": list(detector.class_names),
        "score": options.score_threshold,
        "across_classes": options.across_classes,
        "bands": None if options.raster.bands is None else list(options.raster.bands),
        "stretch": options.raster.stretch,
        "precision": detector.precision,
    }


def _weights(detector: Detector) -> bytes:
    from rotanext.load import save_detector

    with tempfile.TemporaryDirectory(prefix="rotanext-") as folder:
        path = Path(folder) / "weights.safetensors"
        save_detector(detector, path)
        return path.read_bytes()


@contextmanager
def session(address: str) -> Iterator[Any]:
    """Ray, in this process or joined; one that runs in this process already is used and left running."""
    with extra("ray", "--ray"):
        import ray
        import ray.data
    if address.startswith("ray://"):
        advice = "Start this on a machine of the cluster, with --ray auto (from outside: ray job submit -- rotanext predict ...)."
        raise UserError(explain(f"--ray {address}", "a client's address", "local, auto or HOST:PORT of the cluster", advice))
    if ray.is_initialized():
        yield ray
        return
    if address not in ("local", "auto"):
        _check_reachable(address)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address == "local":
            ray.init("local", include_dashboard=False, object_store_memory=_OBJECTS, **quiet)
        else:
            ray.init(address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise _no_cluster(address, error) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself would try for five minutes, and then end the process."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> UserError:
    found = f"no cluster ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
    advice = "Start one with `ray start --head`, or give --ray local."
    return UserError(explain(f"--ray {address}", found, "local, auto or HOST:PORT of a cluster that runs", advice))


def _resources(ray: Any, job: Job, cluster: ClusterOptions) -> tuple[Job, int, float]:
    """The job with device and cores settled, how many workers, and GPUs of each; UserError where no machine holds one."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    on_gpu = job.device != "cpu" and gpus > 0
    if job.device not in ("auto", "cpu") and not on_gpu:
        raise UserError(explain(f"--device {job.device}", "no GPU in the cluster", "at least one", "Give --device cpu."))
    cores = cluster.cores or (1 if on_gpu else max(1, min([CORES, *(count for count in cpus if count)])))
    room = gpus if on_gpu else sum(count // cores for count in cpus)
    if not room or max(cpus) < cores:
        found = f"no machine with {cores} cores (they have {', '.join(map(str, sorted(cpus, reverse=True)[:5]))})"
        raise UserError(explain("--cores-per-worker", found, "one that holds a worker", "Give fewer."))
    device = "cuda" if on_gpu else "cpu"
    return replace(job, cores=cores, device=device), cluster.workers or room, 1.0 if on_gpu else 0.0


def _run(
    ray: Any, todo: list[str], job: Job, cluster: ClusterOptions, weights: bytes, tick: Callable[[int | None, int | None], None]
) -> Iterator[Record]:
    """Records of all scenes, in the order in which they are finished."""
    job, workers, gpus = _resources(ray, job, cluster)
    # with fewer, planning tasks would wait for scenes that they hold themselves
    ahead = max(_PLANNERS * _PLANNED, _AHEAD * workers)
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    gate = ray.remote(num_cpus=0, scheduling_strategy=here)(Gate).remote(weights)
    # a few processes that last: tasks would each start one of their own, and all of them import torch
    merger = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=cluster.tries, scheduling_strategy="SPREAD")(Finisher)
    mergers = [merger.remote(job, gate) for _ in range(-(-workers // _WORKERS_A_MERGER))]
    turns = itertools.cycle(mergers)

    def submit(rows: list[Row]) -> Any:
        return next(turns).finish.remote(rows)

    gathered, merging = Gathering(), dict[Any, _Merging]()
    rows = _rows(ray, todo, job, (workers, gpus), gate, ahead)
    with closing(rows):
        for row in rows:
            scene = gathered.add(row)
            tick(None, row["computed"])
            if scene is not None:
                merging[submit(scene)] = _Merging(row["address"], scene)
            yield from _merged(ray, merging, submit, most=4 * workers)
    yield from _merged(ray, merging, submit, most=0)
    for address in gathered.missing(todo):  # nothing is lost without a word
        yield Record(spelt(address), "failed", f"{address}: the cluster lost it; run again")


class _Merging(NamedTuple):
    """A scene whose rows are being merged, and how often that was asked for again."""

    address: str
    rows: list[Row]
    again: int = 0


def _merged(ray: Any, merging: dict[Any, _Merging], submit: Callable[[list[Row]], Any], most: int) -> Iterator[Record]:
    """The records of scenes that are written, taken out of `merging`; waits while more than `most` are left there.

    A merger that died with its machine comes back on another one, but only when the cluster has noticed; Ray's own retries
    are spent long before. Merging a scene twice writes the same file.
    """
    while merging:
        ready, _ = ray.wait(list(merging), num_returns=len(merging), timeout=0)
        if not ready and len(merging) > most:  # writing is slower than computing
            ready, _ = ray.wait(list(merging), num_returns=1)
        if not ready:
            return
        for reference in ready:
            scene = merging.pop(reference)
            try:
                yield ray.get(reference)
            except ray.exceptions.RayError as error:
                if isinstance(error, ray.exceptions.RayActorError) and scene.again < len(_AGAIN):
                    time.sleep(_AGAIN[scene.again])
                    merging[submit(scene.rows)] = scene._replace(again=scene.again + 1)
                    continue
                yield Record(spelt(scene.address), "failed", f"{scene.address}: could not be merged ({describe(error)})")


def _rows(ray: Any, todo: list[str], job: Job, pool: tuple[int, float], gate: Any, ahead: int) -> Generator[Row, None, None]:
    """The rows of all chunks, as workers finish them: plan -> a block for each chunk -> compute, by Ray Data."""
    data = ray.data
    context = data.DataContext.get_current().copy()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.target_max_block_size = 1  # byte: each chunk is a block of its own, so that a scene's chunks go to all workers
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    workers, gpus = pool
    with data.DataContext.current(context):
        items = [{"index": index, "address": address} for index, address in enumerate(todo)]
        blocks = math.ceil(len(items) / _PLANNED)
        scenes = data.from_items(items, override_num_blocks=blocks)
        several = data.TaskPoolStrategy(min(_PLANNERS, blocks))
        chunks = scenes.flat_map(plan, fn_kwargs={"job": job, "gate": gate, "ahead": ahead}, num_cpus=0, compute=several)
        computed = chunks.map(
            Worker,
            fn_constructor_args=(job, gate),
            # few are enough to go on with: actors of a machine that died need not come back
            compute=data.ActorPoolStrategy(
                min_size=1, max_size=workers, initial_size=workers, max_tasks_in_flight_per_actor=_IN_FLIGHT
            ),
            num_cpus=job.cores,
            num_gpus=gpus or None,
        )
        yield from computed.iter_rows()


class Gathering:
    """Puts a scene's chunks together: each counts once, however often it comes."""

    def __init__(self) -> None:
        self._open: dict[str, dict[int, Row]] = {}
        self._complete: set[str] = set()

    @property
    def held(self) -> int:
        """How many scenes are incomplete."""
        return len(self._open)

    def add(self, row: Row) -> list[Row] | None:
        """Take in a chunk; all rows of its scene when it was the last one missing."""
        address = row["address"]
        if address in self._complete:
            return None
        chunks = self._open.setdefault(address, {})
        chunks.setdefault(row["chunk"], row)
        if len(chunks) < row["chunks"]:
            return None
        self._complete.add(address)
        return list(self._open.pop(address).values())

    def missing(self, addresses: list[str]) -> list[str]:
        """Those of the addresses that never became complete."""
        return [address for address in addresses if address not in self._complete]
