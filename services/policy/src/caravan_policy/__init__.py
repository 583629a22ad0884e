"""The policy service: who may do what; never sees a prompt."""
