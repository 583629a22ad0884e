"""Adapters to what computes: llama.cpp, and a deterministic stand-in."""
