"""The page in headless Chromium, used as a person would: by mouse, by keyboard, in the dark."""

import base64
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from rotanext.data.dota import read_objects
from rotanext.errors import Problems
from rotanext.inference.detector import Detector
from serving import LIMITS, Server, encoded, geotiff, noise

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is missing: apt-get install chromium chromium-driver")
expect.set_options(timeout=60_000)  # milliseconds until what is waited for counts as missing, on a busy machine
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
DROP = """([name, type, data]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type }));
  for (const kind of ["dragenter", "dragover", "drop"]) {
    const event = new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true });
    document.getElementById("stage").dispatchEvent(event);
  }
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield running
        running.close()


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    yield from opened(browser, server)


def opened(browser: Browser, server: Server, **options: Any) -> Iterator[Page]:
    """The page, ready; it must not have asked any other host for anything, nor have thrown."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True, **options)
    page, wrong, asked = context.new_page(), [], []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if "Content Security Policy" in message.text else None)
    page.on("request", lambda request: asked.append(request.url))
    page.goto(server.url)
    expect(page.locator("#status")).to_have_text("Ready for an image.")
    yield page
    context.close()
    assert not wrong
    assert all(url.startswith((server.url, "blob:")) for url in asked), asked


def drop(page: Page, data: bytes, name: str = "scene.png", kind: str = "image/png") -> None:
    page.evaluate(DROP, [name, kind, base64.b64encode(data).decode()])


def shown(page: Page) -> int:
    """How many detections the page says it shows."""
    return int((page.locator("#status b").text_content() or "").replace(",", ""))


def slide(page: Page, score: float) -> None:
    page.locator("#score").fill(str(score))


def download(page: Page, button: str) -> tuple[str, bytes]:
    with page.expect_download() as waiting:
        page.locator(button).click()
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


def test_drop_slide_filter_and_download(page: Page, detector: Detector, tmp_path: Path) -> None:
    image = noise(220, 160)
    found = detector(image)
    drop(page, encoded(image))
    expect(page.locator("#results")).to_be_visible()
    slide(page, 0)
    assert shown(page) == len(found) > 20
    middle = round(float(found.scores.median()), 2)
    slide(page, middle)
    kept = found.above(middle)
    assert 0 < shown(page) == len(kept) < len(found)
    expect(page.locator("#rows tr")).to_have_count(min(200, len(kept)))

    ships = sum(name == "ship" for name in kept.names)
    assert 0 < ships < len(kept)
    line = page.locator("#classes label", has_text="ship")
    expect(line.locator(".count")).to_have_text(str(ships))
    page.get_by_role("checkbox", name="plane").uncheck()
    assert shown(page) == ships

    name, data = download(page, "#get-json")
    answer = json.loads(data)
    assert name == "scene.json"
    assert [one["class"] for one in answer["detections"]] == ["ship"] * ships
    assert answer["detections"][0] == json.loads(json.dumps(next(r for r in kept.to_records() if r["class"] == "ship")))
    name, data = download(page, "#get-dota")
    (tmp_path / name).write_bytes(data)
    objects = read_objects(tmp_path / name, Problems(strict=True))
    assert objects.names == ["ship"] * ships
    assert np.abs(objects.corners[0] - np.array(answer["detections"][0]["corners"])).max() <= 0.051
    name, data = download(page, "#get-png")
    drawn = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert (name, drawn.shape) == ("scene_detections.png", image.shape)
    changed = (drawn != image).any(2)
    assert 0 < changed.mean() < 1
    expect(page.locator("#get-geojson")).to_be_disabled()
    page.locator("#none").click()
    assert shown(page) == 0
    page.locator("#all").click()
    assert shown(page) == len(kept)


