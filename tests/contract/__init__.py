"""The reference's own JSON samples, replayed."""
