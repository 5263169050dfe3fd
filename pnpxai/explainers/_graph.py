"""Autograd's graph: what is below a node, and what every way leads through."""

from __future__ import annotations

from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge


def passed_by_all(score: Tensor, leaf: Tensor) -> set[Node]:
    """The nodes of autograd's graph that every way from a score down to a leaf leads through.

    Example:
        >>> import torch
        >>> leaf = torch.ones(2, requires_grad=True)
        >>> both = leaf.exp()
        >>> one = both.sin()
        >>> nodes = passed_by_all((one + both).sum(), leaf)
        >>> both.grad_fn in nodes, one.grad_fn in nodes
        (True, False)
    """
    root, end = get_gradient_edge(score).node, get_gradient_edge(leaf).node
    order = children_first(root)
    down = {node: int(node is end) for node in order}
    for node in order:
        down[node] += sum(down[each] for each in _next(node))
    up = dict.fromkeys(order, 0) | {root: 1}
    for node in reversed(order):
        for each in _next(node):
            up[each] += up[node]
    return {node for node in order if down[node] and up[node] * down[node] == down[root]}


def children_first(root: Node) -> list[Node]:
    """A node of autograd's graph and every one below it, each after all that are below it."""
    order: dict[Node, None] = {}
    seen, stack = {root}, [(root, iter(_next(root)))]
    while stack:
        node, below = stack[-1]
        unseen = next((each for each in below if each not in seen), None)
        if unseen is None:
            order[node] = None
            stack.pop()
        else:
            seen.add(unseen)
            stack.append((unseen, iter(_next(unseen))))
    return list(order)


def _next(node: Node) -> list[Node]:
    return [each for each, _ in node.next_functions if each is not None]
