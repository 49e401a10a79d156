"""Host arrays by element type."""

from typing import Any

import numpy as np

FloatArray = np.ndarray[Any, np.dtype[np.float32]]
IntArray = np.ndarray[Any, np.dtype[np.int32]]
NumpyArray = np.ndarray[Any, np.dtype[Any]]
