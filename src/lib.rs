//! Watching and steering elastic PyTorch training from a terminal.
