"""ONNX graphs in PyTorch, so that what they answer can be differentiated by their weights; an optional extra."""
