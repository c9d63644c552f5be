"""The report page: whole, self-contained, safe whatever names it is given, and right about what it shows."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from report_pages import Page, grid_evidence
from rotanext.evaluation.metrics import Evidence, Predictions, Truths
from rotanext.reports import crops
from rotanext.reports.run import Contents, html_report, write_report
from rotanext.system.facts import commit, provenance

HOSTILE = ('<script>alert("1")</script>', "a\"onmouseover='x' b", "</style><img src=//x.test/y>", "&lt;b&gt;", "{}%s\x00\u202e")

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
        "scores": evidence.score(),
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
    assert f"{100 * scores.calibration.error:.1f} %" in said
    assert "No detection is longer than the diagonal of the image." in said
    assert "Too large" not in said


def test_boxes_larger_than_their_image_are_a_headline(evidence: Evidence) -> None:
    corners = evidence.predictions.corners
    longest = np.linalg.norm(corners - np.roll(corners, 1, 1), axis=2).max()
    small = replace(evidence, sizes=np.full((2, 2), (longest - 1e-6) / np.sqrt(2)))
    said = " ".join(Page(html_report(contents(small))).text)
    assert "Too large" in said
    assert "72 of 72 detections are longer than the diagonal of the image." in said
    unknown = replace(evidence, sizes=np.full((2, 2), np.nan))
    assert "diagonal of the image" not in " ".join(Page(html_report(contents(unknown))).text)


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
    assert len(page.all("desc")) == len(page.all("svg")) > 10
    assert len(page.all("caption")) == len(page.all("table"))
    assert all("scope" in cell for cell in page.all("th"))
    links = {attributes["href"] for attributes in page.all("a")}
    assert links == {f"#{attributes['id']}" for attributes in page.all("section")}
    assert all(region["tabindex"] == "0" and region["aria-label"] for region in page.all("div") if region.get("role") == "region")


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    evidence = grid_evidence(HOSTILE, (None,) * len(HOSTILE), HOSTILE)
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
    write_report(contents(grid_evidence(("a",), (None,), (name,))), tmp_path / "r.html")
    assert Page((tmp_path / "r.html").read_text(encoding="utf-8")).all("script") == []


@pytest.mark.parametrize(
    ("values", "sections"),
    [
        ({"scores": None, "evidence": None}, {"training", "speed", "configuration", "environment"}),
        (
            {"evidence": None, "rows": [], "speed": {}, "config": {}, "environment": {}},
            {"precision-recall", "classes", "confusion", "method"},
        ),
        (
            {"scores": None, "evidence": None, "rows": [{"step": 1, "loss": None}], "speed": {}, "config": {}, "environment": {}},
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
    empty = Evidence(names, Predictions.of_images([]), Truths.of_images([]), (), (), np.zeros((0, 2)))
    Page(html_report(contents(empty)))
    if names:
        Page(html_report(contents(grid_evidence(names, (None,), ("p",)))))


def test_each_image_is_read_once(evidence: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    plain = crops.read_pixels
    monkeypatch.setattr(crops, "read_pixels", lambda path: (read.append(path), plain(path))[1])
    page = Page(html_report(contents(evidence)))
    assert len(page.all("img")) > 10
    assert sorted(read) == sorted(path for path in evidence.images if path)


def test_images_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"x")
    of = grid_evidence(("a",), (tmp_path / "bad.png", tmp_path / "none.png", None), ("x", "y", "z"))
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
