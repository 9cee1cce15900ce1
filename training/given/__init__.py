"""Whole trainings whose every random number is given, so that two of them differ in one thing alone."""
