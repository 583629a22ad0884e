"""Python SDK and the `caravan` command."""
