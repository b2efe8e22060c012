"""The settings of every command, declared once; the command line and its documentation are generated from them."""
