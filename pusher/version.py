"""The version, in the one place that the build, the command and the library read it from."""

__all__ = ["__version__"]

__version__ = "0.1.0"
