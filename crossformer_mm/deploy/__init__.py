"""Run exported models with onnxruntime and numpy: neither PyTorch nor a toolbox is imported."""
