"""The report of `rotanext labels check` as one HTML page: nothing from elsewhere, dark and light, no script."""

import base64
from collections.abc import Sequence
from html import escape

import cv2
import numpy as np

from rotanext.data.images import read_image
from rotanext.errors import UserError
from rotanext.labels.check import Check
from rotanext.labels.findings import KINDS, Finding

_ROWS, _SHOWN, _SIDE = 50, 4, 220
_STYLE = """
:root{color-scheme:light dark;--ink:#1f2933;--soft:#616e7c;--line:#e4e7eb;--back:#fff;
--card:#f7f9fb;--bar:#1f6fb2;--bad:#b3261e;--ok:#1d7d53}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf0;--soft:#9aa5b1;--line:#323f4b;--back:#12171d;--card:#1a222b;--bar:#5aa9e6;
--bad:#ff8a80;--ok:#5fd19b}}
*{box-sizing:border-box}body{margin:0 auto;max-width:72rem;padding:2rem 1.2rem 4rem;background:var(--back);color:var(--ink);
font:16px/1.5 system-ui,sans-serif}h1{font-size:1.7rem;margin:0 0 .2rem}h2{font-size:1.15rem;margin:2.4rem 0 .7rem}
p{margin:.3rem 0}.soft{color:var(--soft)}.bad{color:var(--bad);font-weight:600}.ok{color:var(--ok);font-weight:600}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(7.6rem,1fr));gap:.8rem;margin:1.2rem 0}
.card{background:var(--card);border:1px solid var(--line);
border-radius:.6rem;padding:.8rem 1rem}.card b{display:block;font-size:1.6rem}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(20rem,1fr));gap:.9rem}figure{margin:0}figcaption{font-weight:600}
svg{width:100%;height:auto;display:block}
svg text{fill:var(--soft);font-size:11px}svg rect{fill:var(--bar)}svg line{stroke:var(--line)}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:.3rem .6rem;border-bottom:1px solid var(--line)}th:first-child,td:first-child{text-align:left}
th{color:var(--soft);font-weight:600}details{border:1px solid var(--line);border-radius:.6rem;background:var(--card);margin:.5rem 0;
padding:.6rem 1rem}summary{cursor:pointer;font-weight:600}code{font-size:.85em;overflow-wrap:anywhere}
.list td,.list th{text-align:left;vertical-align:top}.shots{display:flex;flex-wrap:wrap;gap:.6rem;margin:.7rem 0}
.shots img{width:13.75rem;border-radius:.4rem;display:block}.shots figcaption{font-weight:400;font-size:.8rem;max-width:13.75rem;
overflow-wrap:anywhere}li{margin:.3rem 0}
"""


def page(check: Check) -> str:
    """The whole page."""
    clean = '<span class="ok">no problems</span>'
    state = clean if not check.problems else f'<span class="bad">{check.problems} problem{"s" * (check.problems > 1)}</span>'
    notices = len(check.findings) - check.problems
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>Labels: {escape(check.source)}</title><style>{_STYLE}</style></head><body>",
        f'<h1>Labels: {state}</h1><p class="soft"><code>{escape(check.source)}</code>, anchors of {escape(check.recipe)}</p>',
        _cards(check, notices),
        "<h2>Advice</h2><ul>" + "".join(f"<li>{escape(line)}</li>" for line in check.advice) + "</ul>",
        "<h2>Findings</h2>" + (_findings(check) or "<p>Nothing was found.</p>"),
        "<h2>Classes</h2>" + _classes(check),
        '<h2>Distributions</h2><div class="plots">' + "".join(_plots(check)) + "</div>",
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _cards(check: Check, notices: int) -> str:
    empty = sum(not len(picture.objects) for picture in check.data.pictures)
    boxes = len(check.coverage.boxes)
    missed = f"{100 * float(check.coverage.missed.float().mean()):.1f} %" if boxes else "–"
    rows = [
        (f"{len(check.data.pictures):,}", "pictures"),
        (f"{empty:,}", "without objects"),
        (f"{check.data.count:,}", "objects"),
        (f"{len(check.data.class_names):,}", "classes"),
        (f"{check.problems:,}", "problems"),
        (f"{notices:,}", "notices"),
        (missed, "objects no anchor matches"),
    ]
    return (
        '<div class="cards">'
        + "".join(f'<div class="card"><b>{a}</b><span class="soft">{b}</span></div>' for a, b in rows)
        + "</div>"
    )


def _findings(check: Check) -> str:
    parts = []
    for kind, count in check.counts.items():
        serious, meaning = KINDS[kind]
        mine = [finding for finding in check.findings if finding.kind == kind]
        mark = '<span class="bad">problem</span>' if serious else '<span class="soft">notice</span>'
        rows = "".join(
            f"<tr><td><code>{escape(f.path)}{'' if f.place is None else f':{f.place}'}</code></td><td>{escape(f.text)}</td></tr>"
            for f in mine[:_ROWS]
        )
        more = f'<p class="soft">and {count - _ROWS} more; report.json lists up to 200</p>' if count > _ROWS else ""
        parts.append(
            f"<details{' open' if serious else ''}><summary>{escape(kind)}: {count:,} {mark}</summary><p>{escape(meaning)}</p>"
            f'{_shots(mine)}<div class="wide"><table class="list">{rows}</table></div>{more}</details>'
        )
    return "".join(parts)


