"""YAML to a typed scenario: arms, budgets, axes, settings."""
