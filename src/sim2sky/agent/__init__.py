"""What is deployed: contract, layers, policy, golden vectors, bundle. torch only in sb3.py and policy.py."""
