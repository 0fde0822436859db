"""Where an agent learns and is judged: JSBSim aircraft, tasks, disturbances. The only package that imports jsbsim."""
