"""The networks: backbones, necks, the detector's network, and its rearrangement for detection."""
