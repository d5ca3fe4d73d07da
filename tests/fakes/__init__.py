"""Stand-ins for what is beyond the doors."""
