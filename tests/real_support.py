"""Doubles compared by their bits."""

from __future__ import annotations

import ctypes

import numpy as np


def bits(values):
    """The bits of doubles; every NaN the same."""
    array = np.array(values, np.float64)
    array[np.isnan(array)] = np.nan
    return array.view(np.uint64)


def pointer(array):
    """For a C function that takes `double *`."""
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_double))
