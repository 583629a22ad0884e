"""From what a client sends to prompt tokens: chat templates, and what users may not smuggle in."""
