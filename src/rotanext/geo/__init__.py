"""Georeferenced rasters and vectors; needs the extra `geo`. The core imports nothing of it before a raster is met."""
