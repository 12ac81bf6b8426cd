"""How the program computes: precision, compilation, memory of the CPU, threads beside the device."""
