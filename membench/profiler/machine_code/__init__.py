"""What the compiler made of each Triton kernel, read from its machine code: no GPU is needed."""
