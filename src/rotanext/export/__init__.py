"""Trained detectors in the formats of other engines (ONNX, OpenVINO, torch.export): written, compared with PyTorch, and read."""
