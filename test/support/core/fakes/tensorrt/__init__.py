"""Found as TensorRT where test/support/core/fakes is on the path: FAKE_TENSORRT says which.

It brings the stand-in for libcudart with it.
"""

import ctypes
import os
import sys

from support.core import fake_cudart, fake_tensorrt

ctypes.CDLL = fake_cudart.load
sys.modules[__name__] = fake_tensorrt.module(os.environ["FAKE_TENSORRT"])
