"""The report page: whole, self-contained, safe whatever names it is given, and right about what it shows."""

import base64
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from rotanext.evaluation.metrics import Evidence, Predictions, Truths
from rotanext.images.reading import write_png
from rotanext.reports import crops
from rotanext.reports.crops import Wanted, cut_crops
from rotanext.reports.run import Contents, html_report, write_report
from rotanext.system.provenance import commit, provenance

HOSTILE = ('<script>alert("1")</script>', "a\"onmouseover='x' b", "</style><img src=//x.test/y>", "&lt;b&gt;", "{}%s\x00\u202e")
_VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """What a page holds; raises where elements are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, name: str) -> list[dict[str, str | None]]:
        """The attributes of all elements of a kind."""
        return [attributes for tag, attributes in self.tags if tag == name]


def _evidence(names: tuple[str, ...], images: tuple[Path | None, ...], stems: tuple[str, ...]) -> Evidence:
    """Objects on a grid in every image, most of them found, some by the wrong class or in the wrong place."""
    rng = np.random.default_rng(0)
    objects, found = [], []
    for _ in images:
        centres = np.stack(np.meshgrid(np.arange(6), np.arange(6)), -1).reshape(-1, 1, 2) * 40 + 30.0
        shape = np.array([[-14, -5], [14, -5], [14, 5], [-14, 5]])
        labels = rng.integers(0, len(names), 36)
        objects.append((centres + shape, labels, rng.random(36) < 0.1))
        guesses = np.where(rng.random(36) < 0.8, labels, rng.integers(0, len(names), 36))
        found.append((centres + shape + rng.normal(0, 1.5, (36, 1, 2)), rng.uniform(0.1, 1, 36), guesses))
    return Evidence(names, Predictions.of_images(found), Truths.of_images(objects), stems, images)


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    """Two images on disk."""
    paths = []
    for k in range(2):
        paths.append(tmp_path / f"p{k}.png")
        write_png(paths[-1], np.full((250, 250, 3), 90 + 60 * k, np.uint8))
    return _evidence(("plane", "ship", "harbor"), tuple(paths), ("p0", "p1"))


ROWS = [
    {"step": k, "epoch": k / 10, "loss": 1 / k, "loss_cls": 0.5 / k, "loss_box": None, "lr": 1e-3, "grad_norm": 2.0}
    for k in range(1, 900)
]
VALIDATED = {"step": 900, "epoch": 9, "map50": 0.5, "map75": 0.25, "map50_95": None}


def contents(evidence: Evidence, /, **values: object) -> Contents:
    """A page about everything."""
    whole = {
        "title": "Training: demo",
        "about": {"Data": "somewhere"},
        "report": evidence.score(),
        "evidence": evidence,
        "rows": [*ROWS, VALIDATED],
        "speed": {"images/s": 12.5, "tiles/s": 40.0},
        "config": {"train.lr": 0.001, "data.train": ["a"]},
        "environment": provenance("cpu"),
    }
    return Contents(**(whole | values))  # type: ignore[arg-type]


def test_a_whole_page(evidence: Evidence, tmp_path: Path) -> None:
    write_report(contents(evidence), tmp_path / "deep/report.html")
    html = (tmp_path / "deep/report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert len(html) < 5_000_000
    sections = [attributes["id"] for attributes in page.all("section")]
    assert sections == [
        "training", "precision-recall", "classes", "confusion", "shapes", "angles", "scores", "false-positives", "misses", "turned",
        "speed", "configuration", "environment", "method",
    ]  # fmt: skip
    said = " ".join(page.text)
    scores = evidence.score()
    for value in (scores.map(0.5), scores.map(0.75), scores.map50_95()):
        assert f"{100 * value:.1f} %" in said
    assert "12.5" in said
    assert "train.lr" in said
    assert "1e-08" not in said
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d", said)


def test_nothing_is_loaded_and_nothing_runs(evidence: Evidence) -> None:
    html = html_report(contents(evidence))
    page = Page(html)
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "link", "object", "embed", "form", "base"}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/jpeg;base64,", "#"))
    assert "url(" not in html
    assert "@import" not in html
    assert "default-src 'none'" in html


def test_it_can_be_read_by_everyone(evidence: Evidence) -> None:
    page = Page(html_report(contents(evidence)))
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("h1")) == 1
    assert all(image["alt"] for image in page.all("img"))
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in page.all("svg"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all("scope" in cell for cell in page.all("th"))
    links = {attributes["href"] for attributes in page.all("a")}
    assert links == {f"#{attributes['id']}" for attributes in page.all("section")}
    assert all(region["tabindex"] == "0" and region["aria-label"] for region in page.all("div") if region.get("role") == "region")


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    evidence = _evidence(HOSTILE, (None,) * len(HOSTILE), HOSTILE)
    settings = dict.fromkeys(HOSTILE, HOSTILE[0])
    html = html_report(
        contents(
            evidence, title=HOSTILE[0], about=settings, config=settings, environment=settings, speed=dict.fromkeys(HOSTILE, 1.0)
        )
    )
    page = Page(html)
    assert page.all("script") == page.all("img") == []
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    said = " ".join(page.text)
    assert all(name in said for name in HOSTILE if "\x00" not in name)


def test_hostile_file_names(tmp_path: Path) -> None:
    name = '"><script>x<' + "y'\udcff"  # a byte that is no UTF-8
    write_report(contents(_evidence(("a",), (None,), (name,))), tmp_path / "r.html")
    assert Page((tmp_path / "r.html").read_text(encoding="utf-8")).all("script") == []


def test_the_matrix_says_its_counts(evidence: Evidence) -> None:
    scores = evidence.score()
    page = Page(html_report(contents(evidence)))
    titles = [cell["title"] for cell in page.all("td") if cell.get("title")]
    assert len(titles) == int((scores.confusion > 0).sum())
    share = 100 * scores.confusion[0, 0] / scores.confusion[0].sum()
    assert f"plane, predicted as plane: {scores.confusion[0, 0]} ({share:.1f} %)" in titles


@pytest.mark.parametrize(
    ("values", "sections"),
    [
        ({"report": None, "evidence": None}, {"training", "speed", "configuration", "environment"}),
        (
            {"evidence": None, "rows": [], "speed": {}, "config": {}, "environment": {}},
            {"precision-recall", "classes", "confusion", "method"},
        ),
        (
            {"report": None, "evidence": None, "rows": [{"step": 1, "loss": None}], "speed": {}, "config": {}, "environment": {}},
            {"training"},
        ),
    ],
    ids=["no validation", "report alone", "one row without a figure"],
)
def test_parts(values: dict, sections: set[str], evidence: Evidence) -> None:
    page = Page(html_report(contents(evidence, **values)))
    assert {attributes["id"] for attributes in page.all("section")} == sections


@pytest.mark.parametrize("names", [(), ("a",), tuple(f"class-{k}" for k in range(60))], ids=len)
def test_any_number_of_classes(names: tuple[str, ...]) -> None:
    empty = Evidence(names, Predictions.of_images([]), Truths.of_images([]), (), ())
    Page(html_report(contents(empty)))
    if names:
        Page(html_report(contents(_evidence(names, (None,), ("p",)))))


def test_crops_show_the_boxes(evidence: Evidence) -> None:
    wanted = [Wanted(k, evidence.truths.corners[36 * k], detection=36 * k, truth=36 * k) for k in range(2)]
    found = cut_crops(evidence, wanted, 0.3)
    assert sorted(found) == [0, 1]
    for k, uri in found.items():
        data = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB).astype(int)
        assert image.shape == (264, 264, 3)
        assert abs(image[140:160, 125:140].mean() - (90 + 60 * k)) < 40  # the right image
        for colour in (crops.TRUTH, crops.DETECTION):
            assert (np.abs(image - colour).sum(-1) < 90).sum() > 100


def test_each_image_is_read_once(evidence: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    plain = crops.read_pixels
    monkeypatch.setattr(crops, "read_pixels", lambda path: (read.append(path), plain(path))[1])
    page = Page(html_report(contents(evidence)))
    assert len(page.all("img")) > 10
    assert sorted(read) == sorted(path for path in evidence.images if path)


@pytest.mark.parametrize("scale", [1e-3, 1, 1e4, 1e8])
@pytest.mark.parametrize("shift", [-1e6, 0, 1e6])
def test_boxes_of_any_size_and_place(scale: float, shift: float, tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    write_png(path, np.zeros((40, 60, 3), np.uint8))
    box = np.array([[0, 0], [1, 0], [1, 0.5], [0, 0.5]]) * scale + shift
    of = Evidence(("a",), Predictions.of_images([([box], [0.9], [0])]), Truths.of_images([([], [], [])]), ("p",), (path,))
    assert list(cut_crops(of, [Wanted(0, box, 0)], 0.3)) == [0]


def test_images_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"x")
    of = _evidence(("a",), (tmp_path / "bad.png", tmp_path / "none.png", None), ("x", "y", "z"))
    page = Page(html_report(contents(of)))
    assert page.all("img") == []
    assert "no image" in page.text


def test_after_eval_and_training(cli: Callable, tiny_dataset: Path, tiny_run: Path, tmp_path: Path) -> None:
    done = cli("eval", tiny_dataset / "val", "-w", tiny_run / "last.safetensors", "--out", tmp_path, "--device", "cpu")
    assert done.code == 0, done.err
    said = " ".join(Page((tmp_path / "report.html").read_text(encoding="utf-8")).text)
    assert "images/s, detection alone" in said
    assert "tiles/s, detection alone" in said
    assert str(tiny_dataset) in said
    page = Page((tiny_run / "report.html").read_text(encoding="utf-8"))
    assert "images/s, training" in " ".join(page.text)
    assert {"training", "misses"} <= {attributes["id"] for attributes in page.all("section")}
    assert page.all("img")


def test_the_commit_is_this_repository_s() -> None:
    found = commit()
    assert found is None or re.fullmatch(r"[0-9a-f]{40}( \+ changes)?", found)
