"""How the program computes: precision, compilation, allocator, threads beside the device."""
