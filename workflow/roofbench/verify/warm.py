"""Importing this before a fork spares the forks what torch imports when it first computes on its meta device.

It takes half a second, which is too long for one script and short for many.
"""

import torch
import torch._refs
import torch.fx.experimental.symbolic_shapes

import roofbench.verify.check
import roofbench.verify.run  # noqa: F401

torch.set_num_threads(1)
