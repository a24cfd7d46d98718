"""Weights of one network as the start of another that looks further ahead, or not any more."""

from __future__ import annotations

import torch
from torch import Tensor

from stemwire.model import Separator

Weights = dict[str, Tensor]


def with_lookahead(weights: Weights, network: Separator) -> Weights:
    """Weights of a network without look-ahead, made to fit one with it.

    It separates as before, only later, but for decoders that attend to tokens ahead as if they
    were the newest: that alone is a little better, before anything is learned.

    Args:
        weights: of the network without look-ahead.
        network: what they are for.
    """
    own, fitting = network.state_dict(), dict(weights)
    for name, value in own.items():
        if _is_after(name):
            fitting[name] = value  # zeros
        elif _is_distance(name) and name in weights:
            newest = weights[name][:, :1].expand(-1, network.config.lookahead)
            fitting[name] = torch.cat((newest, weights[name]), 1)
    return fitting


def without_lookahead(weights: Weights, lookahead: int) -> Weights:
    """The reverse: leave out what concerns frames ahead.

    Args:
        weights: of a network with look-ahead that has learned to do without (`ahead_share`).
        lookahead: its frames ahead.
    """
    return {
        name: value[:, lookahead:].clone() if _is_distance(name) else value
        for name, value in weights.items()
        if not _is_after(name)
    }


def _is_after(name: str) -> bool:
    return "after" in name.split(".")


def _is_distance(name: str) -> bool:
    return name.endswith("skip.distance_bias")
