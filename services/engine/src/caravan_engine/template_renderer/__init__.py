"""A program of its own that renders chat templates, which are code from a model's file.

It imports nothing but Jinja2 and the standard library, so that it starts fast and a memory limit
means something.
"""
