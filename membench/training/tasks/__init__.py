"""The tasks' data: a file a task, and what they share."""

from membench.training.tasks.make import task_data

__all__ = ["task_data"]
