"""Programs that the tests run and that pip does not install."""

from __future__ import annotations

import os
import shutil

import pytest


def program(name: str) -> str:
    """
    Return the path of a browser or its driver. Without it, skip the test, or fail it if ``BROWSER_REQUIRED`` is set.

    :param name: ``chromium`` or ``chromedriver``, as Debian names them.
    """
    path = shutil.which(name)
    if path is None:
        fail_or_skip = pytest.fail if os.environ.get("BROWSER_REQUIRED") else pytest.skip
        fail_or_skip("needs a browser: apt-get install chromium chromium-driver")
    return path
