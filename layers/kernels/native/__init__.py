"""The operators in C++, for the CPU: compiled on first use, kept in a cache, called by ctypes."""
