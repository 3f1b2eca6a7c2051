"""Detectors: the built-in one, any detector exported to ONNX, and boxes from elsewhere.

Each is a `seqpar_deploy.video.types.Detector`, as is any object with its two methods.
"""
