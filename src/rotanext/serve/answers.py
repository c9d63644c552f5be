"""What the service answers: the models that describe it to others, and the JSON itself."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import cv2
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from rotanext.boxes import CONVENTION
from rotanext.detections import Detections
from rotanext.errors import UserError
from rotanext.serve.limits import PROBLEM, Refused, problem
from rotanext.serve.uploads import Upload

JPEG_QUALITY = 88  # of previews


class Problem(BaseModel):
    """Why there is no other answer (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str = Field(description="What was found, what was expected, and what to do.")


class Detection(BaseModel):
    """One object."""

    name: str = Field(alias="class", description="Its class.")
    score: float = Field(ge=0, le=1)
    box: list[float] = Field(min_length=5, max_length=5, description=f"Of the convention {CONVENTION}.")
    corners: list[list[float]] = Field(min_length=4, max_length=4, description="Four points [x, y], clockwise on the screen.")


class Preview(BaseModel):
    """The image as the detector saw it, shrunk: for clients that cannot decode it themselves."""

    width: int
    height: int
    jpeg: str = Field(description="The JPEG file in base64.")


class ImageFacts(BaseModel):
    """What was sent."""

    width: int
    height: int
    kind: str = Field(description="PNG, JPEG, TIFF or JPEG 2000, by its bytes.")
    georeferenced: bool
    notes: list[str] = Field(description="How its values became colours, and what else the sender should know.")


class Prediction(BaseModel):
    """The detections of one image, best first, in its stored pixels (x right, y down; EXIF orientation is not applied)."""

    image: ImageFacts
    box_convention: str
    class_names: list[str]
    score_threshold: float
    detections: list[Detection]
    geojson: dict[str, Any] | None = Field(None, description="With format=both, where the image is georeferenced.")
    preview: Preview | None = Field(None, description="With preview=N.")


class Class(BaseModel):
    """A class, and the colour it is drawn in."""

    name: str
    colour: str = Field(pattern="^#[0-9a-f]{6}$")


class About(BaseModel):
    """The detector and what the server takes."""

    version: str
    name: str = Field(description="Of the detector's recipe.")
    classes: list[Class]
    box_convention: str
    score_threshold: float = Field(description="Lowest score answered where none is asked for.")
    tile: int
    image_size: int = Field(description="Images are resized to fit this square; 0: their own size, in tiles.")
    device: str
    token: bool = Field(description="Whether a bearer token is needed.")
    max_upload: int = Field(description="Bytes.")
    max_pixels: int
    timeout: float = Field(description="Seconds.")
    concurrency: int


class Health(BaseModel):
    """Whether images can be computed."""

    status: str
    version: str


_SAYS = {
    400: "The request is malformed.",
    401: "A bearer token is missing or wrong.",
    403: "A page of another site sent the request.",
    408: "The upload was too slow.",
    413: "Too many bytes, or too many pixels.",
    415: "A body or a file of another type than expected.",
    422: "An image that is damaged, or options out of range.",
    429: "As many requests are being served as the server takes at once; the header Retry-After says when to come back.",
    503: "The detector cannot compute now.",
    504: "Computing took too long.",
}


def refusal(status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer that says no."""
    return JSONResponse(problem(status, detail), status, headers, media_type=PROBLEM)


def says_no(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The description of these answers, for OpenAPI."""
    described: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        # A `model` here would announce application/json besides.
        described[status] = {"description": _SAYS[status], "content": {PROBLEM: {"schema": Problem.model_json_schema()}}}
        if status in (429, 503):
            whole = {"type": "integer", "minimum": 1}
            described[status]["headers"] = {"Retry-After": {"schema": whole, "description": "Seconds.", "required": status == 429}}
    return described


def prediction_json(upload: Upload, found: Detections, threshold: float, *, both: bool, preview: int) -> bytes:
    """The JSON of a `Prediction`."""
    answer: dict[str, object] = {
        "image": {
            "width": upload.width,
            "height": upload.height,
            "kind": upload.kind,
            "georeferenced": upload.georeference is not None,
            "notes": upload.notes,
        },
        "box_convention": CONVENTION,
        "class_names": list(found.class_names),
        "score_threshold": threshold,
        "detections": _finite(found).to_records(),
        "geojson": json.loads(geojson(upload, found)) if both and upload.georeference is not None else None,
        "preview": _preview(upload, preview) if preview else None,
    }
    return json.dumps(answer, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def geojson(upload: Upload, found: Detections) -> bytes:
    """A FeatureCollection in longitude and latitude; `Refused` (422) where the image is not georeferenced."""
    if upload.georeference is None:
        why = next((note for note in upload.notes if "georeference" in note), "no georeference")
        raise Refused(422, f"format is geojson, but the image has {why}. Ask for format=json.")
    from rotanext.geo.vectors import geojson_text

    return geojson_text(_finite(found), upload.georeference).encode() + b"\n"


def _finite(found: Detections) -> Detections:
    """Without boxes that JSON has no numbers for; a network that computes in fp16 may overflow."""
    known = found.boxes.isfinite().all(1) & found.scores.isfinite()
    if bool(known.all()):
        return found
    return Detections(found.boxes[known], found.scores[known], found.labels[known], found.class_names)


def _preview(upload: Upload, size: int) -> Mapping[str, object]:
    image = upload.overview(size)
    done, data = cv2.imencode(".jpg", image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
    if not done:
        raise UserError("the preview could not be encoded")
    return {"width": image.shape[1], "height": image.shape[0], "jpeg": base64.b64encode(data.tobytes()).decode()}
