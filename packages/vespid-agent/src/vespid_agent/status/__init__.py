"""What a running agent tells of itself, and how another process of its user reads it."""
