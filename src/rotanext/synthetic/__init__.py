"""Drawn aerial scenes with rotated boxes, to try things without a download."""
