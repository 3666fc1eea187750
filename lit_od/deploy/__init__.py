"""Bundles made smaller and faster for the machines that score."""

from lit_od.deploy.int8_bundle import quantize
from lit_od.deploy.int8_fitting import Int8Fitting
from lit_od.deploy.int8_report import Int8Report

__all__ = ["Int8Fitting", "Int8Report", "quantize"]
