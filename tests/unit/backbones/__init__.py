"""Backbones by themselves, and the checkpoints of the field."""
