"""AMC: search how many channels or weights each layer keeps (He et al., "AMC", ECCV 2018). Knows nothing of Ray."""
