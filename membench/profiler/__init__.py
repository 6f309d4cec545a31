"""Where the time of one layer goes: by stage, by kernel, and how far each stage is from the hardware's limit."""
