"""From an image or a scene to detections: windows, network, post-processing, merging."""
