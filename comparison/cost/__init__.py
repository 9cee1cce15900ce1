"""What serving and starting cost, and what smaller numbers save."""
