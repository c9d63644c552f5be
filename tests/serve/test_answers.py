"""What the service answers: its JSON, as its models describe it."""

import base64
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from rotanext.boxes import CONVENTION
from rotanext.detections import Detections
from rotanext.serve.answers import Prediction, Problem, geojson, prediction_json, refusal, says_no
from rotanext.serve.limits import Refused
from rotanext.serve.uploads import Upload
from serving import LIMITS, encoded, geotiff, noise

NAMES = ("plane", "ship")


def detections(*boxes: tuple[float, ...]) -> Detections:
    values = torch.tensor(boxes).reshape(-1, 6)
    return Detections(values[:, :5], values[:, 5], torch.arange(len(values)) % 2, NAMES)


FOUND = detections((30, 20, 16, 8, 0.5, 0.9), (10, 12, 9, 7, -1.5, 0.25))


def test_the_json_of_a_prediction() -> None:
    with Upload(encoded(noise(60, 40)), LIMITS) as upload:
        data = prediction_json(upload, FOUND, 0.2, both=True, preview=0)
    answer = json.loads(data)
    Prediction.model_validate(answer)
    assert data.endswith(b"}\n")
    assert answer["image"] == {"width": 60, "height": 40, "kind": "PNG", "georeferenced": False, "notes": []}
    assert (answer["box_convention"], answer["class_names"], answer["score_threshold"]) == (CONVENTION, list(NAMES), 0.2)
    assert answer["detections"] == json.loads(json.dumps(FOUND.to_records()))
    assert answer["geojson"] is answer["preview"] is None  # an image without place has no GeoJSON, asked for or not


def test_boxes_that_json_has_no_numbers_for_are_left_out(tmp_path: Path) -> None:
    bad = detections(
        (math.inf, 20, 16, 8, 0.5, 0.9), (30, 20, 16, 8, 0.5, 0.8), (30, 20, math.nan, 8, 0.5, 0.7), (1, 1, 1, 1, 0, math.nan)
    )
    with Upload(geotiff(noise(60, 40), tmp_path / "a.tif"), LIMITS) as upload:
        answer = json.loads(prediction_json(upload, bad, 0.2, both=True, preview=0))
    assert [(one["class"], round(one["score"], 3)) for one in answer["detections"]] == [("ship", 0.8)]
    assert len(answer["geojson"]["features"]) == 1


@pytest.mark.parametrize("both", [False, True])
def test_geojson_comes_along_where_it_is_asked_for(both: bool, tmp_path: Path) -> None:
    with Upload(geotiff(noise(60, 40), tmp_path / "a.tif"), LIMITS) as upload:
        answer = json.loads(prediction_json(upload, FOUND, 0.2, both=both, preview=0))
        alone = json.loads(geojson(upload, FOUND))
    assert answer["image"]["georeferenced"]
    assert answer["geojson"] == (alone if both else None)
    assert [feature["properties"]["class"] for feature in alone["features"]] == ["plane", "ship"]


@pytest.mark.parametrize(
    ("crs", "why"), [(None, "no georeference"), ("+proj=longlat +ellps=bessel +nadgrids=x.gsb +no_defs", "files")]
)
def test_geojson_of_no_place_is_refused_with_the_reason(crs: str | None, why: str, tmp_path: Path) -> None:
    data = encoded(noise(60, 40)) if crs is None else geotiff(noise(60, 40), tmp_path / "a.tif", crs)
    with Upload(data, LIMITS) as upload, pytest.raises(Refused) as refused:
        geojson(upload, FOUND)
    assert refused.value.status == 422
    assert "format is geojson, but the image has " in refused.value.detail
    assert why in refused.value.detail


@pytest.mark.parametrize(("size", "shape"), [(30, (20, 30)), (60, (40, 60)), (1, (1, 1))])
def test_previews_are_the_image_shrunk(size: int, shape: tuple[int, int]) -> None:
    image = np.full((40, 60, 3), (200, 100, 30), np.uint8)
    with Upload(encoded(image), LIMITS) as upload:
        preview = json.loads(prediction_json(upload, FOUND, 0.2, both=False, preview=size))["preview"]
    drawn = cv2.imdecode(np.frombuffer(base64.b64decode(preview["jpeg"]), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert drawn.shape[:2] == (preview["height"], preview["width"]) == shape
    np.testing.assert_allclose(drawn.reshape(-1, 3), [[200, 100, 30]] * (shape[0] * shape[1]), atol=4)


def test_refusals_are_problems() -> None:
    answer = refusal(429, "come back later", {"Retry-After": "3"})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
    assert answer.headers["content-type"] == "application/problem+json"
    said = Problem.model_validate_json(bytes(answer.body))
    assert (said.status, said.title, said.detail) == (429, "Too Many Requests", "come back later")


def test_descriptions_of_refusals() -> None:
    described = says_no(400, 429, 503)
    assert set(described) == {400, 429, 503}
    for status, one in described.items():
        assert one["description"].endswith(".")
        assert list(one["content"]) == ["application/problem+json"]
        assert ("headers" in one) == (status != 400)
    assert described[429]["headers"]["Retry-After"]["required"]
    assert not described[503]["headers"]["Retry-After"]["required"]
