"""The gateway service: the public face of Caravan; runs no model and stores no identities."""
