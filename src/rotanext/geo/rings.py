"""Rings of longitude and latitude as RFC 7946 wants them: closed, counter-clockwise, cut where they cross the 180th meridian."""

import numpy as np

from rotanext.errors import extra
from rotanext.polygons import signed_area


def close(rings: np.ndarray) -> np.ndarray:
    """Rings `[N, K + 1, 2]` that end where they start, of `[N, K, 2]`."""
    return np.concatenate([rings, rings[:, :1]], 1)


def wind(rings: np.ndarray) -> np.ndarray:
    """Open rings `[N, K, 2]` (x right, y up), turned where needed so that all run counter-clockwise."""
    return np.where((signed_area(rings) < 0)[:, None, None], rings[:, ::-1], rings)


def unroll(rings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Open rings `[N, K, 2]` of degrees whose longitudes go on past 180 instead of jumping, and a mask `[N]` of those round a pole.

    From corner to corner the shorter way is meant.
    """
    lon, lat = np.moveaxis(rings, -1, 0)
    step = np.diff(lon, axis=1, append=lon[:, :1])
    step -= 360 * np.round(step / 360)
    onward = lon[:, :1] + np.cumsum(step, 1)
    polar = np.abs(onward[:, -1] - lon[:, 0]) > 180
    return np.stack([np.concatenate([lon[:, :1], onward[:, :-1]], 1), lat], -1), polar


def cut(ring: np.ndarray, polar: bool = False) -> list[np.ndarray]:
    """The parts, each a closed counter-clockwise ring between -180 and 180, of one unrolled ring `[K, 2]`; none without area.

    A ring round a pole becomes the cap between its outline and the pole, as a map in longitude and latitude shows it.
    """
    with extra("geo", "a polygon across the 180th meridian"):
        import shapely
    if polar:
        pole = np.copysign(90.0, ring[:, 1].mean())
        last = ring[0] + (np.copysign(360.0, ring[-1, 0] - ring[0, 0]), 0)
        ring = np.concatenate([ring, [last, (last[0], pole), (ring[0, 0], pole)]])
    polygon = shapely.make_valid(shapely.Polygon(ring))
    parts = []
    for turn in range(int((ring[:, 0].min() + 180) // 360), int((ring[:, 0].max() + 180) // 360) + 1):
        west = 360.0 * turn - 180
        inside = shapely.intersection(polygon, shapely.box(west, -90, west + 360, 90))
        for part in shapely.get_parts(inside):
            if part.geom_type == "Polygon" and part.area > 0:
                outline = np.array(part.exterior.coords)[:-1, :2] - (360.0 * turn, 0)
                parts.append(close(wind(outline[None]))[0])
    return parts
