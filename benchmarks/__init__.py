"""Measurements of pusher, as ratios within one run. See README.md."""
