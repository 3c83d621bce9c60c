"""Gradients of programs written in plain NumPy, on any device, and data to try them on."""
