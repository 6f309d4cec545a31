"""Scenario to plan, by arithmetic alone: budgets solved, what fits, what a roofline predicts."""