def _shots(findings: Sequence[Finding]) -> str:
    shots: list[str] = []
    for finding in findings:
        if len(shots) == _SHOWN:
            break
        if finding.corners is not None and finding.picture is not None and finding.picture.file is not None:
            try:
                data = _crop(read_image(finding.picture.file), finding.corners)
            except (UserError, cv2.error):
                continue
            source = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
            name = escape(f"{finding.picture.name}: {finding.text}")
            shots.append(f'<figure><img alt="{name}" src="{source}"><figcaption class="soft">{name}</figcaption></figure>')
    return f'<div class="shots">{"".join(shots)}</div>' if shots else ""


def _crop(image: np.ndarray, corners: np.ndarray) -> bytes:
    """The object (orange) and its surroundings as JPEG; what lies outside the picture is grey."""
    low, high = corners.min(0), corners.max(0)
    side = float(np.clip(1.6 * (high - low).max(), 40, 4000))
    start = (low + high) / 2 - side / 2
    scale = _SIDE / side
    matrix = np.array([[scale, 0, -start[0] * scale], [0, scale, -start[1] * scale]])
    crop = cv2.warpAffine(image, matrix, (_SIDE, _SIDE), flags=cv2.INTER_AREA, borderValue=(128, 128, 128))
    points = np.clip((corners - start) * scale, -2000, 2000)
    for colour, width in (((20, 20, 20), 4), ((255, 150, 30), 2)):
        cv2.polylines(crop, [np.rint(points * 8).astype(np.int32)], True, colour, width, cv2.LINE_AA, 3)
    return bytes(cv2.imencode(".jpg", crop[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, 85))[1])


def _classes(check: Check) -> str:
    head = ("class", "objects", "pictures", "long side", "short side", "aspect", "no anchor")
    lines = []
    for row in sorted(check.classes(), key=lambda row: -row["objects"]):
        cells = [escape(row["class"]), f"{row['objects']:,}", f"{row['pictures']:,}"]
        cells += (
            [f"{row['long']:.0f} px", f"{row['short']:.0f} px", f"{row['aspect']:.1f}", f"{100 * row['unmatched']:.0f} %"]
            if "long" in row
            else ["–"] * 4
        )
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    top = "".join(f"<th>{name}</th>" for name in head)
    return f'<div class="wide"><table><tr>{top}</tr>{"".join(lines)}</table></div>' + (
        '<p class="soft">Sides and aspect ratios are medians.</p>'
    )


def _plots(check: Check) -> list[str]:
    boxes, scales = check.coverage.boxes.numpy().astype(np.float64), check.coverage.scales.numpy().astype(np.float64)
    if not len(boxes):
        return []
    long, short = boxes[:, 2] / scales, boxes[:, 3] / scales
    per_picture = np.array([len(picture.objects) for picture in check.data.pictures], np.float64)
    sizes = np.array([max(p.width, p.height) for p in check.data.pictures if p.width], np.float64)
    wide = 2.0 ** np.arange(0, 13)
    plots = [
        histogram("Long side, pixels", long, wide),
        histogram("Short side, pixels", short, wide),
        histogram("Aspect ratio", long / np.maximum(short, 1e-6), np.array([1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 15, 20])),
        histogram("Angle, degrees (long side, clockwise)", np.degrees(boxes[:, 4]), np.arange(-90, 91, 15.0)),
        histogram("Objects a picture", per_picture, np.array([0, 1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000.0])),
        histogram("IoU of the best anchor", check.coverage.iou.numpy().astype(np.float64), np.arange(0, 1.01, 0.1)),
    ]
    return plots + ([histogram("Longer side of the pictures, pixels", sizes, 2.0 ** np.arange(5, 16))] if len(sizes) else [])


def histogram(title: str, values: np.ndarray, edges: np.ndarray) -> str:
    """A figure with a bar for each interval of `edges`; what lies beyond them counts to the first or last."""
    counts = np.histogram(np.clip(values, edges[0], np.nextafter(edges[-1], -np.inf)), edges)[0]
    width, height, left, bottom = 420, 190, 44, 22
    step, top = (width - left - 6) / len(counts), max(int(counts.max(initial=0)), 1)
    parts = []
    for share in (0.5, 1.0):
        y = height - bottom - share * (height - bottom - 16)
        parts.append(f'<line x1="{left}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{_short(share * top)}</text>')
    for at, count in enumerate(counts.tolist()):
        tall = count / top * (height - bottom - 16)
        x, label = left + at * step, f"{edges[at]:g} to {edges[at + 1]:g}: {count:,}"
        parts.append(
            f'<rect x="{x + 1:.1f}" y="{height - bottom - tall:.1f}" width="{step - 2:.1f}" height="{tall:.1f}" rx="2">'
            f"<title>{label}</title></rect>"
        )
    for at in range(0, len(edges), 1 + len(edges) // 9):
        parts.append(f'<text x="{left + at * step:.1f}" y="{height - 6}" text-anchor="middle">{_short(edges[at])}</text>')
    base = height - bottom
    parts.append(f'<line x1="{left}" x2="{width}" y1="{base}" y2="{base}"/>')
    label = f"{title}: median {np.median(values):.3g}, of {len(values):,}"
    drawn = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    caption = f'<figcaption>{escape(title)} <span class="soft">median {np.median(values):.3g}</span></figcaption>'
    return f'<figure class="card">{caption}{drawn}</figure>'


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{round(value, 1):g}"
