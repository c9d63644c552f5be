"""Draws the images of boxes.md, each for light and for dark pages: `python docs/drawings.py`.

They are made of numbers by the package's own functions, so that a drawing cannot say something else than the code.
"""

import math
from pathlib import Path

import torch

from rotanext.boxes import boxes_to_corners, regularize

FOLDER = Path(__file__).parent / "images"
SCHEMES = {
    "light": {"ink": "#26323a", "soft": "#8a979f", "box": "#00796b", "fill": "#b2dfdb", "mark": "#c2410c", "ground": "#ffffff"},
    "dark": {"ink": "#e3e8ea", "soft": "#7f8c94", "box": "#4db6ac", "fill": "#1d4a46", "mark": "#ffab70", "ground": "#1e2129"},
}


class Drawing:
    """Shapes of one image in one scheme."""

    def __init__(self, scheme: str, width: int, height: int, title: str) -> None:
        self.colours, self.size, self.title, self.parts = SCHEMES[scheme], (width, height), title, list[str]()

    def line(
        self, x1: float, y1: float, x2: float, y2: float, colour: str = "ink", arrow: bool = False, dashed: bool = False
    ) -> None:
        style = f' marker-end="url(#{colour})"' * arrow + ' stroke-dasharray="4 4"' * dashed
        points = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
        self.parts.append(f'<line {points} stroke="{self.colours[colour]}" stroke-width="1.6"{style}/>')

    def text(self, x: float, y: float, text: str, colour: str = "ink", anchor: str = "start", size: int = 15) -> None:
        style = f'fill="{self.colours[colour]}" text-anchor="{anchor}" font-size="{size}"'
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" {style}>{text}</text>')

    def dot(self, x: float, y: float, colour: str = "ink") -> None:
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{self.colours[colour]}"/>')

    def box(self, cx: float, cy: float, w: float, h: float, angle: float) -> list[list[float]]:
        """The box, drawn by its corners, which are returned."""
        corners = boxes_to_corners(torch.tensor([cx, cy, w, h, angle], dtype=torch.float64)).tolist()
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        style = f'fill="{self.colours["fill"]}" stroke="{self.colours["box"]}" stroke-width="2.2"'
        self.parts.append(f'<polygon points="{points}" {style}/>')
        return corners

    def arc(self, cx: float, cy: float, radius: float, angle: float, colour: str = "mark") -> None:
        """From +x by `angle`, clockwise on the screen as in the convention (y points down)."""
        x, y = cx + radius * math.cos(angle), cy + radius * math.sin(angle)
        path = f"M {cx + radius:.1f} {cy:.1f} A {radius} {radius} 0 0 {int(angle > 0)} {x:.1f} {y:.1f}"
        style = f'fill="none" stroke="{self.colours[colour]}" stroke-width="2" marker-end="url(#{colour})"'
        self.parts.append(f'<path d="{path}" {style}/>')

    def save(self, path: Path) -> None:
        width, height = self.size
        heads = "".join(
            f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            f'<path d="M0 0 L8 4 L0 8 z" fill="{colour}"/></marker>'
            for name, colour in self.colours.items()
        )
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img"'
        )
        font = 'font-family="system-ui, sans-serif"'
        body = "\n".join(self.parts)
        # a ground of its own: readers of the repository may have a dark page behind the light drawing
        ground = f'<rect width="{width}" height="{height}" rx="8" fill="{self.colours["ground"]}"/>'
        path.write_text(f"{head} {font}>\n<title>{self.title}</title>\n<defs>{heads}</defs>\n{ground}\n{body}\n</svg>\n")


def convention(scheme: str) -> Drawing:
    """One box with everything that describes it."""
    d = Drawing(scheme, 640, 380, "A box: centre, width along the long edge, height, angle clockwise from the x axis")
    d.line(30, 30, 180, 30, arrow=True)
    d.line(30, 30, 30, 180, arrow=True)
    d.text(186, 35, "x")
    d.text(26, 200, "y")
    d.text(42, 52, "(0, 0): the outer corner of the first pixel", "soft", size=13)
    cx, cy, w, h, angle = 330.0, 210.0, 260.0, 110.0, math.radians(28)
    corners = d.box(cx, cy, w, h, angle)
    d.line(cx, cy, cx + 190, cy, "soft", dashed=True)
    d.line(cx, cy, cx + 175 * math.cos(angle), cy + 175 * math.sin(angle), "mark", arrow=True)
    d.arc(cx, cy, 92, angle)
    d.text(cx + 182 * math.cos(angle), cy + 182 * math.sin(angle) + 8, "angle +28°", "mark")
    d.dot(cx, cy)
    d.text(cx - 10, cy - 10, "(cx, cy)", anchor="end")
    names = ("top-left", "top-right", "bottom-right", "bottom-left")
    for number, ((x, y), name) in enumerate(zip(corners, names, strict=True)):
        d.dot(x, y, "box")
        left = number in (0, 3)
        d.text(x + (-10 if left else 12), y + (4 if number else -8), f"{number}: {name}", "soft", "end" if left else "start", 13)
    middle = [(a + b) / 2 for a, b in zip(corners[0], corners[1], strict=True)]
    d.text(middle[0] + 12, middle[1] - 10, "w: the long edge")
    side = [(a + b) / 2 for a, b in zip(corners[0], corners[3], strict=True)]
    d.text(side[0] - 12, side[1] + 8, "h", anchor="end")
    return d


def angles(scheme: str) -> Drawing:
    """The same box at several angles."""
    d = Drawing(scheme, 760, 190, "Angles from -90 degrees, which is included, to +90 degrees, which is not")
    for place, degrees in enumerate((-90, -45, 0, 45, 89)):
        x = 80 + 150 * place
        d.box(x, 85, 110, 34, math.radians(degrees))
        d.line(x, 85, x + 62, 85, "soft", dashed=True)
        if degrees:
            d.arc(x, 85, 40, math.radians(degrees))
        d.dot(x, 85)
        d.text(x, 180, f"{degrees:+d}°" if degrees else "0°", anchor="middle")
    return d


def conventions(scheme: str) -> Drawing:
    """One rectangle as other toolboxes write it."""
    d = Drawing(scheme, 760, 260, "One rectangle in four conventions")
    given = torch.tensor([0.0, 0.0, 130.0, 60.0, math.radians(-60)], dtype=torch.float64)
    rows = (
        ("le90 (here)", 130, 60, -60),
        ("le135", 130, 60, 120),
        ("OpenCV, “oc”", 60, 130, 30),
        ("Ultralytics xywhr", 60, 130, 30),
    )
    for place, (name, w, h, degrees) in enumerate(rows):
        x, y = 100 + 187 * place, 105
        same = regularize(torch.tensor([0.0, 0.0, w, h, math.radians(degrees)], dtype=torch.float64))
        assert torch.allclose(same, given, atol=1e-6), name
        d.box(x, y, w, h, math.radians(degrees))
        d.line(x, y, x + 70, y, "soft", dashed=True)
        d.arc(x, y, 34, math.radians(degrees))
        d.dot(x, y)
        d.text(x, 222, name, anchor="middle")
        d.text(x, 244, f"w {w}, h {h}, {degrees:+d}°", "mark", "middle", 14)
    return d


def main(folder: Path = FOLDER) -> None:
    """Write all drawings."""
    folder.mkdir(parents=True, exist_ok=True)
    for draw in (convention, angles, conventions):
        for scheme in SCHEMES:
            draw(scheme).save(folder / f"box-{draw.__name__}-{scheme}.svg")


if __name__ == "__main__":
    main()
