"""Passes over table rows and their updates as they are defined: float64, a token or a row at a time.

Letters: N rows, D columns, B tokens, L lookups a token.
"""

import torch


def bag(table, rows, weights):
    """(B, D): each token's weighted sum of rows."""
    sums = torch.zeros(len(rows), table.shape[1], dtype=torch.float64)
    for token in range(len(rows)):
        for row, weight in zip(rows[token].tolist(), weights[token].double(), strict=True):
            sums[token] += weight * table[row].double()
    return sums


def dots(table, rows, tokens):
    """(B, L): each row that a token reads times the token."""
    products = torch.zeros(rows.shape, dtype=torch.float64)
    for token in range(len(rows)):
        products[token] = table[rows[token].long()].double() @ tokens[token].double()
    return products


def gradient(num_rows, rows, weights, tokens):
    """(N, D): to each row that a token reads the token is added, weighted."""
    summed = torch.zeros(num_rows, tokens.shape[1], dtype=torch.float64)
    for token in range(len(rows)):
        for row, weight in zip(rows[token].tolist(), weights[token].double(), strict=True):
            summed[row] += weight * tokens[token].double()
    return summed


class DenseOptimizer:
    """A row rule over a whole float64 table, a row at a time.

    lazy_adam is AdamW by elements (arXiv 1711.05101) here, without laziness: every row, every step. The other
    rules leave alone the rows that were not ``read``.
    """

    def __init__(self, table):
        self.table = table.detach().double().clone()
        self.sums, self.second_of_row = torch.zeros(2, len(table), dtype=torch.float64)
        self.first, self.second = torch.zeros(2, *table.shape, dtype=torch.float64)

    def step(self, gradient, step, read):
        for row in range(len(self.table)) if step.optimizer == "lazy_adam" else read:
            self.table[row] *= 1 - step.learning_rate * step.weight_decay
            self.table[row] -= step.learning_rate * self._change(row, gradient[row], step)

    def state(self, optimizer):
        """What the rule remembers, by the names of ``RowState``."""
        return {
            "sgd": {},
            "row_adagrad": {"sums": self.sums},
            "row_adam": {"first": self.first, "second": self.second_of_row},
            "lazy_adam": {"first": self.first, "second": self.second},
        }[optimizer]

    def _change(self, row, g, step):
        b1, b2 = step.beta1, step.beta2
        mean_square = g.square().mean()
        match step.optimizer:
            case "sgd":
                return g
            case "row_adagrad":
                self.sums[row] += mean_square
                return g / (self.sums[row].sqrt() + step.eps)
            case "row_adam":
                self.second_of_row[row] = b2 * self.second_of_row[row] + (1 - b2) * mean_square
                second = self.second_of_row[row]
            case "lazy_adam":
                self.second[row] = b2 * self.second[row] + (1 - b2) * g.square()
                second = self.second[row]
        self.first[row] = b1 * self.first[row] + (1 - b1) * g
        corrected = (second / (1 - b2**step.number)).sqrt() + step.eps
        return self.first[row] / (1 - b1**step.number) / corrected
