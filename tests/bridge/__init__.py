"""The bridge over real HTTP on loopback."""
