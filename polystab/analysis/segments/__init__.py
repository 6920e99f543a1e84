"""Exact segmentation of a series, and its calibration."""
