"""The door to PyTorch: ``torch.compile(model, backend="pjit")`` and ``pjit.from_torch``.

Importing this package imports torch. PyTorch itself finds the backend through the entry point
``torch_dynamo_backends``.
"""

from pjit.frontends.torch.graph import Graph, graphs

__all__ = ["Graph", "graphs"]
