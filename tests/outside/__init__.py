"""Clients that no one here wrote, unmodified, against the bridge."""
