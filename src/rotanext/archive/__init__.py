"""Prediction on archives of scenes, on a cluster (extra `ray`); the core never imports this."""
