"""Coverage-guided fuzzing of what reads bytes from the network. `corpus/` is replayed by tests/test_fuzz.py."""
