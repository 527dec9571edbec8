"""Drivers for the host: the base class and correct ones, one for each sync model."""

from .driver import Driver
from .faulting import FaultingDriver
from .refcounting import RefcountingDriver
from .registration import RegistrationDriver

__all__ = ["DRIVERS", "Driver"]

DRIVERS: dict[str, type[Driver]] = {
    driver.name: driver for driver in (FaultingDriver, RefcountingDriver, RegistrationDriver)
}
"""The correct drivers by the name of their sync model."""
