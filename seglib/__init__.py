"""The package behind the notebooks on medical image segmentation: `from seglib import config`."""

__version__ = "0.2.0"
