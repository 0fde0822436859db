"""Is it good enough: checks, campaigns of episodes, exact statistics."""
