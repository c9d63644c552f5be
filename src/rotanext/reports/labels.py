"""The report of `rotanext labels check`: one HTML page, and the same as JSON."""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

import cv2
import numpy as np

from rotanext.errors import UserError, counted
from rotanext.images.drawing import draw_outline
from rotanext.images.scenes import read_pixels
from rotanext.labels.check import Check
from rotanext.labels.findings import KINDS, Finding
from rotanext.reports.charts import Axis, Bars, Chart, number
from rotanext.reports.crops import cut_window, jpeg_uri
from rotanext.reports.html import cards, figure, pair, paragraph, scrolling, table, whole_page
from rotanext.system.files import make_folder, write_bytes

_ROWS, _SHOWN, _SAMPLES, _SIDE = 50, 4, 6, 220  # rows and crops of a kind of finding, images, pixels
OUTLINE = (255, 150, 30)


def write_check(check: Check, folder: Path) -> list[Path]:
    """Write report.html and report.json to a folder."""
    make_folder(folder)
    write_bytes(folder / "report.json", (json.dumps(check.to_json(), ensure_ascii=False, indent=1) + "\n").encode())
    write_bytes(folder / "report.html", page(check).encode())
    return [folder / "report.html", folder / "report.json"]


def page(check: Check) -> str:
    """The whole page."""
    state = counted(check.problems, "problem") if check.problems else "no problems"
    head = f"<h1>Labels: {state}</h1>{paragraph(_about(check), muted=True)}{_cards(check)}"
    sections = [
        ("advice", "Advice", "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in check.advice) + "</ul>"),
        ("findings", "Findings", _findings(check) or paragraph("Nothing was found.")),
        ("images", "Some of the images, with their labels", _samples(check) or paragraph("None has labels.")),
        ("classes", "Classes", _classes(check)),
        ("distributions", "Distributions", pair(*_plots(check))),
    ]
    return whole_page(f"Labels: {check.source}", head, sections, paragraph("Written by rotanext labels check.", muted=True))


def _about(check: Check) -> str:
    val = f"; validation: {check.val_source}" if check.val_source else ""
    return f"Data: {check.source}{val}; head and image size: recipe {check.recipe}"


def _cards(check: Check) -> str:
    empty = sum(not len(image.objects) for image in check.data.images)
    missed = f"{100 * float(check.coverage.missed.float().mean()):.1f} %" if len(check.coverage.boxes) else "–"
    return cards(
        [
            ("Images", f"{len(check.data.images):,}", f"{empty:,} without objects"),
            ("Objects", f"{check.data.count:,}", ""),
            ("Classes", f"{len(check.data.class_names):,}", ""),
            ("Problems", f"{check.problems:,}", f"{len(check.findings) - check.problems:,} notices"),
            ("Unmatched", missed, f"of the objects: {check.coverage.reach.measure} below {check.coverage.reach.least:g}"),
        ]
    )


def _findings(check: Check) -> str:
    parts = []
    for kind, count in check.counts.items():
        serious, meaning = KINDS[kind]
        mine = [finding for finding in check.findings if finding.kind == kind]
        rows = "".join(
            f"<tr><td><code>{escape(f.path)}{'' if f.place is None else f':{f.place}'}</code></td><td>{escape(f.text)}</td></tr>"
            for f in mine[:_ROWS]
        )
        more = paragraph(f"and {count - _ROWS} more; report.json lists up to 200", muted=True) if count > _ROWS else ""
        heading = f'{escape(kind)}: {count:,} <span class="muted">{"problem" if serious else "notice"}</span>'
        listed = scrolling(kind, f'<table class="plain"><tbody>{rows}</tbody></table>')
        inner = f"{paragraph(meaning)}{_shots(mine)}{listed}{more}"
        parts.append(f"<details{' open' if serious else ''}><summary>{heading}</summary>{inner}</details>")
    return "".join(parts)


def _shots(findings: Sequence[Finding]) -> str:
    shots: list[str] = []
    for finding in findings:
        if len(shots) == _SHOWN:
            break
        corners = finding.corners
        if corners is not None and np.isfinite(corners).all() and finding.image is not None and finding.image.file is not None:
            try:
                source = jpeg_uri(draw_shot(read_pixels(finding.image.file), corners))
            except (UserError, cv2.error):
                continue
            name = escape(f"{finding.image.name}: {finding.text}")
            shots.append(f'<li><figure><img alt="{name}" src="{source}"><figcaption>{name}</figcaption></figure></li>')
    return f'<ul class="crops">{"".join(shots)}</ul>' if shots else ""


def _samples(check: Check) -> str:
    """Images from the first to the last, whole, so that a shifted or turned conversion is seen at a glance."""
    labelled = [image for image in check.data.images if len(image.objects) and image.file is not None]
    items = []
    for at in np.unique(np.linspace(0, len(labelled) - 1, _SAMPLES).round().astype(int)) if labelled else []:
        image = labelled[at]
        assert image.file is not None
        try:
            pixels = read_pixels(image.file)
        except (UserError, cv2.error):
            continue
        name = escape(f"{image.name}: {counted(len(image.objects), 'object')}")
        data = jpeg_uri(draw_sample(pixels, image.objects.corners))
        items.append(f'<li><figure><img class="whole" alt="{name}" src="{data}"><figcaption>{name}</figcaption></figure></li>')
    return f'<ul class="crops">{"".join(items)}</ul>' if items else ""


def draw_sample(image: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """A whole image (uint8 RGB), its longer side made so many pixels, with outlines of its objects `[N, 4, 2]`."""
    scale = 2 * _SIDE / max(image.shape[:2])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    for each in corners:
        draw_outline(small, each * scale, OUTLINE, 2, halo=1)
    return small


def draw_shot(image: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """An object `[4, 2]` and its surroundings, cut from an image (uint8 RGB)."""
    crop, scale, start = cut_window(image, corners, _SIDE, context=1.6, least=40)
    draw_outline(crop, (corners - start) * scale, OUTLINE, 2, halo=1)
    return crop


def _classes(check: Check) -> str:
    rows = []
    for row in sorted(check.classes(), key=lambda row: -row["objects"]):
        sizes = ["–"] * 4
        if "long" in row:
            aspect, missed = f"{row['aspect']:.1f}", f"{100 * row['unmatched']:.1f} %"
            sizes = [f"{row['long']:.0f} px", f"{row['short']:.0f} px", aspect, missed]
        rows.append([row["class"], f"{row['objects']:,}", f"{row['images']:,}", *sizes])
    heads = ("class", "objects", "images", "long side", "short side", "aspect ratio", "unmatched")
    return table("Sides and aspect ratios are medians.", heads, rows)


def _plots(check: Check) -> list[str]:
    boxes, scales = check.coverage.boxes.numpy().astype(np.float64), check.coverage.scales.numpy().astype(np.float64)
    if not len(boxes):
        return []
    long, short = boxes[:, 2] / scales, boxes[:, 3] / scales
    per_image = np.array([len(image.objects) for image in check.data.images], np.float64)
    sizes = np.array([max(p.width, p.height) for p in check.data.images if p.width], np.float64)
    wide = 2.0 ** np.arange(0, 13)
    plots = [
        histogram("Long side, pixels", long, wide),
        histogram("Short side, pixels", short, wide),
        histogram("Aspect ratio", long / np.maximum(short, 1e-6), np.array([1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 15, 20])),
        histogram("Angle, degrees (long side, clockwise)", np.degrees(boxes[:, 4]), np.arange(-90, 91, 15.0), middle=False),
        histogram("Objects an image", per_image, np.array([0, 1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000.0]), "images"),
        histogram(check.coverage.reach.measure, check.coverage.reach.fit.numpy().astype(np.float64), np.arange(0, 1.01, 0.1)),
    ]
    return plots + (
        [histogram("Longer side of the images, pixels", sizes, 2.0 ** np.arange(5, 16), "images")] if len(sizes) else []
    )


def histogram(title: str, values: np.ndarray, edges: np.ndarray, of: str = "objects", middle: bool = True) -> str:
    """A figure with a bar for each interval of `edges`; what lies beyond them counts to the first or last.

    Under each bar stands where it begins. middle: whether the median means something, which it does not for directions.
    """
    counts = np.histogram(np.clip(values, edges[0], np.nextafter(edges[-1], -np.inf)), edges)[0]
    titles = [f"{low:g} to {high:g}: {count:,}" for low, high, count in zip(edges[:-1], edges[1:], counts.tolist(), strict=True)]
    median = f"median {np.median(values):.3g}" if middle else ""
    return figure(
        Chart(
            title,
            f"{title}: {f'{median}, of ' * middle}{len(values):,}",
            Axis(0, len(counts), "from"),
            Axis(0, max(1.0, float(counts.max(initial=0))), of, whole=True),
            bars=[Bars(counts.tolist(), "0", titles)],
            labels=[number(low) for low in edges[:-1]],
            note=median,
        )
    )
