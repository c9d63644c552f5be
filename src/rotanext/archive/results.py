"""What an archive leaves behind: one Parquet file a scene, a journal, a manifest; local or in an object store."""

import hashlib
import io
import json
import time
import uuid
from dataclasses import asdict, dataclass, fields
from pathlib import PurePosixPath
from typing import Any

from rotanext.archive.addresses import answering, file_system
from rotanext.boxes import CONVENTION
from rotanext.detections import Detections
from rotanext.errors import UserError, explain, extra
from rotanext.geo.georeference import Georeference
from rotanext.geo.vectors import DECIMALS, detections_frame
from rotanext.system.files import write_bytes

MANIFEST, JOURNAL, SCENES, RUN = "manifest.parquet", "journal", "scenes", "run.json"
_META = b"rotanext"  # key of the record in a result's own metadata
_NAME = 150  # bytes of a scene's name that a result's name keeps
_RECORDS, _SECONDS = 500, 30.0  # a part of the journal is written when it has so many records, or is so old


@dataclass(frozen=True)
class Record:
    """A line of the manifest: what became of one scene."""

    address: str
    status: str  # done or failed
    error: str = ""
    width: int = 0
    height: int = 0
    tiles: int = 0
    detections: int = 0
    workers: int = 0  # that computed it
    seconds: float = 0.0  # of computing, all workers together
    file: str = ""  # below the target
    finished: str = ""  # UTC


def result_name(address: str) -> str:
    """The file name of a scene's result: its stem, and a hash of its address, as stems may be the same in two folders."""
    stem = spelt(PurePosixPath(address).stem).encode()[:_NAME].decode(errors="ignore")
    return f"{stem}-{hashlib.sha256(address.encode(errors='surrogateescape')).hexdigest()[:12]}.parquet"


def spelt(name: str) -> str:
    """A name as tables can hold it: bytes that are no UTF-8 become question marks."""
    return name.encode(errors="replace").decode()


def to_parquet(record: Record, detections: Detections, georeference: Georeference | None) -> bytes:
    """A scene's result as a file: GeoParquet with the columns of `geo.vectors` where it has a place, otherwise plain Parquet."""
    with extra("ray", "results of an archive"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    if georeference is None:
        boxes, scores = detections.boxes.double().numpy().reshape(-1, 5), detections.scores.double().numpy()
        names = ("score", "cx", "cy", "w", "h", "angle")
        columns = {name: (values.round(DECIMALS[name]) + 0.0) for name, values in zip(names, (scores, *boxes.T), strict=True)}
        table = pa.table({"class": pa.array(detections.names, pa.string()), **columns})
    else:
        buffer = io.BytesIO()
        detections_frame(detections, georeference).to_parquet(buffer, index=False, schema_version="1.0.0")
        table = pq.read_table(buffer)
    own = {_META: json.dumps({"record": asdict(record), "box_convention": CONVENTION}).encode()}
    out = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), **own}), out)
    return out.getvalue()


class Target:
    """The folder or prefix that results go to; every file appears in it whole or not at all."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")

    def _at(self, name: str) -> tuple[Any, str]:
        files, root = file_system(self.address)
        return files, f"{root}/{name}"

    def write(self, name: str, data: bytes) -> None:
        """Write a file: by renaming on a disk, by a single put in an object store; UserError where that fails."""
        files, path = self._at(name)
        with answering(f"{self.address}/{name}", "written"):
            if "file" not in files.protocol:
                files.pipe_file(path, data)
                return
            write_bytes(path, data, durable=True)

    def read(self, name: str) -> bytes | None:
        """A file's bytes, or None where there is none."""
        files, path = self._at(name)
        with answering(f"{self.address}/{name}", "read"):
            try:
                return files.cat_file(path)
            except FileNotFoundError:
                return None

    def names(self, folder: str) -> set[str]:
        """The names of the files in a folder of the target, which need not exist; one listing, however many there are."""
        files, path = self._at(folder)
        with answering(f"{self.address}/{folder}", "listed"):
            files.invalidate_cache()
            try:
                found = files.ls(path, detail=False)
            except FileNotFoundError:
                return set()
        names = {PurePosixPath(name).name for name in found}
        return {name for name in names if name.endswith(".parquet") and not name.startswith(".")}

    def remove(self, name: str) -> None:
        """Remove a file that may be gone already."""
        files, path = self._at(name)
        with answering(f"{self.address}/{name}", "removed"):
            try:
                files.rm_file(path)
            except FileNotFoundError:
                return


