"""sim2sky: take a reinforcement-learning flight agent from simulation to a real aircraft.

Importing the package imports nothing heavy: the same package runs on a flight computer.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
