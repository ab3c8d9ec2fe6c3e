"""The package behind the medical image segmentation notebooks: `from seglib import config, training`."""

__version__ = "0.1.0"
