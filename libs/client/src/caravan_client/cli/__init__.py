"""The `caravan` command. Modules at the top level import nothing heavy: starting is part of use."""
