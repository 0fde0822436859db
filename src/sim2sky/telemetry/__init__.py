"""Flight logs: one HDF5 schema for sim, HIL, virtual and real flights."""
