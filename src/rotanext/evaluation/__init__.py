"""Scores of detections by the DOTA protocol, and what lies behind them; nothing is drawn here."""