def test_boxes_are_drawn_where_the_objects_are(page: Page, detector: Detector) -> None:
    """The page's downloaded image changes along the boxes' outlines, and nowhere else."""
    image = noise(200, 140, 4)
    drop(page, encoded(image))
    expect(page.locator("#results")).to_be_visible()
    scores = detector(image).scores
    slide(page, float(np.ceil(float(scores[5]) * 100) / 100))
    records = json.loads(download(page, "#get-json")[1])["detections"]
    drawn = cv2.imdecode(np.frombuffer(download(page, "#get-png")[1], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    outline = np.zeros(image.shape[:2], np.uint8)
    for record in records:
        cv2.polylines(outline, [np.rint(np.array(record["corners"]) - 0.5).astype(np.int32)], True, 1, 1)
    near = cv2.dilate(outline, np.ones((7, 7), np.uint8)) > 0
    changed = (drawn != image).any(2)
    assert not (changed & ~near).any()
    assert (changed[outline > 0]).mean() > 0.9


def test_orientation_in_exif_turns_nothing(page: Page, detector: Detector) -> None:
    jpeg = encoded(noise(200, 100), ".jpg")
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    turned = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
    drop(page, turned, "turned.jpg", "image/jpeg")
    expect(page.locator("#notes")).to_contain_text("200 × 100")
    drawn = cv2.imdecode(np.frombuffer(download(page, "#get-png")[1], np.uint8), cv2.IMREAD_COLOR)
    assert drawn.shape == (100, 200, 3)


def test_geotiff(page: Page, tmp_path: Path) -> None:
    drop(page, geotiff(noise(130, 90), tmp_path / "place.tif"), "place.tif", "image/tiff")
    expect(page.locator("#results")).to_be_visible()
    slide(page, 0.2)
    name, data = download(page, "#get-geojson")
    features = json.loads(data)["features"]
    assert name == "place.geojson"
    assert len(features) == shown(page) > 0
    assert download(page, "#get-png")[1].startswith(b"\x89PNG")


def test_keyboard_alone(page: Page) -> None:
    """From the file's button to a box in the image without a mouse; every stop is visible and has a name."""
    with page.expect_file_chooser() as chooser:
        for _ in range(8):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id") == "file":
                break
        page.keyboard.press("Enter")
    chooser.value.set_files([{"name": "scene.png", "mimeType": "image/png", "buffer": encoded(noise(220, 160))}])
    expect(page.locator("#results")).to_be_visible()
    page.locator("#score").focus()
    before = shown(page)
    for _ in range(12):
        page.keyboard.press("ArrowLeft")
    assert shown(page) > before
    page.locator("#canvas").focus()
    level = page.locator("#zoom-level").text_content()
    page.keyboard.press("+")
    expect(page.locator("#zoom-level")).not_to_have_text(level or "")
    page.keyboard.press("0")
    expect(page.locator("#zoom-level")).to_have_text(level or "")
    page.keyboard.press("n")
    expect(page.locator("#rows tr.chosen")).to_have_count(1)
    expect(page.locator("#status")).to_contain_text("score")
    page.keyboard.press("Escape")
    expect(page.locator("#rows tr.chosen")).to_have_count(0)
    page.locator("#rows button").nth(2).press("Enter")
    expect(page.locator("#rows tr").nth(2)).to_have_class("chosen")
    unnamed = page.evaluate(
        """[...document.querySelectorAll("button, input, a, canvas[tabindex]")].filter((one) => !one.textContent.trim()
           && !one.getAttribute("aria-label") && !one.labels?.length).map((one) => one.outerHTML)"""
    )
    assert unnamed == []


def test_pointing_at_a_box_tells_about_it_and_the_wheel_zooms(page: Page, detector: Detector) -> None:
    image = noise(220, 160)
    drop(page, encoded(image))
    expect(page.locator("#results")).to_be_visible()
    best = detector(image)
    slide(page, 0.99)
    slide(page, float(np.floor(float(best.scores[0]) * 100) / 100))
    area = page.locator("#canvas").bounding_box()
    assert area is not None
    scale = min((area["width"] - 32) / 220, (area["height"] - 32) / 160, 8)
    x = area["x"] + area["width"] / 2 + (float(best.boxes[0, 0]) - 110) * scale
    y = area["y"] + area["height"] / 2 + (float(best.boxes[0, 1]) - 80) * scale
    page.mouse.move(x, y)
    expect(page.locator("#tip")).to_contain_text(best.names[0])
    page.mouse.click(x, y)
    expect(page.locator("#rows tr.chosen")).to_have_count(1)
    level = page.locator("#zoom-level").text_content()
    page.mouse.wheel(0, -300)
    expect(page.locator("#zoom-level")).not_to_have_text(level or "")


def test_dark_and_light(browser: Browser, server: Server) -> None:
    for page in opened(browser, server, color_scheme="dark"):
        ground = "getComputedStyle(document.body).backgroundColor"
        assert page.evaluate("document.documentElement.dataset.shade") == "dark"
        dark = page.evaluate(ground)
        button = page.get_by_role("button", name="Dark mode")
        expect(button).to_have_attribute("aria-pressed", "true")
        button.click()
        expect(button).to_have_attribute("aria-pressed", "false")
        assert page.evaluate(ground) != dark
        page.reload()
        expect(page.locator("#status")).to_have_text("Ready for an image.")
        assert page.evaluate("document.documentElement.dataset.shade") == "light"


def test_errors_are_told(page: Page) -> None:
    drop(page, b"hello", "hello.png")
    expect(page.get_by_role("alert")).to_contain_text("Not an image this server reads")
    drop(page, bytes(3_000_000), "large.png")
    expect(page.get_by_role("alert")).to_contain_text("takes up to 2.0 MB")
    drop(page, encoded(np.zeros((2100, 2100, 3), np.uint8)))
    expect(page.get_by_role("alert")).to_contain_text("pixels; this server takes up to")
    drop(page, encoded(noise(64, 64)))
    expect(page.locator("#results")).to_be_visible()
    expect(page.get_by_role("alert")).to_be_hidden()


def test_token(browser: Browser, detector: Detector) -> None:
    with Server(detector, replace(LIMITS), token="s3cret") as running:
        for page in opened(browser, running):
            drop(page, encoded(noise(64, 64)))
            expect(page.get_by_role("alert")).to_contain_text("token")
            page.locator("#token").fill("s3cret")
            page.keyboard.press("Enter")
            expect(page.locator("#results")).to_be_visible()


def test_a_busy_server_is_asked_again(browser: Browser, detector: Detector) -> None:
    with Server(detector, replace(LIMITS, concurrency=1)) as running:
        for page in opened(browser, running):
            entered = running.service.gate.enter()
            drop(page, encoded(noise(64, 64)))
            expect(page.locator("#busy-text")).to_contain_text("The server is busy")
            running.service.gate.leave(entered)
            expect(page.locator("#results")).to_be_visible(timeout=15_000)


def test_narrow_windows(browser: Browser, server: Server) -> None:
    for page in opened(browser, server):
        page.set_viewport_size({"width": 380, "height": 700})
        drop(page, encoded(noise(200, 150)))
        expect(page.locator("#results")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 380
