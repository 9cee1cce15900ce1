"""Every error that Samedigit raises on purpose. Each message says what was expected, what came, and what to do.

SamedigitError
├── DataError          the MNIST files cannot be had, or are not MNIST
├── UnknownRecipe      no recipe of that name
├── ImpossibleRecipe   a field of a recipe that makes no sense
├── ModelNotFound      nothing of that name and version is stored
├── ModelDamaged       a stored file is missing or is not the one that was stored
├── StoreError         the model store cannot be read or written
├── KindMissing        a kind of digits that cannot be had on this machine
├── PictureError       a file that is no picture, or in which there is no digit
├── NotInstalled       a framework or backend whose package is missing
├── DeviceError        a device that is not there
├── ExportError        an exported file does not answer as the model it came from
├── StudyError         a study's folder cannot be used, or one of its runs failed
├── SettingError       an environment variable that makes no sense
├── LoadTestError      the server under test did not start, or did not answer
├── ResultsMissing     no load-test results, or none that can be read
├── ReportError        the report cannot be written
└── RequestError       a request that the server refuses: serving/errors.py
"""

from __future__ import annotations


class SamedigitError(Exception):
    """Base of all errors below: its text is meant for a person, without a traceback."""


class DataError(SamedigitError):
    pass


class UnknownRecipe(SamedigitError):
    pass


class ImpossibleRecipe(SamedigitError):
    pass


class ModelNotFound(SamedigitError):
    pass


class ModelDamaged(SamedigitError):
    pass


class StoreError(SamedigitError):
    pass


class KindMissing(SamedigitError):
    pass


class PictureError(SamedigitError):
    """Attributes: too_large, it has more pixels than it may; unknown, it is no kind of picture that is read."""

    def __init__(self, message: str, *, too_large: bool = False, unknown: bool = False) -> None:
        super().__init__(message)
        self.too_large = too_large
        self.unknown = unknown


class NotInstalled(SamedigitError):
    pass


class DeviceError(SamedigitError):
    pass


class ExportError(SamedigitError):
    pass


class StudyError(SamedigitError):
    pass


class SettingError(SamedigitError):
    pass


class LoadTestError(SamedigitError):
    pass


class ResultsMissing(SamedigitError):
    pass


class ReportError(SamedigitError):
    pass
