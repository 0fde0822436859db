"""Training of agents with Stable-Baselines3."""
