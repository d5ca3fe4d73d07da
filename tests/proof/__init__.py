"""Campaigns that try to make pusher lose, repeat, reorder or invent a message."""
