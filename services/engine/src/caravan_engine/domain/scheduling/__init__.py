"""Who waits, who runs, who gives way, and what shares a step."""
