"""Make trained networks small: prune, rewind the learning rate, retrain, repeat."""

__version__ = "0.1.0"
