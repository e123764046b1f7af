"""Headless Chromium with the driver of its Debian package, for tests of pages."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

INSTALLED = bool(shutil.which("chromium") and shutil.which("chromedriver"))
_FLAGS = [
    "--headless=new",
    # Chromium refuses to run as root with its sandbox.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    # It asks nothing of the network by itself.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextlib.contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """Start a browser without a user's data; it keeps the log of its console."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for flag in [*_FLAGS, f"--user-data-dir={folder}"]:
            options.add_argument(flag)
        # Without a path, selenium would look for a driver on the network.
        driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
        try:
            yield driver
        finally:
            driver.quit()


def set_screen(driver: webdriver.Chrome, width: int, height: int, scheme: str = "light") -> None:
    """Give the page a size in pixels, and the colours that its user prefers: light or dark."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    preferred = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": preferred})
