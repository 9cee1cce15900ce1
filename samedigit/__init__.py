"""The front door: the command line. A command is a few lines that call a room."""
