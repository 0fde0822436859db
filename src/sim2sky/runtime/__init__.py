"""What runs on the aircraft. May import numpy, onnxruntime, pymavlink, h5py and nothing else."""