def claim(target: Target, settings: dict[str, Any]) -> None:
    """Write `run.json`, or compare: UserError where the results that lie there come from other weights or options."""
    found = target.read(RUN)
    if found is None:
        target.write(RUN, (json.dumps(settings, indent=1) + "\n").encode())
        return
    try:
        before = json.loads(found)
    except ValueError:
        before = {}
    flat, now = _flat(before), _flat(settings)
    differing = sorted(key for key in flat.keys() | now.keys() if flat.get(key) != now.get(key))
    if differing:
        said = f"results with another {' and another '.join(differing)}"
        advice = "Choose another --out, or the same weights and options as before."
        raise UserError(explain(f"{target.address}/{RUN}", said, "those of this run", advice))


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """Sections' keys as section.key."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= {f"{key}.{name}": part for name, part in value.items()} if isinstance(value, dict) else {key: value}
    return flat


class Journal:
    """Records as they come, in parts (object stores cannot append); `compact` makes the manifest of them."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:6]}"
        self._parts, self._records, self._since = 0, list[Record](), time.monotonic()

    def add(self, record: Record) -> None:
        """Take in a record; a part is written now and then."""
        self._records.append(record)
        if len(self._records) >= _RECORDS or time.monotonic() - self._since > _SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what has not been written."""
        if self._records:
            self.target.write(f"{JOURNAL}/{self._name}-{self._parts:06d}.parquet", _table_bytes(_table(self._records)))
            self._parts, self._records = self._parts + 1, []
        self._since = time.monotonic()

    def compact(self) -> int:
        """Join the journal's parts and the manifest into `manifest.parquet`; returns how many scenes it names.

        Of several records of one scene the last counts. A result without one (the driver died between the two) brings its own.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.flush()
        parts = [f"{JOURNAL}/{name}" for name in sorted(self.target.names(JOURNAL))]
        read = [data for name in (MANIFEST, *parts) if (data := self.target.read(name)) is not None]
        table = pa.concat_tables([_table([]), *(pq.read_table(io.BytesIO(data)) for data in read)])
        frame = table.to_pandas().drop_duplicates("address", keep="last")
        lost = self.target.names(SCENES) - {PurePosixPath(name).name for name in frame["file"][frame["status"] == "done"]}
        own = [record for name in sorted(lost) if (record := self._own_record(f"{SCENES}/{name}")) is not None]
        table = pa.concat_tables([pa.Table.from_pandas(frame, _schema(), preserve_index=False), _table(own)])
        frame = table.to_pandas().drop_duplicates("address", keep="last").sort_values("address")
        self.target.write(MANIFEST, _table_bytes(pa.Table.from_pandas(frame, _schema(), preserve_index=False)))
        for name in parts:
            self.target.remove(name)
        return len(frame)

    def _own_record(self, name: str) -> Record | None:
        import pyarrow.parquet as pq

        data = self.target.read(name)
        found = None if data is None else (pq.read_schema(io.BytesIO(data)).metadata or {}).get(_META)
        return None if found is None else Record(**json.loads(found)["record"])


def _schema() -> Any:
    import pyarrow as pa

    types = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    return pa.schema([(field.name, types[field.type]) for field in fields(Record)])  # type: ignore[index]


def _table(records: list[Record]) -> Any:
    import pyarrow as pa

    return pa.Table.from_pylist([asdict(record) for record in records], _schema())


def _table_bytes(table: Any) -> bytes:
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(None), out)
    return out.getvalue()
