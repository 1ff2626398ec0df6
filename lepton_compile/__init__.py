"""lepton_compile: an ONNX model and a description of a device in, a native library out."""
