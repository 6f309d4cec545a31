"""What a training run is asked for, as typed data without torch: its task, and how it is trained."""
