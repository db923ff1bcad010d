"""Exported models: ONNX files that contain a complete model, from the image to the result."""
