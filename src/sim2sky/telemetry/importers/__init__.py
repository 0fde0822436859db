"""Other people's flight logs (PX4, ArduPilot, MAVLink, CSV, MCAP) as flight logs of schema 1. Runs on the laptop."""
