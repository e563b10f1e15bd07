"""Found in place of TensorRT where test/core/fakes is on the path: FAKE_TENSORRT says which."""

import os
import sys

from support.core import fake_tensorrt

sys.modules[__name__] = fake_tensorrt.module(os.environ["FAKE_TENSORRT"])
