"""Evaluation: metrics and pictures of detections and segmentations."""
