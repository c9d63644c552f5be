"""Reading images and rasters, stretches, and drawing on them."""
