"""A trained network as a file for other runtimes: ONNX, or PyTorch's own exported programs."""
