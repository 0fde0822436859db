"""Hardware in the loop: plant and flight agent in two processes on a real link."""
