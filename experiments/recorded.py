"""A function of tensors recorded once on a GPU, as a CUDA graph, and played back: a launch in place of thousands.

A training step on small cells is some three thousand kernels of a few microseconds each. Python takes longer to start
them than the GPU to run them: 72 ms against 13 for the RLN on 16 cells of 16^3 (an H100).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch


class Recorded:
    """Play back what a function did on its first call, with other values in the same places.

    Args:
        function: makes a tensor, and gradients; it must do the same work for all values, and wait for nothing.
        inputs: tensors of the shapes to come.
        parameters: whose gradients the function makes, from none.
    """

    def __init__(self, function: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor], parameters):
        self.function, self.inputs = function, [tensor.clone() for tensor in inputs]
        self.parameters = list(parameters)
        self.graph = None
        if self.inputs[0].device.type == "cuda":
            self._record()

    def _record(self) -> None:
        before = torch.cuda.current_stream()
        aside = torch.cuda.Stream()
        aside.wait_stream(before)
        with torch.cuda.stream(aside):
            for _ in range(3):  # libraries choose their algorithms and take their memory now
                self._clear()
                self.function(*self.inputs)
        before.wait_stream(aside)
        self._clear()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.output = self.function(*self.inputs)
        self.graph, self.gradients = graph, [parameter.grad for parameter in self.parameters]

    def _clear(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """What the function makes of these inputs; the gradients are left in the parameters."""
        if self.graph is None:
            self._clear()
            return self.function(*inputs)
        for place, tensor in zip(self.inputs, inputs, strict=True):
            place.copy_(tensor)
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient  # of this recording: another one, for other shapes, has its own
        return self.output
