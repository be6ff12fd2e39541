"""geopeft: adapt pre-trained 3D point-cloud networks by training a few percent of their parameters."""

__version__ = "0.1.0"
