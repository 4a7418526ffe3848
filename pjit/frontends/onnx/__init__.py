"""The ONNX front end: ``import_onnx`` turns a file into IR."""

from pjit.frontends.onnx.importer import import_onnx

__all__ = ["import_onnx"]
