"""Drivers for the host: correct ones, one for each sync model."""
