"""Servicers and the conversion between protos and the engine's own values."""
