"""The networks: backbones, FPN, the detector, and the reading of their checkpoints."""
