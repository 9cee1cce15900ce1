"""The pictures of docs/, each drawn by its own module."""
