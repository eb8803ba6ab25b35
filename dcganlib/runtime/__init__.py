"""What a run needs of the machine: device, process group, CPU-optimised layers, checkpoints, files."""
