"""The instrument's senses: time, memory, energy, ceilings, traffic. One concern a file."""
