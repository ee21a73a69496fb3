"""Search how many channels or weights each layer keeps: AMC (He et al., ECCV 2018). Knows nothing of Ray."""
