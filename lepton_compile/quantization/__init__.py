"""Quantization: numbers become integers of eight bits, in models that still are valid ONNX."""
