"""What each command may be told, declared once: the command line and its documents are made from these models."""
