"""What logs say: the gap between simulation and flight, its causes, and the parameters that explain it."""
