"""Coordinates on the ground: georeferenced results and labels. Needs the extra `geo`; the core imports it only where it is used."""
