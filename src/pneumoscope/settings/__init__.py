"""The settings of every command, declared once: the command line and docs/reference/cli.md are generated from these models."""
