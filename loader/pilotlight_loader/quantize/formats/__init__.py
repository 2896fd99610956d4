"""Checkpoints that others quantized: recognized by their config, checked, read as our values."""
