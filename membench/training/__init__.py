"""The training lab: tasks, the loop, checkpoints and what is measured of learning."""
